"""Versioned objects with watches: the storage every API server face stands on.

`VersionedStore` holds all current objects as JSON bytes in memory, hands out one never-decreasing revision
for all resources, and feeds watches from a log of recent events. What it keeps beyond the process is the
`Journal`'s affair: none for tests, SQLite for a site (`kube/sqlite.py`). An event becomes visible only after
the journal has it, in revision order. The store knows nothing of kinds, users or HTTP.

Go: k8s.io/apiserver/pkg/storage
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import msgspec

from edgehive.api.document import Document
from edgehive.kit.tasks import spawn
from edgehive.kube.client import EventType

_encode = msgspec.json.Encoder().encode


class Key(NamedTuple):
    """Where an object lives; `resource` is `pods` or `deployments.apps`, whatever version it is served in."""

    resource: str
    namespace: str
    name: str


class Stale(Exception):
    """The object is no longer the one the writer had read; read again and decide again."""


class Expired(Exception):
    """The asked revision lies before the history that is kept."""

    def __init__(self, asked: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {asked} ({oldest})")
        self.asked = asked
        self.oldest = oldest


class Stored:
    """One object as it was committed. Immutable; its `document` is shared by everyone who reads it in-process."""

    __slots__ = ("_document", "key", "raw", "revision")

    def __init__(self, key: Key, revision: int, raw: bytes) -> None:
        self.key = key
        self.revision = revision
        self.raw = raw
        self._document: Document | None = None

    @property
    def document(self) -> Document:
        if self._document is None:
            self._document = Document(self.raw)
        return self._document

    def to_dict(self) -> dict[str, Any]:
        """A fresh, mutable copy."""
        decoded: dict[str, Any] = msgspec.json.decode(self.raw)
        return decoded


@dataclass(frozen=True, slots=True)
class Event:
    """One committed change. A deletion's `stored` is the last state, carrying the revision of the deletion."""

    type: EventType
    stored: Stored
    previous: Stored | None

    @property
    def revision(self) -> int:
        return self.stored.revision


class Journal(Protocol):
    """Makes events last. `append` returns once the event survives a crash."""

    async def append(self, event: Event) -> None: ...

    async def since(self, resource: str, revision: int) -> list[Event]:
        """Events of one resource newer than `revision`, oldest first; raises Expired."""
        ...


class Store(Protocol):
    """What the API server asks of a store."""

    @property
    def revision(self) -> int:
        """The newest visible revision."""
        ...

    def get(self, key: Key) -> Stored | None: ...

    def items(self, resource: str, namespace: str = "") -> list[Stored]:
        """Current objects by namespace and name."""
        ...

    async def items_at(self, resource: str, namespace: str, revision: int) -> list[Stored]:
        """Objects as they were at a revision; raises Expired."""
        ...

    async def put(self, key: Key, expected: Stored | None, value: dict[str, Any]) -> Stored:
        """Write `value` if the current object still is `expected` (None: absent); raises Stale."""
        ...

    async def remove(self, key: Key, expected: Stored, last: dict[str, Any] | None = None) -> Stored:
        """Delete; answers the last state. Raises Stale."""
        ...

    async def watch(self, resource: str, since: int) -> "Watch":
        """Events newer than `since`; raises Expired."""
        ...

    async def reached(self, revision: int, timeout: float) -> bool:
        """Wait until the store is at `revision`; False when it was not in time."""
        ...


class _Log:
    """Recent events of one resource; watches hold a cursor into it and no buffer of their own."""

    __slots__ = ("base", "events", "watches")

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.base = 0
        #: In the order they came.
        self.watches: dict[Watch, None] = {}

    def append(self, event: Event) -> None:
        self.events.append(event)
        for watch in self.watches:
            watch.news.set()

    def drop_oldest(self) -> None:
        self.events.popleft()
        self.base += 1

    def after(self, revision: int) -> int:
        """The cursor of the first event newer than `revision`."""
        newer = 0
        for event in reversed(self.events):
            if event.revision <= revision:
                break
            newer += 1
        return self.base + len(self.events) - newer


