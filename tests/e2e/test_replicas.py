"""Three cloudcore processes behind a load balancer, an edge's streams and a fleet of hollow nodes; each killed in turn.

Issue 4, "Several cloudcores".
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from edgehive.api.core import Secret
from edgehive.api.registry import NODES, OBJECT_SYNCS, PODS, SECRETS
from edgehive.cloudcore.replicas.claims import claim_on
from edgehive.edgecore.edgestream.edgestream import EdgeStream, TunnelFiles
from edgehive.kit import tls
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.keypair import KeyPair
from edgehive.kit.ssl_contexts import client_context
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import load
from edgehive.testing.cloud_processes import BALANCER, CloudProcesses, cloud_processes
from edgehive.testing.cluster import Cluster
from edgehive.testing.fleet.fleet import Fleet, Plan
from edgehive.testing.fleet.node import HollowNode, Hub
from edgehive.testing.fleet.workload import Workload, join_token
from edgehive.testing.streams import FakeKubelet, echo
from edgehive.wire import join
from edgehive.wire.link import LinkClosed

NODES_IN_FLEET = 12
LOG = "/containerLogs/default/web/c"
EXEC = "/exec/default/web/c?command=cat&input=1&output=1"


@dataclass
class Trial:
    """What a story needs."""

    client: Client
    cloud: CloudProcesses
    token: str
    ca: KeyPair
    folder: Path

    @property
    def plan(self) -> Plan:
        hub = Hub(BALANCER, self.cloud.ports.hub, join.DEFAULT_PROJECT_ID)
        return Plan(NODES_IN_FLEET, hub, f"https://{BALANCER}:{self.cloud.ports.https}", self.token, shared_key=True)

    async def owners(self) -> set[str]:
        return {claim_on(node).replica for node in (await self.client.list(NODES)).items}

    # Streams

    def stream_context(self) -> ssl.SSLContext:
        # Each replica is asked by its own address, and its certificate names the balancer's.
        return client_context(self.ca.certificate)

    async def get(self, address: str, target: str) -> tuple[int, bytes]:
        reader, writer = await self._ask(address, f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        try:
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        return int(head.split(b" ", 2)[1]), body

    async def echo(self, address: str, data: bytes) -> bytes:
        """What comes back of what is typed into a command."""
        head = f"POST {EXEC} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        reader, writer = await self._ask(address, head)
        try:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            writer.write(data)
            return await reader.readexactly(len(data))
        finally:
            writer.close()

    async def _ask(self, address: str, head: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(
            address, self.cloud.ports.stream, ssl=self.stream_context(), server_hostname=BALANCER
        )
        writer.write(head.encode())
        return reader, writer

    @asynccontextmanager
    async def streaming_node(self, kubelet: FakeKubelet) -> AsyncIterator[None]:
        """The tunnel end of an edge, with a kubelet that answers from memory."""
        pair = tls.issue(
            self.ca,
            common_name="system:node:streamer",
            organizations=("system:nodes",),
            now=SystemClock().now(),
            lifetime=timedelta(days=1),
        )
        files = TunnelFiles(*(self.folder / f"streamer.{name}" for name in ("ca", "crt", "key")))
        for path, content in zip(files, (self.ca.certificate_pem, pair.certificate_pem, pair.key_pem), strict=True):
            path.write_bytes(content)
        await self.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {
            "name": "streamer", "labels": {"node-role.kubernetes.io/edge": ""}}})  # fmt: skip
        await self.client.create(PODS, {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "streamer", "containers": [{"name": "c", "image": "i"}]},
        }, "default")  # fmt: skip
        edge = EdgeStream(
            server=f"{BALANCER}:{self.cloud.ports.tunnel}",
            node_name="streamer",
            node_ip="192.0.2.7",
            files=(files,),
            kubelet=("127.0.0.1", kubelet.port),
            retry=Backoff(first=0.2, factor=1.5, limit=2.0, jitter=0.25),
        )
        running = spawn(edge.run(lambda: None), name="edgestream")
        try:
            yield
        finally:
            await cancel_and_join(running)


@asynccontextmanager
async def api_server() -> AsyncIterator[tuple[Client, dict[str, str]]]:
    """Ours, or the one whose kubeconfig EDGEHIVE_TRIAL_KUBECONFIG names; and the section kubeAPIConfig for it."""
    if kubeconfig := os.environ.get("EDGEHIVE_TRIAL_KUBECONFIG"):
        async with HttpClient(load(kubeconfig)) as client:
            yield client, {"kubeConfig": kubeconfig}
    else:
        async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as url:
            yield cluster.client(), {"master": url}


@asynccontextmanager
async def trial(folder: Path) -> AsyncIterator[Trial]:
    async with api_server() as (client, section), cloud_processes(folder, section) as cloud:
        data = (await client.get(SECRETS, "casecret", "kubeedge")).read(Secret).data or {}
        ca = KeyPair(data["cadata"], data["cakeydata"])
        try:
            yield Trial(client, cloud, await join_token(client), ca, folder)
        finally:
            for node in (await client.list(NODES)).items:
                await client.delete(NODES, node.meta.name)


async def until_it_answers(it: Trial, address: str) -> bytes:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, IndexError, ValueError):
                status, body = await it.get(address, LOG)
                if status == 200:
                    return body
            await asyncio.sleep(0.1)


async def stay_connected(fleet: Fleet, node: HollowNode) -> None:
    """As an edge does: half a second's pause at first."""
    while True:
        if not node.connected:
            await asyncio.sleep(0.5)
            with contextlib.suppress(LinkClosed):
                await node.connect()
                await node.renewed()
        await asyncio.sleep(0.05)


