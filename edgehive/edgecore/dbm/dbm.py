"""Opens `edgecore.db`: the one place that knows which tables it has and what to do when the file is broken.

The Hive's owner opens it before any module runs and closes it after the last one ended. A file that fails its
integrity check is set aside, never deleted, and an empty one takes its place: objects return to it as the
cloud sends them. Modules read and write their own tables through `kit.sqlite.Database`.

Go: edge/pkg/common/dbm
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from importlib.resources import files
from pathlib import Path

from edgehive.kit.clock import Clock
from edgehive.kit.sqlite import Database

log = logging.getLogger("edgehive.dbm")

MIGRATIONS = files("edgehive.edgecore.dbm") / "migrations"
#: SQLite keeps these beside the file; they belong to it and move with it.
_COMPANIONS = ("-wal", "-shm", "-journal")


class DatabaseUnusable(Exception):
    """The file cannot be opened and setting it aside would not help; the text names the mend."""


@asynccontextmanager
async def edge_database(path: Path, clock: Clock) -> AsyncIterator[Database]:
    """The open database, its tables up to date. A corrupt file is set aside first."""
    try:
        await asyncio.to_thread(_make_sound, path, clock)
    except OSError as error:
        raise DatabaseUnusable(
            f"the database {path} cannot be used: {error.strerror or error}; "
            "make its folder writable for this user or set database.dataSource to another file"
        ) from error
    async with Database.open(path, MIGRATIONS) as database:
        yield database


def _make_sound(path: Path, clock: Clock) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fault = find_fault(path)
    if fault:
        _set_aside(path, fault, clock)
    path.touch(mode=0o600)


def find_fault(path: Path) -> str:
    """What is wrong with an existing file; "" when it is sound or not there."""
    if not path.exists() or path.stat().st_size == 0:
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=5.0)) as connection:
            rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise DatabaseUnusable(
                f"the database {path} is in use by another process; stop the other edgecore first"
            ) from error
        return str(error)
    return "" if rows == [("ok",)] else "; ".join(str(row[0]) for row in rows)


def _set_aside(path: Path, fault: str, clock: Clock) -> None:
    stamp = clock.now().strftime("%Y%m%d-%H%M%S-%f")
    aside = path.with_name(f"{path.name}.corrupt-{stamp}")
    for suffix in ("", *_COMPANIONS):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    log.error(
        "the database %s is damaged (%s): it was moved to %s and an empty one takes its place; "
        "running pods go on, and objects return as the cloud sends them",
        path, fault, aside,
    )  # fmt: skip
