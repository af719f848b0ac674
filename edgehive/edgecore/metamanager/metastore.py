"""metamanager's rows: objects as they last came, and requests the cloud has not answered yet.

Every change is one transaction of `edgecore.db` and is on disk when the method returns. Whether an object is
newer than its row is decided inside that transaction. Rows are only ever removed one by one, by name.

Go: edge/pkg/metamanager/dao
"""

import logging
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import by_kind
from edgehive.beehive.message import Message
from edgehive.edgecore.metamanager import tokens
from edgehive.edgecore.metamanager.edits import UNSEEN, Pending
from edgehive.edgecore.metamanager.envelope import Age, compare
from edgehive.kit.sqlite import Database
from edgehive.wire import codec
from edgehive.wire.inventory import Held
from edgehive.wire.link import ProtocolError
from edgehive.wire.names import ResourceType
from edgehive.wire.payloads import read_error
from edgehive.wire.resource import NULL_NAMESPACE, Resource

log = logging.getLogger("edgehive.metamanager")

_pending = msgspec.json.Decoder(Pending)

#: Their keys are no paths, and the cloud keeps no record of them.
_TOKENS = ResourceType.SERVICE_ACCOUNT_TOKEN


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of an object: its age against the row, and the row it met."""

    age: Age
    previous: Document | None

    @property
    def stored(self) -> bool:
        return self.age in (Age.NEW, Age.NEWER)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A request the cloud has yet to answer; `sequence` changes when a newer one takes its place."""

    sequence: int
    message: Message


#: Hears of an object that changed once its row is written; None: the row is gone.
Changed = Callable[[Resource, Document | None], Awaitable[None]]


async def _nobody(resource: Resource, document: Document | None) -> None:
    """Nobody wants to hear of changes."""


class Metastore:
    """Rows of the tables `meta`, `meta_v2`, `unanswered` and `edits`; `changed` hears of every object."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.changed: Changed = _nobody

    async def save(self, resource: Resource, document: Document) -> Saved:
        """Store the object unless the row is as new or newer."""

        def work(connection: sqlite3.Connection) -> Saved:
            key = str(resource)
            previous = _row(connection, key)
            age = compare(document, previous)
            if age in (Age.NEW, Age.NEWER):
                _put(connection, key, resource.type, document)
                _put_versioned(connection, document)
            return Saved(age, previous)

        saved = await self._database.write(work)
        if saved.stored:
            await self.changed(resource, document)
        return saved

    async def save_token(self, key: str, document: Document) -> None:
        def work(connection: sqlite3.Connection) -> None:
            _put(connection, key, ResourceType.SERVICE_ACCOUNT_TOKEN, document)

        await self._database.write(work)

    async def remove(self, resource: Resource, uid: str) -> Document | None:
        """Remove the row if it holds that life of the object, and what hangs on it; gives what was removed."""

        def work(connection: sqlite3.Connection) -> Document | None:
            stored = _row(connection, str(resource))
            if stored is None or stored.meta.uid != uid:
                return None
            _drop(connection, resource, stored)
            return stored

        removed = await self._database.write(work)
        if removed is not None:
            await self.changed(resource, None)
        return removed

    async def get(self, key: str) -> Document | None:
        return await self._database.read(lambda connection: _row(connection, key))

    async def all_of(self, type: str, namespace: str = "") -> list[Document]:
        """All rows of a type; "" is every namespace."""
        prefix = f"{namespace}/{type}/" if namespace else ""

        def work(connection: sqlite3.Connection) -> list[Document]:
            rows = connection.execute("SELECT key, value FROM meta WHERE type = ? ORDER BY key", (type,))
            documents = [Document(_bytes(value)) for key, value in rows if key.startswith(prefix)]
            return [document for document in documents if _is_object(document)]

        return await self._database.read(work)

    async def held(self) -> list[Held]:
        """Every object of the cloud that is stored here and readable; what is not, the cloud sends again.

        What was made at the edge, and no cloud has seen, is left out.
        """

        def work(connection: sqlite3.Connection) -> list[Held]:
            rows = connection.execute("SELECT key, value FROM meta WHERE type <> ?", (_TOKENS,))
            found = [(key, Document(_bytes(value))) for key, value in rows]
            return [held for key, document in found if (held := _held(key, document)) and not _is_unseen(document)]

        return await self._database.read(work)

    async def everything(self) -> list[tuple[Resource, Document]]:
        """Every readable object, whoever sent it."""

        def work(connection: sqlite3.Connection) -> list[tuple[Resource, Document]]:
            rows = connection.execute("SELECT key, value FROM meta WHERE type <> ?", (_TOKENS,))
            found = [(key, Document(_bytes(value))) for key, value in rows]
            return [(Resource.parse(key), document) for key, document in found if _held(key, document) is not None]

        return await self._database.read(work)

    # What was written at the edge

    async def edits(self) -> dict[str, Pending]:
        """What the cloud has not taken yet, by key; one that cannot be read is left where it is."""

        def work(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            return connection.execute("SELECT key, value FROM edits").fetchall()

        found = {}
        for key, value in await self._database.read(work):
            try:
                found[key] = _pending.decode(value)
            except msgspec.MsgspecError as error:
                log.error("what was written at the edge of %s and is kept on disk cannot be read: %s", key, error)
        return found

    async def save_edit(self, resource: Resource, pending: Pending | None, row: Document | None) -> Document | None:
        """Keep what is pending (None: nothing is), and the object as it is now; gives what the row held before."""
        key = str(resource)

        def work(connection: sqlite3.Connection) -> Document | None:
            previous = _row(connection, key)
            if pending is None:
                connection.execute("DELETE FROM edits WHERE key = ?", (key,))
            else:
                value = msgspec.json.encode(pending).decode()
                connection.execute("INSERT OR REPLACE INTO edits (key, value) VALUES (?, ?)", (key, value))
            if row is not None:
                _put(connection, key, resource.type, row)
                _put_versioned(connection, row)
            elif previous is not None:
                _drop(connection, resource, previous)
            return previous

        previous = await self._database.write(work)
        await self.changed(resource, row)
        return previous

    # Requests the cloud has yet to answer

    async def keep_unanswered(self, message: Message) -> int:
        """Store a request in place of an older one for the same resource; gives its sequence number."""
        frame = codec.encode(message).decode()

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM unanswered WHERE key = ?", (message.route.resource,))
            cursor = connection.execute(
                "INSERT INTO unanswered (key, message) VALUES (?, ?)", (message.route.resource, frame)
            )
            return cursor.lastrowid or 0

        return await self._database.write(work)

    async def forget_unanswered(self, sequence: int) -> None:
        """The cloud has answered this one; a newer one for the same resource stays."""
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM unanswered WHERE sequence = ?", (sequence,)) and None
        )

    async def unanswered(self) -> list[Unanswered]:
        """What is still to be answered, oldest first."""

        def work(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            return connection.execute("SELECT sequence, message FROM unanswered ORDER BY sequence").fetchall()

        found = []
        for sequence, frame in await self._database.read(work):
            try:
                found.append(Unanswered(sequence, codec.decode(frame.encode())))
            except ProtocolError as error:
                log.error("a status patch kept on disk cannot be read and is given up: %s", error)
                await self.forget_unanswered(sequence)
        return found

    async def is_unanswered(self, sequence: int) -> bool:
        """Whether a request still is the newest for its resource."""

        def work(connection: sqlite3.Connection) -> bool:
            found = connection.execute("SELECT 1 FROM unanswered WHERE sequence = ?", (sequence,)).fetchone()
            return found is not None

        return await self._database.read(work)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _row(connection: sqlite3.Connection, key: str) -> Document | None:
    """A row that holds no object, as Go stores errors (wire.md B2) and a torn disk leaves behind, is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    document = None if row is None else Document(_bytes(row[0]))
    return document if document is not None and _is_object(document) else None


