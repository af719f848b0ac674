"""`World`: cloudcore, edgecore with edged itself, an API server and a container runtime, in one loop and virtual time.

    async with World(seed) as world:
        await world.client.create(PODS, ...)
        await world.settle()

Each half can die between any two of its writes and be started again; clocks, link, disk, API and runtime are told
to fail through `network.disturbance`, `weather`, `database` and `runtime`. What must never be seen is in `faults`.
"""

import asyncio
import random
import shutil
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.document import Document
from edgehive.api.registry import KUBEEDGE
from edgehive.beehive.bus import Bus
from edgehive.beehive.hive import ModuleFailed
from edgehive.beehive.message import Message
from edgehive.cloudcore.app import run_cloudcore
from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgecore.edged.edged import Edged
from edgehive.edgecore.edged.housekeeping import Housekeeping
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kit.tls import new_key
from edgehive.kube.client import Client
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster
from edgehive.testing.pair.api import ApiWeather, CloudsClient
from edgehive.testing.pair.disk import InlineDatabase
from edgehive.testing.pair.network import Network
from edgehive.testing.pair.runtime import Life, SimulatedRuntime
from edgehive.testing.pair.story import Story
from edgehive.testing.virtual_time import LoopClock
from edgehive.wire.link import Link, Peer
from edgehive.wire.names import Operation

NODE = "n1"
#: A file system in memory where there is one: a schedule writes hundreds of small files.
_FAST = Path("/dev/shm")  # noqa: S108
_KEY = new_key()
#: What each half tells of its queues: how much waits in them, and how much ever did at once.
WAITING = ("edgehive_mailbox_depth", "edgehive_hub_waiting_messages", "edgehive_lane_requests")
LONGEST = ("edgehive_mailbox_most", "edgehive_hub_most_waiting_messages", "edgehive_lane_most_requests")


def _told(who: str, metrics: CollectorRegistry, families: tuple[str, ...]) -> list[tuple[str, int]]:
    """(name, length) of each queue."""
    return [
        (" ".join((who, sample.name.removeprefix("edgehive_"), *sample.labels.values())), int(sample.value))
        for family in metrics.collect()
        if family.name in families
        for sample in family.samples
    ]


class _Events:
    """Stands for containerd's own services, of which edged follows the events."""

    def __init__(self, runtime: SimulatedRuntime, life: Life) -> None:
        self.task_events = lambda: runtime.events_of(life)

    def close(self) -> None:
        """Nothing is open."""


class WatchedEdged(Edged):
    """edged without a port, over a runtime in memory; it notes what it is told and in which order."""

    def __init__(self, world: "World", life: Life, **options: Any) -> None:
        super().__init__(cri=world.runtime.client_of(life), **options)
        self._containerd: Containerd | None = _Events(world.runtime, life)  # type: ignore[assignment]
        self._world = world
        self._newest: dict[str, int] = {}

    async def _open_door(self, stack: AsyncExitStack) -> None:
        """Nobody calls."""

    async def _take(self, message: Message, keeper: Housekeeping) -> None:
        if message.route.resource != "node/connection" and message.route.operation != Operation.DELETE:
            meta = Document(message.content_bytes()).meta
            version = int(meta.resource_version or 0)
            if version < self._newest.get(meta.uid, 0):
                self._world.fault(meta.name, f"edged is told version {version} after {self._newest[meta.uid]}")
            self._newest[meta.uid] = version
        await super()._take(message, keeper)


class EdgeHalf:
    """One life of edgecore over a disk and a runtime that outlive it."""

    def __init__(self, world: "World") -> None:
        self.life = Life()
        self.metrics = CollectorRegistry()
        self.bus = Bus(registry=self.metrics)
        clock = world.edge_clock
        self.client = MetaClient(self.bus, clock, timeout=60)
        kubelet = TailoredKubeletConfig(
            read_only_port=0, static_pod_path=str(world.root / "manifests"), eviction_hard={}, resolv_conf=""
        )
        config = EdgedConfig(
            root_directory=str(world.root), tailored_kubelet_config=kubelet, report_event=True, node_ip="10.0.0.9"
        )
        quick = Backoff(first=0.5, factor=2.0, limit=4.0)
        hub = EdgeHub(self.bus, world.database, clock, world.dial, rate=1e6, burst=1000, backoff=quick)
        self.edged = WatchedEdged(
            world, self.life, bus=self.bus, client=self.client, config=config, clock=clock, node_name=NODE
        )
        modules = (MetaManager(self.bus, world.database, clock, NODE), hub, self.edged)
        self.tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]


