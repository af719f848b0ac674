"""metamanager on a real bus and a real database, with a scripted hub on one side and edged's mailbox on the other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import FixedClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.payloads import connection_notice

Answer = Callable[[Message], Any]


class Hub:
    """Stands for edgehub and the cloud behind it: remembers what was sent, answers what it was told to."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.mailbox = bus.register("websocket", "hub")
        self.sent: list[Message] = []
        self.answers: dict[tuple[str, str], Answer] = {}
        self.arrived = asyncio.Condition()

    async def run(self) -> None:
        async for message in self.mailbox:
            self.sent.append(message)
            answer = self.answers.get((message.route.operation, message.route.resource))
            if answer is not None and (content := answer(message)) is not None:
                self.bus.reply(
                    message.reply(content, timestamp=1, source="edgecontroller", group="resource", resource_version="1")
                )
            async with self.arrived:
                self.arrived.notify_all()

    async def wait_for(self, operation: str, resource: str, count: int = 1) -> list[Message]:
        def found() -> list[Message]:
            return [m for m in self.sent if (m.route.operation, m.route.resource) == (operation, resource)]

        async with asyncio.timeout(5), self.arrived:
            await self.arrived.wait_for(lambda: len(found()) >= count)
        return found()

    async def wait_for_ack(self, message: Message) -> None:
        """Until the cloud has heard that this message is stored."""

        def acknowledged() -> bool:
            return any(m.header.parent_id == message.id and m.route.operation == "response" for m in self.sent)

        async with asyncio.timeout(5), self.arrived:
            await self.arrived.wait_for(acknowledged)

    def count(self, operation: str, resource: str) -> int:
        return sum((m.route.operation, m.route.resource) == (operation, resource) for m in self.sent)


class Node:
    """One running metamanager and its neighbours."""

    def __init__(self, bus: Bus, hub: Hub, database: Any, clock: FixedClock) -> None:
        self.bus, self.hub, self.clock, self.database = bus, hub, clock, database
        self.edged = bus.register("edged", "edged")
        self.module = MetaManager(bus, database, clock, "edge-1", timeout=5)
        self.client = MetaClient(bus, clock, timeout=5)
        self.store = Metastore(database)

    async def connect(self, connected: bool = True) -> None:
        await self.bus.send("metamanager", connection_notice(connected, timestamp=1))

    async def push(self, operation: str, resource: str, content: Any, **route: str) -> Message:
        """A message of the cloud, as the hub passes it on."""
        given = {"source": "edgecontroller", "group": "resource", **route}
        message = Message.of(operation=operation, resource=resource, content=content, timestamp=1, **given)
        await self.bus.send("metamanager", message)
        return message

    async def told(self) -> Message:
        async with asyncio.timeout(5):
            return await self.edged.get()


@asynccontextmanager
async def running_node(path: Path) -> AsyncIterator[Node]:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with edge_database(path, clock) as database:
        bus = Bus()
        hub = Hub(bus)
        node = Node(bus, hub, database, clock)
        ready = asyncio.Event()
        tasks = [spawn(hub.run(), name="hub"), spawn(node.module.run(ready.set), name="metamanager")]
        await ready.wait()
        try:
            yield node
        finally:
            await cancel_and_join(*tasks)


@pytest.fixture
def database_path(tmp_path: Path) -> Path:
    return tmp_path / "edgecore.db"


@pytest.fixture
async def node(database_path: Path) -> AsyncIterator[Node]:
    async with running_node(database_path) as running:
        yield running


@pytest.fixture
def restart(database_path: Path) -> Any:
    """Another life of the agent on the same database."""
    return lambda: running_node(database_path)


def make_pod(name: str = "web", version: int = 10, uid: str = "u1", node: str = "edge-1") -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version)},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }


@pytest.fixture
def pod() -> Callable[..., dict[str, Any]]:
    return make_pod


@pytest.fixture
def config_map() -> Callable[..., dict[str, Any]]:
    def make(value: str = "1", version: int = 5, uid: str = "cm1") -> dict[str, Any]:
        return {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": "cm", "namespace": "default", "uid": uid, "resourceVersion": str(version)},
            "data": {"key": value},
        }

    return make
