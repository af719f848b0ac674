"""The edge database: migrations, damage, a full disk, and a power cut at any write."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgehive.api.document import Document
from edgehive.edgecore.dbm.dbm import MIGRATIONS, DatabaseUnusable, edge_database, find_fault
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import FixedClock, SystemClock
from edgehive.kit.sqlite import DatabaseError
from edgehive.wire.resource import Resource

CLOCK = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))


def pod(number: int) -> Document:
    meta = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}", "resourceVersion": str(number + 1)}
    return Document.of({"kind": "Pod", "apiVersion": "v1", "metadata": meta})


def row(number: int) -> Resource:
    return Resource("default", "pod", f"p{number}")


async def test_a_new_file_has_the_tables_of_the_go_project_and_is_private(tmp_path: Path):
    path = tmp_path / "deep" / "edgecore.db"
    async with edge_database(path, CLOCK) as database:
        names = await database.read(
            lambda c: {r[0] for r in c.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        )
    assert {"meta", "meta_v2", "device", "device_attr", "device_twin", "sub_topics", "target_urls"} <= names
    assert path.stat().st_mode & 0o077 == 0


async def test_rows_of_a_go_edge_are_taken_over(tmp_path: Path):
    path = tmp_path / "edgecore.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE `meta` (`key` text,`type` text,`value` text,PRIMARY KEY (`key`))")
        connection.execute("INSERT INTO meta VALUES ('default/pod/p1', 'pod', ?)", (pod(1).raw.decode(),))
        connection.commit()
    async with edge_database(path, CLOCK) as database:
        assert [d.meta.name for d in await Metastore(database).all_of("pod")] == ["p1"]


async def test_a_damaged_file_is_set_aside_and_an_empty_one_used(tmp_path: Path, caplog):
    path = tmp_path / "edgecore.db"
    path.write_bytes(b"this is no database, and long enough to be looked at " * 100)
    async with edge_database(path, CLOCK) as database:
        await Metastore(database).save(row(1), pod(1))
    (aside,) = tmp_path.glob("edgecore.db.corrupt-*")
    assert aside.read_bytes().startswith(b"this is no database")
    assert "is damaged" in caplog.text
    assert find_fault(path) == ""


async def test_pages_overwritten_in_the_middle_are_noticed(tmp_path: Path):
    path = tmp_path / "edgecore.db"
    async with edge_database(path, CLOCK) as database:
        store = Metastore(database)
        await asyncio.gather(*(store.save(row(n), pod(n)) for n in range(500)))
    with path.open("r+b") as file:
        for page in range(2, 12):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
    assert find_fault(path)
    async with edge_database(path, CLOCK) as database:
        assert await Metastore(database).all_of("pod") == []


async def test_an_unusable_place_is_one_sentence_with_the_mend(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseUnusable, match=r"database\.dataSource"):
        async with edge_database(tmp_path / "file" / "edgecore.db", CLOCK):
            pass


async def test_a_full_disk_is_reported_and_reads_go_on(tmp_path: Path):
    async with edge_database(tmp_path / "edgecore.db", CLOCK) as database:
        store = Metastore(database)
        await store.save(row(1), pod(1))
        pages = await database.read(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
        await database.write(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
        big = Document.of(pod(2).to_dict() | {"data": "x" * 1_000_000})
        with pytest.raises((DatabaseError, sqlite3.Error), match="full"):
            await store.save(row(2), big)
        assert (await store.get("default/pod/p1")).meta.uid == "u1"
        assert await store.get("default/pod/p2") is None
        await database.write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
        await store.save(row(2), big)


async def test_the_newer_object_wins_whatever_the_order(tmp_path: Path):
    async with edge_database(tmp_path / "edgecore.db", CLOCK) as database:
        store = Metastore(database)
        versions = [pod(1).to_dict() | {"metadata": pod(1).to_dict()["metadata"] | {"resourceVersion": str(v)}}
                    for v in (9, 100, 20, 100, 3)]  # fmt: skip
        await asyncio.gather(*(store.save(row(1), Document.of(v)) for v in versions))
        assert (await store.get("default/pod/p1")).meta.resource_version == "100"


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from edgehive.api.document import Document
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import FixedClock, SystemClock
from edgehive.wire.resource import Resource

async def write(store, number):
    meta = {"name": f"p{number}", "namespace": "default", "uid": f"u{number}", "resourceVersion": str(number + 1)}
    document = Document.of({"kind": "Pod", "apiVersion": "v1", "metadata": meta})
    await store.save(Resource("default", "pod", f"p{number}"), document)
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()

async def main():
    async with edge_database(Path(sys.argv[1]), FixedClock(datetime(2026, 1, 1, tzinfo=UTC))) as database:
        store = Metastore(database)
        for start in range(0, 10_000, 50):
            await asyncio.gather(*(write(store, start + n) for n in range(50)))

asyncio.run(main())
"""


@pytest.mark.parametrize("acknowledged", [1, 777, 4000])
async def test_kill_9_amid_ten_thousand_writes_loses_nothing_acknowledged(tmp_path: Path, acknowledged: int):
    path = tmp_path / "edgecore.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline() for _ in range(acknowledged)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.readlines()
    numbers = {int(line) for line in told if line.endswith("\n")}
    assert len(numbers) >= acknowledged
    assert find_fault(path) == ""
    async with edge_database(path, CLOCK) as database:
        stored = {int(d.meta.name[1:]) for d in await Metastore(database).all_of("pod")}
    assert numbers <= stored


async def test_reports_kept_by_an_older_version_are_still_there(tmp_path):
    path = tmp_path / "edgecore.db"
    first = (MIGRATIONS / "0001_tables.sql").read_text()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"{first}\nINSERT INTO outbox (key, message) VALUES ('k', 'm');\nPRAGMA user_version = 1;"
        )
    async with edge_database(path, SystemClock()) as database:
        rows = await database.read(lambda c: c.execute("SELECT key, message, lane FROM outbox").fetchall())
    assert rows == [("k", "m", "proof")]
