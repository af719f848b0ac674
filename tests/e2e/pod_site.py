"""Edged on a real containerd with an API in memory, for the tests beside this file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, PODS, SECRETS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.edged.edged import Edged
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, EventType
from edgehive.kube.errors import NotFound
from edgehive.testing.cluster import Cluster

NODE = "edge-1"
BUSYBOX = "localhost/busybox:1"


class Site:
    """An API server in memory, an Edged on the real runtime, and what metamanager would pass between them."""

    def __init__(self, cluster: Cluster, containerd: PrivateContainerd, root: Path) -> None:
        self.api: Client = cluster.client()
        self._endpoint = containerd.endpoint
        self.root = root
        self._bus = Bus()
        #: Where the node's HTTP door is, while edged runs.
        self.door = ""

    @asynccontextmanager
    async def edged(self) -> AsyncIterator[Edged]:
        kubelet = TailoredKubeletConfig(container_runtime_endpoint=self._endpoint, read_only_port=0)
        config = EdgedConfig(root_directory=str(self.root), tailored_kubelet_config=kubelet, report_event=True)
        self._bus = Bus()
        edged = Edged(bus=self._bus, client=self.api, config=config, clock=SystemClock(), node_name=NODE)
        ready = asyncio.Event()
        tasks = [spawn(edged.run(ready.set), name="edged"), spawn(self._feed(), name="feed")]
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            self.door = f"http://127.0.0.1:{edged._port}"
            yield edged
        finally:
            await cancel_and_join(*tasks)

    async def _feed(self) -> None:
        """Pods, ConfigMaps and Secrets as messages."""
        async with asyncio.TaskGroup() as group:
            for resource in (PODS, CONFIG_MAPS, SECRETS):
                group.create_task(self._watch(resource))

    async def _watch(self, resource: Any) -> None:
        listed = await self.api.list(resource)
        operations = {EventType.ADDED: "insert", EventType.MODIFIED: "update", EventType.DELETED: "delete"}
        async for event in self.api.watch(resource, resource_version=listed.resource_version):
            if event.type in operations:
                meta = event.object.meta
                message = Message.of(
                    source="edgecontroller",
                    group="resource",
                    operation=operations[event.type],
                    resource=f"{meta.namespace}/{resource.edge_type}/{meta.name}",
                    content=event.object.to_dict(),
                    timestamp=0,
                )
                await self._bus.send("edged", message)

    async def create(self, name: str, **spec: Any) -> Document:
        spec.setdefault("containers", [container()])
        spec |= {"nodeName": NODE, "terminationGracePeriodSeconds": spec.get("terminationGracePeriodSeconds", 1)}
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        return await self.api.create(PODS, body, "default")

    async def status(self, name: str, wanted: Callable[[dict[str, Any]], Any], seconds: float = 30) -> dict[str, Any]:
        """The status once it is as wanted."""
        last: dict[str, Any] = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    last = (await self.api.get(PODS, name, "default")).to_dict().get("status", {})
                    if wanted(last):
                        return last
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} stayed at {last}") from None

    async def gone(self, name: str, seconds: float = 30) -> None:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.api.get(PODS, name, "default")
                except NotFound:
                    return
                await asyncio.sleep(0.05)

    def log(self, name: str, container: str = "c", attempt: int = 0) -> str:
        files = (self.root / "logs" / "pods").glob(f"default_{name}_*/{container}/{attempt}.log")
        lines = [line.split(" ", 3)[3] for file in files for line in file.read_text().splitlines()]
        return "\n".join(lines)


def container(script: str = "trap 'exit 0' TERM; while true; do sleep 0.1; done", **more: Any) -> dict[str, Any]:
    return {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], **more}


def running(status: dict[str, Any]) -> bool:
    ready = {item["type"]: item["status"] for item in status.get("conditions", ())}
    return status.get("phase") == "Running" and ready.get("Ready") == "True"


def first(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = (status.get("containerStatuses") or [{}])[0]
    return found


def named(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, **more}


async def until(check: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.05)
