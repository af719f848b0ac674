"""Informer and client verbs against the API server in memory: what a controller lives through in a long day."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, DEPLOYMENTS, PODS
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import Client, PatchType, WatchEvent
from edgehive.kube.errors import Conflict, Unreachable
from edgehive.kube.informer import Change, Informer, Informers
from edgehive.kube.store import VersionedStore
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "labels": {"app": name}}, "data": data}


class Cable:
    """A client whose connection can be cut: watches break and every request fails until it is mended."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.lists = 0
        self._broken = asyncio.Event()
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self) -> None:
        self._whole.clear()
        self._broken.set()

    def mend(self) -> None:
        self._broken.clear()
        self._whole.set()

    async def list(self, *args: Any, **options: Any) -> Any:
        self._check()
        self.lists += 1
        return await self._client.list(*args, **options)

    async def watch(self, *args: Any, **options: Any) -> AsyncIterator[WatchEvent]:
        self._check()
        watch = self._client.watch(*args, **options)
        broken = asyncio.create_task(self._broken.wait())
        try:
            while True:
                event = asyncio.create_task(anext(watch))  # type: ignore[arg-type]
                await asyncio.wait({event, broken}, return_when=asyncio.FIRST_COMPLETED)
                if broken.done():
                    event.cancel()
                    await asyncio.gather(event, return_exceptions=True)
                    raise Unreachable("the cable is cut")
                try:
                    yield event.result()
                except StopAsyncIteration:
                    return
        finally:
            broken.cancel()
            await asyncio.gather(broken, return_exceptions=True)

    def _check(self) -> None:
        if not self._whole.is_set():
            raise Unreachable("the cable is cut")


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(store=VersionedStore(window=8)) as cluster:
        yield cluster


@pytest.fixture
def cable(cluster: Cluster) -> Cable:
    return Cable(cluster.client())


@asynccontextmanager
async def following(cable: Cable) -> AsyncIterator[Informer]:
    """An informer at work; no fixture, because those run outside the virtual time."""
    # Whole seconds: fractions of a virtual clock can come to stand a rounding error before a timer.
    patience = Backoff(first=1.0, factor=2.0, limit=32.0, jitter=0.0)
    informer = Informer(cable, CONFIG_MAPS, "default", backoff=patience)  # type: ignore[arg-type]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        await informer.wait_synced()
        yield informer
        task.cancel()


def told(change: Change) -> tuple[str, str]:
    verb = "created" if change.old is None else "deleted" if change.new is None else "changed"
    return verb, change.document.meta.name


async def stories(changes: Any) -> list[tuple[str, str]]:
    """Everything told until nothing more comes for ten minutes."""
    found = []
    while True:
        try:
            found.append(told(await asyncio.wait_for(anext(changes), 600)))
        except TimeoutError:
            return found


async def test_everything_that_happens_is_told(cluster: Cluster, cable: Cable):
    async with following(cable) as informer:
        client, changes = cluster.client(), informer.changes()
        await client.create(CONFIG_MAPS, config_map("a", x="1"), "default")
        assert told(await anext(changes)) == ("created", "a")
        await client.patch(CONFIG_MAPS, "a", {"data": {"x": "2"}}, "default")
        change = await anext(changes)
        assert change.old is not None
        assert change.new is not None
        assert (change.old.to_dict()["data"], change.new.to_dict()["data"]) == ({"x": "1"}, {"x": "2"})
        await client.delete(CONFIG_MAPS, "a", "default")
        change = await anext(changes)
        assert (told(change), change.key) == (("deleted", "a"), ("default", "a"))
        assert informer.items() == []


async def test_what_changed_while_the_cable_was_cut_is_told_once_afterwards(cluster: Cluster, cable: Cable):
    async with following(cable) as informer:
        client, changes = cluster.client(), informer.changes()
        for name in ("kept", "changed", "deleted", "reborn"):
            await client.create(CONFIG_MAPS, config_map(name), "default")
        assert len(await stories(changes)) == 4
        cable.cut()
        await asyncio.sleep(100)
        for number in range(20):  # far more than the server's history holds: the watch cannot be resumed
            await client.patch(CONFIG_MAPS, "changed", {"data": {"x": str(number)}}, "default")
        await client.delete(CONFIG_MAPS, "deleted", "default")
        await client.delete(CONFIG_MAPS, "reborn", "default")
        await client.create(CONFIG_MAPS, config_map("reborn"), "default")
        await client.create(CONFIG_MAPS, config_map("new"), "default")
        assert await stories(changes) == [], "nothing is deleted because nobody answers"
        cable.mend()
        assert sorted(await stories(changes)) == [
            ("changed", "changed"),
            ("created", "new"),
            ("created", "reborn"),
            ("deleted", "deleted"),
            ("deleted", "reborn"),
        ]
        assert cable.lists == 2


