"""edgehub between a real bus and a cloud scripted over the in-memory network."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork


class Cloud:
    """Accepts links and lets the test speak on them; the network can be taken away."""

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.acceptor = self.network.acceptor()
        self.dials = 0

    async def dial(self) -> Link:
        self.dials += 1
        return await self.network.dial(Peer(node="edge-1"))

    async def accept(self) -> Link:
        async with asyncio.timeout(5):
            return await anext(aiter(self.acceptor))


async def receive(link: Link, *, keepalives: bool = False) -> Message:
    """The next message that is no keepalive."""
    async with asyncio.timeout(5):
        while True:
            message = await link.receive()
            if keepalives or message.route.operation != "keepalive":
                return message


class Edge:
    """A hub and one module of each group it tells about the link."""

    def __init__(self, bus: Bus, cloud: Cloud, hub: EdgeHub) -> None:
        self.bus, self.cloud, self.hub = bus, cloud, hub
        self.meta = bus.register("metamanager", "meta")
        self.edged = bus.register("edged", "edged")
        self.twin = bus.register("twin", "twin")
        self.renewal = asyncio.Event()

    async def notices(self, count: int) -> list[str]:
        async with asyncio.timeout(5):
            return [(await self.meta.get()).content_bytes().decode() for _ in range(count)]

    async def send(
        self,
        resource: str = "default/pod/p",
        operation: str = "response",
        source: str = "edged",
        content: object = "OK",
    ) -> Message:
        message = Message.of(
            source=source, group="meta", operation=operation, resource=resource, content=content, timestamp=1
        )
        await self.bus.send("websocket", message)
        return message


@asynccontextmanager
async def running_edge(
    path: Path, cloud: Cloud, *, heartbeat: float = 15.0, rate: float = 1e6, burst: int = 1000
) -> AsyncIterator[Edge]:
    clock = SystemClock()
    async with edge_database(path, clock) as database:
        bus = Bus()
        renewal = asyncio.Event()

        async def renewed() -> None:
            await renewal.wait()
            renewal.clear()

        hub = EdgeHub(
            bus, database, clock, cloud.dial, renewed=renewed, heartbeat=heartbeat, rate=rate, burst=burst,
            backoff=Backoff(first=0.001, factor=1.0, limit=0.001),
        )  # fmt: skip
        edge = Edge(bus, cloud, hub)
        edge.renewal = renewal
        ready = asyncio.Event()
        task = spawn(hub.run(ready.set), name="hub under test")
        await ready.wait()
        try:
            yield edge
        finally:
            await cancel_and_join(task)


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    cloud = Cloud()
    async with cloud.acceptor:
        yield cloud


@pytest.fixture
async def edge(tmp_path: Path, cloud: Cloud) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path / "edgecore.db", cloud) as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> object:
    return lambda cloud, **options: running_edge(tmp_path / "edgecore.db", cloud, **options)


@pytest.fixture
def offline_cloud() -> Cloud:
    """A network on which nobody accepts until the test enters its acceptor."""
    return Cloud()


@pytest.fixture
def next_message() -> object:
    return receive
