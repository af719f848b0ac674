"""Where a message goes: down to the outbox of its node, up to the module that serves it. Never waits for the API.

Down: `node/<node>/` is taken off, what needs an acknowledgement becomes a parcel with a delivery record, and
what the node has acknowledged already is not sent again. For a node that is not connected only the record is
made, by the replica it was connected to: synccontroller delivers when the node comes. Up: the table of wire.md 3.5.

Go: cloud/pkg/cloudhub/dispatcher/message_dispatcher.go
"""

import logging
from collections.abc import Callable

import msgspec

from edgehive.api.meta import Status
from edgehive.api.registry import DEVICE_MODELS, DEVICES, ApiResource, by_edge_type
from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.outbox import Parcel, Verdict
from edgehive.cloudcore.cloudhub.sessions import Session, Sessions
from edgehive.cloudcore.objectsync import DeliveryRecords, ObjectRef
from edgehive.wire import payloads
from edgehive.wire import resource as paths
from edgehive.wire.inventory import Held
from edgehive.wire.names import (
    CLOUD_ONLY_SOURCES,
    CloudModule,
    Group,
    Operation,
    Path,
    ResourceType,
    Source,
)
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.cloudhub")

_OBJECT_OPERATIONS = frozenset({Operation.INSERT, Operation.UPDATE, Operation.DELETE})


class _Meta(msgspec.Struct):
    uid: str = ""


class _Head(msgspec.Struct, rename={"api_version": "apiVersion"}):
    kind: str = ""
    api_version: str = ""
    metadata: _Meta = msgspec.field(default_factory=_Meta)


class _Protocol(msgspec.Struct, rename="camel"):
    protocol_name: str = ""


class _Spec(msgspec.Struct):
    #: An object in a device, a name in a model.
    protocol: _Protocol | str | None = None


class _Speaking(msgspec.Struct):
    spec: _Spec = msgspec.field(default_factory=_Spec)


_head_decoder = msgspec.json.Decoder(_Head)
_speaking_decoder = msgspec.json.Decoder(_Speaking)


def object_ref(message: Message) -> ObjectRef:
    """Which object a wire message carries; raises ValueError when it carries none."""
    resource = Resource.parse(message.route.resource)
    try:
        head = _head_decoder.decode(message.content)
    except msgspec.MsgspecError as error:
        raise ValueError(f"content of {message.route.resource!r} is no object: {error}") from error
    row = by_edge_type(resource.type)
    kind = head.kind or (row.kind if row else resource.type.capitalize())
    api_version = head.api_version or (row.api_version if row else "")
    # wire: an older skeleton carries no uid; its path keeps several of them apart.
    uid = head.metadata.uid or message.route.resource
    return ObjectRef(api_version, kind, _namespace(resource, row), resource.name, uid)


def protocol_in(message: Message, ref: ObjectRef) -> str:
    """What the mappers of a device or model speak; "" for everything else."""
    if ref.kind not in (DEVICES.kind, DEVICE_MODELS.kind):
        return ""
    try:
        said = _speaking_decoder.decode(message.content).spec.protocol
    except msgspec.MsgspecError:
        return ""
    return said.protocol_name if isinstance(said, _Protocol) else said or ""


def held_ref(held: Held) -> ObjectRef:
    """Which object an entry of a node's inventory means; `api_version` "" for a type that is no kind known here."""
    row = by_edge_type(held.type)
    kind, api_version = (row.kind, row.api_version) if row else (held.type.capitalize(), "")
    namespace = _namespace(paths.Resource(held.namespace, held.type, held.name), row)
    return ObjectRef(api_version, kind, namespace, held.name, held.uid)


def _namespace(resource: Resource, row: ApiResource | None) -> str:
    return resource.api_namespace if row is None or row.namespaced else ""


def _parcel(message: Message, ref: ObjectRef) -> Parcel:
    version = message.header.resourceversion
    return Parcel(
        message=message,
        path=message.route.resource,
        uid=ref.uid,
        version=int(version) if version.isdecimal() else 0,
        deletion=message.route.operation == Operation.DELETE,
    )


