"""A cloudcore in memory and scripted edges at its other end, for tests of everything between the two.

    async with cloud() as it:
        edge = await it.edge("n1")
        reply = await edge.request("query", "default/configmap/settings")

An edge acknowledges what it stores unless told not to, and keeps all it received. No port is opened.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS
from edgehive.beehive.message import Message
from edgehive.cloudcore.app import run_cloudcore
from edgehive.kit.tasks import cancel_and_join, first_of, spawn
from edgehive.kube.client import Client
from edgehive.testing.cluster import Cluster
from edgehive.wire import inventory, payloads
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.memory import MemoryNetwork
from edgehive.wire.names import Group, Path, Source

EDGE_LABEL = "node-role.kubernetes.io/edge"
#: How long an edge waits for what a test expects.
PATIENCE = 20.0


class ScriptedEdge:
    """One node's end of the link."""

    def __init__(self, node: str, link: Link, *, acknowledge: bool = True, holds: Any = None) -> None:
        self.node = node
        self.link = link
        self.acknowledge = acknowledge
        #: What it says it holds, a list of `Held` or nonsense; None for an edge that offers no inventory, as Go's.
        self.holds = holds
        #: Everything that arrived, in order; `expect` takes from `unread`.
        self.received: list[Message] = []
        self.unread: list[Message] = []
        self.closed = asyncio.Event()
        self._arrived = asyncio.Event()
        self._reader = spawn(self._read(), name=f"scripted edge {node}")

    async def _read(self) -> None:
        try:
            while True:
                message = await self.link.receive()
                self.received.append(message)
                self.unread.append(message)
                self._arrived.set()
                if message.route.resource == Path.INVENTORY:
                    await self.link.send(message.reply(self.holds, timestamp=2))
                elif self.acknowledge and payloads.needs_ack(message):
                    await self.ack(message)
        except LinkClosed:
            self.closed.set()

    async def close(self) -> None:
        await self.link.close()
        await cancel_and_join(self._reader)

    # Sending

    async def send(
        self, operation: str, resource: str, content: Any = None, *, source: str = Source.EDGED, id: str = ""
    ) -> Message:
        """Send a message as edged would; returns it."""
        message = Message.of(
            source=source, group=Group.META, operation=operation, resource=resource, content=content, timestamp=1, id=id
        )
        await self.link.send(message)
        return message

    async def request(self, operation: str, resource: str, content: Any = None, **more: str) -> Message:
        """Send and wait for the answer."""
        message = await self.send(operation, resource, content, **more)
        return await self.expect(lambda answer: answer.header.parent_id == message.id)

    async def ack(self, message: Message) -> None:
        await self.link.send(payloads.acknowledge(message, timestamp=2))

    async def keepalive(self) -> None:
        offers = (inventory.OFFER,) if self.holds is not None else ()
        await self.link.send(payloads.keepalive(timestamp=3, offers=offers))

    # Receiving

    async def expect(self, wanted: Callable[[Message], bool], *, patience: float = PATIENCE) -> Message:
        """Take the first unread message that is wanted, waiting for it; raises TimeoutError."""
        async with asyncio.timeout(patience):
            while True:
                for message in self.unread:
                    if wanted(message):
                        self.unread.remove(message)
                        return message
                self._arrived.clear()
                await self._arrived.wait()

    async def expect_object(self, resource: str, *operations: str, patience: float = PATIENCE) -> Message:
        """The next push for a resource."""
        operations = operations or ("insert", "update", "delete")
        return await self.expect(
            lambda message: message.route.resource == resource and message.route.operation in operations,
            patience=patience,
        )

    def pushed(self, resource: str) -> list[str]:
        """The operations of all pushes for a resource so far."""
        return [
            message.route.operation
            for message in self.received
            if message.route.resource == resource and not message.header.parent_id
        ]


class Cloud:
    """A running cloudcore over a `Cluster`."""

    def __init__(self, cluster: Cluster, network: MemoryNetwork) -> None:
        self.cluster = cluster
        self.registry = CollectorRegistry()
        self.network = network
        self.client: Client = cluster.client()
        self._edges: list[ScriptedEdge] = []

    async def edge(
        self, node: str, *, acknowledge: bool = True, register: bool = True, holds: Any = None
    ) -> ScriptedEdge:
        """Connect a node; it registers as a real one would unless it is known or told not to."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    link = await self.network.dial(Peer(node=node, address="memory"))
                    break
                except LinkClosed:
                    await asyncio.sleep(0.05)
        edge = ScriptedEdge(node, link, acknowledge=acknowledge, holds=holds)
        self._edges.append(edge)
        await edge.keepalive()
        if register and node not in {item.meta.name for item in (await self.client.list(NODES)).items}:
            await edge.request("insert", f"null/node/{node}", {"metadata": {"name": node, "labels": {EDGE_LABEL: ""}}})
            await edge.expect_object(f"null/node/{node}")
        return edge

    async def pod(self, name: str, node: str, **spec: Any) -> Document:
        """Create a pod that is bound already."""
        containers = [{"name": "main", "image": "localhost/busybox:1"}]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": containers} | spec,
        }
        return await self.client.create(PODS, body, "default")

    def metrics(self) -> str:
        """What /metrics answers."""
        return generate_latest(self.registry).decode()

    async def close_edges(self) -> None:
        for edge in self._edges:
            await edge.close()


def content_of(message: Message) -> Any:
    """The content decoded."""
    return msgspec.json.decode(message.content)


@asynccontextmanager
async def cloud(
    config: CloudCore | None = None, *, cluster: Cluster | None = None, client: Client | None = None
) -> AsyncIterator[Cloud]:
    """Run cloudcore until left; an error of its ends the test. `client` stands between it and the cluster."""
    async with cluster or Cluster() as api:
        network = MemoryNetwork(clock=api.clock)
        it = Cloud(api, network)
        stop = asyncio.Event()
        running = spawn(
            run_cloudcore(
                config or CloudCore(),
                client or api.client(),
                acceptors=[network.acceptor()],
                clock=api.clock,
                stop=stop,
                registry=it.registry,
            ),
            name="cloudcore under test",
        )
        try:
            yield it
            if running.done():
                await running
        finally:
            await it.close_edges()
            stop.set()
            await first_of(running, asyncio.sleep(30))
