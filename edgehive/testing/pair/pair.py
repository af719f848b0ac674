"""`Pair`: both halves in one loop over a link that can fail in every way, for stories told in virtual time.

    async with Pair() as pair:
        await pair.cluster_client.create(PODS, ...)
        await pair.settle()
        assert await pair.difference() == []

The cloud half is a whole cloudcore over a `Cluster`; the edge half is edgehub and metamanager over a database
without threads, with a stand-in for edged that remembers what it was told. Either half can crash at any write
and start again. Nothing here waits in real time: run it on a loop whose clock jumps (looptime).
"""

import asyncio
import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, NODES, PODS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.cloudcore.app import run_cloudcore
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, NotFound
from edgehive.testing.cluster import Cluster
from edgehive.testing.pair.disk import InlineDatabase
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork
from edgehive.wire.names import Operation

NODE = "n1"
EDGE_LABEL = "node-role.kubernetes.io/edge"
#: Longer than every period and back-off in either half.
QUIET_SECONDS = 200.0
_PUSHES = (Operation.INSERT, Operation.UPDATE, Operation.DELETE)


class FaultyLink:
    """The edge's end of a link that loses, repeats and reorders acknowledgements, and repeats what comes."""

    def __init__(self, link: Link, faults: "Faults") -> None:
        self._link = link
        self._faults = faults
        self._again: deque[Message] = deque()
        self._last: dict[str, Message] = {}

    @property
    def peer(self) -> Peer:
        return self._link.peer

    async def send(self, message: Message) -> None:
        self._faults.sent.append(message)
        if message.route.operation != Operation.RESPONSE:
            await self._link.send(message)
            return
        for ack in self._faults.apply(message):
            await self._link.send(ack)

    async def receive(self) -> Message:
        if self._again:
            return self._again.popleft()
        message = await self._link.receive()
        if message.route.operation in _PUSHES:
            self._disturb(message)
        return message

    def _disturb(self, push: Message) -> None:
        """Have a push followed by itself, or by the older version of the same object."""
        path = push.route.resource
        older = self._last.pop(path, None)
        if self._faults.repeat_messages:
            self._faults.repeat_messages -= 1
            self._again.append(push)
        if older is not None and self._faults.stale_messages and _uid(older) == _uid(push):
            self._faults.stale_messages -= 1
            self._again.append(older)
        if push.route.operation != Operation.DELETE:
            self._last[path] = push

    async def close(self, reason: str = "") -> None:
        await self._link.close(reason)


class Faults:
    """How many of the next acknowledgements are lost, doubled, held or made up; of the pushes doubled or overtaken."""

    def __init__(self) -> None:
        #: The newest of what the edge said, for tests of its manners.
        self.sent: deque[Message] = deque(maxlen=1000)
        self.lose_acks = self.repeat_acks = self.hold_acks = self.foreign_acks = 0
        self.repeat_messages = self.stale_messages = 0
        self._held: list[Message] = []

    def apply(self, ack: Message) -> list[Message]:
        """What really goes out in the place of this acknowledgement."""
        if self.lose_acks:
            self.lose_acks -= 1
            return []
        if self.hold_acks:
            self.hold_acks -= 1
            self._held.append(ack)
            return []
        held, self._held = self._held[::-1], []
        copies = 2 if self.repeat_acks else 1
        self.repeat_acks = max(0, self.repeat_acks - 1)
        foreign = [ack.with_header(id="foreign", parent_id="never sent")] * self.foreign_acks
        self.foreign_acks = 0
        return [*foreign, *[ack] * copies, *held]

    def heal(self) -> None:
        self.__init__()  # type: ignore[misc]


