"""`DeliveryRecords`: which version of which object each node has acknowledged, in memory and as ObjectSyncs.

cloudhub writes it (a record before the first delivery, one merge patch per acknowledgement, its end after an
acknowledged deletion) and synccontroller reads it to find what a node missed. Reading never asks the API:
a watch keeps the memory true. Writes are coalesced per record and only a few are in flight, so neither the
dispatcher nor a session waits for the API. It decides nothing about what a node should have. Of several cloudcores
each writes the records of its own nodes; those of the others follow the API alone.

Go: cloud/pkg/cloudhub/session/reliable_client.go, cloud/pkg/synccontroller
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from edgehive.api.document import Document
from edgehive.api.edge import ObjectSync, object_sync_name, split_object_sync_name
from edgehive.api.registry import CLUSTER_OBJECT_SYNCS, OBJECT_SYNCS, ApiResource, by_kind
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, ApiError, NotFound
from edgehive.kube.informer import Change, Informers

log = logging.getLogger("edgehive.cloudcore.objectsync")

#: API requests at a time: enough to keep an API server busy, too few to drown it.
WRITERS = 24
WRITE_SECONDS = 15.0
#: How long a record that only follows unchanged content (status echoes) may wait to be written.
LAZY_SECONDS = 5.0
#: Unrecorded objects of one inventory that are looked into; the rest is when the node connects again.
STRAY_LIMIT = 1000

#: On an ObjectSync of a device or its model: what its mappers speak. By that a Go edge finds the one that is to hear of
#: its end, of which after a restart of the cloud nobody else knows.
PROTOCOL_ANNOTATION = "edgehive.io/protocol"

Key = tuple[str, str]


class ObjectRef(NamedTuple):
    """One life of one object; namespace "" is cluster scope."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str


@dataclass(slots=True, eq=False)
class Record:
    """One object on one node. `acked` 0 means recorded but never acknowledged, or lost by the node since."""

    node: str
    ref: ObjectRef
    exists: bool = False
    sync_uid: str = ""
    acked: int = 0
    written: int = 0
    #: The version a write in flight carries.
    writing: int = 0
    gone: bool = False
    #: Versions between which nothing changed that a node is told of.
    same_from: int = 0
    same_to: int = 0
    failures: int = 0
    #: What the object said last, while the node has yet to hear that it is to lose it.
    last: Document | None = None
    protocol: str = ""
    #: A writer is at it; `again` asks it to look once more when it is done.
    busy: bool = False
    again: bool = False
    waiting: list[Callable[[], None]] = field(default_factory=list)

    @property
    def key(self) -> Key:
        return self.ref.namespace, object_sync_name(self.node, self.ref.uid)

    @property
    def resource(self) -> ApiResource:
        return OBJECT_SYNCS if self.ref.namespace else CLUSTER_OBJECT_SYNCS

    @property
    def settled(self) -> bool:
        """Whether the API holds what is known here."""
        return not self.gone and self.exists and self.written == self.acked


