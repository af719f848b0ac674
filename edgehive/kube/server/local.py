"""`LocalClient`: the `Client` protocol answered in this process, as a given user.

Controllers, flows and tests speak to the API server through it without a socket. Documents it hands out are
the stored ones, shared and immutable.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kube.client import Body, DocumentList, PatchType, WatchEvent
from edgehive.kube.errors import BadRequest, NotFound
from edgehive.kube.server.api import Api
from edgehive.kube.server.identity import User
from edgehive.kube.server.options import Call, DeleteOptions, ListOptions

_encode = msgspec.json.Encoder().encode


class LocalClient:
    """A `Client` bound to a user."""

    def __init__(self, api: Api, user: User) -> None:
        self._api = api
        self._user = user

    async def get(self, resource: ApiResource, name: str, namespace: str = "", *, subresource: str = "") -> Document:
        return (await self._api.get(self._call(resource, namespace, name, subresource))).document

    async def list(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        resource_version: str = "",
    ) -> DocumentList:
        options = ListOptions(label_selector, field_selector, resource_version)
        page = await self._api.select(self._call(resource, namespace), options)
        return DocumentList([item.document for item in page.items], str(page.revision))

    async def watch(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        timeout: float | None = None,
    ) -> AsyncIterator[WatchEvent]:
        seconds = None if timeout is None else max(1, round(timeout))
        options = ListOptions(label_selector, field_selector, resource_version, bookmarks=True, timeout_seconds=seconds)
        stream = await self._api.watch(self._call(resource, namespace), options)
        async with aclosing(stream):
            async for batch in stream:
                for event in batch:
                    yield event

    async def create(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        obj = _object(body)
        if not namespace and not subresource:
            namespace = (obj.get("metadata") or {}).get("namespace") or ""
        return (await self._api.create(self._call(resource, namespace, name, subresource), obj)).document

    async def update(
        self, resource: ApiResource, body: Body, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Document:
        obj = _object(body)
        metadata = obj.get("metadata") or {}
        namespace, name = namespace or metadata.get("namespace", ""), name or metadata.get("name", "")
        return (await self._api.update(self._call(resource, namespace, name, subresource), obj)).document

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
        call = self._call(resource, namespace, name, subresource)
        return (await self._api.patch(call, type, _copy(patch))).document

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
        options = DeleteOptions(grace_period_seconds, propagation, uid)
        removal = await self._api.delete(self._call(resource, namespace, name), options)
        return None if removal.gone else removal.stored.document

    def _call(self, resource: ApiResource, namespace: str = "", name: str = "", subresource: str = "") -> Call:
        served = self._api.catalog.of(resource)
        if served is None:
            raise NotFound("the server could not find the requested resource")
        return Call(self._user, served, namespace if resource.namespaced else "", name, subresource)


def _copy(body: Body | Sequence[Any]) -> Any:
    """A mutable copy of whatever JSON the caller holds; raises BadRequest."""
    try:
        if isinstance(body, Document):
            return body.to_dict()
        return msgspec.json.decode(body if isinstance(body, bytes) else _encode(body))
    except (msgspec.DecodeError, TypeError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def _object(body: Body) -> dict[str, Any]:
    decoded = _copy(body)
    if not isinstance(decoded, Mapping):
        raise BadRequest("the body must be a JSON object")
    return dict(decoded)