class Watch:
    """A cursor over one resource's events. Close it, or leave its `with` block, to let it go."""

    __slots__ = ("_cursor", "_log", "_replay", "_resource", "_store", "news", "revision")

    def __init__(self, store: "VersionedStore", resource: str, log: _Log, since: int, replay: list[Event]) -> None:
        self._store = store
        self._resource = resource
        self._log = log
        self._replay = replay
        self.revision = since
        self._cursor = log.after(replay[-1].revision if replay else since)
        self.news = asyncio.Event()
        log.watches[self] = None

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._log.watches.pop(self, None)

    async def batch(self, timeout: float | None = None, limit: int = 256) -> list[Event]:
        """The next events in order, at least one; empty only when none came in time. Raises Expired."""
        while not (events := await self._take(limit)):
            self.news.clear()
            try:
                async with asyncio.timeout(timeout):
                    await self.news.wait()
            except TimeoutError:
                return []
        self.revision = events[-1].revision
        return events

    async def _take(self, limit: int) -> list[Event]:
        if not self._replay and self._cursor < self._log.base:
            self._replay = await self._store.replay(self._resource, self.revision)
            self._cursor = self._log.after(self._replay[-1].revision if self._replay else self.revision)
        if self._replay:
            events, self._replay = self._replay[:limit], self._replay[limit:]
            return events
        start = self._cursor - self._log.base
        stop = min(start + limit, len(self._log.events))
        events = [self._log.events[index] for index in range(start, stop)]
        self._cursor += len(events)
        return events


class _Pending:
    """A write on its way to the journal."""

    __slots__ = ("applied", "error", "event", "settled")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.settled = False
        self.error: BaseException | None = None
        self.applied = asyncio.Event()


