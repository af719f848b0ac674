"""The store behind MetaServer: what this node holds, as its own applications see it, and writable where it may be.

The rows are metamanager's; here is what they say in memory, with revisions of this server's own, so that lists, watches
and preconditions mean one sequence whatever the cloud counts. A Device shows the desired values that were set at the
edge, and whether the cloud has what was written here. A write is on disk, and its readers told, before it shows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from edgehive.api.device_faults import value_fault
from edgehive.api.devices import AccessMode, DeviceModel, ModelProperty
from edgehive.api.document import Document
from edgehive.api.registry import (
    CONFIG_MAPS,
    DEVICE_MODELS,
    DEVICES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNT_ACCESSES,
    ApiResource,
    by_edge_type,
)
from edgehive.edgecore.metamanager.edge_writes import EdgeWrites
from edgehive.edgecore.metamanager.edits import Pending
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import ApiError, BadRequest, Forbidden, MethodNotAllowed, TooManyRequests, qualified
from edgehive.kube.patch import apply_strategic
from edgehive.kube.store import Key, Stale, Stored, VersionedStore, Watch
from edgehive.wire import device_edits
from edgehive.wire import resource as paths
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.metaserver")

Json = dict[str, Any]

#: Events kept for watches that resume; whoever comes later lists anew.
WINDOW = 512
#: Writes under way at a time.
WRITING_LIMIT = 256
#: What a node may hold, and who may be written here.
HELD: tuple[ApiResource, ...] = (
    CONFIG_MAPS, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS, SECRETS, SERVICE_ACCOUNT_ACCESSES,
    DEVICES, DEVICE_MODELS,
)  # fmt: skip
WRITABLE = frozenset({DEVICES, DEVICE_MODELS})
_STORAGE = {row: qualified(row.plural, row.group) for row in HELD}
_ROWS = {name: row for row, name in _STORAGE.items()}

#: Have the desired values of a device's properties set; raises ApiError.
SetDesired = Callable[[Resource, Mapping[str, str]], Awaitable[None]]


class EdgeStore:
    """Implements `kube.store.Store`.

    `turn` gives the lock of an object's messages, `set_desired` asks devicetwin, `row` reads metamanager's rows.
    """

    def __init__(
        self,
        writes: EdgeWrites,
        *,
        turn: Callable[[str], asyncio.Lock],
        set_desired: SetDesired,
        row: Callable[[str], Awaitable[Document | None]],
        revision: int,
    ) -> None:
        self._writes = writes
        self._turn = turn
        self._set_desired = set_desired
        self._row = row
        self._objects = VersionedStore(window=WINDOW)
        # Nothing is known of earlier revisions: whoever asks for one is told to list anew.
        self._objects.load((), (), revision=revision, compacted=revision)
        self._showing = asyncio.Lock()
        #: By device, the desired values that were set here and that the cloud has not taken over.
        self._desired: dict[str, dict[str, str]] = {}
        self._writing: set[asyncio.Task[None]] = set()

    # What metamanager tells

    async def show(self, resource: Resource, document: Document | None) -> None:
        """A row is so now; None: it is gone."""
        kind = by_edge_type(resource.type)
        if kind not in _STORAGE:
            return
        key, path = _key(kind, resource), str(resource)
        if document is None:
            self._desired.pop(path, None)
        pending = self._writes.get(path) if kind in WRITABLE else None
        shown = None if document is None else seen(document.to_dict(), self._desired.get(path, {}), pending)
        async with self._showing:
            await self._put(key, shown)

    async def _put(self, key: Key, shown: Json | None) -> None:
        present = self._objects.get(key)
        if shown is None:
            if present is not None:
                await self._objects.remove(key, present)
        elif present is None or _unversioned(present.to_dict()) != _unversioned(shown):
            await self._objects.put(key, present, shown)

    async def patched(self, resource: Resource, patch: bytes) -> None:
        """edged has said how its pod or its node is; until the cloud has that in the object, it shows so."""
        kind = by_edge_type(resource.type)
        if kind not in _STORAGE:
            return
        async with self._showing:
            present = self._objects.get(_key(kind, resource))
            if present is None:
                return
            try:
                change = msgspec.json.decode(patch, type=dict[str, Any])
                after = apply_strategic(present.to_dict(), change, kind.api_version, kind.kind)
            except (msgspec.MsgspecError, ApiError) as error:
                log.error("the status of %s is shown as it was: %s", resource, error)
                return
            await self._put(present.key, after)

    async def desired_here(self, resource: Resource, desired: Mapping[str, str]) -> None:
        """The desired values of a device that were set at the edge and that the cloud has not taken: all of them."""
        path = str(resource)
        if desired:
            self._desired[path] = dict(desired)
        else:
            self._desired.pop(path, None)
        if (row := await self._row(path)) is not None:
            await self.show(resource, row)

    # kube.store.Store: reading

    @property
    def revision(self) -> int:
        return self._objects.revision

    def get(self, key: Key) -> Stored | None:
        return self._objects.get(key)

    def items(self, resource: str, namespace: str = "") -> list[Stored]:
        return self._objects.items(resource, namespace)

    async def items_at(self, resource: str, namespace: str, revision: int) -> list[Stored]:
        return await self._objects.items_at(resource, namespace, revision)

    async def watch(self, resource: str, since: int) -> Watch:
        return await self._objects.watch(resource, since)

    async def reached(self, revision: int, timeout: float) -> bool:
        return await self._objects.reached(revision, timeout)

    # kube.store.Store: writing

    async def put(self, key: Key, expected: Stored | None, value: Json) -> Stored:
        """Raises Stale, and ApiError where nothing was written."""
        kind, resource = _writable(key)
        if value["metadata"].get("deletionTimestamp"):
            raise Forbidden(f"{kind.kind} {key.name} has finalizers, whose owners are in the cloud; delete it there")
        old = expected.to_dict() if expected is not None else None
        await self._do(key, resource, expected, lambda: self._write(resource, old, value))
        return self._objects.get(key) or Stored(key, self.revision, msgspec.json.encode(value))

    async def remove(self, key: Key, expected: Stored, last: Json | None = None) -> Stored:
        """Raises Stale, and ApiError where nothing was removed."""
        _, resource = _writable(key)
        await self._do(key, resource, expected, lambda: self._writes.write(resource, None))
        return Stored(key, self.revision, msgspec.json.encode(last) if last is not None else expected.raw)

    async def close(self) -> None:
        """Give up what is being written."""
        await cancel_and_join(*self._writing)

    async def _do(
        self, key: Key, resource: Resource, expected: Stored | None, work: Callable[[], Awaitable[None]]
    ) -> None:
        """All of it, though who asked for it goes away: what is on disk alone would be told to nobody."""

        async def whole() -> None:
            async with self._turn(str(resource)):
                if self._objects.get(key) is not expected:
                    raise Stale(key)
                await work()

        if len(self._writing) >= WRITING_LIMIT:
            raise TooManyRequests(f"{WRITING_LIMIT} writes are under way at this node; try again")
        task = spawn(whole(), name=f"write {resource}")
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    def _check_desired(self, device: Json, desired: Mapping[str, str]) -> None:
        """No mapper is told a value its device must not have; raises BadRequest."""
        if not desired:
            return
        name = ((device.get("spec") or {}).get("deviceModelRef") or {}).get("name") or ""
        model = self._objects.get(Key(_STORAGE[DEVICE_MODELS], device["metadata"].get("namespace", ""), name))
        described = {one.name: one for one in (_properties_of(model.document) if model is not None else ())}
        for property, value in desired.items():
            one = described.get(property)
            if one is not None and one.access_mode == AccessMode.READ_ONLY:
                raise BadRequest(
                    f"property {property!r} is ReadOnly in model {name!r}; its desired value stays as it is"
                )
            if fault := value_fault(one, value):
                raise BadRequest(f"the desired value of property {property!r} {fault}")

    async def _write(self, resource: Resource, old: Json | None, new: Json) -> None:
        path = str(resource)
        changed = _changed_desired(old, new)
        self._check_desired(new, changed if old is not None else _desired_of(new))
        if changed:
            await self._set_desired(resource, changed)
            self._desired[path] = self._desired.get(path, {}) | changed
        pending = self._writes.get(path)
        base = device_edits.properties(pending.base if pending is not None else old)
        if old is None or not device_edits.same_definition(old, new) or changed.keys() - base.keys():
            await self._writes.write(resource, _without_status(new))
        if changed and (row := await self._row(path)) is not None:
            await self.show(resource, row)


def _properties_of(model: Document) -> Sequence[ModelProperty]:
    """None of a model that cannot be read, which the cloud says of its devices (`Accepted`)."""
    try:
        return model.read(DeviceModel).spec.properties or ()
    except msgspec.ValidationError:
        return ()


def _desired_of(obj: Json) -> dict[str, str]:
    found = {name: device_edits.desired_of(one) for name, one in device_edits.properties(obj).items()}
    return {name: value for name, value in found.items() if value}


def _writable(key: Key) -> tuple[ApiResource, Resource]:
    kind = _ROWS.get(key.resource)
    if kind not in WRITABLE or kind is None:
        raise MethodNotAllowed(f"{key.resource} are not written at an edge node; ask the API server in the cloud")
    return kind, paths.of(kind.edge_type, key.namespace, key.name)


def _key(kind: ApiResource, resource: Resource) -> Key:
    return Key(_STORAGE[kind], resource.api_namespace if kind.namespaced else "", resource.name)


def _unversioned(obj: Json) -> Json:
    return {**obj, "metadata": {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}}


def _without_status(obj: Json) -> Json:
    """What is written here: status and version are others' affair."""
    return {key: value for key, value in obj.items() if key != "status"}


