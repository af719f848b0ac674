"""Several cloudcores on one API in memory, and a load balancer in front of them: for stories about who writes what.

    async with replicas(3) as them:
        edge = await them.connect("n1", to=0)
        await them.kill(0)
        again = await them.connect("n1")

Every write of a replica is kept with its outcome. A killed replica's requests end nowhere, and its links break. Nothing
here waits in real time: run it on a loop whose clock jumps (looptime).
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS, ApiResource
from edgehive.cloudcore.app import run_cloudcore
from edgehive.cloudcore.replicas.claims import Claim, claim_on
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError
from edgehive.testing.cloud import EDGE_LABEL, ScriptedEdge
from edgehive.testing.cluster import EPOCH, Cluster
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.memory import MemoryNetwork


@dataclass(frozen=True)
class Write:
    """One request of a replica that changes something, and how it ended ("" for well)."""

    replica: int
    verb: str
    kind: str
    name: str
    body: Any
    failed: str = ""


class Watched:
    """A client whose writes are noted; it can be held up, and it can be dead."""

    def __init__(self, number: int, client: Client, journal: list[Write]) -> None:
        self._number = number
        self._client = client
        self._journal = journal
        self.dead = False
        #: Writes of Nodes wait for it while it is not set.
        self.nodes_open = asyncio.Event()
        self.nodes_open.set()

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._client, verb)
        if verb not in ("create", "update", "patch", "delete"):
            return self._read(method) if verb in ("get", "list") else method

        async def write(resource: ApiResource, *args: Any, **options: Any) -> Any:
            if resource is NODES:
                await self.nodes_open.wait()
            await self._live()
            first = args[0] if args else ""
            name = first if isinstance(first, str) else Document.of(first).meta.name if isinstance(first, dict) else ""
            body = args[1] if verb == "patch" else first
            try:
                answer = await method(resource, *args, **options)
            except ApiError as error:
                self._journal.append(Write(self._number, verb, resource.kind, name, body, type(error).__name__))
                raise
            self._journal.append(Write(self._number, verb, resource.kind, name, body))
            return answer

        return write

    def _read(self, method: Any) -> Any:
        async def read(*args: Any, **options: Any) -> Any:
            await self._live()
            return await method(*args, **options)

        return read

    async def _live(self) -> None:
        if self.dead:
            await asyncio.Event().wait()


@dataclass(frozen=True)
class SkewedClock:
    """A machine's clock that goes wrong by so much, in the loop's time."""

    skew: timedelta

    def now(self) -> datetime:
        return EPOCH + self.skew + timedelta(seconds=asyncio.get_running_loop().time())


@dataclass
class _Replica:
    network: MemoryNetwork
    client: Watched
    running: asyncio.Task[None] | None = None
    links: list[Link] = field(default_factory=list)


class Replicas:
    """See the file's head."""

    def __init__(self, cluster: Cluster, skews: Sequence[timedelta]) -> None:
        self.cluster = cluster
        self.client: Client = cluster.client()
        self.journal: list[Write] = []
        self._skews = skews
        self._replicas: list[_Replica] = []
        self._turn = itertools.count()
        self._edges: list[ScriptedEdge] = []

    # The cloud

    def start(self, number: int, config: CloudCore | None = None) -> None:
        """Start a replica, for the first time or again."""
        clock = SkewedClock(self._skews[number])
        client = Watched(number, self.cluster.client(), self.journal)
        replica = _Replica(MemoryNetwork(clock=clock), client)
        self._replicas[number:] = [replica, *self._replicas[number + 1 :]]
        replica.running = spawn(
            run_cloudcore(
                config or CloudCore(),
                client,
                acceptors=[replica.network.acceptor()],
                clock=clock,
                stop=asyncio.Event(),
                replica=name_of(number),
            ),
            name=f"cloudcore {number}",
        )

    async def kill(self, number: int) -> None:
        """The process is gone from one moment to the next: nothing it still meant to do happens."""
        replica = self._replicas[number]
        replica.client.dead = True
        for link in replica.links:
            await link.close("connection reset")
        await cancel_and_join(replica.running)
        replica.running = None

    async def stop(self, number: int) -> None:
        """The process is asked to end."""
        await cancel_and_join(self._replicas[number].running)
        self._replicas[number].running = None

    def hold_up_nodes(self, number: int) -> asyncio.Event:
        """Have the writes of Nodes by a replica wait until the event is set."""
        self._replicas[number].client.nodes_open.clear()
        return self._replicas[number].client.nodes_open

    @property
    def living(self) -> list[int]:
        return [number for number, replica in enumerate(self._replicas) if replica.running is not None]

    # The edge

    async def connect(self, node: str, *, to: int | None = None, **options: Any) -> ScriptedEdge:
        """Connect through the balancer (or to one replica); an unknown node registers."""
        link = await self._dial(node, to)
        edge = ScriptedEdge(node, link, **options)
        self._edges.append(edge)
        await edge.keepalive()
        if node not in {item.meta.name for item in (await self.client.list(NODES)).items}:
            await edge.request("insert", f"null/node/{node}", {"metadata": {"name": node, "labels": {EDGE_LABEL: ""}}})
            await edge.expect_object(f"null/node/{node}")
        return edge

    async def _dial(self, node: str, to: int | None) -> Link:
        async with asyncio.timeout(30):
            while True:
                number = self.living[next(self._turn) % len(self.living)] if to is None else to
                replica = self._replicas[number]
                try:
                    link = await replica.network.dial(Peer(node=node, address="memory"))
                except LinkClosed:
                    await asyncio.sleep(0.5)
                else:
                    replica.links.append(link)
                    return link

    async def claim(self, node: str) -> Claim:
        return claim_on(await self.client.get(NODES, node))

    async def pod(self, name: str, node: str, **metadata: Any) -> Document:
        """Create a pod that is bound already."""
        containers = [{"name": "main", "image": "localhost/busybox:1"}]
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"} | metadata,
            "spec": {"nodeName": node, "containers": containers},
        }
        return await self.client.create(PODS, body, "default")

    # What was written

    def writes(self, *, kind: str = "", replica: int | None = None, verb: str = "") -> list[Write]:
        return [
            write
            for write in self.journal
            if kind in ("", write.kind) and replica in (None, write.replica) and verb in ("", write.verb)
        ]

    def repeated(self) -> list[Write]:
        """Writes of records that somebody has made before, or that the API refused."""
        seen: set[tuple[str, str, bytes]] = set()
        found = []
        for write in self.journal:
            if not write.kind.endswith("ObjectSync"):
                continue
            body = b"" if write.verb == "delete" else msgspec.json.encode(write.body)
            key = (write.verb, write.name, body)
            if key in seen or write.failed:
                found.append(write)
            seen.add(key)
        return found

    async def close(self) -> None:
        for edge in self._edges:
            await edge.close()
        for replica in self._replicas:
            task, replica.running = replica.running, None
            if task is not None and task.done():
                task.result()
            await cancel_and_join(task)


def name_of(number: int) -> str:
    """What a replica is called."""
    return f"cloud-{number}:10000"


@asynccontextmanager
async def replicas(count: int = 3, *, skews: Sequence[timedelta] = ()) -> AsyncIterator[Replicas]:
    """Run that many cloudcores until left; an error of one ends the test."""
    async with Cluster() as cluster:
        them = Replicas(cluster, [*skews, *[timedelta()] * (count - len(skews))])
        for number in range(count):
            them.start(number)
        try:
            yield them
        finally:
            await them.close()
