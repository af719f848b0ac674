"""The store on SQLite: every event is on disk before anyone sees it, and history reaches back some minutes.

A site's API server stands on it. Revisions never go back, not even when the file is replaced by an older copy:
every opening moves the revision up to a floor that grows with the clock, and clients that saw revisions of the
lost stretch are told to list again.

Go: k8s.io/apiserver/pkg/storage/etcd3
"""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from edgehive.kit.clock import Clock
from edgehive.kit.sqlite import Database, DatabaseError
from edgehive.kube.client import EventType
from edgehive.kube.errors import ServerError
from edgehive.kube.store import Event, Expired, Key, Stored, VersionedStore

_GAP = "GAP"
#: How long and how much history is kept.
_KEPT_SECONDS = 300
_KEPT_ROWS = 10_000
_COMPACT_EVERY = 500
#: Recent events held in memory; the rest is read back.
_WINDOW = 512
#: Revisions a second the floor allows for: more than any site writes on average.
_FLOOR_RATE = 10
_FLOOR_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


class SqliteJournal:
    """Events and objects in one database; see `open_store`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._appended = 0

    async def append(self, event: Event) -> None:
        at = int(self._clock.now().timestamp())
        self._appended += 1
        compact = self._appended % _COMPACT_EVERY == 0

        def work(connection: sqlite3.Connection) -> None:
            _write_event(connection, event, at)
            if compact:
                _compact(connection, at)

        try:
            await self._database.write(work)
        except (DatabaseError, sqlite3.Error) as error:
            raise ServerError(f"nothing was changed in {self._database.path}: {error}") from error

    async def since(self, resource: str, revision: int) -> list[Event]:
        return await self._database.read(lambda connection: _events_since(connection, resource, revision))

    async def load(self, store: VersionedStore) -> None:
        """Open the store at a revision no client can have seen beyond."""
        now = self._clock.now()
        floor = int((now - _FLOOR_EPOCH).total_seconds() * _FLOOR_RATE)

        def work(connection: sqlite3.Connection) -> tuple[int, list[Stored]]:
            return _begin(connection, floor, int(now.timestamp())), _objects(connection)

        revision, objects = await self._database.write(work)
        store.load(objects, (), revision=revision, compacted=revision)


def _write_event(connection: sqlite3.Connection, event: Event, at: int) -> None:
    stored, previous = event.stored, event.previous
    if event.type is EventType.DELETED:
        connection.execute("DELETE FROM objects WHERE resource = ? AND namespace = ? AND name = ?", stored.key)
    else:
        connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)",
                           (*stored.key, stored.revision, stored.raw))  # fmt: skip
    before = (previous.revision, previous.raw) if previous else (None, None)
    row = (stored.revision, at, event.type.value, *stored.key, stored.raw, *before)
    connection.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.execute("UPDATE numbers SET value = ? WHERE name = 'revision'", (stored.revision,))


def _compact(connection: sqlite3.Connection, now: int) -> None:
    """Forget history that is too old or too long."""
    (too_many,) = connection.execute(
        "SELECT coalesce(min(revision), 0) FROM (SELECT revision FROM history ORDER BY revision DESC LIMIT ?)",
        (_KEPT_ROWS,),
    ).fetchone()
    (last,) = connection.execute(
        "SELECT max(revision) FROM history WHERE at < ? OR revision < ?", (now - _KEPT_SECONDS, too_many)
    ).fetchone()
    if last is not None:
        connection.execute("DELETE FROM history WHERE revision <= ?", (last,))
        connection.execute("UPDATE numbers SET value = ? WHERE name = 'compacted'", (last,))


def _events_since(connection: sqlite3.Connection, resource: str, revision: int) -> list[Event]:
    (compacted,) = connection.execute("SELECT value FROM numbers WHERE name = 'compacted'").fetchone()
    lost = connection.execute(
        "SELECT max(revision) FROM history WHERE type = ? AND previous_revision < ? AND revision > ?",
        (_GAP, revision, revision),
    ).fetchone()[0]
    if revision < compacted or lost is not None:
        raise Expired(revision, max(compacted, lost or 0))
    rows = connection.execute(
        "SELECT revision, type, namespace, name, value, previous_revision, previous FROM history "
        "WHERE resource = ? AND revision > ? ORDER BY revision",
        (resource, revision),
    )
    return [_event(resource, *row) for row in rows]


def _event(
    resource: str, revision: int, type_: str, namespace: str, name: str, value: bytes, before: int | None, old: bytes
) -> Event:
    key = Key(resource, namespace, name)
    previous = None if before is None else Stored(key, before, old)
    return Event(EventType(type_), Stored(key, revision, value), previous)


def _begin(connection: sqlite3.Connection, floor: int, at: int) -> int:
    """Move the revision up to the floor and mark the stretch between as lost."""
    (last,) = connection.execute("SELECT value FROM numbers WHERE name = 'revision'").fetchone()
    revision = max(floor, int(last) + 1)
    connection.execute("INSERT INTO history VALUES (?, ?, ?, '', '', '', NULL, ?, NULL)", (revision, at, _GAP, last))
    connection.execute("UPDATE numbers SET value = ? WHERE name = 'revision'", (revision,))
    _compact(connection, at)
    return revision


def _objects(connection: sqlite3.Connection) -> list[Stored]:
    rows = connection.execute("SELECT resource, namespace, name, revision, value FROM objects")
    return [
        Stored(Key(resource, namespace, name), revision, value) for resource, namespace, name, revision, value in rows
    ]


@asynccontextmanager
async def open_store(path: Path, *, clock: Clock) -> AsyncIterator[VersionedStore]:
    """Open (or make) the store at `path`; raises `kit.sqlite.DatabaseError`."""
    async with Database.open(path, files("edgehive.kube") / "migrations") as database:
        journal = SqliteJournal(database, clock)
        store = VersionedStore(journal, window=_WINDOW)
        await journal.load(store)
        yield store