class DeliveryRecords:
    """All records; `run` keeps them and the API alike."""

    def __init__(self, client: Client, informers: Informers, standing: Standing) -> None:
        self._client = client
        self._standing = standing
        self._syncs = (informers.of(OBJECT_SYNCS), informers.of(CLUSTER_OBJECT_SYNCS))
        self._records: dict[Key, Record] = {}
        self._nodes: dict[str, dict[Key, Record]] = {}
        self._strays: dict[str, dict[ObjectRef, int]] = {}
        self._dirty: OrderedDict[Key, Record] = OrderedDict()
        self._wake = asyncio.Event()
        self._loaded = asyncio.Event()
        self._backoff = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.3)
        self._later: set[asyncio.TimerHandle] = set()

    # Reading

    def version(self, node: str, namespace: str, uid: str) -> int | None:
        """The version the node acknowledged last, 0 when none yet, None when nothing is recorded."""
        record = self._records.get((namespace, object_sync_name(node, uid)))
        return None if record is None or record.gone else record.acked

    def of_node(self, node: str) -> list[Record]:
        return [record for record in self._nodes.get(node, {}).values() if not record.gone]

    def nodes(self) -> list[str]:
        return list(self._nodes)

    def __len__(self) -> int:
        return len(self._records)

    async def wait_loaded(self) -> None:
        """Return once every ObjectSync the API holds is known here."""
        await self._loaded.wait()

    # Writing: all of these return at once

    def ensure(self, node: str, ref: ObjectRef, then: Callable[[], None] | None = None, *, protocol: str = "") -> None:
        """Have a record; `then` is called when it stands in the API (or cannot: delivery matters more)."""
        record = self._have(node, ref)
        record.protocol = protocol or record.protocol
        if record.exists and not record.gone:
            if then is not None:
                then()
            return
        record.gone = False
        if then is not None:
            record.waiting.append(then)
        self._mark(record)

    def acknowledged(self, node: str, ref: ObjectRef, version: int) -> None:
        """The node has stored this version."""
        record = self._have(node, ref)
        record.gone = False
        record.acked = max(record.acked, version)
        if record.same_from <= record.acked <= record.same_to:
            record.acked = record.same_to
        if not record.settled:
            self._mark(record)

    def ending(self, node: str, last: Document) -> None:
        """The node is told to lose the object, now or when it returns: who tells it then can say what it was."""
        record = self._records.get((last.meta.namespace, object_sync_name(node, last.meta.uid)))
        if record is not None and not record.gone:
            record.last = last

    def is_ending(self, node: str, namespace: str, uid: str) -> bool:
        """Whether the node has yet to confirm that it lost the object."""
        record = self._records.get((namespace, object_sync_name(node, uid)))
        return record is not None and not record.gone and record.last is not None

    def deleted(self, node: str, ref: ObjectRef) -> None:
        """The node has removed the object: its record ends."""
        record = self._records.get((ref.namespace, object_sync_name(node, ref.uid)))
        if record is not None:
            record.gone = True
            record.last = None
            self._mark(record)

    def unchanged(self, node: str, namespace: str, uid: str, old: int, new: int) -> None:
        """Version `new` differs from `old` in nothing a node is told of: having one is having the other."""
        record = self._records.get((namespace, object_sync_name(node, uid)))
        if record is None or record.gone:
            return
        record.same_from = record.same_from if record.same_to == old else old
        record.same_to = new
        if record.same_from <= record.acked < new and self._standing.owns(node):
            record.acked = new
            self._call_later(LAZY_SECONDS, record)

    def forget_node(self, node: str) -> None:
        """The node is no more: all its records end."""
        self._strays.pop(node, None)
        for record in self.of_node(node):
            record.gone = True
            # Should the node come back, it may be another machine: nothing is taken as delivered.
            record.acked = record.same_from = record.same_to = 0
            self._mark(record)

    def take_over(self, node: str) -> None:
        """The node is this cloudcore's from now on: its records go on from what the API says."""
        if self._standing.alone:
            return
        for record in self._nodes.get(node, {}).values():
            if record.acked and record.same_from <= record.acked < record.same_to:
                record.acked = record.same_to
            if not record.settled:
                self._mark(record)

    def let_go(self, node: str) -> None:
        """The node is another's: what is not written will be found out by that one, and what it writes counts here."""
        for record in list(self._nodes.get(node, {}).values()):
            self._dirty.pop(record.key, None)
            record.waiting.clear()
            record.gone, record.acked = False, record.written
            if not record.exists and not record.busy:
                self._drop(record)

    def compare(self, node: str, held: Mapping[ObjectRef, int]) -> tuple[int, int]:
        """Let the records follow what the node says it holds, whatever it acknowledged once.

        Gives how many recorded objects it lacks or lags in, and how many unrecorded ones it holds. Nothing is
        written: the next acknowledgement is, and until then every connection begins with this comparison.
        """
        versions = {(ref.namespace, object_sync_name(node, ref.uid)): version for ref, version in held.items()}
        lacking = 0
        for record in self.of_node(node):
            version = versions.get(record.key, 0)
            if version >= record.acked:
                self._raise(record, version)
            elif not version or not record.same_from <= version <= record.same_to:
                record.acked = version
                lacking += 1
        strays = [ref for ref in held if self._is_stray(node, ref)][:STRAY_LIMIT]
        self._strays.pop(node, None)
        if strays:
            self._strays[node] = {ref: held[ref] for ref in strays}
        return lacking, len(strays)

    def strays(self, node: str) -> list[tuple[ObjectRef, int]]:
        """The unrecorded objects of the node's last inventory, and their versions, that nobody has dealt with."""
        return list(self._strays.get(node, {}).items())

    def dealt_with(self, node: str, stray: ObjectRef) -> None:
        """Should it still be there, the next inventory names it again."""
        left = self._strays.get(node, {})
        left.pop(stray, None)
        if not left:
            self._strays.pop(node, None)

    def _raise(self, record: Record, version: int) -> None:
        if version > record.acked:
            record.acked = version
            self._call_later(LAZY_SECONDS, record)

    def _is_stray(self, node: str, ref: ObjectRef) -> bool:
        known = self._records.get((ref.namespace, object_sync_name(node, ref.uid)))
        return (
            (known is None or known.gone)
            and bool(ref.uid and ref.name)
            and by_kind(ref.api_version, ref.kind) is not None
        )

    # Keeping memory and API alike

    async def run(self) -> None:
        """Follow the watch and write what is due, until cancelled."""
        for record in self._records.values():
            # What an earlier run left unwritten.
            if not record.settled:
                self._mark(record)
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self._syncs:
                    group.create_task(self._follow(informer.changes()), name=f"follow {informer.resource.plural}")
                group.create_task(self._load(), name="load ObjectSyncs")
                for number in range(WRITERS):
                    group.create_task(self._write_forever(), name=f"ObjectSync writer {number}")
        finally:
            for timer in self._later:
                timer.cancel()
            self._later.clear()

    async def _load(self) -> None:
        for informer in self._syncs:
            await informer.wait_synced()
            for document in informer.items():
                self._see(Change(None, document))
        self._loaded.set()

    async def _follow(self, changes: Any) -> None:
        async with changes:
            async for change in changes:
                self._see(change)

    def _see(self, change: Change) -> None:
        try:
            sync = change.document.read(ObjectSync)
        except msgspec.ValidationError as error:
            log.warning("ignored an ObjectSync that cannot be read: %s", error)
            return
        node, uid = split_object_sync_name(sync.metadata.name)
        if not node:
            return
        if change.new is None:
            self._see_deleted(sync)
            return
        spec = sync.spec
        namespace = sync.metadata.namespace
        record = self._have(
            node, ObjectRef(spec.object_api_version, spec.object_kind, namespace, spec.object_name, uid)
        )
        version = _number(sync.status.object_resource_version)
        if not self._standing.owns(node):
            record.gone, record.acked, record.written = False, version, version
        # The echo of an own write is no news: the node may have lost that version since.
        if version > max(record.written, record.writing):
            record.written = version
            record.acked = max(record.acked, version)
        record.exists, record.sync_uid = True, sync.metadata.uid
        record.protocol = record.protocol or (sync.metadata.annotations or {}).get(PROTOCOL_ANNOTATION, "")
        self._release(record)

    def _see_deleted(self, sync: ObjectSync) -> None:
        record = self._records.get((sync.metadata.namespace, sync.metadata.name))
        # The end of an earlier record of the same name may arrive after the birth of the present one.
        if record is None or (record.sync_uid and record.sync_uid != sync.metadata.uid):
            return
        record.exists, record.sync_uid, record.written, record.writing = False, "", 0, 0
        if not self._standing.owns(record.node):
            self._drop(record)
            return
        # One that went with its namespace, or by hand, is remembered: the node still has to lose the object.
        if record.gone and not record.busy and record.key not in self._dirty:
            self._drop(record)

    async def _write_forever(self) -> None:
        while True:
            while not self._dirty:
                self._wake.clear()
                await self._wake.wait()
            _, record = self._dirty.popitem(last=False)
            if not self._may_write(record):
                continue
            record.busy, record.again = True, False
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._write(record)
                record.failures = 0
            except (ApiError, TimeoutError) as error:
                self._fail(record, error)
            finally:
                record.busy = False
            if record.again:
                self._mark(record)

    async def _write(self, record: Record) -> None:
        if record.gone:
            await self._write_end(record)
            return
        if not record.exists:
            await self._write_birth(record)
        if record.acked != record.written and not record.gone:
            await self._write_status(record)
        if record.exists:
            self._release(record)

    async def _write_birth(self, record: Record) -> None:
        namespace, name = record.key
        metadata: dict[str, Any] = {"name": name} | ({"namespace": namespace} if namespace else {})
        if record.protocol:
            metadata["annotations"] = {PROTOCOL_ANNOTATION: record.protocol}
        body = {
            "apiVersion": record.resource.api_version,
            "kind": record.resource.kind,
            "metadata": metadata,
            "spec": {
                "objectAPIVersion": record.ref.api_version,
                "objectKind": record.ref.kind,
                "objectName": record.ref.name,
            },
        }
        try:
            answer: Document | None = await self._client.create(record.resource, body, namespace)
        except AlreadyExists:
            answer = None
        record.exists = True
        if answer is not None:
            record.sync_uid = answer.meta.uid
        self._release(record)

    async def _write_status(self, record: Record) -> None:
        namespace, name = record.key
        version = record.acked
        record.writing = version
        patch = {"status": {"objectResourceVersion": str(version)}}
        try:
            await self._client.patch(
                record.resource, name, patch, namespace, type=PatchType.MERGE, subresource="status"
            )
        except NotFound:
            record.exists = False
            self._mark(record)
            return
        record.written = version
        if record.acked != version:
            self._mark(record)

    async def _write_end(self, record: Record) -> None:
        namespace, name = record.key
        with contextlib.suppress(NotFound):
            await self._client.delete(record.resource, name, namespace)
        record.exists, record.written, record.writing, record.sync_uid = False, 0, 0, ""
        if record.gone:
            self._drop(record)
        else:
            self._mark(record)

    def _fail(self, record: Record, error: ApiError | TimeoutError) -> None:
        record.failures += 1
        level = logging.WARNING if record.failures == 1 else logging.DEBUG
        log.log(
            level, "cannot write %s of node %s: %s", record.resource.kind, record.node, error or "no answer in time"
        )
        if isinstance(error, ApiError) and not error.transient:
            # Refused for good, as in a namespace that is ending: the object is delivered without a record.
            self._release(record)
        self._call_later(self._backoff.delay(record.failures - 1), record)

    def _release(self, record: Record) -> None:
        waiting, record.waiting = record.waiting, []
        for callback in waiting:
            callback()

    def _have(self, node: str, ref: ObjectRef) -> Record:
        key = (ref.namespace, object_sync_name(node, ref.uid))
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = Record(node, ref)
            self._nodes.setdefault(node, {})[key] = record
        return record

    def _drop(self, record: Record) -> None:
        self._release(record)
        self._records.pop(record.key, None)
        of_node = self._nodes.get(record.node, {})
        of_node.pop(record.key, None)
        if not of_node:
            self._nodes.pop(record.node, None)

    def _mark(self, record: Record) -> None:
        if record.busy:
            record.again = True
        elif self._may_write(record):
            self._dirty[record.key] = record
            self._wake.set()

    def _may_write(self, record: Record) -> bool:
        return self._standing.may_end(record.node) if record.gone else self._standing.owns(record.node)

    def _call_later(self, delay: float, record: Record) -> None:
        def due() -> None:
            self._later.discard(timer)
            if self._records.get(record.key) is record and not record.settled:
                self._mark(record)

        timer = asyncio.get_running_loop().call_later(delay, due)
        self._later.add(timer)


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