class Downstream:
    """Fills outboxes. Every method returns at once."""

    def __init__(
        self,
        sessions: Sessions,
        records: DeliveryRecords,
        on_node_deleted: Callable[[str], None],
        owns: Callable[[str], bool],
        ask: Callable[[Session], None],
    ) -> None:
        self._owns = owns
        self._ask = ask
        self._sessions = sessions
        self._records = records
        self._on_node_deleted = on_node_deleted

    def dispatch(self, message: Message) -> None:
        """Take one message from a cloud module."""
        node, path = _addressee(message.route.resource)
        if not node:
            log.warning("not sent: resource %r names no node", message.route.resource)
            return
        message = message.with_route(resource=path)
        if message.route.operation == Operation.DELETE and path == str(paths.of(ResourceType.NODE, "", node)):
            self._on_node_deleted(node)
            return
        session = self._sessions.get(node)
        if path == Path.INVENTORY:
            if session is not None:
                self._ask(session)
            return
        if not payloads.needs_ack(message):
            if session is not None:
                session.notice(message)
            return
        self._deliver(node, session, message)

    def _deliver(self, node: str, session: Session | None, message: Message) -> None:
        if session is None and not self._owns(node):
            return
        try:
            ref = object_ref(message)
        except ValueError as error:
            log.warning("not sent to node %s: %s", node, error)
            return
        parcel = _parcel(message, ref)
        if message.header.parent_id:
            if session is not None:
                session.reply(parcel)
                self._record(node, ref, message)
        elif parcel.deletion:
            if session is not None:
                session.push(parcel)
        elif not parcel.version:
            log.warning("not sent to node %s: %s has no resource version", node, parcel.path)
        else:
            if self._is_pushed(node, session, parcel, ref):
                self._record(node, ref, message)

    def _is_pushed(self, node: str, session: Session | None, parcel: Parcel, ref: ObjectRef) -> bool:
        """Whether the node is to get it, now or when it is there; one that has it gets nothing."""
        known = self._records.version(node, ref.namespace, ref.uid)
        if known is not None and known >= parcel.version:
            return False
        return session is None or session.push(parcel) in (Verdict.QUEUED, Verdict.REPLACED, Verdict.FULL)

    def _record(self, node: str, ref: ObjectRef, message: Message) -> None:
        def stands() -> None:
            if (session := self._sessions.get(node)) is not None:
                session.release(ref.uid)

        self._records.ensure(node, ref, stands, protocol=protocol_in(message, ref))


def _addressee(resource: str) -> tuple[str, str]:
    """(node, wire path). Node jobs keep their own `.../node/<node>` tail."""
    node, path = paths.strip_node(resource)
    if node:
        return node, path
    _, tail, node = resource.rpartition("/node/")
    return (node, resource) if tail and "/" not in node else ("", resource)


def destination(message: Message) -> str:
    """The module that serves an upstream wire message; "" for none."""
    route = message.route
    if route.operation == Operation.UPLOAD and route.group == Group.USER:
        return CloudModule.ROUTER
    if route.operation in ("prepull", "upgrade", Operation.UPDATE_NODE_ACTION_STATUS):
        return CloudModule.TASK_MANAGER
    if route.source == Source.META_SERVER:
        # Ours: what an edge wrote of devices; everything else is an Application.
        edit = route.operation == Operation.PATCH
        return CloudModule.DEVICE_CONTROLLER if edit else CloudModule.DYNAMIC_CONTROLLER
    if route.source == Source.TWIN:
        return CloudModule.DEVICE_CONTROLLER
    return "" if route.source in CLOUD_ONLY_SOURCES else CloudModule.EDGE_CONTROLLER


def with_node(node: str, message: Message) -> Message:
    """The message as cloud modules read it: its path begins with the node (node jobs keep theirs)."""
    if destination(message) == CloudModule.TASK_MANAGER:
        return message
    return message.with_route(resource=paths.add_node(node, message.route.resource))


_OBJECT_ANSWERS = frozenset({ResourceType.NODE_PATCH, ResourceType.POD_PATCH, ResourceType.LEASE})


def refusal(message: Message, reason: str, *, timestamp: int) -> Message | None:
    """The error answer to a message that is not served; None for one that expects no answer."""
    route = message.route
    if route.operation not in (*_OBJECT_OPERATIONS, Operation.QUERY, Operation.PATCH):
        return None
    status = Status(message=reason, reason="Forbidden", code=403)
    try:
        type = Resource.parse(route.resource).type
    except ValueError:
        type = ""
    if type == ResourceType.EVENT:
        return None
    wrapped = type in _OBJECT_ANSWERS or (
        route.operation == Operation.INSERT and type in (ResourceType.NODE, ResourceType.POD)
    )
    content = payloads.object_response(None, status) if wrapped else payloads.error_content(status)
    return message.reply(content, timestamp=timestamp, source=Source.EDGE_CONTROLLER, group=Group.RESOURCE)


def certificate_authority_reply(message: Message, pem: str, *, timestamp: int) -> Message | None:
    """The answer to a query for the API server's CA; None for any other message."""
    if message.route.resource != Path.KUBERNETES_CA:
        return None
    return message.reply(pem, timestamp=timestamp, source=Source.CLOUD_HUB, group=Group.RESOURCE)