class StandIn:
    """edged as the tests need it: remembers what it was told, and asks for what its pods refer to."""

    def __init__(self, bus: Bus, client: MetaClient) -> None:
        self.pods: dict[str, Document] = {}
        self.told: Counter[tuple[str, str, str]] = Counter()
        #: Pods it was told an older version of than it had.
        self.backwards: list[str] = []
        #: Shown every pod that is found or told of, and whether this version of it was told of before.
        self.on_pod: Callable[[Document, bool], None] = lambda *_: None
        self._mailbox = bus.register("edged", "edged")
        self._client = client

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._register())
            for document in (await self._client.list(PODS)).items:
                self.pods[document.meta.name] = document
                self.on_pod(document, False)
                group.create_task(self._fetch(document))
            async for message in self._mailbox:
                if "/pod/" in message.route.resource:
                    self._take(message)
                    group.create_task(self._fetch(Document(bytes(message.content))))

    def _take(self, message: Message) -> None:
        document = Document(bytes(message.content))
        meta = document.meta
        if message.route.operation == Operation.DELETE:
            self.pods.pop(meta.name, None)
            return
        self.told[meta.name, meta.uid, meta.resource_version] += 1
        known = self.pods.get(meta.name)
        if known is not None and int(known.meta.resource_version) > int(meta.resource_version):
            self.backwards.append(f"{meta.name} from {known.meta.resource_version} to {meta.resource_version}")
        self.pods[meta.name] = document
        self.on_pod(document, self.told[meta.name, meta.uid, meta.resource_version] > 1)

    async def _register(self) -> None:
        """Register while there is no row, as edged does; a node that was deleted comes back."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE, "labels": {EDGE_LABEL: ""}}}
        while True:
            try:
                await self._client.get(NODES, NODE)
                patch = msgspec.json.encode({"status": {"phase": "Running"}})
                await self._client.patch(NODES, NODE, patch, type=PatchType.STRATEGIC, subresource="status")
            except NotFound:
                await self._try(self._client.create(NODES, body))
            except ApiError:
                pass
            await asyncio.sleep(10)

    async def _fetch(self, pod: Document) -> None:
        """Ask for what a pod refers to until it is there, or the pod is not."""
        missing = _config_maps(pod)
        while missing and pod.meta.name in self.pods:
            missing = [name for name in missing if not await self._try(self._client.get(CONFIG_MAPS, name, "default"))]
            await asyncio.sleep(5 if missing else 0)

    @staticmethod
    async def _try(request: Any) -> bool:
        try:
            await request
        except ApiError:
            return False
        return True


class EdgeHalf:
    """One life of the edge's processes over a database that outlives them."""

    def __init__(self, database: InlineDatabase, dial: Callable[[], Any], cluster: Cluster) -> None:
        clock, self.bus = cluster.clock, Bus()
        self.store = Metastore(database)
        self.ended = asyncio.Event()
        self.client = MetaClient(self.bus, clock, timeout=60)
        self.edged = StandIn(self.bus, self.client)
        quick = Backoff(first=0.5, factor=2.0, limit=4.0)
        modules = (
            MetaManager(self.bus, database, clock, NODE),
            EdgeHub(self.bus, database, clock, dial, rate=1e6, burst=1000, backoff=quick),
        )
        self._tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]
        self._tasks.append(spawn(self.edged.run(), name="edged"))

    async def stop(self) -> None:
        self.ended.set()
        await cancel_and_join(*self._tasks)

    def raise_failure(self) -> None:
        """A module that ended by itself failed: that is the test's failure."""
        for task in self._tasks:
            if task.done():
                task.result()


