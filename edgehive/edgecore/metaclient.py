"""`MetaClient`: a Kubernetes client whose API server is metamanager, reached over the bus.

edged gets it as its `Client` and never learns that a cloud link lies behind. It offers exactly what a node
needs; anything else is a `MethodNotAllowed` that says so. Offline it answers from the rows; what needs the
cloud raises `Unreachable`, which is transient. It never touches the database.

Go: edge/pkg/metamanager/client, edge/pkg/edged/kubeclientbridge
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import (
    EVENTS,
    LEASES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SERVICE_ACCOUNTS,
    VOLUME_ATTACHMENTS,
    ApiResource,
)
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kube import errors
from edgehive.kube.client import Body, DocumentList, PatchType, WatchEvent
from edgehive.kube.errors import MethodNotAllowed, ServerError, Unreachable
from edgehive.wire import resource as paths
from edgehive.wire.names import EdgeModule, Group, Operation, ResourceType
from edgehive.wire.payloads import read_reply

#: metamanager gives a question to the cloud this long; the bus waits a little longer for its verdict.
DEFAULT_TIMEOUT = 60.0
_GRACE = 5.0
#: What a patch of the status subresource is called on the wire.
_STATUS_PATCH = {PODS: ResourceType.POD_PATCH, NODES: ResourceType.NODE_PATCH}
#: wire: the cloud reads a namespace even for kinds that have none (wire.md §5.11).
_NAMED_IN_DEFAULT = frozenset({PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS})
_Rows = list[msgspec.Raw]
_WRITABLE = frozenset({NODES, LEASES, PODS, PERSISTENT_VOLUME_CLAIMS})


class MetaClient:
    """Implements `kube.client.Client`."""

    def __init__(
        self,
        bus: Bus,
        clock: Clock,
        *,
        module: str = EdgeModule.META_MANAGER,
        source: str = EdgeModule.EDGED,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._module = module
        self._source = source
        self._timeout = timeout + _GRACE

    async def get(self, resource: ApiResource, name: str, namespace: str = "", *, subresource: str = "") -> Document:
        if subresource:
            raise _unsupported("get", resource, subresource)
        return await self._object(Operation.QUERY, resource, resource.edge_type, name, namespace)

    async def list(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",  # noqa: ARG002
    ) -> DocumentList:
        """The rows of this node; they carry no common version."""
        if label_selector or field_selector:
            raise _unsupported("list with selectors", resource)
        path = paths.of(resource.edge_type, namespace)
        reply = await self._request(Operation.QUERY, str(path), None)
        if reply.route.operation == Operation.ERROR:
            raise _error(reply)
        return DocumentList([Document(bytes(row)) for row in reply.read(_Rows)], "")

    def watch(
        self,
        resource: ApiResource,
        namespace: str = "",  # noqa: ARG002
        *,
        resource_version: str = "",  # noqa: ARG002
        label_selector: str = "",  # noqa: ARG002
        field_selector: str = "",  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
    ) -> AsyncIterator[WatchEvent]:
        """Changes come to edged's mailbox instead."""
        raise _unsupported("watch", resource)

    async def create(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        document = _document(body)
        if resource is SERVICE_ACCOUNTS and subresource == "token":
            type = ResourceType.SERVICE_ACCOUNT_TOKEN
            return await self._object(Operation.QUERY, resource, type, name, namespace, document)
        if subresource or resource not in _WRITABLE | {EVENTS}:
            raise _unsupported("create", resource, subresource)
        return await self._write(Operation.INSERT, resource, document, namespace)

    async def update(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        if subresource or resource not in (NODES, LEASES, EVENTS):
            raise _unsupported("update", resource, subresource)
        return await self._write(Operation.UPDATE, resource, _document(body), namespace, name)

    async def patch(
        self,
        resource: ApiResource,
        name: str,
        patch: Body | Sequence[Any],
        namespace: str = "",
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
    ) -> Document:
        """The status of pods and nodes, by strategic merge; events by any patch."""
        text = _text(patch)
        if resource is EVENTS and not subresource:
            return await self._patch_event(name, namespace, text)
        if subresource != "status" or resource not in _STATUS_PATCH or type is not PatchType.STRATEGIC:
            raise _unsupported(f"patch ({type.value})", resource, subresource)
        return await self._object(Operation.PATCH, resource, _STATUS_PATCH[resource], name, namespace, text)

    async def delete(
        self,
        resource: ApiResource,
        name: str,
        namespace: str = "",
        *,
        grace_period_seconds: int | None = None,
        uid: str = "",
        propagation: str = "",  # noqa: ARG002
    ) -> Document | None:
        """Confirm to the API server that a pod's containers are gone."""
        if resource is not PODS:
            raise _unsupported("delete", resource)
        options: dict[str, Any] = {"gracePeriodSeconds": grace_period_seconds or 0}
        if uid:
            options["preconditions"] = {"uid": uid}
        path = paths.of(resource.edge_type, namespace, name)
        return self._read(await self._request(Operation.DELETE, str(path), options), resource)

    async def _write(
        self, operation: str, resource: ApiResource, document: Document, namespace: str, name: str = ""
    ) -> Document:
        meta = document.meta
        path = paths.of(resource.edge_type, namespace or meta.namespace, name or meta.name)
        if resource is EVENTS:
            await self._post(operation, str(path), msgspec.Raw(document.raw))
            return document
        reply = await self._request(operation, str(path), msgspec.Raw(document.raw))
        return self._read(reply, resource) or document

    async def _patch_event(self, name: str, namespace: str, text: str) -> Document:
        event = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": name, "namespace": namespace}}
        path = paths.of(EVENTS.edge_type, namespace, name)
        await self._post(Operation.PATCH, str(path), {"event": event, "patchData": text})
        return Document.of(event)

    async def _object(
        self,
        operation: str,
        resource: ApiResource,
        type: str,
        name: str,
        namespace: str,
        content: Document | str | None = None,
    ) -> Document:
        if not namespace and resource in _NAMED_IN_DEFAULT:
            namespace = "default"
        path = paths.of(type, namespace, name)
        body = msgspec.Raw(content.raw) if isinstance(content, Document) else content
        document = self._read(await self._request(operation, str(path), body), resource)
        if document is None:
            raise ServerError(f"the answer to {operation} {path} holds no object")
        return document

    def _read(self, reply: Message, resource: ApiResource) -> Document | None:
        answer = read_reply(reply)
        if answer.error is not None:
            raise _error(reply)
        document = answer.object
        if document is None or (document.kind and document.api_version) or resource is SERVICE_ACCOUNTS:
            return document
        return Document.of(document.to_dict() | {"kind": resource.kind, "apiVersion": resource.api_version})

    async def _request(self, operation: str, path: str, content: Any) -> Message:
        try:
            return await self._bus.request(self._module, self._message(operation, path, content), timeout=self._timeout)
        except (ReplyTimeout, MailboxFull, NoSuchModule) as error:
            raise Unreachable(f"{operation} {path}: {error}") from error

    async def _post(self, operation: str, path: str, content: Any) -> None:
        """Nobody answers; a full mailbox costs the event."""
        try:
            await self._bus.send(self._module, self._message(operation, path, content))
        except (MailboxFull, NoSuchModule) as error:
            raise Unreachable(f"{operation} {path}: {error}") from error

    def _message(self, operation: str, path: str, content: Any) -> Message:
        return Message.of(
            source=self._source,
            group=Group.META,
            operation=operation,
            resource=path,
            content=content,
            timestamp=unix_millis(self._clock.now()),
        )


def _document(body: Body) -> Document:
    if isinstance(body, Document):
        return body
    return Document(body) if isinstance(body, bytes) else Document.of(body)


def _text(patch: Body | Sequence[Any]) -> str:
    """wire: patches travel as a JSON string that holds JSON (wire.md checklist row 47)."""
    if isinstance(patch, Document):
        return patch.raw.decode()
    if isinstance(patch, bytes):
        return patch.decode()
    return msgspec.json.encode(patch).decode()


def _error(reply: Message) -> errors.ApiError:
    status = read_reply(reply).error
    if status is None:
        return ServerError(f"the answer to {reply.route.resource} cannot be read")
    if status.reason == "Unreachable":
        return Unreachable(status.message)
    return errors.from_status(status)


def _unsupported(what: str, resource: ApiResource, subresource: str = "") -> MethodNotAllowed:
    plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
    return MethodNotAllowed(f"{what} of {plural} is not possible from an edge node; ask the API server in the cloud")
