"""Custom resources: a CRD that appears gets its names and is served; one that goes takes its objects along.

Go: k8s.io/apiextensions-apiserver/pkg/{apiserver,controller}
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, ApiResource
from edgehive.kube.client import EventType
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.server.catalog import Catalog, Served
from edgehive.kube.server.crd_names import Claims, accepted_names, claims, is_established, judged, without_cleanup
from edgehive.kube.server.identity import MASTERS, User
from edgehive.kube.server.options import Call, DeleteOptions
from edgehive.kube.server.writes import Writer
from edgehive.kube.store import Event, Expired, Key, Store, Stored

log = logging.getLogger("edgehive.kube.server")

Json = dict[str, Any]

_STORAGE = f"{CUSTOM_RESOURCE_DEFINITIONS.plural}.{CUSTOM_RESOURCE_DEFINITIONS.group}"
_SELF = User("system:apiserver", (MASTERS,))
_RECHECK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class CrdVersion:
    """One version of a CRD as the catalog wants it."""

    columns: tuple[dict[str, Any], ...]
    scale: Mapping[str, str] | None
    selectable: tuple[str, ...]
    schema: Mapping[str, Any] | None
    #: Objects up to this revision may have been written under another schema.
    since: int = 0


def versions_of(crd: Mapping[str, Any], since: int = 0) -> list[Served]:
    """Every served version of a CRD, under the names it got. Pure."""
    return [_served(crd, version, since) for version in crd["spec"].get("versions") or () if version.get("served")]


def _served(crd: Mapping[str, Any], version: Mapping[str, Any], since: int = 0) -> Served:
    spec, names = crd["spec"], accepted_names(crd)
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
        since,
    )
    return Served(row, custom, tracks_generation=True, unconditional_update=False)


def _group(stored: Stored) -> str:
    return str((stored.to_dict().get("spec") or {}).get("group") or "")


def _gives_back(event: Event) -> bool:
    """A definition that went, or holds other names than before."""
    before = event.previous.to_dict() if event.previous is not None else {}
    return event.type is EventType.DELETED or accepted_names(before) != accepted_names(event.stored.to_dict())


class Crds:
    """Follows CustomResourceDefinitions and keeps the catalog right."""

    def __init__(self, store: Store, catalog: Catalog, writer: Writer) -> None:
        self._store = store
        self._catalog = catalog
        self._writer = writer
        self._removing: set[str] = set()
        #: Spec and names of what is served, by definition.
        self._described: dict[str, tuple[Any, Any]] = {}

    async def load(self) -> None:
        """Serve what the store holds."""
        for stored in self._store.items(_STORAGE):
            await self._judge(stored.key)

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
                    if event.previous is not None and _gives_back(event):
                        await self._sync_others(event, group)

    async def _sync_others(self, event: Event, group: asyncio.TaskGroup) -> None:
        """Names are free again: whoever waits in the same group may have them, the oldest first."""
        api_group = _group(event.stored)
        others = [item for item in self._store.items(_STORAGE) if _group(item) == api_group]
        for other in sorted(others, key=lambda item: item.document.meta.creation_timestamp or ""):
            await self._sync(other.key, group)

    async def _sync(self, key: Key, group: asyncio.TaskGroup) -> None:
        stored = self._store.get(key)
        if stored is None:
            self._described.pop(key.name, None)
            self._catalog.set_custom(key.name, [])
            return
        crd = stored.to_dict()
        if not crd["metadata"].get("deletionTimestamp"):
            await self._judge(key)
        elif key.name not in self._removing:
            self._removing.add(key.name)
            group.create_task(self._remove(key, crd), name=f"remove-crd-{key.name}")

    async def _judge(self, key: Key) -> None:
        """Write down which names it has, and serve it under them."""
        now = self._writer.now()
        try:
            current = await self._writer.adjust(key, lambda fresh: judged(fresh, self._claims(key, fresh), now))
            if current is not None:
                self._serve(key.name, current.to_dict())
        except (KeyError, TypeError, AttributeError) as error:
            # Only a database from elsewhere holds such: what is written today has been validated.
            log.error("the definition %s in the store makes no sense and is not served: %r", key.name, error)

    def _serve(self, name: str, crd: Json) -> None:
        """Tell the catalog, if anything has changed for it."""
        before = self._described.get(name)
        described = (crd["spec"], accepted_names(crd)) if is_established(crd) else None
        if described is None:
            self._described.pop(name, None)
            self._catalog.set_custom(name, [])
        elif described != before:
            self._described[name] = described
            # Before the first look, the definition itself is the last that can have changed the schema.
            since = self._store.revision if before is not None else int(crd["metadata"]["resourceVersion"])
            self._catalog.set_custom(name, versions_of(crd, since))

    def _claims(self, key: Key, crd: Json) -> Claims:
        others = [item.to_dict() for item in self._store.items(_STORAGE) if item.key != key]
        return claims(crd["spec"]["group"], self._catalog.builtin, others)

    async def _remove(self, key: Key, crd: Json) -> None:
        """Delete every object of the kind, wait until the last is gone, then let the CRD go."""
        try:
            if is_established(crd):
                await self._remove_objects(_served(crd, crd["spec"]["versions"][0]))
            await self._writer.adjust(key, without_cleanup)
        finally:
            self._removing.discard(key.name)

    async def _remove_objects(self, served: Served) -> None:
        while items := self._store.items(served.storage):
            for item in items:
                await self._delete(served, item.key)
            with await self._store.watch(served.storage, self._store.revision) as watch:
                await watch.batch(_RECHECK_SECONDS if self._store.items(served.storage) else 0.0)

    async def _delete(self, served: Served, key: Key) -> None:
        try:
            await self._writer.delete(Call(_SELF, served, key.namespace, key.name), DeleteOptions())
        except NotFound:
            return
        except ApiError:
            await asyncio.sleep(_RECHECK_SECONDS)