class Pair:
    """See the file's head. Every method leaves both halves as a real event would; `settle` heals and waits."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.client: Client = self.cluster.client()
        self.faults = Faults()
        self.network = MemoryNetwork(clock=self.cluster.clock)
        self.database = InlineDatabase()
        self.edge: EdgeHalf | None = None
        #: Called when the edge has been started.
        self.on_edge: Callable[[], None] = lambda: None
        self.plugged = True
        #: (name, uid, version) of pods that one life of the edge was told of more than once, and in wrong order.
        self.repeated: list[tuple[str, str, str]] = []
        self.backwards: list[str] = []
        self._links: list[Link] = []
        self._cloud: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Pair":
        await self.cluster.__aenter__()
        self.start_cloud()
        self.start_edge()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.crash_edge()
        await self.crash_cloud()
        await self.cluster.__aexit__(kind, error, trace)

    # The link

    async def dial(self) -> Link:
        if not self.plugged:
            raise OSError("the cable is cut")
        link = FaultyLink(await self.network.dial(Peer(node=NODE, address="memory")), self.faults)
        self._links.append(link)
        return link

    async def cut(self) -> None:
        """Every link breaks; new ones are possible at once unless `plugged` is False."""
        links, self._links = self._links, []
        for link in links:
            await link.close("cut")

    # The halves

    def start_cloud(self) -> None:
        if self._cloud is None:
            acceptors = [self.network.acceptor()]
            run = run_cloudcore(
                CloudCore(), self.cluster.client(), acceptors=acceptors, clock=self.cluster.clock, stop=asyncio.Event()
            )
            self._cloud = spawn(run, name="cloudcore")

    async def crash_cloud(self) -> None:
        await self.cut()
        task, self._cloud = self._cloud, None
        if task is not None and task.done():
            task.result()
        await cancel_and_join(task)

    def start_edge(self) -> None:
        if self.edge is None:
            self.database.recover()
            self.edge = EdgeHalf(self.database, self.dial, self.cluster)
            self.on_edge()

    async def crash_edge(self) -> None:
        await self.cut()
        edge, self.edge = self.edge, None
        if edge is not None:
            self.repeated += [what for what, times in edge.edged.told.items() if times > 1]
            self.backwards += edge.edged.backwards
            self.database.bury()
            if not self.database.crashed.is_set():
                edge.raise_failure()
            await edge.stop()
            self.database.recover()

    async def lose_database(self) -> None:
        """The edge's disk is replaced."""
        await self.crash_edge()
        self.database = InlineDatabase()
        self.start_edge()

    async def settle(self, seconds: float = QUIET_SECONDS) -> None:
        """Mend everything that is broken and let both halves come to rest."""
        self.faults.heal()
        self.plugged = True
        if self.database.crashed.is_set():
            await self.crash_edge()
        self.database.recover()
        self.start_cloud()
        self.start_edge()
        await asyncio.sleep(seconds)
        assert self.edge is not None
        self.edge.raise_failure()

    # What must be equal

    async def reports_waiting(self) -> str:
        """The frames of all reports and patches that are on the edge's disk, as one text."""

        def work(connection: sqlite3.Connection) -> str:
            rows = connection.execute("SELECT message FROM outbox UNION ALL SELECT message FROM unanswered")
            return "\n".join(row[0] for row in rows)

        return await self.database.read(work)

    async def difference(self) -> list[str]:
        """What edge and API disagree about; empty at rest."""
        assert self.edge is not None
        wanted = {pod.meta.name: _essence(pod) for pod in await self._pods()}
        stored = {pod.meta.name: _essence(pod) for pod in await self.edge.store.all_of("pod")}
        running = {name: _essence(pod) for name, pod in self.edge.edged.pods.items()}
        maps = {item.meta.name: _essence(item) for item in (await self.client.list(CONFIG_MAPS, "default")).items}
        held = {item.meta.name: _essence(item) for item in await self.edge.store.all_of("configmap")}
        needed = {name for pod in await self._pods() for name in _config_maps(pod)} & set(maps)
        found = [f"pods stored {stored} instead of {wanted}"] if stored != wanted else []
        found += [f"pods running {running} instead of {wanted}"] if running != wanted else []
        found += [
            f"config map {name} is {held[name]}, not {maps.get(name)}" for name in held if held[name] != maps.get(name)
        ]
        return found + [f"config map {name} is missing" for name in needed - set(held)]

    async def _pods(self) -> list[Document]:
        return [pod for pod in (await self.client.list(PODS)).items if pod.to_dict()["spec"].get("nodeName") == NODE]


def _essence(document: Document) -> Any:
    """What the edge must have right; a status changes without being sent."""
    whole = document.to_dict()
    meta = whole["metadata"]
    return meta["uid"], meta.get("labels"), whole.get("spec"), whole.get("data")


def _uid(message: Message) -> str:
    return Document(bytes(message.content)).meta.uid


def _config_maps(pod: Document) -> list[str]:
    volumes = pod.to_dict().get("spec", {}).get("volumes") or []
    return [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
