"""A node with MetaServer on a port of its own: metamanager and devicetwin over a database, a hub without a cloud."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from edgehive.api.registry import DEVICES, ApiResource
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import LocalApi, MetaManager
from edgehive.kit.clock import FixedClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import ClusterAccess
from edgehive.testing.ports import free_port
from edgehive.wire.payloads import connection_notice

NODE = "edge-1"


class Site:
    """One running node; the test is its application (`client`) and its cloud (`push`)."""

    def __init__(self, bus: Bus, client: HttpClient, url: str, manager: MetaManager) -> None:
        self.bus, self.client, self.url, self.manager = bus, client, url, manager
        #: As edged speaks to metamanager.
        self.own = MetaClient(bus, FixedClock(datetime(2026, 1, 1, tzinfo=UTC)), timeout=5)
        self.hub = bus.register("websocket", "hub", size=10_000)
        self.edged = bus.register("edged", "edged", size=10_000)

    async def push(self, obj: dict[str, Any], operation: str = "insert", *, source: str = "devicecontroller") -> None:
        """The cloud sends an object, and it is here when this returns."""
        meta = obj["metadata"]
        message = Message.of(
            source=source,
            group="resource",
            operation=operation,
            resource=f"{meta.get('namespace') or 'null'}/{obj['kind'].lower()}/{meta['name']}",
            content=obj,
            timestamp=1,
        )
        await self.bus.send("metamanager", message)
        async with asyncio.timeout(10):
            while (await self.hub.get()).header.parent_id != message.id:
                pass

    async def publish(self, topic: str, content: Any) -> None:
        """An application says something over MQTT."""
        payload = msgspec.json.encode(content).decode()
        message = Message.of(
            source="bus", group="user", operation="response", resource=topic, content=payload, timestamp=1
        )
        await self.bus.send("twin", message)

    async def connect(self) -> None:
        await self.bus.send("metamanager", connection_notice(True, timestamp=1))

    async def device(self, name: str = "d") -> dict[str, Any]:
        return (await self.client.get(DEVICES, name, "default")).to_dict()

    async def merge(self, resource: ApiResource, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return (await self.client.patch(resource, name, patch, "default", type=PatchType.MERGE)).to_dict()


@asynccontextmanager
async def running_site(path: Path) -> AsyncIterator[Site]:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with edge_database(path, clock) as database:
        bus, port = Bus(), free_port()
        own = MetaClient(bus, clock, timeout=5)
        manager = MetaManager(bus, database, clock, NODE, timeout=5, client=own, local_api=LocalApi("127.0.0.1", port))
        twin = DeviceTwin(bus, database, clock, NODE, local_api=True)
        url = f"http://127.0.0.1:{port}"
        async with HttpClient(ClusterAccess(server=url)) as client:
            site = Site(bus, client, url, manager)
            tasks = []
            for module in (manager, twin):
                ready = asyncio.Event()
                tasks.append(spawn(module.run(ready.set), name=module.name))
                await ready.wait()
            try:
                await _answers(client)
                yield site
            finally:
                await cancel_and_join(*tasks)


async def _answers(client: HttpClient) -> None:
    from edgehive.kube.errors import Unreachable

    async with asyncio.timeout(10):
        while True:
            try:
                await client.list(DEVICES)
                return
            except Unreachable:
                await asyncio.sleep(0.01)


def device(version: int = 10, uid: str = "u1", name: str = "d", node: str = NODE, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": str(version)},
        "spec": {
            "nodeName": node,
            "deviceModelRef": {"name": "m"},
            "protocol": {"protocolName": "virtual", "configData": {"port": 1}},
            "properties": [{"name": "t", "desired": {"value": "20"}, "reportCycle": 1000}],
            **spec,
        },
    }


def model(version: int = 5) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "m", "namespace": "default", "uid": "m1", "resourceVersion": str(version)},
        "spec": {"protocol": "virtual", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite"}]},
    }
