"""Devices and DeviceModels that are written at the edge: kept, shown to those who act on them, and told to the cloud.

The row is written before devicetwin hears of it, and what the cloud has yet to hear is a row of its own, so that
neither a cut nor a crash loses it. What it means is decided in `edits.py`; one edit of an object is on its way at a
time, models before devices. A cloud that asked for no inventory is none of ours and takes no edits: there they stay.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from edgehive.api.document import Document
from edgehive.beehive.bus import MailboxFull
from edgehive.edgecore.metamanager import edits
from edgehive.edgecore.metamanager.cloud import Cloud
from edgehive.edgecore.metamanager.edits import Pending
from edgehive.edgecore.metamanager.envelope import BadObject, answered_object
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.sqlite import DatabaseError
from edgehive.kube import errors
from edgehive.kube.errors import ApiError, Conflict, ServerError, ServiceUnavailable, TooManyRequests
from edgehive.wire import device_edits
from edgehive.wire.device_edits import Json
from edgehive.wire.names import Operation, ResourceType
from edgehive.wire.payloads import read_reply
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.metamanager")

#: Objects that may wait for the cloud.
PENDING_LIMIT = 5000
#: On their way at once.
SENDING_LIMIT = 8
#: Seconds until what the cloud could not take is said again, and what it refused.
RETRY_SECONDS, REFUSED_SECONDS = 15.0, 600.0
#: Seconds a new link has to show that its cloud is one of ours.
KNOWN_SECONDS = 10.0
#: Of an object that is lost, in the log.
SHOWN = 4096


class Tell(Protocol):
    """Has devicetwin hear of an object; `document` is the last state of one that was deleted."""

    async def __call__(self, operation: str, resource: Resource, document: Document) -> None: ...


#: Reason and text of an Event on an object.
Happened = Callable[[Document, str, str], Awaitable[None]]


class EdgeWrites:
    """One per metamanager; `run` sends. Callers hold the object's turn, which `turn` gives, except where noted.

    `waiting` is told how many objects the cloud has yet to take.
    """

    def __init__(
        self,
        store: Metastore,
        cloud: Cloud,
        clock: Clock,
        *,
        tell: Tell,
        happened: Happened,
        turn: Callable[[str], asyncio.Lock],
        waiting: Callable[[float], None],
    ) -> None:
        self._store = store
        self._cloud = cloud
        self._clock = clock
        self._tell = tell
        self._happened = happened
        self._turn = turn
        self._count = waiting
        self._pending: dict[str, Pending] = {}
        self._due = asyncio.Event()
        self._ours = False
        self._told_kept = False
        self._refused_at: dict[str, float] = {}

    async def load(self) -> None:
        """What was pending when the last process ended."""
        self._pending = await self._store.edits()
        self._count(len(self._pending))

    def get(self, key: str) -> Pending | None:
        return self._pending.get(key)

    # Written here

    async def write(self, resource: Resource, wanted: Json | None) -> None:
        """Somebody at the edge wants the object to be so, None: gone. Raises TooManyRequests, ServiceUnavailable."""
        key = str(resource)
        if key not in self._pending and len(self._pending) >= PENDING_LIMIT:
            raise TooManyRequests(f"{PENDING_LIMIT} objects written here wait for the cloud already; no more are taken")
        try:
            row = await self._store.get(key)
        except (DatabaseError, sqlite3.Error) as error:
            raise ServiceUnavailable(f"the local database fails: {error}") from error
        pending = self._pending.get(key)
        seen = row.to_dict() if row is not None else None
        uid = edits.uid_of(seen) or edits.uid_of(wanted)
        after: Pending | None = edits.written(pending, seen, wanted, uid)
        if after is not None and edits.is_void(after):
            after = None
        await self._keep(resource, after, edits.view(after) if after is not None else None)
        self._refused_at.pop(key, None)
        self._due.set()

    async def _keep(self, resource: Resource, pending: Pending | None, shown: Json | None) -> None:
        """Rows first, then devicetwin."""
        document = Document.of(_unstamped(shown, pending)) if shown is not None else None
        previous = await self._save(resource, pending, document)
        try:
            await self._tell_of(resource, document, previous)
        except MailboxFull as error:
            log.error("%s is stored, but its module is busy: %s", resource, error)

    async def _save(self, resource: Resource, pending: Pending | None, row: Document | None) -> Document | None:
        """Both rows at once; whoever is shown the object is shown what is pending. Raises ServiceUnavailable."""
        key = str(resource)
        before = self._pending.get(key)
        self._remember(key, pending)
        try:
            return await self._store.save_edit(resource, pending, row)
        except (DatabaseError, sqlite3.Error) as error:
            self._remember(key, before)
            raise ServiceUnavailable(f"the local database fails: {error}") from error

    async def _tell_of(self, resource: Resource, document: Document | None, previous: Document | None) -> None:
        if document is not None:
            await self._tell(Operation.UPDATE if previous is not None else Operation.INSERT, resource, document)
        elif previous is not None:
            await self._tell(Operation.DELETE, resource, previous)

    def _remember(self, key: str, pending: Pending | None) -> None:
        if pending is None:
            self._pending.pop(key, None)
            self._refused_at.pop(key, None)
        else:
            self._pending[key] = pending
        self._count(len(self._pending))

    # Heard of the cloud

    async def arrived(self, resource: Resource, document: Document) -> bool:
        """The cloud shows an object; False when nothing is pending and it is like any other."""
        pending = self._pending.get(str(resource))
        if pending is None:
            return False
        said = document.to_dict()
        if _is_other_life(pending, document.meta.uid):
            await self._give_up(resource, pending, document, "the object it was made on was deleted in the cloud")
            return False
        if edits.version_of(said) <= edits.version_of(pending.cloud):
            return True
        after = edits.heard(pending, said)
        await self._keep(resource, after, said if after is None else edits.view(after))
        return True

    async def deleted(self, resource: Resource, uid: str) -> bool:
        """The cloud takes an object away; True when that changes nothing here."""
        pending = self._pending.get(str(resource))
        if pending is None:
            return False
        if edits.uid_of(pending.cloud) != uid or resource.type == ResourceType.DEVICE_MODEL:
            # What was made here is not meant; a model leaves the node with its last device and lives on.
            return True
        if pending.local is None:
            await self._save(resource, None, None)
        else:
            row = await self._store.get(str(resource))
            if row is not None:
                await self._give_up(resource, pending, row, "it was deleted in the cloud, or given to another node")
        return False

    async def _give_up(self, resource: Resource, pending: Pending, row: Document, why: str) -> None:
        """What was written here has lost its object, and whoever wrote it is told."""
        text = f"what was written at the edge is void: {why}"
        log.warning("%s: %s: %s", resource, text, msgspec.json.encode(pending.local).decode()[:SHOWN])
        current = await self._store.get(str(resource))
        await self._save(resource, None, current)
        await self._happened(row, "DefinitionConflict", text)

    # To the cloud

    def link_changed(self) -> None:
        """A new link may lead to another cloud."""
        self._ours = False
        self._refused_at.clear()
        if self._pending and self._cloud.connected:
            asyncio.get_running_loop().call_later(KNOWN_SECONDS, self._say_kept)

    def cloud_is_ours(self) -> None:
        """It asked for the inventory, which a Go cloud never does."""
        self._ours = True
        self._due.set()

    def _say_kept(self) -> None:
        if self._cloud.connected and not self._ours and self._pending and not self._told_kept:
            self._told_kept = True
            log.warning(
                "%d devices or models written here are kept: this cloud takes no definitions from edges, only desired "
                "values; cloudcore of edgehive does", len(self._pending),
            )  # fmt: skip

    async def run(self) -> None:
        """Send until cancelled. Not under anybody's turn."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_SECONDS if self._pending and self._ours else None):
                    await self._due.wait()
            self._due.clear()
            for type in (ResourceType.DEVICE_MODEL, ResourceType.DEVICE):
                await self._send_all(type)

    async def _send_all(self, type: str) -> None:
        room = asyncio.Semaphore(SENDING_LIMIT)
        async with asyncio.TaskGroup() as tasks:
            for key in list(self._pending):
                resource = Resource.parse(key)
                if resource.type == type and self._ours and self._may_go(key):
                    tasks.create_task(self._send(resource, room), name=f"edit of {key}")

    def _may_go(self, key: str) -> bool:
        return asyncio.get_running_loop().time() - self._refused_at.get(key, -REFUSED_SECONDS) >= REFUSED_SECONDS

    async def _send(self, resource: Resource, room: asyncio.Semaphore) -> None:
        async with room:
            try:
                await self._exchange(resource)
            except (ApiError, DatabaseError, sqlite3.Error, BadObject) as error:
                log.info("what was written here of %s is told later: %s", resource, error)

    async def _exchange(self, resource: Resource) -> None:
        """Say one edit and take the answer; raises ApiError when it is to be said again."""
        key = str(resource)
        async with self._turn(key):
            pending = self._pending.get(key)
            if pending is None:
                return
            pending = edits.sending(pending)
            if pending is not self._pending[key]:
                row = await self._store.get(key)
                await self._save(resource, pending, row)
        assert pending.sent is not None
        message = device_edits.message(key, pending.sent, timestamp=unix_millis(self._clock.now()))
        reply = await self._cloud.call(message)
        answer = read_reply(reply)
        async with self._turn(key):
            if answer.error is not None:
                await self._refused(resource, pending.sent.number, errors.from_status(answer.error))
            else:
                now = answered_object(answer.object, resource) if answer.object is not None else None
                await self._confirmed(resource, pending.sent.number, now)
        await self._cloud.acknowledge(reply)

    async def _confirmed(self, resource: Resource, number: int, now: Document | None) -> None:
        key = str(resource)
        pending = self._pending.get(key)
        if pending is None or pending.sent is None or pending.sent.number != number:
            return  # the cloud showed the object before the answer came
        said = now.to_dict() if now is not None else None
        if said is not None and edits.uid_of(pending.cloud) == edits.uid_of(said):
            said = max(said, pending.cloud or said, key=edits.version_of)
        after = edits.confirmed(pending, said)
        await self._keep(resource, after, said if after is None else edits.view(after))
        if after is not None:
            self._due.set()

    async def _refused(self, resource: Resource, number: int, error: ApiError) -> None:
        """Kept and shown; said again now and then, since the reason may go away."""
        key = str(resource)
        pending = self._pending.get(key)
        if error.transient or isinstance(error, Conflict | ServerError):
            raise error
        if pending is None or pending.sent is None or pending.sent.number != number:
            return
        self._refused_at[key] = asyncio.get_running_loop().time()
        row = await self._store.get(key)
        first = pending.refused != str(error)
        await self._save(resource, edits.refused(pending, str(error)), row)
        if first:
            log.warning("the cloud does not take what was written here of %s: %s", resource, error)


def _is_other_life(pending: Pending, uid: str) -> bool:
    """Not of what was made here: the cloud gives that a uid of its own."""
    return not pending.created and edits.uid_of(pending.cloud) != uid


def _unstamped(shown: Json, pending: Pending | None) -> Json:
    """An object no cloud has seen carries no version of anybody's."""
    if pending is None or not pending.created:
        return shown
    return {**shown, "metadata": {**shown["metadata"], "resourceVersion": edits.UNSEEN}}
