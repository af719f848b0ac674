"""The garbage collector: what belongs to an object that no longer exists goes too, by uid and never by name.

It follows every kind there is, keeps who-owns-whom by uid, and does nothing until all its informers hold a
complete list. An owner it does not know is looked up live before anything is deleted for its absence. It also
carries out foreground deletion and orphaning, which are finalizers on the owner.

Go: pkg/controller/garbagecollector/garbagecollector.go, graph_builder.go
"""

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, field

from edgehive.api.document import Document
from edgehive.api.meta import ObjectMeta, OwnerReference
from edgehive.api.registry import BUILTIN, CUSTOM_RESOURCE_DEFINITIONS, EVENTS, ApiResource
from edgehive.edgesite.controllers.engine import ControllerDeps, WorkQueue
from edgehive.edgesite.controllers.resources import custom_resources
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound
from edgehive.kube.informer import Change, Informer, Informers

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
WORKERS = 4

log = logging.getLogger("edgehive.edgesite.garbage_collection")


@dataclass(frozen=True)
class Entry:
    """One existing object, as far as ownership goes."""

    resource: ApiResource
    meta: ObjectMeta

    @property
    def owners(self) -> list[OwnerReference]:
        return self.meta.owner_references or []

    def waits_for(self, finalizer: str) -> bool:
        return bool(self.meta.deletion_timestamp) and finalizer in (self.meta.finalizers or ())


@dataclass
class Graph:
    """Who owns whom, by uid. Pure state."""

    entries: dict[str, Entry] = field(default_factory=dict)
    _dependents: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def put(self, entry: Entry) -> None:
        self.remove(entry.meta.uid)
        self.entries[entry.meta.uid] = entry
        for owner in entry.owners:
            self._dependents[owner.uid].add(entry.meta.uid)

    def remove(self, uid: str) -> None:
        entry = self.entries.pop(uid, None)
        for owner in entry.owners if entry else ():
            members = self._dependents[owner.uid]
            members.discard(uid)
            if not members:
                del self._dependents[owner.uid]

    def dependents(self, uid: str) -> list[Entry]:
        return [self.entries[item] for item in self._dependents.get(uid, ())]


