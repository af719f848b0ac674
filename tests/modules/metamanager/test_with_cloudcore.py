"""metamanager and edgehub against our own cloudcore in memory: what changed offline arrives, both ways."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.registry import CONFIG_MAPS, LEASES, NODES, PODS
from edgehive.beehive.bus import Bus
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.errors import Unreachable
from edgehive.testing.cloud import Cloud, cloud
from edgehive.wire.link import Peer

NODE = {
    "kind": "Node",
    "apiVersion": "v1",
    "metadata": {"name": "edge-1", "labels": {"node-role.kubernetes.io/edge": ""}},
}


class Edge:
    """The two modules, running, with edged's place taken by the test."""

    def __init__(self, bus: Bus, store: Metastore, client: MetaClient) -> None:
        self.bus, self.store, self.client = bus, store, client
        self.edged = bus.register("edged", "edged")

    async def hears(self, operation: str, resource: str) -> Any:
        """Wait until edged is told this; gives the object."""
        async with asyncio.timeout(20):
            message = await self.edged.get()
            while (message.route.operation, message.route.resource) != (operation, resource):
                message = await self.edged.get()
        return message.read(dict)


@asynccontextmanager
async def edge(path: Path, it: Cloud) -> AsyncIterator[Edge]:
    clock = SystemClock()
    bus = Bus()
    async with edge_database(path, clock) as database:
        manager = MetaManager(bus, database, clock, "edge-1", timeout=10)
        hub = EdgeHub(
            bus, database, clock, lambda: it.network.dial(Peer(node="edge-1")), rate=1e6, burst=1000,
            backoff=Backoff(first=0.01, factor=1.0, limit=0.01),
        )  # fmt: skip
        running = Edge(bus, Metastore(database), MetaClient(bus, clock, timeout=10))
        tasks = [spawn(module.run(lambda: None), name=module.name) for module in (manager, hub)]
        try:
            yield running
        finally:
            await cancel_and_join(*tasks)


async def connected(running: Edge) -> None:
    async with asyncio.timeout(20):
        async for message in running.edged:
            if message.route.resource == "node/connection" and message.content_bytes() == b"cloud_connected":
                return


async def patch(running: Edge, phase: str) -> Any:
    status = {"status": {"phase": phase}}
    return await running.client.patch(PODS, "web", status, "default", type=PatchType.STRATEGIC, subresource="status")


@pytest.fixture
async def it() -> AsyncIterator[Cloud]:
    async with cloud() as running:
        yield running


async def test_a_node_registers_runs_a_pod_and_reports_it(it, tmp_path):
    """[43]"""
    async with edge(tmp_path / "edgecore.db", it) as running:
        await connected(running)
        node = await running.client.create(NODES, NODE)
        assert node.meta.uid
        lease = {"metadata": {"name": "edge-1", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "edge-1"}}
        assert (await running.client.create(LEASES, lease)).meta.uid
        await it.pod("web", "edge-1", volumes=[{"name": "settings", "configMap": {"name": "cm"}}])
        pod = await running.hears("insert", "default/pod/web")
        assert pod["spec"]["nodeName"] == "edge-1"
        assert (await patch(running, "Running")).to_dict()["status"]["phase"] == "Running"
        api = it.cluster.client()
        assert (await api.get(PODS, "web", "default")).to_dict()["status"]["phase"] == "Running"
        await api.create(
            CONFIG_MAPS, {"metadata": {"name": "cm", "namespace": "default"}, "data": {"a": "1"}}, "default"
        )
        assert (await running.client.get(CONFIG_MAPS, "cm", "default")).to_dict()["data"] == {"a": "1"}


async def test_what_changed_meanwhile_arrives_on_both_sides(it, tmp_path):
    api = it.cluster.client()
    async with edge(tmp_path / "edgecore.db", it) as running:
        await connected(running)
        await running.client.create(NODES, NODE)
        for name in ("web", "doomed"):
            await it.pod(name, "edge-1")
            await running.hears("insert", f"default/pod/{name}")
    # The agent is away: one pod goes, another comes. A status is noted while there is no link.
    await api.delete(PODS, "doomed", "default", grace_period_seconds=0)
    await it.pod("late", "edge-1")
    async with edge(tmp_path / "edgecore.db", it) as running:
        names = {d.meta.name for d in (await running.client.list(PODS)).items}
        assert {"web", "doomed"} <= names
        with suppress(Unreachable):
            await patch(running, "Failed")
        assert (await running.hears("delete", "default/pod/doomed"))["metadata"]["name"] == "doomed"
        async with asyncio.timeout(20):
            while {d.meta.name for d in await running.store.all_of("pod")} != {"web", "late"}:
                await asyncio.sleep(0.01)
            while (await api.get(PODS, "web", "default")).to_dict()["status"]["phase"] != "Failed":
                await asyncio.sleep(0.01)
