"""Writes are durable, grouped, isolated from each other's errors; broken files say what to do."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from edgehive.kit.sqlite import Database, DatabaseError


@pytest.fixture()
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_start.sql").write_text("CREATE TABLE row (key TEXT PRIMARY KEY, value TEXT);")
    return folder


def put(key: str, value: str = "v"):  # type: ignore[no-untyped-def]
    return lambda c: c.execute("INSERT INTO row VALUES (?, ?)", (key, value)).rowcount


def count(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM row").fetchone()[0])


async def test_concurrent_writes_are_all_there_after_reopening(tmp_path: Path, migrations: Path) -> None:
    async with Database.open(tmp_path / "x.db", migrations) as database:
        await asyncio.gather(*(database.write(put(str(number))) for number in range(500)))
        assert await database.read(count) == 500
    async with Database.open(tmp_path / "x.db", migrations) as database:
        assert await database.read(count) == 500


async def test_only_the_offending_write_fails(tmp_path: Path, migrations: Path) -> None:
    async with Database.open(tmp_path / "x.db", migrations) as database:
        outcomes = await asyncio.gather(
            database.write(put("a")), database.write(put("a")), database.write(put("b")), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [int, sqlite3.IntegrityError, int]
        assert await database.read(count) == 2


async def test_readers_cannot_write(tmp_path: Path, migrations: Path) -> None:
    async with Database.open(tmp_path / "x.db", migrations) as database:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await database.read(put("a"))


async def test_migrations_are_applied_once_and_a_newer_file_is_refused(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "x.db"
    async with Database.open(path, migrations) as database:
        await database.write(put("a"))
    (migrations / "0002_more.sql").write_text("ALTER TABLE row ADD COLUMN more TEXT DEFAULT 'new';")
    async with Database.open(path, migrations) as database:
        assert await database.read(lambda c: c.execute("SELECT key, more FROM row").fetchall()) == [("a", "new")]
    (migrations / "0002_more.sql").unlink()
    with pytest.raises(DatabaseError, match="use the newer program"):
        async with Database.open(path, migrations):
            pass


async def test_a_file_that_is_no_database_is_named(tmp_path: Path, migrations: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"not a database" * 500)
    with pytest.raises(DatabaseError, match=r"cannot open the database .*x\.db"):
        async with Database.open(path, migrations):
            pass
