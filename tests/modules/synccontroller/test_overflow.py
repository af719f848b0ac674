"""A node that falls so far behind that its outbox overflows misses nothing in the end, and gets nothing twice.

What the outbox refuses is found again as soon as there is room, not only by the slow round over all nodes.
"""

import asyncio
from functools import partial

import pytest

from edgehive.api.registry import PODS
from edgehive.beehive.message import Message
from edgehive.cloudcore import synccontroller
from edgehive.cloudcore.cloudhub import sessions
from edgehive.cloudcore.cloudhub.outbox import Outbox
from edgehive.testing.cloud import ScriptedEdge, cloud, content_of
from edgehive.wire.inventory import Held
from edgehive.wire.names import Path
from edgehive.wire.payloads import needs_ack

pytestmark = pytest.mark.looptime

#: Objects an outbox holds here; there are several times as many.
ROOM = 2
NAMES = [f"p{number}" for number in range(8)]


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "Outbox", partial(Outbox, pushes=ROOM))
    # Nothing here is owed to the round.
    monkeypatch.setattr(synccontroller, "ROUND_SECONDS", 1e6)


class SlowEdge:
    """Stores and acknowledges one object after the other, and says truly what it holds."""

    def __init__(self, edge: ScriptedEdge) -> None:
        self.edge = edge
        edge.acknowledge = False
        self.held: dict[str, Held] = {}
        self._tell()

    def _tell(self) -> None:
        self.edge.holds = list(self.held.values())

    def has(self, path: str, uid: str, version: int = 1) -> None:
        namespace, type, name = path.split("/")
        self.held[uid] = Held(namespace, type, name, uid, version)
        self._tell()

    async def store_all(self) -> None:
        """Until nothing comes for a while."""
        while True:
            try:
                message = await self.edge.expect(needs_ack, patience=10)
            except TimeoutError:
                return
            meta = content_of(message)["metadata"]
            if message.route.operation == "delete":
                self.held.pop(meta["uid"], None)
                self._tell()
            else:
                self.has(message.route.resource, meta["uid"], int(meta["resourceVersion"]))
            await self.edge.ack(message)

    @property
    def operations(self) -> list[list[str]]:
        """What was sent of each pod; an update may be the first that is heard of it."""
        return [
            ["update" if operation == "insert" else operation for operation in self.edge.pushed(f"default/pod/{name}")]
            for name in NAMES
        ]

    @property
    def pods(self) -> set[str]:
        return {item.name for item in self.held.values() if item.type == "pod"}

    @property
    def questions(self) -> list[Message]:
        return [message for message in self.edge.received if message.route.resource == Path.INVENTORY]


async def test_objects_that_found_no_room_come_once_there_is_some() -> None:
    async with cloud() as it:
        slow = SlowEdge(await it.edge("n1", holds=[]))
        for name in NAMES:
            await it.pod(name, "n1")
        await asyncio.sleep(1)
        await slow.store_all()
        assert slow.operations == [["update"]] * len(NAMES)
        assert slow.pods == set(NAMES)


async def test_deletions_that_found_no_room_come_once_there_is_some() -> None:
    async with cloud() as it:
        slow = SlowEdge(await it.edge("n1", holds=[]))
        for name in NAMES:
            await it.pod(name, "n1")
        await slow.store_all()
        for name in NAMES:
            await it.client.delete(PODS, name, "default", grace_period_seconds=0)
        await asyncio.sleep(1)
        await slow.store_all()
        assert slow.pods == set()
        assert slow.operations == [["update", "delete"]] * len(NAMES)


async def test_what_only_the_node_knows_of_is_asked_for_again_after_an_overflow() -> None:
    """No record tells of it: a deletion that was refused is known to nobody until the node says again what it holds."""
    async with cloud() as it:
        known = SlowEdge(await it.edge("n1", holds=[]))
        await known.edge.close()
        await asyncio.sleep(1)
        edge = await it.edge("n1", register=False, acknowledge=False, holds=[])
        slow = SlowEdge(edge)
        for name in NAMES:
            slow.has(f"default/pod/{name}", f"uid-{name}")
        await slow.store_all()
        assert slow.pods == set()
        assert slow.operations == [["delete"]] * len(NAMES)
        assert 1 < len(slow.questions) <= len(NAMES)
        before = len(edge.received)
        await asyncio.sleep(30)
        assert len(edge.received) == before


async def test_an_outbox_that_overflowed_says_so_to_its_successor() -> None:
    async with cloud() as it:
        left = SlowEdge(await it.edge("n1", holds=[]))
        for name in NAMES:
            await it.pod(name, "n1")
        await asyncio.sleep(1)
        slow = SlowEdge(await it.edge("n1", register=False, acknowledge=False, holds=[]))
        assert await asyncio.wait_for(left.edge.closed.wait(), 5)
        await slow.store_all()
        assert slow.operations == [["update"]] * len(NAMES)