@pytest.mark.timeout(600)
async def test_logs_and_commands_through_each_replica_and_after_the_death_of_each(tmp_path: Path) -> None:
    async with trial(tmp_path) as it, FakeKubelet(logs={LOG: b"hello\n"}, upgraded=echo).serving() as kubelet:
        async with it.streaming_node(kubelet):
            addresses = [replica.address for replica in it.cloud.replicas]
            for address in addresses:
                assert b"hello" in await until_it_answers(it, address)
                assert await it.echo(address, b"typed" * 1000) == b"typed" * 1000
            for victim in it.cloud.replicas:
                await victim.kill()
                for address in addresses:
                    if address != victim.address:
                        assert b"hello" in await until_it_answers(it, address)
                        assert await it.echo(address, b"typed") == b"typed"
                await victim.start()
                await victim.ready(it.cloud.ports.stream)
        status, body = await it.get(addresses[0], LOG)
        assert status == 500 and b"node streamer has no tunnel to any cloudcore" in body


@pytest.mark.timeout(600)
async def test_each_replica_killed_in_turn_loses_no_pod_and_moves_its_nodes_within_seconds(tmp_path: Path) -> None:
    async with trial(tmp_path) as it, Fleet(it.plan) as fleet:
        await fleet.certify()
        await fleet.connect()
        await fleet.register()
        names = [node.name for node in fleet.nodes]
        assert len(await it.owners()) == 3
        async with Workload(it.client, "fleet", fleet.journal) as workload, asyncio.TaskGroup() as group:
            keepers = [group.create_task(stay_connected(fleet, node)) for node in fleet.nodes]
            expected = 0
            for number, victim in enumerate(it.cloud.replicas):
                await victim.kill()
                pods = [(f"pod-{number}-{name}", name) for name in names]
                await workload.create_pods(pods, lambda: None)
                expected += len(pods)
                async with asyncio.timeout(120):
                    while victim.name in await it.owners() or not all(node.connected for node in fleet.nodes):
                        await asyncio.sleep(0.1)
                    while len(workload.running) < expected:
                        await asyncio.sleep(0.1)
                await victim.start()
                await victim.ready(it.cloud.ports.hub)
            for keeper in keepers:
                keeper.cancel()
        assert {name for node in fleet.nodes for name in node.pods} == {
            f"default/pod/{name}" for name in workload.running
        }
        records = [item.meta.name for item in (await it.client.list(OBJECT_SYNCS)).items]
        assert len(records) == len(set(records)) == expected
