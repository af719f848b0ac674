"""The JSON bodies that are no Kubernetes objects: reply envelopes, errors, notices, acknowledgements. Pure.

Both sides build and read them here and nowhere else. Errors come and go as `api.meta.Status`: this package
does not know the API client's exceptions.

Go: edge/pkg/metamanager/client, cloud/pkg/common/messagelayer, edge/pkg/edgehub/common
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgehive.api.document import Document
from edgehive.api.meta import Status
from edgehive.beehive.message import NULL, Message, Route, raw
from edgehive.wire import names
from edgehive.wire.names import Group, Operation, Path, ResourceType, Source
from edgehive.wire.resource import strip_node

#: What stands in for an error of which the other side told nothing (Go writes a plain error as `{}`).
UNKNOWN_ERROR = Status(message="the other side reported an error without saying which", code=500)


@dataclass(frozen=True, slots=True)
class ObjectAnswer:
    """A reply read: the object (None when there is none) and the error (None on success)."""

    object: Document | None
    error: Status | None = None


# Errors


def status_content(status: Status) -> dict[str, Any]:
    """A Status as Go nests it: without kind and apiVersion."""
    body = status.to_dict()
    del body["kind"], body["apiVersion"]
    return body


def error_content(status: Status) -> msgspec.Raw:
    """The content of a bare error reply: `{"ErrStatus": {...}}`."""
    return raw({"ErrStatus": status_content(status)})


def read_error(content: bytes) -> Status | None:
    """The error a bare reply carries; None when it is an object, a list or text."""
    if not content.startswith(b"{"):
        return None
    fields = _fields(content)
    if not fields:
        # wire: a plain Go error is encoded as {}; tests/pure/wire/test_payloads.py
        return UNKNOWN_ERROR
    nested = _get(fields, "ErrStatus")
    return None if nested is None else _status(nested)


def _status(nested: msgspec.Raw) -> Status | None:
    """The Status under ErrStatus; None when all of it is zero."""
    if nested == NULL:
        return None
    try:
        status = msgspec.json.decode(nested, type=Status, strict=False)
    except msgspec.ValidationError as error:
        return Status(message=f"the error of the other side cannot be read: {error}", code=500)
    given = _fields(nested)
    if not any(given.get(key) not in (None, NULL, b'""', b"0") for key in ("status", "message", "reason", "code")):
        return None
    return status


# The two reply envelopes


def object_response(object: Document | Mapping[str, Any] | bytes | None, error: Status | None = None) -> msgspec.Raw:
    """ObjectResp: `{"Object": ..., "Err": null | {"ErrStatus": ...}}`, both keys always present."""
    return raw(
        {
            "Object": _object_content(object),
            "Err": None if error is None else {"ErrStatus": status_content(error)},
        }
    )


def _object_content(object: Document | Mapping[str, Any] | bytes | None) -> Any:
    if isinstance(object, Document):
        return msgspec.Raw(object.raw)
    if isinstance(object, bytes):
        return msgspec.Raw(object)
    return object


def read_object_response(content: bytes) -> ObjectAnswer | None:
    """Read an ObjectResp; None when the content is not one (both keys are its mark)."""
    fields = _fields(content)
    object, error = _get(fields, "Object"), _get(fields, "Err")
    if object is None or error is None:
        return None
    document = None if object == NULL else Document(bytes(object))
    if error == NULL:
        return ObjectAnswer(document)
    return ObjectAnswer(document, read_error(bytes(error)))


def read_reply(message: Message) -> ObjectAnswer:
    """Read a reply in either envelope; `OK` is success without an object, other text an error's message."""
    content = bytes(message.content)
    if message.route.operation == Operation.ERROR:
        return ObjectAnswer(None, read_error(content) or Status(message=_text(message), code=500))
    if answer := read_object_response(content):
        return answer
    if error := read_error(content):
        return ObjectAnswer(None, error)
    if content.startswith(b"{"):
        return ObjectAnswer(Document(content))
    text = _text(message)
    if text == names.OK or content == b"null":
        return ObjectAnswer(None)
    return ObjectAnswer(None, Status(message=text, code=500))


