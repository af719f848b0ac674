"""The `Client` protocol: what every part of edgehive may ask of a Kubernetes API, whoever answers.

Four answer it: `http_client.HttpClient` (a real API server), `server.local.LocalClient` (our own server in
the same process), `edgecore.metaclient.MetaClient` (metamanager over the bus), `testing.cluster` (memory).
Callers never learn which. Errors are `kube.errors`; no method retries.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource

#: A whole object: a mapping, a Document, or JSON bytes that are passed through untouched.
Body = Mapping[str, Any] | Document | bytes


class PatchType(Enum):
    """The patch languages; the value is the content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"
    APPLY = "application/apply-patch+yaml"


class EventType(Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch. A bookmark's object carries only kind, apiVersion and resourceVersion."""

    type: EventType
    object: Document


@dataclass(frozen=True, slots=True)
class DocumentList:
    """A list answer; items carry kind and apiVersion even where the server leaves them out."""

    items: list[Document]
    resource_version: str
    continue_token: str = ""


class Reader(Protocol):
    """List and watch: all that an informer needs. `namespace` is "" for cluster scope and for all namespaces."""

    async def list(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
    ) -> DocumentList:
        """All items (pages are followed)."""
        ...

    def watch(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        """Events newer than `resource_version`, bookmarks included, until the server closes the stream cleanly.

        Raises Gone when the version is too old (relist then), Unreachable when the stream breaks.
        """
        ...


class Client(Reader, Protocol):
    """CRUD, list and watch on any `ApiResource`."""

    async def get(
        self, resource: ApiResource, name: str, namespace: str = "", *, subresource: str = ""
    ) -> Document: ...

    async def create(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        """POST; with `subresource` to an existing object (`pods/X/binding`) `name` says which one."""
        ...

    async def update(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        """PUT; name and namespace default to those in the body's metadata."""
        ...

    async def patch(
        self,
        resource: ApiResource,
        name: str,
        patch: Body | Sequence[Any],
        namespace: str = "",
        *,
        type: PatchType = PatchType.MERGE,
        subresource: str = "",
    ) -> Document: ...

    async def delete(
        self,
        resource: ApiResource,
        name: str,
        namespace: str = "",
        *,
        grace_period_seconds: int | None = None,
        uid: str = "",
        propagation: str = "",
    ) -> Document | None:
        """The object when it lingers (grace, finalizers), None when it is gone. `uid` is a precondition."""
        ...