class GarbageCollector:
    """Runs until cancelled. Queue keys are ("", uid)."""

    def __init__(self, deps: ControllerDeps) -> None:
        self._client: Client = deps.client
        self._informers: Informers = deps.informers
        self._definitions = deps.informers.of(CUSTOM_RESOURCE_DEFINITIONS)
        self._rows = [row for row in BUILTIN if row != EVENTS and "watch" in row.verbs]
        self._sources = {row: deps.informers.of(row) for row in self._rows}
        self._graph = Graph()
        self._queue = WorkQueue()
        self._custom: dict[ApiResource, list[asyncio.Task[None]]] = {}

    async def run(self) -> None:
        for informer in self._sources.values():
            await informer.wait_synced()
        for row, informer in self._sources.items():
            for document in informer.items():
                self._graph.put(Entry(row, document.meta))
        try:
            async with asyncio.TaskGroup() as group:
                for row, informer in self._sources.items():
                    group.create_task(self._follow(row, informer), name=f"garbage collector: {row.plural}")
                group.create_task(self._follow_definitions(), name="garbage collector: definitions")
                for number in range(WORKERS):
                    group.create_task(self._work(), name=f"garbage collector: worker {number}")
        finally:
            self._queue.close()
            await cancel_and_join(*(task for tasks in self._custom.values() for task in tasks))

    async def _follow(self, row: ApiResource, informer: Informer) -> None:
        async for change in informer.changes():
            self._take(row, change)

    async def _follow_definitions(self) -> None:
        """Follow custom resources for as long as their definition serves them."""
        async for _ in self._definitions.changes():
            rows = set(custom_resources(self._definitions))
            for row in rows - self._custom.keys():
                informer = Informer(self._client, row)
                self._custom[row] = [
                    spawn(informer.run(), name=f"garbage collector: watch {row.plural}"),
                    spawn(self._follow(row, informer), name=f"garbage collector: {row.plural}"),
                ]
            for row in self._custom.keys() - rows:
                await cancel_and_join(*self._custom.pop(row))

    def _take(self, row: ApiResource, change: Change) -> None:
        meta = change.document.meta
        if change.new is None:
            dependents = self._graph.dependents(meta.uid)
            owners = self._graph.entries[meta.uid].owners if meta.uid in self._graph.entries else []
            self._graph.remove(meta.uid)
            for uid in [item.meta.uid for item in dependents] + [owner.uid for owner in owners]:
                self._queue.add(("", uid))
            return
        self._graph.put(Entry(row, meta))
        if meta.owner_references or meta.deletion_timestamp:
            self._queue.add(("", meta.uid))
        for owner in meta.owner_references or ():
            if owner.uid in self._graph.entries and self._graph.entries[owner.uid].waits_for(FOREGROUND):
                self._queue.add(("", owner.uid))

    async def _work(self) -> None:
        while True:
            key = await self._queue.get()
            try:
                await self._attend(key[1])
            except ApiError as error:
                level = logging.DEBUG if error.code in (404, 409) or error.transient else logging.WARNING
                log.log(level, "%s: %s", key[1], error)
                self._queue.retry(key)
            except Exception:
                # One object that cannot be handled must not stop the collection of the others.
                log.exception("cannot collect %s", key[1])
                self._queue.retry(key)
            else:
                self._queue.forget(key)
            finally:
                self._queue.done(key)

    async def _attend(self, uid: str) -> None:
        entry = self._graph.entries.get(uid)
        if entry is None:
            return
        if entry.waits_for(ORPHAN):
            await self._orphan(entry)
        elif entry.waits_for(FOREGROUND):
            await self._foreground(entry)
        elif entry.owners and not entry.meta.deletion_timestamp:
            await self._judge(entry)

    async def _judge(self, entry: Entry) -> None:
        """Delete an object none of whose owners is left; drop the dead references of one that has others."""
        solid, dead, leaving = [], [], []
        for owner in entry.owners:
            if not await self._exists(entry, owner):
                dead.append(owner)
            elif owner.uid in self._graph.entries and self._graph.entries[owner.uid].waits_for(FOREGROUND):
                leaving.append(owner)
            else:
                solid.append(owner)
        if solid:
            if dead or leaving:
                await self._drop_references(entry, {owner.uid for owner in (*dead, *leaving)})
            return
        if leaving and self._graph.dependents(entry.meta.uid):
            await self._delete(entry, "Foreground")
        else:
            await self._delete(entry, _own_policy(entry.meta))

    async def _exists(self, entry: Entry, owner: OwnerReference) -> bool:
        """Whether the owner lives, by uid; what the graph does not know is asked of the API."""
        known = self._graph.entries.get(owner.uid)
        if known is not None:
            # A reference across namespaces is invalid and counts as absent.
            return not known.resource.namespaced or known.meta.namespace == entry.meta.namespace
        row = self._row(owner)
        if row is None:
            # A kind nobody serves (yet): nothing may be deleted for its sake.
            return True
        try:
            live = await self._client.get(row, owner.name, entry.meta.namespace if row.namespaced else "")
        except NotFound:
            return False
        return live.meta.uid == owner.uid

    def _row(self, owner: OwnerReference) -> ApiResource | None:
        group = owner.api_version.rpartition("/")[0]
        rows = [*self._rows, *custom_resources(self._definitions)]
        return next((row for row in rows if row.group == group and row.kind == owner.kind), None)

    async def _delete(self, entry: Entry, propagation: str) -> None:
        meta = entry.meta
        try:
            await self._client.delete(entry.resource, meta.name, meta.namespace, uid=meta.uid, propagation=propagation)
        except (NotFound, Conflict):
            # Gone, or another object under the same name: not ours to delete.
            return

    async def _foreground(self, entry: Entry) -> None:
        """Delete the dependents first; the owner may go when none is left that blocks it."""
        dependents = self._graph.dependents(entry.meta.uid)
        for item in dependents:
            if not item.meta.deletion_timestamp:
                self._queue.add(("", item.meta.uid))
        if not any(_blocks(item, entry.meta.uid) for item in dependents):
            await self._drop_finalizer(entry, FOREGROUND)

    async def _orphan(self, entry: Entry) -> None:
        for item in self._graph.dependents(entry.meta.uid):
            await self._drop_references(item, {entry.meta.uid})
        await self._drop_finalizer(entry, ORPHAN)

    async def _drop_references(self, entry: Entry, uids: set[str]) -> None:
        document = await self._live(entry)
        if document is None:
            return
        body = document.to_dict()
        references = [item for item in body["metadata"].get("ownerReferences") or [] if item.get("uid") not in uids]
        await self._patch(entry, document, {"ownerReferences": references})

    async def _drop_finalizer(self, entry: Entry, finalizer: str) -> None:
        document = await self._live(entry)
        if document is None:
            return
        finalizers = [item for item in document.meta.finalizers or () if item != finalizer]
        await self._patch(entry, document, {"finalizers": finalizers})

    async def _live(self, entry: Entry) -> Document | None:
        """The object as it is now; None when it is gone or another one has its name."""
        try:
            document = await self._client.get(entry.resource, entry.meta.name, entry.meta.namespace)
        except NotFound:
            return None
        return document if document.meta.uid == entry.meta.uid else None

    async def _patch(self, entry: Entry, document: Document, changes: dict[str, object]) -> None:
        meta = document.meta
        patch = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, **changes}}
        try:
            await self._client.patch(entry.resource, meta.name, patch, meta.namespace, type=PatchType.MERGE)
        except NotFound:
            return


def _own_policy(meta: ObjectMeta) -> str:
    """A finalizer the user left on the object decides how its own dependents fare."""
    finalizers = meta.finalizers or ()
    return "Orphan" if ORPHAN in finalizers else "Foreground" if FOREGROUND in finalizers else "Background"


def _blocks(entry: Entry, owner_uid: str) -> bool:
    return any(owner.uid == owner_uid and owner.block_owner_deletion for owner in entry.owners)
