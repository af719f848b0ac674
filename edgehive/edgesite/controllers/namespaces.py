"""Deleted namespaces: everything in them is deleted, pods before the rest, and then the namespace is let go.

Go: pkg/controller/namespace/deletion/namespaced_resources_deleter.go
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from edgehive.api.document import Document
from edgehive.api.meta import ObjectMeta
from edgehive.api.registry import BUILTIN, CUSTOM_RESOURCE_DEFINITIONS, EVENTS, NAMESPACES, PODS, ApiResource
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.edgesite.controllers.ownership import set_condition
from edgehive.edgesite.controllers.resources import custom_resources
from edgehive.kit.clock import rfc3339
from edgehive.kube.errors import ApiError, Conflict, NotFound

FINALIZER = "kubernetes"


class _Spec(msgspec.Struct, frozen=True):
    finalizers: list[str] | None = None


class _Finalized(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


@dataclass
class _Left:
    """What lingers in a namespace: kinds, and the finalizers it waits for."""

    kinds: Counter[str] = field(default_factory=Counter)
    finalizers: Counter[str] = field(default_factory=Counter)

    def conditions(self) -> list[dict[str, str]]:
        """Why the namespace is still there, in Kubernetes' words."""
        kinds = ", ".join(f"{kind} has {count} resource instances" for kind, count in sorted(self.kinds.items()))
        waits = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(self.finalizers.items()))
        told = [
            _condition("NamespaceContentRemaining", "SomeResourcesRemain", f"Some resources are remaining: {kinds}")
        ]
        if waits:
            text = f"Some content in the namespace has finalizers remaining: {waits}"
            told.append(_condition("NamespaceFinalizersRemaining", "SomeFinalizersRemain", text))
        return told


def _condition(type: str, reason: str, message: str) -> dict[str, str]:
    return {"type": type, "status": "True", "reason": reason, "message": message}


class Namespaces:
    name = "namespaces"

    def __init__(self, deps: ControllerDeps) -> None:
        self._client = deps.client
        self._clock = deps.clock
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
        if left.kinds:
            await self._tell(document, left)
            # Pods take their grace, others their finalizers; nothing tells us when, so look again soon.
            return 1.0
        body = document.to_dict()
        body["spec"]["finalizers"] = [item for item in finalizers if item != FINALIZER]
        try:
            await self._client.update(NAMESPACES, body, name=document.meta.name, subresource="finalize")
        except NotFound:
            return None
        return None

    async def _tell(self, document: Document, left: _Left) -> None:
        body = document.to_dict()
        before = body.get("status", {}).get("conditions") or []
        conditions = before
        for condition in left.conditions():
            conditions = set_condition(conditions, condition, rfc3339(self._clock.now()))
        if conditions != before:
            body.setdefault("status", {})["conditions"] = conditions
            with suppress(NotFound, Conflict):  # the next look tells it again
                await self._client.update(NAMESPACES, body, name=document.meta.name, subresource="status")

    async def _empty(self, namespace: str) -> _Left:
        """Delete what is there and say what lingers; pods must be gone before anything else is touched."""
        left = _Left()
        await self._delete_all(PODS, namespace, left)
        if left.kinds:
            return left
        rows = [row for row in BUILTIN if row.namespaced and row not in (PODS, EVENTS)]
        rows += [row for row in custom_resources(self._definitions) if row.namespaced]
        for row in (*rows, EVENTS):
            await self._delete_all(row, namespace, left)
        return left

    async def _delete_all(self, resource: ApiResource, namespace: str, left: _Left) -> None:
        try:
            items = (await self._client.list(resource, namespace)).items
        except NotFound:
            # A custom resource whose definition has just gone, or a kind this server does not serve.
            return
        for item in items:
            meta = item.meta
            if not meta.deletion_timestamp and not await self._delete(resource, meta):
                continue
            left.kinds[f"{resource.plural}.{resource.group}"] += 1
            left.finalizers.update(meta.finalizers or ())

    async def _delete(self, resource: ApiResource, meta: ObjectMeta) -> bool:
        """Delete one object; whether it lingers."""
        try:
            lingering = await self._client.delete(
                resource, meta.name, meta.namespace, uid=meta.uid, propagation="Background"
            )
        except (NotFound, Conflict):
            return False
        except ApiError as error:
            raise type(error)(
                f"cannot empty namespace {meta.namespace}: {resource.plural} {meta.name}: {error}"
            ) from error
        return lingering is not None
