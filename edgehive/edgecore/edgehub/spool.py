"""Reports for the cloud on disk: rows of the table `outbox`, oldest first in each lane.

A row is written before its report is sent and removed when the cloud has it. Beyond the bound the oldest make
room, and are counted by whoever writes.
"""

import logging
import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

from edgehive.beehive.message import Message
from edgehive.edgecore.edgehub.outbound import Lane, lane, report_key
from edgehive.kit.sqlite import Database
from edgehive.wire import codec
from edgehive.wire.link import ProtocolError

log = logging.getLogger("edgehive.edgehub")

#: Rows kept at most.
LIMIT = 10_000


class Row(NamedTuple):
    """One report; `sequence` changes when a newer one takes its place."""

    sequence: int
    message: Message


class Spool:
    """One per hub."""

    def __init__(self, database: Database, *, limit: int = LIMIT) -> None:
        self._database = database
        self._limit = limit

    async def put(self, messages: Sequence[Message]) -> int:
        """Store in their order, each in place of an older one with its key; gives how many of the oldest had to go.

        Raises MessageTooLarge for one no frame can hold.
        """
        rows = [(report_key(message), lane(message).value, codec.encode(message).decode()) for message in messages]

        def work(connection: sqlite3.Connection) -> int:
            for row in rows:
                connection.execute("DELETE FROM outbox WHERE key = ?", row[:1])
                connection.execute("INSERT INTO outbox (key, lane, message) VALUES (?, ?, ?)", row)
            count: int = connection.execute("SELECT COUNT(*) FROM outbox").fetchone()[0]
            surplus = max(0, count - self._limit)
            if surplus:
                connection.execute(
                    "DELETE FROM outbox WHERE sequence IN (SELECT sequence FROM outbox ORDER BY sequence LIMIT ?)",
                    (surplus,),
                )
            return surplus

        return await self._database.write(work)

    async def after(self, lane: Lane, sequence: int, count: int) -> list[Row]:
        """The next rows of a lane; those that cannot be read are removed."""
        return await self._read(
            "SELECT sequence, message FROM outbox WHERE lane = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (lane.value, sequence, count),
        )

    async def those(self, sequences: Collection[int]) -> list[Row]:
        """Which of these are still there."""
        marks = ",".join("?" * len(sequences))
        return await self._read(
            f"SELECT sequence, message FROM outbox WHERE sequence IN ({marks}) ORDER BY sequence",  # noqa: S608
            tuple(sequences),
        )

    async def remove(self, sequences: Collection[int]) -> None:
        await self._database.write(
            lambda connection: (
                connection.executemany("DELETE FROM outbox WHERE sequence = ?", [(number,) for number in sequences])
                and None
            )
        )

    async def _read(self, query: str, values: tuple[object, ...]) -> list[Row]:
        def work(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            return connection.execute(query, values).fetchall()

        rows, broken = [], []
        for sequence, frame in await self._database.read(work):
            try:
                rows.append(Row(sequence, codec.decode(frame.encode())))
            except ProtocolError as error:
                log.error("a report kept on disk cannot be read and is given up: %s", error)
                broken.append(sequence)
        if broken:
            await self.remove(broken)
        return rows