def _text(message: Message) -> str:
    return message.content_bytes().decode()


def _fields(content: bytes) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return {}


def _get(fields: Mapping[str, msgspec.Raw], key: str) -> msgspec.Raw | None:
    """A field under Go's rule: the exact key, else one that differs in case only."""
    if key in fields:
        return fields[key]
    return next((value for name, value in fields.items() if name.lower() == key.lower()), None)


# Acknowledgements

#: Questions and what is answered elsewhere.
_NO_ACK_OPERATIONS = names.VOLUME_OPERATIONS | {Operation.APPLICATION_RESPONSE, Operation.QUERY}
#: Groups whose messages are commands and confirmations, never objects to be stored.
_NO_ACK_GROUPS = frozenset({Group.USER, Group.TWIN})
_NO_ACK_SOURCES = frozenset({Source.TASK_MANAGER, Source.NODE_UPGRADE_JOB_CONTROLLER})
#: Answers and lists that are asked for again when they are lost, whoever sends them.
_NO_ACK_ANSWERS = frozenset({ResourceType.POD_LIST, ResourceType.SERVICE_ACCOUNT_TOKEN})
_NO_ACK_TYPES = frozenset(
    {
        ResourceType.LEASE,
        ResourceType.NODE_PATCH,
        ResourceType.POD_PATCH,
        ResourceType.POD_STATUS,
        ResourceType.CERTIFICATE_SIGNING_REQUEST,
    }
)
_VOLUME_RESOURCE = re.compile(r"^\w[-\w.+]*/volume/\w[-\w.+]*")


def is_volume_resource(resource: str) -> bool:
    """Whether a wire resource addresses a CSI volume: `<namespace>/volume/<name>`."""
    return _VOLUME_RESOURCE.match(resource) is not None


def needs_ack(message: Message) -> bool:
    """Whether the edge must acknowledge this downstream message, and the cloud repeat it until then.

    Judged by the parsed path. Go looks for `podlist`, `membership` and the like anywhere in the text, so its cloud
    sends an object of such a name only once (checklist row 76); between our halves it is delivered like any other.
    """
    route = message.route
    _, path = strip_node(route.resource)
    type = path.split("/", 2)[1] if "/" in path else ""
    if type in _NO_ACK_ANSWERS or _is_no_object(path):
        return False
    if route.operation in _NO_ACK_OPERATIONS:
        return False
    if route.group in _NO_ACK_GROUPS or route.source in _NO_ACK_SOURCES:
        return False
    if route.operation == Operation.RESPONSE and _is_ok_or_error(bytes(message.content)):
        return False
    return route.source != Source.EDGE_CONTROLLER or _edge_controller_needs_ack(type, route.operation)


def _is_no_object(path: str) -> bool:
    """Paths of the protocol's own; an object's has a namespace, a type and a name."""
    if path == Path.KUBERNETES_CA or path.endswith(f"/{Path.TWIN_CLOUD_UPDATED}"):
        return True
    head, _, tail = path.partition("/")
    return head == Path.MEMBERSHIP and "/" not in tail


def _is_ok_or_error(content: bytes) -> bool:
    if content == b'"OK"':
        return True
    # A whole object is not parsed just to learn that it is no error: errors begin with their only key.
    return content[:16].lstrip(b"{ \n").startswith((b'"ErrStatus"', b"}")) and read_error(content) is not None


def _edge_controller_needs_ack(type: str, operation: str) -> bool:
    if type == ResourceType.NODE:
        return operation == Operation.UPDATE
    if type == ResourceType.POD:
        return operation != Operation.RESPONSE
    return type not in _NO_ACK_TYPES


def acknowledge(message: Message, *, timestamp: int) -> Message:
    """The acknowledgement of a downstream message: its route, content OK, to be sent after it is stored."""
    return message.reply(names.OK, timestamp=timestamp)


