"""The recorded Go cloud speaks again, this time to our edge: everything it wants acknowledged is, and kept.

Our edgehub and metamanager run on a real database; nobody stands behind them but a silent edged, as on a node whose
other modules are switched off. Replies to questions of the recorded edge find nobody waiting: they are late answers.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edgehive.api.document import Document
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import FixedClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import codec, payloads
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork
from edgehive.wire.names import Operation

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
FILES = sorted((SHARED / "golden").glob("*.jsonl"))
OBJECTS = ("pod", "configmap", "secret", "device", "devicemodel", "rule", "ruleendpoint")

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recorded traffic: {SHARED / 'golden'} is absent (EDGEHIVE_SHARED names its parent)"
)


def spoken(file: Path) -> Iterator[Message]:
    """What the Go cloud said, in order."""
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        if entry["direction"] == "cloud->edge" and entry["channel"].startswith("hub") and "text" in entry["message"]:
            message = codec.decode(entry["message"]["text"].encode())
            # What the recording's scripted cloud made up to see it fail is no object.
            if message.route.source != "x":
                yield message


WITH_TALK = [file for file in FILES if any(True for _ in spoken(file))]


@pytest.fixture(params=WITH_TALK, ids=lambda file: file.stem)
def said(request: pytest.FixtureRequest) -> list[Message]:
    return list(spoken(request.param))


class Edge:
    """Our edge as its cloud sees it, and its store."""

    def __init__(self, link: Link, store: Metastore) -> None:
        self.link, self.store = link, store
        self.acknowledged: dict[str, str] = {}

    async def listen(self) -> None:
        while True:
            message = await self.link.receive()
            if message.header.parent_id:
                self.acknowledged[message.header.parent_id] = message.route.operation

    async def until_acknowledged(self, id: str) -> None:
        async with asyncio.timeout(10):
            while id not in self.acknowledged:
                await asyncio.sleep(0.001)


def node_of(said: list[Message]) -> str:
    """Whose pods the recording is about."""
    for message in said:
        if "/pod/" in message.route.resource and message.route.operation in (Operation.INSERT, Operation.UPDATE):
            spec = json.loads(bytes(message.content)).get("spec") or {}
            if spec.get("nodeName"):
                return str(spec["nodeName"])
    return "goedge"


@asynccontextmanager
async def edge(path: Path, node: str) -> AsyncIterator[Edge]:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    network = MemoryNetwork()
    async with edge_database(path, clock) as database, network.acceptor() as accepted:
        bus = Bus()
        edged = bus.register("edged", "edged")

        async def dial() -> Link:
            return await network.dial(Peer(node=node))

        async def silent() -> None:
            async for _ in edged:
                pass

        modules = (MetaManager(bus, database, clock, node), EdgeHub(bus, database, clock, dial, rate=1e6, burst=1000))
        tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]
        tasks.append(spawn(silent(), name="edged"))
        async with asyncio.timeout(10):
            link = await anext(aiter(accepted))
        found = Edge(link, Metastore(database))
        tasks.append(spawn(found.listen(), name="the cloud's reader"))
        try:
            yield found
            for task in tasks:
                assert not task.done() or task.result() is None
        finally:
            await cancel_and_join(*tasks)


async def test_everything_the_go_cloud_wants_acknowledged_is(said: list[Message], tmp_path: Path) -> None:
    """[34, 35, 36, 42, 53] In the recorded order, and once more: the same message again is acknowledged again."""
    async with edge(tmp_path / "edgecore.db", node_of(said)) as it:
        for _ in range(2):
            it.acknowledged.clear()
            for message in said:
                await it.link.send(message)
            for message in said:
                if payloads.needs_ack(message):
                    await it.until_acknowledged(message.id)
                    assert it.acknowledged[message.id] == Operation.RESPONSE, message.route


async def test_the_store_holds_the_last_word_on_every_object(said: list[Message], tmp_path: Path) -> None:
    """[54, 56] Objects are there as last pushed; what was deleted last is not."""
    last: dict[str, Message] = {}
    for message in said:
        type = message.route.resource.split("/")[1:2]
        if type and type[0] in OBJECTS and not message.header.parent_id and payloads.needs_ack(message):
            last[message.route.resource] = message
    async with edge(tmp_path / "edgecore.db", node_of(said)) as it:
        for message in said:
            await it.link.send(message)
            if payloads.needs_ack(message):
                await it.until_acknowledged(message.id)
        for resource, message in last.items():
            row = await it.store.get(resource)
            if message.route.operation == Operation.DELETE:
                assert row is None, resource
            else:
                expected = Document(bytes(message.content)).meta
                assert row is not None, resource
                kept = row.meta
                assert (kept.uid, int(kept.resource_version)) >= (expected.uid, int(expected.resource_version)), (
                    resource
                )
