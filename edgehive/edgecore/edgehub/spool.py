"""Messages on their way to the cloud while there is no link: rows of the table `outbox`, oldest first.

A row goes away after the transport took the message. Beyond the bound the oldest make room, and are counted.
"""

import sqlite3

from edgehive.beehive.message import Message
from edgehive.kit.sqlite import Database
from edgehive.wire import codec

#: Rows kept at most.
LIMIT = 10_000


class Spool:
    """One per hub."""

    def __init__(self, database: Database, *, limit: int = LIMIT) -> None:
        self._database = database
        self._limit = limit

    async def put(self, key: str, message: Message) -> int:
        """Store in place of an older one with this key; gives how many of the oldest had to go."""
        frame = codec.encode(message).decode()

        def work(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM outbox WHERE key = ?", (key,))
            connection.execute("INSERT INTO outbox (key, message) VALUES (?, ?)", (key, frame))
            count: int = connection.execute("SELECT COUNT(*) FROM outbox").fetchone()[0]
            surplus = max(0, count - self._limit)
            if surplus:
                connection.execute(
                    "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY sequence LIMIT ?)",
                    (surplus,),
                )
            return surplus

        return await self._database.write(work)

    async def oldest(self) -> tuple[int, Message] | None:
        def work(connection: sqlite3.Connection) -> tuple[int, str] | None:
            row: tuple[int, str] | None = connection.execute(
                "SELECT sequence, message FROM outbox ORDER BY sequence LIMIT 1"
            ).fetchone()
            return row

        row = await self._database.read(work)
        return None if row is None else (row[0], codec.decode(row[1].encode()))

    async def remove(self, sequence: int) -> None:
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM outbox WHERE sequence = ?", (sequence,)) and None
        )