def _changed_desired(old: Json | None, new: Json) -> dict[str, str]:
    """Desired values that are set anew, of properties that were there."""
    before = device_edits.properties(old)
    found = {}
    for name, one in device_edits.properties(new).items():
        value = device_edits.desired_of(one)
        if name in before and value is not None and value != device_edits.desired_of(before[name]):
            found[name] = value
    return found


def seen(row: Json, desired: Mapping[str, str], pending: Pending | None) -> Json:
    """An object as applications at the edge see it: what was set here counts, and what the cloud lacks is said."""
    if desired:
        spec = row.get("spec") or {}
        listed = [_with_desired(one, desired.get(str(one.get("name")))) for one in spec.get("properties") or ()]
        row = {**row, "spec": {**spec, "properties": listed}}
    if pending is None:
        return row
    status = row.get("status") or {}
    others = [one for one in status.get("conditions") or () if one.get("type") != "DefinitionAgreed"]
    return {**row, "status": {**status, "conditions": [*others, _condition(pending)]}}


def _with_desired(one: Json, value: str | None) -> Json:
    return one if value is None else {**one, "desired": {**(one.get("desired") or {}), "value": value}}


def _condition(pending: Pending) -> Json:
    if pending.refused:
        reason, message = "Refused", f"the cloud does not take what was written here: {pending.refused}"
        return {"type": "DefinitionAgreed", "status": "False", "reason": reason, "message": message}
    message = "written at the edge and not in the cloud yet"
    return {"type": "DefinitionAgreed", "status": "Unknown", "reason": "Pending", "message": message}