class VersionedStore:
    """The `Store` in memory over a journal."""

    def __init__(self, journal: Journal | None = None, *, revision: int = 1, window: int = 4096) -> None:
        self._journal = journal
        self._visible = revision
        self._given = revision
        self._window = window
        self._compacted = 0
        self._objects: dict[str, dict[tuple[str, str], Stored]] = {}
        self._logs: dict[str, _Log] = {}
        self._order: deque[_Log] = deque()
        self._pending: deque[_Pending] = deque()
        self._writing: dict[Key, _Pending] = {}
        self._progress = asyncio.Condition()
        self._awaiting_progress = 0

    @property
    def revision(self) -> int:
        return self._visible

    def load(self, objects: Iterable[Stored], events: Iterable[Event], *, revision: int, compacted: int) -> None:
        """Start from what a journal kept: the current objects and the newest events."""
        for stored in objects:
            self._shelf(stored.key.resource)[stored.key.namespace, stored.key.name] = stored
        self._visible = self._given = revision
        self._compacted = compacted
        for event in events:
            self._record(event)

    def get(self, key: Key) -> Stored | None:
        shelf = self._objects.get(key.resource)
        return shelf.get((key.namespace, key.name)) if shelf else None

    def items(self, resource: str, namespace: str = "") -> list[Stored]:
        shelf = self._objects.get(resource, {})
        return [shelf[place] for place in sorted(shelf) if not namespace or place[0] == namespace]

    async def items_at(self, resource: str, namespace: str, revision: int) -> list[Stored]:
        current = dict(self._objects.get(resource, {}))
        for event in reversed(await self.replay(resource, revision)):
            place = event.stored.key.namespace, event.stored.key.name
            if event.previous is None:
                current.pop(place, None)
            else:
                current[place] = event.previous
        return [current[place] for place in sorted(current) if not namespace or place[0] == namespace]

    async def put(self, key: Key, expected: Stored | None, value: dict[str, Any]) -> Stored:
        await self._claim(key, expected)
        stored = self._stamp(key, value)
        kind = EventType.ADDED if expected is None else EventType.MODIFIED
        return await self._commit(Event(kind, stored, expected))

    async def remove(self, key: Key, expected: Stored, last: dict[str, Any] | None = None) -> Stored:
        await self._claim(key, expected)
        stored = self._stamp(key, expected.to_dict() if last is None else last)
        return await self._commit(Event(EventType.DELETED, stored, expected))

    async def watch(self, resource: str, since: int) -> Watch:
        log = self._log(resource)
        replay = await self._journaled(resource, since) if since < self._compacted else []
        return Watch(self, resource, log, since, replay)

    async def replay(self, resource: str, revision: int) -> list[Event]:
        """Every event of a resource newer than `revision`; raises Expired."""
        if revision < self._compacted:
            return await self._journaled(resource, revision)
        return [event for event in self._log(resource).events if event.revision > revision]

    async def reached(self, revision: int, timeout: float) -> bool:
        self._awaiting_progress += 1
        try:
            async with asyncio.timeout(timeout), self._progress:
                await self._progress.wait_for(lambda: self._visible >= revision)
        except TimeoutError:
            return False
        finally:
            self._awaiting_progress -= 1
        return True

    async def _journaled(self, resource: str, revision: int) -> list[Event]:
        if self._journal is None:
            raise Expired(revision, self._compacted)
        events = await self._journal.since(resource, revision)
        return [event for event in events if event.revision <= self._visible]

    def _shelf(self, resource: str) -> dict[tuple[str, str], Stored]:
        return self._objects.setdefault(resource, {})

    def _log(self, resource: str) -> _Log:
        log = self._logs.get(resource)
        if log is None:
            log = self._logs[resource] = _Log()
        return log

    async def _claim(self, key: Key, expected: Stored | None) -> None:
        while (other := self._writing.get(key)) is not None:
            await other.applied.wait()
        if self.get(key) is not expected:
            raise Stale(key)

    def _stamp(self, key: Key, value: Mapping[str, Any]) -> Stored:
        self._given += 1
        metadata = {**value["metadata"], "resourceVersion": str(self._given)}
        return Stored(key, self._given, _encode({**value, "metadata": metadata}))

    async def _commit(self, event: Event) -> Stored:
        if self._journal is None:
            self._apply(event)
        else:
            pending = self._writing[event.stored.key] = _Pending(event)
            self._pending.append(pending)
            # A caller that goes away must not leave the journal ahead of what is visible.
            await asyncio.shield(spawn(self._persist(self._journal, pending), name="store-commit"))
        if self._awaiting_progress:
            async with self._progress:
                self._progress.notify_all()
        return event.stored

    async def _persist(self, journal: Journal, pending: _Pending) -> None:
        try:
            await journal.append(pending.event)
        except BaseException as error:
            pending.error = error
        pending.settled = True
        self._publish()
        await pending.applied.wait()
        if pending.error is not None:
            raise pending.error

    def _publish(self) -> None:
        """Make settled writes visible, in revision order."""
        while self._pending and self._pending[0].settled:
            pending = self._pending.popleft()
            del self._writing[pending.event.stored.key]
            if pending.error is None:
                self._apply(pending.event)
            pending.applied.set()

    def _apply(self, event: Event) -> None:
        key = event.stored.key
        place = key.namespace, key.name
        if event.type is EventType.DELETED:
            self._shelf(key.resource).pop(place, None)
        else:
            self._shelf(key.resource)[place] = event.stored
        self._visible = event.revision
        self._record(event)

    def _record(self, event: Event) -> None:
        log = self._log(event.stored.key.resource)
        log.append(event)
        self._order.append(log)
        while len(self._order) > self._window:
            oldest = self._order.popleft()
            self._compacted = oldest.events[0].revision
            oldest.drop_oldest()


def memory_store() -> VersionedStore:
    """A store that forgets everything with the process."""
    return VersionedStore()
