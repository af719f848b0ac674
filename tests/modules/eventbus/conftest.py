"""eventbus between a real bus and real brokers: mosquitto on a free port, and an application beside it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.config.edgecore import EventBus as Config
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.eventbus.broker import BrokerMissing, find
from edgehive.edgecore.eventbus.eventbus import EventBus
from edgehive.kit.clock import FixedClock
from edgehive.kit.mailbox import Mailbox
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.mqtt import free_port


@pytest.fixture(autouse=True)
def needs_mosquitto() -> None:
    try:
        find()
    except BrokerMissing as error:
        pytest.skip(str(error))


class Edge:
    """eventbus under test, and the test as the modules around it."""

    def __init__(self, bus: Bus, module: EventBus) -> None:
        self.bus, self.module = bus, module
        self.twin: Mailbox[Message] = bus.register("twin", "twin")
        self.hub: Mailbox[Message] = bus.register("websocket", "hub")

    async def tell(
        self, operation: str, resource: str, content: object = None, source: str = "router_eventbus"
    ) -> None:
        message = Message.of(
            source=source, group="user", operation=operation, resource=resource, content=content, timestamp=1
        )
        await self.bus.send("eventbus", message)

    async def next_of(self, mailbox: Mailbox[Message]) -> Message:
        async with asyncio.timeout(10):
            return await mailbox.get()

    async def connected(self) -> None:
        async with asyncio.timeout(20):
            while not self.module._clients:
                await asyncio.sleep(0.01)
            for client in self.module._clients:
                await client.connected.wait()


@asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[Edge]:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with edge_database(path / "edgecore.db", clock) as database:
        bus = Bus()
        module = EventBus(bus, database, clock, "n", Config(**settings))
        edge = Edge(bus, module)
        ready = asyncio.Event()
        task = spawn(module.run(ready.set), name="eventbus under test")
        try:
            await ready.wait()
            yield edge
            assert not task.done(), task.exception()
        finally:
            await cancel_and_join(task)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Edge]]:
    return lambda **settings: running(tmp_path, **settings)
