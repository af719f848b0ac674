"""Where the devices' benchmark happens: API server, cloudcore, edgecore and mappers, each a process of its own.

edgecore has everything a node has, its pods' runtime included, where this is root and there is a containerd; the stand
runs one of its own for it. All listen on free ports of the loopback and keep everything in the given folder.
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from bench.own_cloud import OwnCloud, own_cloud, samples
from bench.report import resident_mib
from edgehive.api.registry import DEVICE_MODELS, DEVICES, NODES
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.edgesite.images import PAUSE
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, NotFound
from edgehive.testing.fleet.meter import Meter
from edgehive.testing.ports import free_ports

NODE = "bench-edge"
GROUP = "devices.kubeedge.io/v1beta1"
PATIENCE = 90.0
Json = dict[str, Any]


class StandFailed(Exception):
    """A part of it did not do what it should; the text says which, and what it said last."""


class Stand:
    """`device_stand` makes it."""

    def __init__(self, folder: Path, cloud: OwnCloud, containerd: str) -> None:
        self.folder = folder
        self.cloud = cloud
        self.has_pods = bool(containerd)
        self._containerd = containerd
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = free_ports(2)

    @property
    def client(self) -> Client:
        return self.cloud.client

    # Processes

    def pid(self, part: str) -> int:
        if part == "API server":
            return int((self.folder / "site" / "edgesite.pid").read_text())
        return self.cloud.pid if part == "cloudcore" else self._running[part].pid

    def processor(self, parts: Iterable[str]) -> dict[str, float]:
        """Seconds of processor time each has used so far."""
        return {part: Meter(self.pid(part)).cpu() for part in parts}

    def resident(self, part: str) -> float:
        return resident_mib(self.pid(part))

    async def reports_taken(self) -> float:
        """By edgecore since its start."""
        url = f"http://127.0.0.1:{self._ports[0]}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return samples(await answer.text())["edgehive_twin_reports_total"]

    def start_edgecore(self, hub: Mapping[str, int]) -> None:
        """With these settings of its link."""
        path = self.folder / "edgecore.yaml"
        path.write_text(yaml.safe_dump(self._edge_config(hub)))
        self._start("edgecore", "edgecore", "--log-level", "warning", "--config", str(path))

    def start_mapper(self, name: str, driver: str) -> None:
        self._start(name, "mapper", "run", driver, "--edge-socket", str(self.folder / "dmi.sock"))

    def stop(self, part: str) -> None:
        process = self._running.pop(part)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        for part in list(self._running):
            self.stop(part)

    async def until(self, what: str, ready: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Look again and again; raises StandFailed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while not await ready():
            for part, process in self._running.items():
                if process.poll() is not None:
                    raise StandFailed(f"waiting for {what}, but {part} ended: {self._last_line(part)}")
            if loop.time() > deadline:
                raise StandFailed(f"waited {seconds:.0f} s in vain for {what}")
            await asyncio.sleep(0.2)

    def _start(self, part: str, *words: str) -> None:
        with (self.folder / f"{part}.log").open("ab") as log:
            self._running[part] = subprocess.Popen(
                [sys.executable, "-m", "edgehive", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _last_line(self, part: str) -> str:
        lines = (self.folder / f"{part}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def _edge_config(self, hub: Mapping[str, int]) -> Json:
        monitor, kubelet = self._ports
        edge = self.folder / "edge"
        files = {f"tls{name}": str(edge / name) for name in ("CaFile", "CertFile", "PrivateKeyFile")}
        runtime = dict.fromkeys(("containerRuntimeEndpoint", "imageServiceEndpoint"), self._containerd)
        edged: Json = {"enable": False, "hostnameOverride": NODE}
        if self._containerd:
            edged |= {
                "enable": True,
                "nodeIP": "127.0.0.1",
                "podSandboxImage": PAUSE,
                "rootDirectory": str(edge / "kubelet"),
                "tailoredKubeletConfig": {"readOnlyPort": kubelet, "staticPodPath": str(edge / "static"), **runtime},
            }
        link: Json = {"httpServer": self.cloud.join_server, "token": self.cloud.token, "heartbeat": 5, **files, **hub}
        link["websocket"] = {"server": f"{self.cloud.hub.host}:{self.cloud.hub.port}"}
        return {
            "apiVersion": "edgecore.config.kubeedge.io/v1alpha2",
            "kind": "EdgeCore",
            "commonConfig": {"monitorServer": {"bindAddress": f"127.0.0.1:{monitor}"}},
            "database": {"dataSource": str(edge / "edgecore.db")},
            "modules": {
                "edgeHub": link,
                "edged": edged,
                "eventBus": {"enable": False},
                "edgeStream": {"enable": False},
                "deviceTwin": {"dmiSockPath": str(self.folder)},
            },
        }

    # Objects

    async def add_node(self) -> None:
        """edged registers it; where there is none nobody would."""
        body = {"metadata": {"name": NODE, "labels": {"node-role.kubernetes.io/edge": ""}}}
        if not self._containerd:
            try:
                await self.client.create(NODES, body)
            except AlreadyExists:
                return

        async def is_there() -> bool:
            try:
                await self.client.get(NODES, NODE)
            except NotFound:
                return False
            return True

        await self.until("the node", is_there)

    async def add_model(self, name: str, protocol: str, properties: list[Json], namespace: str = "default") -> None:
        meta = {"name": name, "namespace": namespace}
        await self.client.create(
            DEVICE_MODELS, {"metadata": meta, "spec": {"protocol": protocol, "properties": properties}}, namespace
        )

    async def add_device(self, name: str, model: str, spec: Json, namespace: str = "default") -> None:
        meta = {"name": name, "namespace": namespace}
        body = {"metadata": meta, "spec": {"deviceModelRef": {"name": model}, "nodeName": NODE, **spec}}
        await self.client.create(DEVICES, body, namespace)

    async def until_accepted(self, count: int) -> None:
        """The node has been told of so many devices."""

        async def told() -> bool:
            found = (await self.client.list(DEVICES)).items
            conditions = [(item.to_dict().get("status") or {}).get("conditions") or [] for item in found]
            good = sum(
                any(one["type"] == "Accepted" and one["status"] == "True" for one in each) for each in conditions
            )
            return good >= count

        await self.until(f"{count} devices to be accepted", told)


@asynccontextmanager
async def device_stand(folder: Path) -> AsyncIterator[Stand]:
    """A cloud, and what an edge needs; edge and mappers are started by the caller."""
    (folder / "edge").mkdir(parents=True)
    async with AsyncExitStack() as stack:
        endpoint = ""
        if os.geteuid() == 0 and shutil.which("containerd"):
            private = PrivateContainerd(folder / "cd", bridge=f"ehd{os.getpid() % 10**8}", subnet="10.89.79.0/24")
            await private.start()
            stack.push_async_callback(private.stop, purge=True)
            endpoint = private.endpoint
        cloud = await stack.enter_async_context(own_cloud(folder, 1, hub={"nodeMessageQPS": 2000}))
        stand = Stand(folder, cloud, endpoint)
        stack.callback(stand.stop_all)
        yield stand


class Written(asyncio.DatagramProtocol):
    """What the stamping driver tells of writes: `heard` has (value, microsecond)."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002
        value, at = data.split()
        self.heard.put_nowait((int(value), int(at)))


@asynccontextmanager
async def written() -> AsyncIterator[tuple[Written, int]]:
    """With the port it listens on."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Written, ("127.0.0.1", 0), family=socket.AF_INET)
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()
