"""The edge's database for simulations: written and read when asked, no thread, so virtual time stays true.

It can die at any write, be full for a while, and outlives the process that uses it.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from edgehive.edgecore.dbm.dbm import MIGRATIONS
from edgehive.kit.sqlite import Database, DatabaseError, _migrate

T = TypeVar("T")

_EMPTY: list[bytes] = []


class InlineDatabase(Database):
    """`crash_after(n)` lets n more writes through; the next one never returns, done or not as `torn` says."""

    def __init__(self, on_crash: Callable[[], None] | None = None) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.deserialize(_empty_database())
        self._left: int | None = None
        self._torn = self._buried = False
        self._on_crash = on_crash
        self.crashed = asyncio.Event()
        #: No room: every write is refused.
        self.full = False

    def crash_after(self, writes: int, *, torn: bool) -> None:
        self._left, self._torn = writes, torn

    def crash_never(self) -> None:
        self._left = None

    def bury(self) -> None:
        """The process is gone: what its clean-up would still write fails at once."""
        self._buried = True

    def recover(self) -> None:
        self._left, self._buried = None, False
        self.crashed.clear()

    def look(self, question: str, *values: str) -> list[tuple[str, ...]]:
        """Rows as they are, without a turn of the loop."""
        return self._connection.execute(question, values).fetchall()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        if self._buried:
            raise DatabaseError("the process is gone")
        if self.full:
            raise DatabaseError("cannot write: database or disk is full; check free space and permissions")
        dying = self._left == 0
        if self._left:
            self._left -= 1
        if dying and self._torn:
            await self._die()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            value = work(self._connection)
        except Exception as error:
            self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise DatabaseError(f"cannot write: {error}") from error
            raise
        self._connection.execute("COMMIT")
        if dying:
            await self._die()
        return value

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(0)
        return work(self._connection)

    async def _die(self) -> None:
        self.crashed.set()
        if self._on_crash is not None:
            self._on_crash()
        await asyncio.Event().wait()


def _empty_database() -> bytes:
    """A database with its tables, made once: schedules by the thousand begin with one."""
    if not _EMPTY:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        _migrate(connection, ":memory:", MIGRATIONS)
        _EMPTY.append(connection.serialize())
        connection.close()
    return _EMPTY[0]