async def test_a_short_cut_is_resumed_without_a_list(cluster: Cluster, cable: Cable):
    async with following(cable) as informer:
        client, changes = cluster.client(), informer.changes()
        cable.cut()
        await asyncio.sleep(5)
        await client.create(CONFIG_MAPS, config_map("meanwhile"), "default")
        cable.mend()
        assert await stories(changes) == [("created", "meanwhile")]
        assert cable.lists == 1


async def test_bookmarks_keep_a_quiet_informer_resumable(cluster: Cluster, cable: Cable):
    async with following(cable) as informer:
        client = cluster.client()
        await asyncio.sleep(1)
        for number in range(50):
            await client.create(CONFIG_MAPS, config_map(f"other-{number}"), "kube-system")
            await asyncio.sleep(60)
        assert int(informer.resource_version) > 40
        cable.cut()
        await asyncio.sleep(100)
        cable.mend()
        await asyncio.sleep(600)
        assert cable.lists == 1, "its version was young enough to go on from"


async def test_a_day_of_watches_ends_and_begins_again_without_a_list(cluster: Cluster, cable: Cable):
    async with following(cable) as informer:
        client, changes = cluster.client(), informer.changes()
        for hour in range(24):
            await asyncio.sleep(3600)
            await client.create(CONFIG_MAPS, config_map(f"hour-{hour}"), "default")
        assert await stories(changes) == [("created", f"hour-{hour}") for hour in range(24)]
        assert cable.lists == 1


async def test_selected_objects_come_and_go_with_their_labels(cluster: Cluster):
    client = cluster.client()
    async with Informers(client) as informers:
        informer = informers.of(CONFIG_MAPS, "default", label_selector="app=a")
        await informers.wait_synced()
        changes = informer.changes()
        await client.create(CONFIG_MAPS, config_map("a"), "default")
        await client.create(CONFIG_MAPS, config_map("b"), "default")
        await client.patch(CONFIG_MAPS, "b", {"metadata": {"labels": {"app": "a"}}}, "default")
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"labels": {"app": "z"}}}, "default")
        assert await stories(changes) == [("created", "b")], "a came and went before it was read"
        assert [document.meta.name for document in informer.items()] == ["b"]


async def test_every_patch_language(cluster: Cluster):
    client = cluster.client()
    container = {"name": "c", "image": "i:1"}
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "d"}}, "template": template}
    await client.create(DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": spec}, "default")

    async def patch(change: Any, type: PatchType, **options: str) -> dict[str, Any]:
        document: Document = await client.patch(DEPLOYMENTS, "d", change, "default", type=type, **options)
        return document.to_dict()

    assert (await patch([{"op": "replace", "path": "/spec/replicas", "value": 2}], PatchType.JSON))["spec"][
        "replicas"
    ] == 2
    assert (await patch({"spec": {"replicas": 3}}, PatchType.MERGE))["spec"]["replicas"] == 3
    second = {"spec": {"template": {"spec": {"containers": [{"name": "e", "image": "i:2"}]}}}}
    patched = await patch(second, PatchType.STRATEGIC)
    assert {one["name"] for one in patched["spec"]["template"]["spec"]["containers"]} == {"c", "e"}
    status = await patch({"status": {"replicas": 3}}, PatchType.STRATEGIC, subresource="status")
    assert status["status"]["replicas"] == 3


async def test_a_stale_update_is_a_conflict(cluster: Cluster):
    client = cluster.client()
    created = await client.create(CONFIG_MAPS, config_map("a"), "default")
    await client.patch(CONFIG_MAPS, "a", {"data": {"x": "1"}}, "default")
    with pytest.raises(Conflict):
        await client.update(CONFIG_MAPS, created)


async def test_a_watch_of_everything_sees_every_namespace(cluster: Cluster):
    client = cluster.client()
    async with Informers(client) as informers:
        informer = informers.of(CONFIG_MAPS)
        await informers.wait_synced()
        for namespace in ("default", "kube-system"):
            await client.create(CONFIG_MAPS, config_map("a"), namespace)
        await asyncio.sleep(1)
        assert {document.meta.namespace for document in informer.items()} == {"default", "kube-system"}
        assert len(informer.items("default")) == 1
        assert informers.of(PODS).items() == []