# Notices and small requests


class _Offers(msgspec.Struct):
    offers: list[str] = []


def keepalive(*, timestamp: int, offers: Collection[str] = ()) -> Message:
    """What the edge sends on connecting and at every heartbeat; it is never answered.

    wire: a Go cloud does not read the content, so the first one may tell what this edge can do beyond Go.
    """
    return Message.of(
        source=Source.WEBSOCKET,
        group=Group.RESOURCE,
        operation=Operation.KEEPALIVE,
        resource=Path.KEEPALIVE,
        content={"offers": list(offers)} if offers else names.KEEPALIVE_CONTENT,
        timestamp=timestamp,
    )


def read_offers(message: Message) -> frozenset[str]:
    """What a keepalive offers; nothing when it is a Go edge's."""
    try:
        return frozenset(message.read(_Offers).offers)
    except msgspec.MsgspecError:
        return frozenset()


def connection_notice(connected: bool, *, timestamp: int) -> Message:
    """Edge-internal: tells the modules that the link came or went."""
    return Message.of(
        source=Source.EDGE_HUB,
        group=Group.RESOURCE,
        operation=Operation.CONNECT,
        resource=Path.CONNECTION,
        content=names.CLOUD_CONNECTED if connected else names.CLOUD_DISCONNECTED,
        timestamp=timestamp,
    )


def read_connection_notice(message: Message) -> bool | None:
    """True for connected, False for disconnected, None when the message is no such notice."""
    if message.route.resource != Path.CONNECTION:
        return None
    return {names.CLOUD_CONNECTED: True, names.CLOUD_DISCONNECTED: False}.get(_text(message))


def control_answer(message: Message, *, timestamp: int) -> Message | None:
    """The answer a link itself gives to `ping`, `pong` and `config`; None for every other message."""
    if message.route.operation not in names.CONTROL_OPERATIONS:
        return None
    return message.reply(names.ACK, timestamp=timestamp)


def is_empty(message: Message) -> bool:
    """Whether this is the message without contents that a stopping Go edge sends last."""
    return not message.id and message.route == Route()


class NodeStatusRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """Content of the legacy `null/nodestatus/<node>` update."""

    uid: str = msgspec.field(default="", name="UID")
    status: msgspec.Raw = NULL
    extend_resources: msgspec.Raw = NULL


class PodStatusRequest(msgspec.Struct, frozen=True, rename="pascal"):
    """One entry of the legacy `<ns>/podstatus` update."""

    uid: str = msgspec.field(default="", name="UID")
    name: str = ""
    status: msgspec.Raw = NULL


def read_pod_status_requests(message: Message) -> list[PodStatusRequest]:
    """One entry or a list of them; raises msgspec.ValidationError."""
    decoded = message.read(PodStatusRequest | list[PodStatusRequest])  # type: ignore[arg-type]
    return decoded if isinstance(decoded, list) else [decoded]


class Preconditions(msgspec.Struct, frozen=True, rename="camel"):
    uid: str | None = None
    resource_version: str | None = None


class DeleteOptions(msgspec.Struct, frozen=True, rename="camel"):
    """What a pod `delete` from the edge carries."""

    grace_period_seconds: int | None = None
    preconditions: Preconditions | None = None

    @property
    def uid(self) -> str:
        """The life the deletion is meant for; "" for whichever there is."""
        return (self.preconditions.uid or "") if self.preconditions else ""


def read_delete_options(message: Message) -> DeleteOptions:
    """DeleteOptions, or the bare uid text of older edges; raises msgspec.ValidationError."""
    content = bytes(message.content)
    if content.startswith(b'"'):
        return DeleteOptions(0, Preconditions(uid=_text(message)))
    if content == b"null":
        return DeleteOptions()
    return message.read(DeleteOptions)


class EventPatch(msgspec.Struct, frozen=True, rename="camel"):
    """Content of an event `patch`: the event as it was, and the patch as text."""

    event: msgspec.Raw
    patch_data: str