class CloudHalf:
    """One life of cloudcore; every store it has is the API."""

    def __init__(self, world: "World") -> None:
        self.life = Life()
        self.metrics = CollectorRegistry()
        client: Any = CloudsClient(world.client, world.weather, self.life, world.story, world.chance, world.cloud_dies)
        self.task = spawn(
            run_cloudcore(
                CloudCore(),
                client,
                acceptors=[world.network.acceptor()],
                clock=world.cloud_clock,
                stop=asyncio.Event(),
                registry=self.metrics,
            ),
            name="cloudcore",
        )

    @property
    def failure(self) -> BaseException | None:
        """What it ended by itself with."""
        return self.task.exception() if self.task.done() and not self.task.cancelled() else None


class World:
    """See the file's head."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)  # noqa: S311
        self.story = Story()
        self.api_clock, self.cloud_clock, self.edge_clock = LoopClock(), LoopClock(), LoopClock()
        options = ServerOptions(service_account_key=_KEY, extra_resources=KUBEEDGE)
        self.cluster = Cluster(clock=self.api_clock, options=options)
        self.client: Client = self.cluster.client()
        self.weather = ApiWeather()
        self.network = Network(self.cloud_clock, self.story, self.chance, self._said)
        self.database = InlineDatabase(self.edge_dies)
        self.runtime = SimulatedRuntime(self.edge_clock, self.story, self.edge_dies)
        self.root = Path(tempfile.mkdtemp(prefix="edgehive-world-", dir=_FAST if _FAST.is_dir() else None))
        self.edge: EdgeHalf | None = None
        self.cloud: CloudHalf | None = None
        self.messages = 0
        #: By the name of a queue: how long it ever was.
        self.longest: dict[str, int] = {}
        self._faults: list[tuple[str, str]] = []
        self._pushed: dict[str, tuple[str, int]] = {}
        self._ends: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "World":
        await self.cluster.__aenter__()
        self.start_cloud()
        self.start_edge()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_edge("the schedule is over")
        await self.stop_cloud("the schedule is over")
        await self.cluster.__aexit__(kind, error, trace)
        shutil.rmtree(self.root, ignore_errors=True)

    def clocks(self) -> dict[str, LoopClock]:
        return {"api": self.api_clock, "cloud": self.cloud_clock, "edge": self.edge_clock}

    @property
    def faults(self) -> list[tuple[str, str]]:
        """(name of the object, what must not be) of all that was seen on the way."""
        return [*self._faults, *self.runtime.faults]

    def fault(self, about: str, text: str) -> None:
        self.story.tell("FAULT", text, about)
        self._faults.append((about, text))

    # The halves

    def start_cloud(self) -> None:
        if self.cloud is not None and isinstance(self.cloud.failure, ModuleFailed):
            # As when the API was away for a minute while it started: whoever supervises processes starts another.
            self.story.tell("cloud", f"ends: {self.cloud.failure}")
            self.cloud = None
        if self.cloud is None:
            self.story.tell("cloud", "starts")
            self.cloud = CloudHalf(self)

    def start_edge(self) -> None:
        if self.edge is None:
            self.story.tell("edge", "starts")
            self.database.recover()
            self.edge = EdgeHalf(self)

    async def stop_edge(self, why: str) -> None:
        """The process is gone at once: nothing it does from here on reaches disk, runtime or cloud."""
        edge, self.edge = self.edge, None
        if edge is None:
            return
        self.story.tell("edge", f"dies: {why}")
        self._note_longest("edge", edge.metrics)
        self.network.cut()
        edge.life.alive = False
        self.database.bury()
        for task in edge.tasks:
            if task.done() and not task.cancelled() and task.exception() is not None:
                self.fault("", f"{task.get_name()} failed: {task.exception()!r}")
        await cancel_and_join(*edge.tasks)
        self.database.recover()
        self.runtime.recover()

    async def stop_cloud(self, why: str) -> None:
        cloud, self.cloud = self.cloud, None
        if cloud is None:
            return
        self.story.tell("cloud", f"dies: {why}")
        self._note_longest("cloud", cloud.metrics)
        self.network.cut()
        cloud.life.alive = False
        if cloud.failure is not None and not isinstance(cloud.failure, ModuleFailed):
            self.fault("", f"cloudcore failed: {cloud.failure!r}")
        await cancel_and_join(cloud.task)

    def edge_dies(self) -> None:
        """Called from inside a write: the rest of the process must not go on for a single step."""
        if self.edge is not None:
            self.edge.life.alive = False
            self.database.bury()
        self.network.cut()
        self._end(self.stop_edge("a write"), "edge dies")

    def cloud_dies(self) -> None:
        if self.cloud is not None:
            self.cloud.life.alive = False
        self.network.cut()
        self._end(self.stop_cloud("a request"), "cloud dies")

    def _end(self, work: Any, name: str) -> None:
        task = spawn(work, name=name)
        self._ends.add(task)
        task.add_done_callback(self._ends.discard)

    async def lose_disk(self) -> None:
        """Database and folders are gone; the runtime's are on another disk."""
        await self.stop_edge("its disk is replaced")
        self.database = InlineDatabase(self.edge_dies)
        for path in self.root.iterdir():
            shutil.rmtree(path)
        self.start_edge()

    async def reboot(self) -> None:
        """The machine starts anew: containers end, records stay."""
        await self.stop_edge("the machine reboots")
        self.runtime.reboot()
        self.start_edge()

    async def dial(self) -> Link:
        return await self.network.dial(Peer(node=NODE, address="memory"))

    def heal(self) -> None:
        """Everything works again; what runs is not touched. Wrong clocks stay wrong."""
        self.network.disturbance.heal()
        self.network.plugged = True
        self.weather.heal()
        self.database.full = False
        self.database.crash_never()
        self.runtime.heal()
        self.start_both()

    def start_both(self) -> None:
        """Whichever half does not run, as whoever supervises processes does."""
        self.start_cloud()
        self.start_edge()

    # What is seen on the way

    def queues(self) -> dict[str, int]:
        """By name: what waits in every queue of what runs."""
        halves = (("cloud", self.cloud), ("edge", self.edge))
        return {
            name: length
            for who, half in halves
            if half is not None
            for name, length in _told(who, half.metrics, WAITING)
        }

    def note_longest(self) -> None:
        for who, half in (("cloud", self.cloud), ("edge", self.edge)):
            if half is not None:
                self._note_longest(who, half.metrics)

    def _note_longest(self, who: str, metrics: CollectorRegistry) -> None:
        for name, length in _told(who, metrics, LONGEST):
            self.longest[name] = max(self.longest.get(name, 0), length)

    def _said(self, who: str, message: Message) -> None:
        self.messages += 1
        route = message.route
        name = route.resource.rpartition("/")[2]
        if route.operation not in (Operation.KEEPALIVE, Operation.PING) and "/lease/" not in route.resource:
            version = f" v{message.header.resourceversion}" if message.header.resourceversion else ""
            self.story.tell(who, f"sends {route.operation} {route.resource}{version}", name)
        if who == "cloud":
            self._note_push(message)
        elif route.operation == Operation.RESPONSE and message.header.parent_id in self._pushed:
            self._check_acknowledged(*self._pushed[message.header.parent_id], name)

    def _note_push(self, message: Message) -> None:
        version = message.header.resourceversion
        if message.route.operation in (Operation.INSERT, Operation.UPDATE) and version.isdecimal():
            self._pushed[message.id] = (message.route.resource, int(version))

    def _check_acknowledged(self, path: str, version: int, name: str) -> None:
        """What is acknowledged is on disk, unless its end was."""
        rows = self.database.look("SELECT value FROM meta WHERE key = ?", path)
        held = int(Document(rows[0][0].encode()).meta.resource_version or 0) if rows else None
        if held is not None and held < version:
            self.fault(name, f"the edge acknowledges version {version} of {path}, and its disk holds {held}")
