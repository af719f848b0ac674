"""The same as `delivery`, smaller and real: cloudcore and an edge as processes, TLS, SQLite on disk, SIGKILL.

The edge is edgehub and metamanager over their database, with a stand-in for edged that notes what it is told in a file
and reports the number it reads on a pod as the pod's status. The next number is written when the last one came back, so
each is a message down and one up. The link goes through a relay here, which cuts it. The API is a `Cluster` over HTTP.
"""

import asyncio
import json
import logging
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.report import Figure
from edgehive.api.config.edgecore import EdgeHub as HubConfig
from edgehive.api.core import Secret
from edgehive.api.document import Document
from edgehive.api.registry import PODS, SECRETS
from edgehive.beehive.bus import Bus
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.edgehub.identity import Identity
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, NotFound
from edgehive.testing.cluster import Cluster
from edgehive.testing.pair import NODE
from edgehive.testing.pair.pair import StandIn
from edgehive.testing.ports import free_ports
from edgehive.wire.link import LinkClosed

MESSAGES = int(os.environ.get("EDGEHIVE_PROCESS_MESSAGES", "20000"))
CUTS, KILLS_AT_EACH_END = 40, 10
PODS_AT_ONCE = 100
#: Until a number must have come back, whatever happened meanwhile; a report is repeated after a minute.
PATIENCE = 180.0
QUICK = Backoff(first=0.1, factor=2.0, limit=1.0)


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="eh-delivery-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as api:
        trial = Trial(cluster.client(), folder, api)
        try:
            await trial.perform()
        finally:
            await trial.end()
    told = Notes.read(folder / "told")
    lost = trial.lost + sum(len(set(range(1, trial.rounds + 1)) - set(numbers)) for numbers in told.numbers.values())
    disordered = trial.disordered + told.disordered
    return [
        Figure("messages each way between real processes", trial.rounds * PODS_AT_ONCE, ""),
        Figure("cuts of the link", trial.cuts, ""),
        Figure("kills of the edge", trial.kills["edge"], ""),
        Figure("kills of the cloud", trial.kills["cloud"], ""),
        Figure("lost", lost, "", "0", lost == 0),
        Figure("out of order within an object", disordered, "", "0", disordered == 0),
        Figure("twice behind the filter by id", told.repeated, "", "0", told.repeated == 0),
    ]


class Trial:
    """The processes, the relay between them, and the numbers on their way."""

    def __init__(self, client: Client, folder: Path, api: str) -> None:
        self._client = client
        self._folder = folder
        self._hub, self._https, self._relayed, monitor = free_ports(4)
        self._chance = random.Random(1)
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._relay = Relay(self._hub)
        self._returned: Counter[str] = Counter()
        self._turns: dict[str, asyncio.Event] = {}
        self.rounds = max(1, MESSAGES // PODS_AT_ONCE)
        self.cuts = self.lost = self.disordered = 0
        self.kills: Counter[str] = Counter()
        _write_cloud_config(folder, api, self._hub, self._https, monitor)

    async def perform(self) -> None:
        await self._start("cloud")
        _write_edge_config(self._folder, await self._token(), self._https, self._relayed)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._relay.serve(self._relayed))
            await self._start("edge")
            watch = spawn(self._watch(), name="watch")
            stack.push_async_callback(cancel_and_join, watch)
            async with asyncio.TaskGroup() as group:
                for number in range(PODS_AT_ONCE):
                    self._turns[f"pod-{number}"] = asyncio.Event()
                    group.create_task(self._count(f"pod-{number}"))
                group.create_task(self._disasters())

    async def end(self) -> None:
        for name in list(self._processes):
            await self._kill(name)

    async def _token(self) -> str:
        while True:
            try:
                secret = (await self._client.get(SECRETS, "tokensecret", "kubeedge")).read(Secret)
                return (secret.data or {})["tokendata"].decode()
            except NotFound:
                await asyncio.sleep(0.2)

    # Numbers

    async def _count(self, name: str) -> None:
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}
        body = {"metadata": {"name": name, "labels": {"n": "1"}}, "spec": spec}
        await self._client.create(PODS, body, "default")
        for number in range(1, self.rounds + 1):
            if number > 1:
                await self._client.patch(PODS, name, {"metadata": {"labels": {"n": str(number)}}}, "default")
            try:
                async with asyncio.timeout(PATIENCE):
                    while self._returned[name] < number:
                        self._turns[name].clear()
                        await self._turns[name].wait()
            except TimeoutError:
                self.lost += 1

    async def _watch(self) -> None:
        """A watch that fell behind is ended by the server; what it missed is in the list."""
        while True:
            with suppress(ApiError):
                found = await self._client.list(PODS, "default")
                for pod in found.items:
                    self._came_back(pod)
                async for event in self._client.watch(PODS, "default", resource_version=found.resource_version):
                    self._came_back(event.object)

    def _came_back(self, pod: Document) -> None:
        name = pod.meta.name
        number = int((pod.to_dict().get("status") or {}).get("message") or 0)
        self.disordered += number < self._returned[name]
        self._returned[name] = max(number, self._returned[name])
        if name in self._turns:
            self._turns[name].set()

    # Disasters

    async def _disasters(self) -> None:
        """Each after its part of the messages."""
        kinds = ["cut"] * CUTS + ["edge", "cloud"] * KILLS_AT_EACH_END
        self._chance.shuffle(kinds)
        for number, kind in enumerate(kinds, start=1):
            while self._returned.total() < self.rounds * PODS_AT_ONCE * number / (len(kinds) + 1):
                await asyncio.sleep(0.01)
            print(f"  {self._returned.total()} messages each way: {kind}", file=sys.stderr, flush=True)
            if kind == "cut":
                self.cuts += 1
                self._relay.cut()
                continue
            self.kills[kind] += 1
            await self._kill(kind)
            await self._start(kind)

    async def _start(self, name: str) -> None:
        file = str(self._folder / f"{name}.json")
        command = {
            "cloud": ["edgehive.cloudcore.app", "--log-level", "error", "--config", file],
            "edge": ["bench.delivery_processes", str(self._folder)],
        }[name]
        self._processes[name] = await asyncio.create_subprocess_exec(sys.executable, "-m", *command)

    async def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        if process.returncode is not None:
            raise RuntimeError(f"the {name} ended by itself with {process.returncode}")
        process.kill()
        await process.wait()


