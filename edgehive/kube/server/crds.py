"""Custom resources: a CRD that appears is checked, established and served; one that goes takes its objects along.

Go: k8s.io/apiextensions-apiserver/pkg/{apiserver,controller}
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, ApiResource
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.server.catalog import Catalog, Served
from edgehive.kube.server.identity import MASTERS, User
from edgehive.kube.server.options import Call, DeleteOptions
from edgehive.kube.server.writes import Writer
from edgehive.kube.store import Expired, Key, Store

Json = dict[str, Any]

_STORAGE = f"{CUSTOM_RESOURCE_DEFINITIONS.plural}.{CUSTOM_RESOURCE_DEFINITIONS.group}"
_CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_SELF = User("system:apiserver", (MASTERS,))
_RECHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CrdVersion:
    """One version of a CRD as the catalog wants it."""

    columns: tuple[dict[str, Any], ...]
    scale: Mapping[str, str] | None
    selectable: tuple[str, ...]
    schema: Mapping[str, Any] | None


def versions_of(crd: Mapping[str, Any]) -> list[Served]:
    """Every served version of a CRD. Pure."""
    return [_served(crd, version) for version in crd["spec"].get("versions") or () if version.get("served")]


def _served(crd: Mapping[str, Any], version: Mapping[str, Any]) -> Served:
    spec, names = crd["spec"], crd["spec"]["names"]
    parts = version.get("subresources") or {}
    row = ApiResource(
        spec["group"],
        version["name"],
        names["kind"],
        names["plural"],
        spec.get("scope") == "Namespaced",
        names.get("singular") or names["kind"].lower(),
        tuple(names.get("shortNames") or ()),
        tuple(names.get("categories") or ()),
        tuple(name for name in ("status", "scale") if name in parts),
        list_kind=names.get("listKind") or f"{names['kind']}List",
    )
    custom = CrdVersion(
        tuple(version.get("additionalPrinterColumns") or ()),
        parts.get("scale"),
        tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
        (version.get("schema") or {}).get("openAPIV3Schema"),
    )
    return Served(row, custom, tracks_generation=True, unconditional_update=False)


def established(crd: Json, now: str) -> Json:
    """The CRD with names accepted, conditions set and the cleanup finalizer on. Pure."""
    spec, names = crd["spec"], crd["spec"]["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    finalizers = crd["metadata"].get("finalizers") or []
    if _CLEANUP not in finalizers:
        crd["metadata"]["finalizers"] = [*finalizers, _CLEANUP]
    status = crd.setdefault("status", {})
    status["acceptedNames"] = names
    stored = [version["name"] for version in spec["versions"] if version.get("storage")]
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or ()), *stored]))
    _set_condition(status, "NamesAccepted", "NoConflicts", "no conflicts found", now)
    _set_condition(status, "Established", "InitialNamesAccepted", "the initial names have been accepted", now)
    return crd


def _set_condition(status: Json, kind: str, reason: str, message: str, now: str) -> None:
    conditions = status.setdefault("conditions", [])
    if not any(item["type"] == kind and item["status"] == "True" for item in conditions):
        status["conditions"] = [item for item in conditions if item["type"] != kind]
        status["conditions"].append(
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now}
        )


class Crds:
    """Follows CustomResourceDefinitions and keeps the catalog right."""

    def __init__(self, store: Store, catalog: Catalog, writer: Writer) -> None:
        self._store = store
        self._catalog = catalog
        self._writer = writer
        self._removing: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._follow(group)
                except Expired:
                    continue

    async def _follow(self, group: asyncio.TaskGroup) -> None:
        with await self._store.watch(_STORAGE, self._store.revision) as watch:
            for stored in self._store.items(_STORAGE):
                await self._sync(stored.key, group)
            while True:
                for event in await watch.batch():
                    await self._sync(event.stored.key, group)

    async def _sync(self, key: Key, group: asyncio.TaskGroup) -> None:
        stored = self._store.get(key)
        if stored is None:
            self._catalog.set_custom(key.name, [])
            return
        crd = stored.to_dict()
        if crd["metadata"].get("deletionTimestamp"):
            if key.name not in self._removing:
                self._removing.add(key.name)
                group.create_task(self._remove(key, crd), name=f"remove-crd-{key.name}")
            return
        now = self._writer.now()
        accepted = await self._writer.adjust(key, lambda fresh: established(fresh, now))
        if accepted is not None:
            self._catalog.set_custom(key.name, versions_of(accepted.to_dict()))

    async def _remove(self, key: Key, crd: Json) -> None:
        """Delete every object of the kind, wait until the last is gone, then let the CRD go."""
        try:
            served = versions_of(crd)
            storage = served[0].storage if served else ""
            while storage and (items := self._store.items(storage)):
                for item in items:
                    await self._delete(served[0], item.key)
                with await self._store.watch(storage, self._store.revision) as watch:
                    await watch.batch(_RECHECK_SECONDS if self._store.items(storage) else 0.0)
            await self._writer.adjust(key, _without_cleanup)
        finally:
            self._removing.discard(key.name)

    async def _delete(self, served: Served, key: Key) -> None:
        try:
            await self._writer.delete(Call(_SELF, served, key.namespace, key.name), DeleteOptions())
        except NotFound:
            return
        except ApiError:
            await asyncio.sleep(_RECHECK_SECONDS)


def _without_cleanup(crd: Json) -> Json:
    finalizers = [name for name in crd["metadata"].get("finalizers") or () if name != _CLEANUP]
    crd["metadata"].pop("finalizers", None)
    if finalizers:
        crd["metadata"]["finalizers"] = finalizers
    return crd
