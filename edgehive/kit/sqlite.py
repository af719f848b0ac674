"""SQLite for asyncio: one writer thread with group commit, reader threads beside it.

Used by the edge database and the API server's store. Work is a function of a connection; writes that wait
together share one transaction, each in its own savepoint, so that only the offending one fails. A write has
returned only after its transaction is on disk (`FULL`). Migrations are numbered .sql files, applied once.
"""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

#: Writes that one transaction takes at most; bounds the latency of the first.
GROUP_LIMIT = 256
#: Writes that may wait; more callers wait outside.
QUEUE_LIMIT = 10_000


class DatabaseError(Exception):
    """The database cannot be opened or written; the text says why and how to mend it."""


class Database:
    """Open with `async with Database.open(...)`."""

    def __init__(self, path: Path | str, writer: "_Writer", readers: ThreadPoolExecutor) -> None:
        self.path = path
        self._writer = writer
        self._readers = readers
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    @classmethod
    @asynccontextmanager
    async def open(
        cls, path: Path | str, migrations: Traversable | Path, *, synchronous: str = "FULL"
    ) -> AsyncIterator["Database"]:
        """Open (creating folders and file), migrate, and close at the end. Raises DatabaseError."""
        loop = asyncio.get_running_loop()
        connection = await loop.run_in_executor(None, _prepare, path, migrations, synchronous)
        writer = _Writer(connection)
        readers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite-read")
        database = cls(path, writer, readers)
        writer.start()
        try:
            yield database
        finally:
            await asyncio.shield(loop.run_in_executor(None, database._close))

    async def write(self, work: Work[T]) -> T:
        """Run `work` inside a transaction; returns after it is durable. Its own exception is raised here alone."""
        return await asyncio.wrap_future(self._writer.submit(work))

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a read-only connection that sees everything written before."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Work[T]) -> T:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = _connect(self.path, "FULL")
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._connections.append(connection)
        return work(connection)

    def _close(self) -> None:
        self._writer.stop()
        self._readers.shutdown(wait=True)
        for connection in self._connections:
            connection.close()


class _Writer(threading.Thread):
    """Takes whatever writes wait, runs them in one transaction, answers each."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(name="sqlite-write", daemon=True)
        self._connection = connection
        self._queue: queue.Queue[tuple[Work[Any], Future[Any]] | None] = queue.Queue(QUEUE_LIMIT)
        self._stopped = False

    def submit(self, work: Work[T]) -> "Future[T]":
        if self._stopped:
            raise DatabaseError("the database is closed")
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((work, future))
        except queue.Full:
            raise DatabaseError(f"{QUEUE_LIMIT} writes are waiting; the disk does not keep up") from None
        return future

    def stop(self) -> None:
        self._stopped = True
        self._queue.put(None)
        self.join()
        self._connection.close()

    def run(self) -> None:
        ending = False
        while not ending:
            batch, ending = self._take()
            if batch:
                self._commit(batch)

    def _take(self) -> tuple[list[tuple[Work[Any], "Future[Any]"]], bool]:
        item = self._queue.get()
        batch: list[tuple[Work[Any], Future[Any]]] = []
        while item is not None:
            if item[1].set_running_or_notify_cancel():
                batch.append(item)
            if len(batch) >= GROUP_LIMIT:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _commit(self, batch: list[tuple[Work[Any], "Future[Any]"]]) -> None:
        results: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for work, future in batch:
                results.append((future, *self._one(work)))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            failure = DatabaseError(f"cannot write: {error}; check free space and permissions")
            for _, future in batch:
                future.set_exception(failure)
            return
        for future, value, refused in results:
            if refused is None:
                future.set_result(value)
            else:
                future.set_exception(refused)

    def _one(self, work: Work[Any]) -> tuple[Any, BaseException | None]:
        self._connection.execute("SAVEPOINT one")
        try:
            value = work(self._connection)
        except Exception as error:
            if not self._connection.in_transaction:  # a full disk ends the whole transaction
                raise sqlite3.OperationalError(str(error)) from error
            self._connection.execute("ROLLBACK TO one")
            self._connection.execute("RELEASE one")
            return None, error
        self._connection.execute("RELEASE one")
        return value, None


def _prepare(path: Path | str, migrations: Traversable | Path, synchronous: str) -> sqlite3.Connection:
    try:
        if str(path) != ":memory:":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        connection = _connect(path, synchronous)
        _migrate(connection, path, migrations)
    except (sqlite3.Error, OSError) as error:
        raise DatabaseError(
            f"cannot open the database {path}: {error}; check the path, free space and rights"
        ) from error
    return connection


def _connect(path: Path | str, synchronous: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path | str, migrations: Traversable | Path) -> None:
    """Apply files `0001_name.sql`, … above the file's `user_version`, each in its own transaction."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    files = sorted((entry for entry in migrations.iterdir() if entry.name.endswith(".sql")), key=lambda e: e.name)
    newest = int(files[-1].name.split("_", 1)[0]) if files else 0
    if version > newest:
        raise sqlite3.DatabaseError(f"{path} has schema {version}, this program knows {newest}; use the newer program")
    for file in files:
        number = int(file.name.split("_", 1)[0])
        if number > version:
            script = file.read_text(encoding="utf-8")
            connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