class Relay:
    """Passes bytes on to the hub until it is told to cut."""

    def __init__(self, hub: int) -> None:
        self._hub = hub
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def serve(self, port: int) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", port)
        try:
            yield
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._hub)
        except OSError:
            writer.close()
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        finally:
            self._open -= {writer, back}

    @staticmethod
    async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while piece := await source.read(65536):
                target.write(piece)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()


class Notes:
    """What the edge noted: a line for each version of a pod it found or was told of."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[int]] = {}
        self.disordered = self.repeated = 0

    @classmethod
    def read(cls, path: Path) -> "Notes":
        notes = cls()
        for line in path.read_text().splitlines():
            name, number, again = line.split()
            known = notes.numbers.setdefault(name, [])
            notes.disordered += bool(known) and int(number) < known[-1]
            notes.repeated += int(again)
            known.append(int(number))
        return notes


# The edge's process


class Echo(StandIn):
    """Notes what it is told of, and reports the number on a pod as its status."""

    def __init__(self, bus: Bus, client: MetaClient, notes: Path) -> None:
        super().__init__(bus, client)
        self._meta = client
        self._notes = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers: dict[str, int] = {}
        self._senders: dict[str, asyncio.Task[None]] = {}
        self.on_pod = self._note

    def _note(self, pod: Document, again: bool) -> None:
        name, number = pod.meta.name, int((pod.meta.labels or {})["n"])
        os.write(self._notes, f"{name} {number} {int(again)}\n".encode())
        self._numbers[name] = number
        sender = self._senders.get(name)
        if sender is None or sender.done():
            self._senders[name] = spawn(self._report(name), name=f"report {name}")

    async def _report(self, name: str) -> None:
        said = 0
        while said != self._numbers[name]:
            number = self._numbers[name]
            patch = msgspec.json.encode({"status": {"message": str(number)}})
            try:
                await self._meta.patch(PODS, name, patch, "default", type=PatchType.STRATEGIC, subresource="status")
                said = number
            except ApiError:
                await asyncio.sleep(0.5)


async def _edge(folder: Path) -> None:
    clock, bus = SystemClock(), Bus()
    section = msgspec.convert(json.loads((folder / "edge.json").read_text()), HubConfig)
    async with edge_database(folder / "edgecore.db", clock) as database:
        identity = Identity(section, NODE, clock)
        while True:
            try:
                await identity.prepare()
                break
            except LinkClosed:
                await asyncio.sleep(0.5)
        echo = Echo(bus, MetaClient(bus, clock, timeout=60), folder / "told")
        modules: list[Any] = [
            MetaManager(bus, database, clock, NODE),
            EdgeHub(bus, database, clock, identity.dial, rate=1e6, burst=1000, backoff=QUICK),
        ]
        async with asyncio.TaskGroup() as group:
            for module in modules:
                group.create_task(module.run(lambda: None))
            group.create_task(echo.run())


def _write_edge_config(folder: Path, token: str, https: int, relayed: int) -> None:
    data = {
        "tlsCaFile": str(folder / "ca.crt"),
        "tlsCertFile": str(folder / "node.crt"),
        "tlsPrivateKeyFile": str(folder / "node.key"),
        "token": token,
        "httpServer": f"https://127.0.0.1:{https}",
        "websocket": {"enable": True, "server": f"127.0.0.1:{relayed}"},
    }
    (folder / "edge.json").write_text(json.dumps(data))


def _write_cloud_config(folder: Path, api: str, hub: int, https: int, monitor: int) -> None:
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    doors = {"websocket": {"address": "127.0.0.1", "port": hub}, "https": {"address": "127.0.0.1", "port": https}}
    data = {
        "commonConfig": {"monitorServer": {"bindAddress": f"127.0.0.1:{monitor}"}},
        "kubeAPIConfig": {"master": api},
        "modules": {
            "cloudHub": files | {"advertiseAddress": ["127.0.0.1"]} | doors,
            "cloudStream": {"enable": False},
        },
    }
    (folder / "cloud.json").write_text(json.dumps(data))


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    asyncio.run(_edge(Path(sys.argv[1])))
