"""Every store keeps the same promises: versions, watches, history."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edgehive.kit import sqlite as sqlite_connections
from edgehive.kit.clock import FixedClock
from edgehive.kube.client import EventType
from edgehive.kube.errors import ServerError
from edgehive.kube.sqlite import open_store
from edgehive.kube.store import Expired, Key, Stale, VersionedStore, memory_store

KEY = Key("configmaps", "default", "a")


def body(name: str = "a", **data: str) -> dict[str, object]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "data": data}


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VersionedStore]:
    if request.param == "memory":
        yield memory_store()
        return
    async with open_store(tmp_path / "state.db", clock=FixedClock(datetime(2026, 1, 1, tzinfo=UTC))) as opened:
        yield opened


async def test_a_written_object_is_read_back_with_its_revision(store: VersionedStore) -> None:
    stored = await store.put(KEY, None, body(k="v"))
    assert store.get(KEY) is stored
    assert stored.document.meta.resource_version == str(stored.revision) == str(store.revision)


async def test_only_the_object_that_was_read_can_be_replaced(store: VersionedStore) -> None:
    first = await store.put(KEY, None, body())
    second = await store.put(KEY, first, body(k="2"))
    with pytest.raises(Stale):
        await store.put(KEY, first, body(k="3"))
    with pytest.raises(Stale):
        await store.put(KEY, None, body())
    with pytest.raises(Stale):
        await store.remove(KEY, first)
    assert store.get(KEY) is second


async def test_of_many_writers_at_once_exactly_one_wins_each_round(store: VersionedStore) -> None:
    await store.put(KEY, None, body(n="0"))

    async def add_one() -> None:
        while True:
            current = store.get(KEY)
            assert current is not None
            count = int(current.to_dict()["data"]["n"])
            try:
                await store.put(KEY, current, body(n=str(count + 1)))
            except Stale:
                continue
            return

    await asyncio.gather(*(add_one() for _ in range(20)))
    final = store.get(KEY)
    assert final is not None
    assert final.to_dict()["data"] == {"n": "20"}


async def test_revisions_grow_over_all_resources(store: VersionedStore) -> None:
    one = await store.put(KEY, None, body())
    other = await store.put(Key("secrets", "default", "s"), None, body("s"))
    removed = await store.remove(KEY, one)
    assert one.revision < other.revision < removed.revision == store.revision


async def test_watch_delivers_everything_after_its_revision_once_and_in_order(store: VersionedStore) -> None:
    first = await store.put(KEY, None, body())
    watch = await store.watch("configmaps", first.revision)
    second = await store.put(KEY, first, body(k="2"))
    await store.put(Key("secrets", "default", "s"), None, body("s"))
    await store.remove(KEY, second)
    with watch:
        events = await watch.batch()
        while len(events) < 2:
            events += await watch.batch()
    assert [event.type for event in events] == [EventType.MODIFIED, EventType.DELETED]
    assert events[0].previous is first
    assert events[1].stored.to_dict()["data"] == {"k": "2"}
    assert events[1].revision == store.revision


async def test_a_reader_slower_than_the_window_reads_on_or_is_told(tmp_path: Path) -> None:
    small = VersionedStore(window=2)
    watch = await small.watch("configmaps", small.revision)
    for number in range(5):
        await small.put(Key("configmaps", "default", f"c{number}"), None, body(f"c{number}"))
    with pytest.raises(Expired):
        await watch.batch()


async def test_items_can_be_read_as_they_were(store: VersionedStore) -> None:
    first = await store.put(KEY, None, body(k="1"))
    other = Key("configmaps", "default", "b")
    await store.put(other, None, body("b"))
    await store.remove(KEY, first)
    assert [item.key.name for item in store.items("configmaps")] == ["b"]
    assert [item.key.name for item in await store.items_at("configmaps", "", first.revision)] == ["a"]


async def test_a_timeout_gives_no_events(store: VersionedStore) -> None:
    with await store.watch("configmaps", store.revision) as watch:
        assert await watch.batch(0.0) == []


async def test_waiting_for_a_revision(store: VersionedStore) -> None:
    wanted = store.revision + 1
    waiting = asyncio.ensure_future(store.reached(wanted, 5))
    await asyncio.sleep(0)
    await store.put(KEY, None, body())
    assert await waiting
    assert not await store.reached(wanted + 5, 0.0)


async def test_sqlite_keeps_objects_and_history_over_a_restart(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        first = await store.put(KEY, None, body(k="1"))
        second = await store.put(KEY, first, body(k="2"))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        kept = store.get(KEY)
        assert kept is not None
        assert kept.raw == second.raw
        assert store.revision > second.revision
        with await store.watch("configmaps", first.revision) as watch:
            third = await store.put(KEY, kept, body(k="3"))
            events = await watch.batch()
            while len(events) < 2:
                events += await watch.batch()
        assert [event.revision for event in events] == [second.revision, third.revision]
        assert events[0].previous is not None
        assert events[0].previous.raw == first.raw


async def test_a_restored_file_never_repeats_a_revision(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    path = tmp_path / "s.db"
    async with open_store(path, clock=clock) as store:
        first = await store.put(KEY, None, body(k="1"))
    copy = path.read_bytes()
    async with open_store(path, clock=clock) as store:
        last = first
        for number in range(20):
            current = store.get(KEY)
            last = await store.put(KEY, current, body(k=str(number)))
    path.write_bytes(copy)
    clock.set(clock.now() + timedelta(minutes=1))
    async with open_store(path, clock=clock) as store:
        assert store.revision > last.revision
        with pytest.raises(Expired):
            await store.watch("configmaps", last.revision)


async def test_old_history_is_forgotten_and_asking_for_it_says_so(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        await store.put(KEY, None, body())
        early = store.revision
        other = Key("configmaps", "default", "b")
        await store.put(other, None, body("b"))
    clock.set(clock.now() + timedelta(minutes=10))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        with pytest.raises(Expired):
            await store.watch("configmaps", early)


async def test_a_write_the_disk_refuses_changes_nothing_and_says_so(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        first = await store.put(KEY, None, body(k="1"))
        with closing(sqlite3.connect(tmp_path / "s.db")) as other:
            other.execute("CREATE TRIGGER full BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            other.commit()
        with pytest.raises(ServerError, match="disk full"):
            await store.put(KEY, first, body(k="2"))
        assert store.get(KEY) is first
        with closing(sqlite3.connect(tmp_path / "s.db")) as other:
            other.execute("DROP TRIGGER full")
            other.commit()
        second = await store.put(KEY, first, body(k="3"))
        assert store.revision == second.revision > first.revision


async def test_a_disk_that_is_really_full_is_told_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_little_space(path: Path | str, synchronous: str) -> sqlite3.Connection:
        connection = connect(path, synchronous)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    connect = sqlite_connections._connect
    monkeypatch.setattr(sqlite_connections, "_connect", with_little_space)
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with open_store(tmp_path / "s.db", clock=clock) as store:
        first = await store.put(KEY, None, body(k="1"))
        with pytest.raises(ServerError, match=r"nothing was changed in .*s\.db.* full; check free space"):
            await store.put(KEY, first, body(k="x" * 1_000_000))
        assert store.get(KEY) is first
        second = await store.put(KEY, first, body(k="2"))
        assert store.revision == second.revision > first.revision
