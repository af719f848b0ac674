"""Our cloudcore and our edge modules over one memory link that flaps, doubles and carries bad objects.

users.md rows 5 (fast reconnect, two connections), 10 (an empty list), 11 (an object without kind).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.registry import NODES, PODS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork, pair

NODE = "edge-1"


class Wire:
    """The node's way to the cloud; keeps the links it made."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self.links: list[Link] = []

    async def dial(self) -> Link:
        link = await self._network.dial(Peer(node=NODE))
        self.links.append(link)
        return link


class Edge:
    """hub and metamanager; what edged would hear about pods is kept."""

    def __init__(self, bus: Bus, store: Metastore, client: MetaClient) -> None:
        self.bus, self.store, self.client = bus, store, client
        self.told: list[tuple[str, str]] = []
        self._edged = bus.register("edged", "edged")

    async def listen(self) -> None:
        async for message in self._edged:
            if "/pod/" in message.route.resource:
                self.told.append((message.route.operation, message.route.resource))

    async def pods(self) -> set[str]:
        return {document.meta.name for document in await self.store.all_of("pod")}


@asynccontextmanager
async def joined(dial: Callable[[], Awaitable[Link]], path: Path) -> AsyncIterator[Edge]:
    clock, bus = SystemClock(), Bus()
    quick = Backoff(first=0.001, factor=1.0, limit=0.001)
    async with edge_database(path, clock) as database:
        manager = MetaManager(bus, database, clock, NODE, timeout=10)
        hub = EdgeHub(bus, database, clock, dial, rate=1e6, burst=1000, backoff=quick)
        edge = Edge(bus, Metastore(database), MetaClient(bus, clock, timeout=10))
        tasks = [spawn(module.run(lambda: None), name=module.name) for module in (manager, hub)]
        tasks.append(spawn(edge.listen(), name="edged"))
        try:
            yield edge
        finally:
            await cancel_and_join(*tasks)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await check():
            await asyncio.sleep(0.005)


@pytest.fixture
async def it() -> AsyncIterator[Cloud]:
    async with cloud() as running:
        node = {"metadata": {"name": NODE, "labels": {EDGE_LABEL: ""}}}
        await running.client.create(NODES, node)
        yield running


async def test_a_link_that_flaps_loses_no_pod_and_tells_none_twice(it: Cloud, tmp_path: Path) -> None:
    """[23]"""
    wire = Wire(it.network)
    async with joined(wire.dial, tmp_path / "edgecore.db") as edge:
        for number in range(30):
            await eventually(lambda number=number: _made(wire, number + 1))
            await it.pod(f"p{number}", NODE)
            # At once, mostly before the acknowledgement is through: the next session has to finish the job.
            await wire.links[-1].close("flap")
        wanted = {f"p{number}" for number in range(30)}
        await eventually(lambda: _equal(edge, wanted))
        await it.pod("last", NODE)
        await eventually(lambda: _equal(edge, wanted | {"last"}))
        inserted = [resource for _, resource in edge.told]
        assert sorted(inserted) == sorted(f"default/pod/{name}" for name in wanted | {"last"})


async def test_the_second_connection_of_a_node_wins_and_the_first_ones_end_harms_it_not(
    it: Cloud, tmp_path: Path
) -> None:
    wire = Wire(it.network)
    async with joined(wire.dial, tmp_path / "edgecore.db") as edge:
        await it.pod("before", NODE)
        await eventually(lambda: _equal(edge, {"before"}))
        stranger = await it.edge(NODE, register=False)
        # The agent was pushed out and comes back; the stranger's end must not take the agent's session along.
        await asyncio.wait_for(stranger.closed.wait(), 20)
        await it.pod("after", NODE)
        await eventually(lambda: _equal(edge, {"before", "after"}))
        await it.client.delete(PODS, "before", "default", grace_period_seconds=0)
        await eventually(lambda: _equal(edge, {"after"}))
        assert len(wire.links) == 2


async def test_an_empty_list_changes_nothing_and_an_object_without_kind_is_what_its_path_says(tmp_path: Path) -> None:
    """The cloud's side is played: no cloud of ours says such things."""
    here, there = pair(Peer(node=""), Peer(node=NODE))

    async def dial() -> Link:
        return here

    pod: dict[str, Any] = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7"},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
    }
    nameless = {key: value for key, value in pod.items() if key not in ("kind", "apiVersion")}
    nameless["metadata"] = {**pod["metadata"], "resourceVersion": "8", "labels": {"bare": "yes"}}
    async with joined(dial, tmp_path / "edgecore.db") as edge:
        assert (await _ask(there, "insert", "default/pod/web", pod)).content_bytes() == b"OK"
        for content in ([], {}, None, {"kind": "PodList", "apiVersion": "v1", "items": []}):
            await there.send(_message("update", "default/podlist", content))
            await there.send(_message("response", "default/podlist", content))
        for operation in ("insert", "update"):
            await there.send(_message(operation, "default/pod/web", nameless))
            await there.send(_message(operation, "default/pod/other", nameless))
        newer = {**pod, "metadata": {**pod["metadata"], "resourceVersion": "9", "labels": {"whole": "yes"}}}
        assert (await _ask(there, "update", "default/pod/web", newer)).content_bytes() == b"OK"
        assert await edge.pods() == {"web"}
        (stored,) = await edge.store.all_of("pod")
        assert (stored.kind, stored.meta.labels) == ("Pod", {"whole": "yes"})
        told = [(operation, "default/pod/web") for operation in ("insert", "insert", "update")]
        await eventually(lambda: _told(edge, told))
    await there.close()


def _message(operation: str, resource: str, content: Any) -> Message:
    return Message.of(
        source="edgecontroller", group="resource", operation=operation, resource=resource, content=content, timestamp=1
    )


async def _ask(link: Link, operation: str, resource: str, content: Any) -> Message:
    """Send, and give the acknowledgement of exactly this message."""
    message = _message(operation, resource, content)
    await link.send(message)
    async with asyncio.timeout(20):
        while (answer := await link.receive()).header.parent_id != message.id:
            continue
    return answer


async def _made(wire: Wire, count: int) -> bool:
    return len(wire.links) >= count


async def _equal(edge: Edge, names: set[str]) -> bool:
    return await edge.pods() == names


async def _told(edge: Edge, what: list[tuple[str, str]]) -> bool:
    return edge.told == what
