"""`Fleet`: many hollow nodes in one process, with one timer for all keepalives and one for all leases.

async with Fleet(plan) as fleet:
    await fleet.certify(); await fleet.connect(); await fleet.register()
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from edgehive.kit.clock import Clock, SystemClock
from edgehive.testing.fleet.credentials import JoinDoor, requests
from edgehive.testing.fleet.journal import Journal
from edgehive.testing.fleet.node import HollowNode, Hub
from edgehive.testing.fleet.rounds import Round
from edgehive.testing.fleet.workload import Advance, each
from edgehive.wire.link import LinkClosed

#: A stock edge's periods.
KEEPALIVE_SECONDS, LEASE_SECONDS = 15.0, 10.0
#: How often a node tries to connect, and the pause between.
DIALS, DIAL_PAUSE = 10, 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How large a fleet, and to which cloud."""

    nodes: int
    hub: Hub
    join_server: str
    token: str
    prefix: str = "fleet"
    shared_key: bool = False
    at_once: int = 32


def _nothing() -> None:
    """Nobody looks on."""


class Fleet:
    """See the file's head."""

    def __init__(self, plan: Plan, clock: Clock | None = None) -> None:
        self.plan = plan
        self.journal = Journal()
        self.clock = clock or SystemClock()
        names = [f"{plan.prefix}-{number:05}" for number in range(1, plan.nodes + 1)]
        self.nodes = [HollowNode(name, plan.hub, self.journal, self.clock) for name in names]
        self.keepalives: Round[HollowNode] = Round(KEEPALIVE_SECONDS, HollowNode.keepalive)
        self.leases: Round[HollowNode] = Round(LEASE_SECONDS, HollowNode.renew_lease)
        self._requests: list[tuple[bytes, bytes]] = []

    async def __aenter__(self) -> "Fleet":
        """Keys and certificate requests are made here, before anything is measured."""
        names = [node.name for node in self.nodes]
        self._requests = await asyncio.to_thread(requests, names, shared_key=self.plan.shared_key)
        self.keepalives.start()
        self.leases.start()
        self.leases.pause(True)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.keepalives.stop()
        self.leases.stop()
        self.cut()
        await asyncio.sleep(0)

    @property
    def connected(self) -> int:
        return sum(node.connected for node in self.nodes)

    async def certify(self, advance: Advance = _nothing) -> None:
        """A certificate for every node, by token."""
        async with JoinDoor(self.plan.join_server, self.plan.token, self.journal) as door:
            trust = door.trust()

            async def certify(pair: tuple[HollowNode, tuple[bytes, bytes]]) -> None:
                node, (key, request) = pair
                node.context = await door.context(node.name, key, request, trust)

            await each(zip(self.nodes, self._requests, strict=True), certify, self.plan.at_once, advance)

    async def connect(self, advance: Advance = _nothing) -> None:
        await self.each(self._connect, advance)

    async def register(self, advance: Advance = _nothing) -> None:
        """Every node registers; from then on it renews its lease."""

        async def register(node: HollowNode) -> None:
            await node.register()
            self.leases.add(node)

        await self.each(register, advance)

    async def storm(self, pause: float, advance: Advance = _nothing) -> None:
        """All connections are lost; after the pause all come back at once, and each asks something."""
        self.cut()
        await asyncio.sleep(pause)

        async def back(node: HollowNode) -> None:
            await self._connect(node)
            await node.renewed()

        await self.each(back, advance, at_once=len(self.nodes))

    async def each(
        self, work: Callable[[HollowNode], Awaitable[None]], advance: Advance = _nothing, *, at_once: int = 0
    ) -> None:
        await each(self.nodes, work, at_once or self.plan.at_once, advance)

    def cut(self) -> None:
        for node in self.nodes:
            node.cut()

    async def _connect(self, node: HollowNode) -> None:
        for attempt in range(DIALS):
            try:
                await node.connect()
                break
            except LinkClosed:
                self.journal.count("dials failed")
                if attempt + 1 == DIALS:
                    raise
                await asyncio.sleep(DIAL_PAUSE)
        self.keepalives.add(node)
