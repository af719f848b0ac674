"""The informer against a scripted server: what readers see when lists fail, watches break and objects are reborn."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import PODS
from edgehive.kube.client import DocumentList, EventType, WatchEvent
from edgehive.kube.errors import Gone, Unreachable
from edgehive.kube.informer import Informer, Informers

pytestmark = pytest.mark.looptime


def pod(name: str, version: int, uid: str = "", **labels: str) -> Document:
    meta = {"name": name, "namespace": "default", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return Document.of({"kind": "Pod", "apiVersion": "v1", "metadata": {**meta, "labels": labels}})


class ScriptedServer:
    """Answers lists and watches from a script: each step is an answer, an error or a list of events."""

    def __init__(self, lists: list[Any], watches: list[Any]) -> None:
        self.lists, self.watches = lists, watches
        self.watched_from: list[str] = []

    async def list(self, *_: Any, **__: Any) -> DocumentList:
        step = self.lists.pop(0)
        if isinstance(step, Exception):
            raise step
        items, version = step
        return DocumentList(items, str(version))

    async def watch(self, *_: Any, resource_version: str, **__: Any) -> AsyncIterator[WatchEvent]:
        self.watched_from.append(resource_version)
        for step in self.watches.pop(0) if self.watches else ():
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                yield step
        if not self.watches:
            await asyncio.Event().wait()
        await asyncio.sleep(2)


def added(document: Document) -> WatchEvent:
    return WatchEvent(EventType.ADDED, document)


def modified(document: Document) -> WatchEvent:
    return WatchEvent(EventType.MODIFIED, document)


def deleted(document: Document) -> WatchEvent:
    return WatchEvent(EventType.DELETED, document)


def bookmark(version: int) -> WatchEvent:
    return WatchEvent(EventType.BOOKMARK, Document.of({"kind": "Pod", "metadata": {"resourceVersion": str(version)}}))


class Running:
    """Runs an informer over a script for the length of a with block."""

    def __init__(self, lists: list[Any], watches: list[Any], **options: Any) -> None:
        self.server = ScriptedServer(lists, watches)
        self.informer = Informer(self.server, PODS, **options)  # type: ignore[arg-type]

    async def __aenter__(self) -> "Running":
        self.task = asyncio.create_task(self.informer.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def story(change: Any) -> tuple[str, str | None, str | None]:
    def version(document: Document | None) -> str | None:
        return document.meta.resource_version if document else None

    return change.document.meta.name, version(change.old), version(change.new)


async def read(changes: Any, count: int) -> list[tuple[str, str | None, str | None]]:
    return [story(await asyncio.wait_for(anext(changes), 500)) for _ in range(count)]


async def test_a_reader_gets_the_list_and_then_the_watch():
    steps = [asyncio.Event() for _ in range(3)]
    script = [[steps[0], added(pod("b", 6)), steps[1], modified(pod("a", 7)), steps[2], deleted(pod("b", 8))]]
    async with Running([([pod("a", 5)], 5)], script) as running:
        changes = running.informer.changes()
        assert await read(changes, 1) == [("a", None, "5")]
        steps[0].set()
        assert await read(changes, 1) == [("b", None, "6")]
        steps[1].set()
        assert await read(changes, 1) == [("a", "5", "7")]
        steps[2].set()
        assert await read(changes, 1) == [("b", "8", None)]
    assert running.server.watched_from == ["5"]


async def test_late_reader_starts_with_the_current_state():
    async with Running([([pod("a", 5), pod("b", 4)], 5)], [[modified(pod("a", 7))]]) as running:
        await running.informer.wait_synced()
        await asyncio.sleep(1)
        assert sorted(await read(running.informer.changes(), 2)) == [("a", None, "7"), ("b", None, "4")]


async def test_a_slow_reader_sees_what_it_last_saw_and_the_newest():
    go = asyncio.Event()
    script = [[go, modified(pod("a", 6)), modified(pod("a", 7)), added(pod("b", 8)), deleted(pod("b", 9))]]
    async with Running([([pod("a", 5)], 5)], script) as running:
        changes = running.informer.changes()
        assert await read(changes, 1) == [("a", None, "5")]
        go.set()
        await asyncio.sleep(1)
        assert await read(changes, 1) == [("a", "5", "7")]
        assert len(changes) == 0, "an object born and gone between two reads is not told"


async def test_a_deletion_carries_the_final_state():
    go = asyncio.Event()
    async with Running([([pod("a", 5)], 5)], [[go, deleted(pod("a", 9))]]) as running:
        changes = running.informer.changes()
        await read(changes, 1)
        go.set()
        assert await read(changes, 1) == [("a", "9", None)]


async def test_recreated_between_two_reads_is_two_changes():
    go = asyncio.Event()
    script = [[go, deleted(pod("a", 6)), added(pod("a", 7, uid="second")), modified(pod("a", 8, uid="second"))]]
    async with Running([([pod("a", 5)], 5)], script) as running:
        changes = running.informer.changes()
        await read(changes, 1)
        go.set()
        await asyncio.sleep(1)
        assert await read(changes, 2) == [("a", "6", None), ("a", None, "8")]


async def test_a_relist_finds_deletions_and_rebirths():
    lists = [([pod("a", 1), pod("b", 2), pod("c", 3)], 3), ([pod("b", 9, uid="second"), pod("c", 3)], 10)]
    go = asyncio.Event()
    async with Running(lists, [[go, Gone("too old resource version")], []]) as running:
        changes = running.informer.changes()
        await read(changes, 3)
        go.set()
        assert await read(changes, 3) == [("a", "1", None), ("b", "2", None), ("b", None, "9")]
        await asyncio.sleep(1)
        assert len(changes) == 0, "an unchanged object is not told again"
    assert running.server.watched_from == ["3", "10"]


async def test_a_failed_relist_deletes_nothing():
    lists = [([pod("a", 1)], 1), Unreachable("connection refused"), Unreachable("again"), ([pod("a", 1)], 5)]
    async with Running(lists, [[Gone("expired")], [bookmark(6)]]) as running:
        changes = running.informer.changes()
        await read(changes, 1)
        await asyncio.sleep(60)
        assert len(changes) == 0
        assert running.informer.resource_version == "6"
        assert [document.meta.name for document in running.informer.items()] == ["a"]


async def test_a_broken_watch_goes_on_from_the_last_bookmark():
    watches = [[added(pod("b", 6)), bookmark(40), Unreachable("broken")], [added(pod("c", 41))]]
    async with Running([([], 5)], watches) as running:
        await asyncio.sleep(60)
        assert len(running.informer) == 2
    assert running.server.watched_from == ["5", "40"], "no second list: the one scripted list was enough"


async def test_an_object_without_metadata_is_ignored_and_the_rest_goes_on(caplog):
    broken = Document(b'{"kind":"Pod"}')
    async with Running([([broken, pod("a", 1)], 1)], [[added(broken), added(pod("b", 2))]]) as running:
        await asyncio.sleep(5)
        assert len(running.informer) == 2
    assert "metadata" in caplog.text


async def test_indexes_follow_every_change():
    script = [[modified(pod("a", 2, app="y")), added(pod("b", 3, app="y")), deleted(pod("a", 4))]]
    by_app = {"app": lambda document: (document.meta.labels or {}).values()}
    async with Running([([pod("a", 1, app="x")], 1)], script, indexers=by_app) as running:
        await asyncio.sleep(5)
        names = [document.meta.name for document in running.informer.by_index("app", "y")]
        assert (names, running.informer.by_index("app", "x")) == (["b"], [])


async def test_an_abandoned_reader_is_forgotten():
    async with Running([([pod("a", 1)], 1)], [[]]) as running:
        await running.informer.wait_synced()
        async for _ in running.informer.changes():
            break
        assert len(running.informer._readers) == 0


async def test_informers_are_shared_and_end_with_their_context():
    server = ScriptedServer([([pod("a", 1)], 1), ([], 2)], [])
    informers = Informers(server)  # type: ignore[arg-type]
    first = informers.of(PODS)
    async with informers:
        assert informers.of(PODS) is first
        second = informers.of(PODS, field_selector="spec.nodeName=n")
        assert second is not first
        await informers.wait_synced()
        assert first.get("a", "default") is not None
        assert second.items() == []
    assert len(asyncio.all_tasks()) == 1