def _is_object(document: Document) -> bool:
    try:
        return bool(document.meta.name) or read_error(document.raw) is None
    except msgspec.DecodeError:
        return False


def _held(key: str, document: Document) -> Held | None:
    """The entry of one row in the inventory."""
    try:
        resource, meta = Resource.parse(key), document.meta
    except (ValueError, msgspec.DecodeError):
        return None
    if not meta.uid or resource.name != meta.name:
        return None
    version = int(meta.resource_version) if meta.resource_version.isdecimal() else 0
    return Held(resource.namespace, resource.type, resource.name, meta.uid, version)


def _is_unseen(document: Document) -> bool:
    return document.meta.resource_version == UNSEEN


def _put(connection: sqlite3.Connection, key: str, type: str, document: Document) -> None:
    connection.execute(
        "INSERT INTO meta (key, type, value) VALUES (?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET type = excluded.type, value = excluded.value",
        (key, type, document.raw.decode()),
    )


def _drop(connection: sqlite3.Connection, resource: Resource, stored: Document) -> None:
    connection.execute("DELETE FROM meta WHERE key = ?", (str(resource),))
    if versioned := _versioned_key(stored):
        connection.execute("DELETE FROM meta_v2 WHERE key = ?", (versioned,))
    if resource.type == ResourceType.POD:
        patch = resource._replace(type=ResourceType.POD_PATCH)
        connection.execute("DELETE FROM unanswered WHERE key = ?", (str(patch),))
        _drop_tokens(connection, stored.meta.uid)


def _drop_tokens(connection: sqlite3.Connection, uid: str) -> None:
    """Tokens bound to a pod that is gone serve nobody."""
    rows = connection.execute("SELECT key FROM meta WHERE type = ?", (ResourceType.SERVICE_ACCOUNT_TOKEN,)).fetchall()
    for (key,) in rows:
        if tokens.bound_uid(key) == uid:
            connection.execute("DELETE FROM meta WHERE key = ?", (key,))


def _versioned_key(document: Document) -> str:
    kind = by_kind(document.api_version, document.kind)
    if kind is None:
        return ""
    meta = document.meta
    namespace = meta.namespace or NULL_NAMESPACE
    return f"/{kind.group or 'core'}/{kind.version}/{kind.plural}/{namespace}/{meta.name}"


def _put_versioned(connection: sqlite3.Connection, document: Document) -> None:
    """The row the local API reads; kinds outside the registry have none."""
    kind = by_kind(document.api_version, document.kind)
    if kind is None:
        return
    meta = document.meta
    version = int(meta.resource_version) if meta.resource_version.isdecimal() else 0
    connection.execute(
        "INSERT OR REPLACE INTO meta_v2 (key, group_version_resource, namespace, name, resource_version, value) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            _versioned_key(document), f"{kind.group}/{kind.version}, Resource={kind.plural}",
            meta.namespace or NULL_NAMESPACE, meta.name, version, document.raw.decode(),
        ),
    )  # fmt: skip
