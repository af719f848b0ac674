"""Deleted namespaces: everything in them is deleted, pods before the rest, and then the namespace is let go.

Go: pkg/controller/namespace/deletion/namespaced_resources_deleter.go
"""

from collections.abc import Sequence

import msgspec

from edgehive.api.registry import BUILTIN, CUSTOM_RESOURCE_DEFINITIONS, EVENTS, NAMESPACES, PODS, ApiResource
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.edgesite.controllers.resources import custom_resources
from edgehive.kube.errors import ApiError, Conflict, NotFound

FINALIZER = "kubernetes"


class _Spec(msgspec.Struct, frozen=True):
    finalizers: list[str] | None = None


class _Finalized(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


class Namespaces:
    name = "namespaces"

    def __init__(self, deps: ControllerDeps) -> None:
        self._client = deps.client
        self._namespaces = deps.informers.of(NAMESPACES)
        self._definitions = deps.informers.of(CUSTOM_RESOURCE_DEFINITIONS)

    def sources(self) -> Sequence[Source]:
        return (Source(self._namespaces, own_key),)

    async def reconcile(self, key: Key) -> float | None:
        document = self._namespaces.get(key[1])
        if document is None or not document.meta.deletion_timestamp:
            return None
        finalizers = document.read(_Finalized).spec.finalizers or []
        if FINALIZER not in finalizers:
            return None
        left = await self._empty(document.meta.name)
        if left:
            # Pods take their grace, others their finalizers; nothing tells us when, so look again soon.
            return 1.0
        body = document.to_dict()
        body["spec"]["finalizers"] = [item for item in finalizers if item != FINALIZER]
        try:
            await self._client.update(NAMESPACES, body, name=document.meta.name, subresource="finalize")
        except NotFound:
            return None
        return None

    async def _empty(self, namespace: str) -> int:
        """Delete what is there and count what lingers; pods must be gone before anything else is touched."""
        left = await self._delete_all(PODS, namespace)
        if left:
            return left
        rows = [row for row in BUILTIN if row.namespaced and row not in (PODS, EVENTS)]
        rows += [row for row in custom_resources(self._definitions) if row.namespaced]
        for row in rows:
            left += await self._delete_all(row, namespace)
        return left + await self._delete_all(EVENTS, namespace)

    async def _delete_all(self, resource: ApiResource, namespace: str) -> int:
        try:
            items = (await self._client.list(resource, namespace)).items
        except NotFound:
            # A custom resource whose definition has just gone, or a kind this server does not serve.
            return 0
        left = 0
        for item in items:
            meta = item.meta
            if meta.deletion_timestamp:
                left += 1
                continue
            try:
                lingering = await self._client.delete(
                    resource, meta.name, namespace, uid=meta.uid, propagation="Background"
                )
            except (NotFound, Conflict):
                continue
            except ApiError as error:
                raise type(error)(
                    f"cannot empty namespace {namespace}: {resource.plural} {meta.name}: {error}"
                ) from error
            left += lingering is not None
        return left
