"""Three cloudcores behind a load balancer, each killed in turn; and one cloudcore with one and with two workers.

All processes are on this machine, over our API server in a process of its own. Nodes are hollow and come back as our
edge does. Seconds depend on what else the machine does; costs are processor time of the cloudcores alone.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.report import Figure, at_most
from edgehive.api.registry import NODES, OBJECT_SYNCS
from edgehive.cloudcore.replicas.claims import claim_on
from edgehive.edgecore.edgehub.edgehub import RECONNECT
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import load
from edgehive.testing.cloud_processes import BALANCER, CloudProcesses, cloud_processes
from edgehive.testing.fleet.fleet import Fleet, Plan
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.fleet.node import HollowNode, Hub
from edgehive.testing.fleet.workload import Workload, join_token
from edgehive.testing.ports import free_port
from edgehive.wire import join
from edgehive.wire.link import LinkClosed

SIZE = int(os.environ.get("EDGEHIVE_REPLICAS_NODES", "100"))
#: Pods for each node in the trial of workers.
PODS = 10
PATIENCE = 120.0
REST_SECONDS = 30.0


def run() -> list[Figure]:
    return asyncio.run(_measure())


async def _measure() -> list[Figure]:
    figures = await _kills()
    for workers in (1, 2):
        figures += await _throughput(workers)
    return figures


# Kills


class Returning:
    """Nodes that come back by themselves; `returned` has when each was served again after the last `reset`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._tasks = [spawn(self._stay(node), name=f"return {node.name}") for node in fleet.nodes]
        self.returned: dict[str, float] = {}

    def reset(self) -> None:
        self.returned.clear()

    async def _stay(self, node: HollowNode) -> None:
        while True:
            await asyncio.sleep(0.01)
            if node.connected:
                continue
            for delay in RECONNECT.delays():
                await asyncio.sleep(delay)
                with contextlib.suppress(LinkClosed):
                    await node.connect()
                    await node.renewed()
                    break
            self.returned[node.name] = perf_counter()

    async def close(self) -> None:
        await cancel_and_join(*self._tasks)


async def _kills() -> list[Figure]:
    async with _cloud(3) as (client, cloud, fleet), Workload(client, "fleet", fleet.journal) as workload:
        returning = Returning(fleet)
        rest = await _idle(cloud)
        moved: list[float] = []
        created = 0
        for number, victim in enumerate(cloud.replicas):
            print(f"  killing {victim.name}", file=sys.stderr, flush=True)
            owned = {node.meta.name for node in (await client.list(NODES)).items if _owner(node) == victim.name}
            returning.reset()
            killed = perf_counter()
            await victim.kill()
            pods = [(f"pod-{number}-{node.name}", node.name) for node in fleet.nodes]
            await workload.create_pods(pods, lambda: None)
            created += len(pods)
            await _until(lambda wanted=owned: wanted <= returning.returned.keys())
            await _until(lambda wanted=created: len(workload.running) >= wanted)
            moved += [returning.returned[name] - killed for name in owned]
            await victim.start()
            await victim.ready(cloud.ports.hub)
        await returning.close()
        lost = created - len({name for node in fleet.nodes for name in node.pods})
        records = len((await client.list(OBJECT_SYNCS)).items)
        again = fleet.journal.counts["pods delivered"] - created
    tail = f"(3 replicas, {SIZE} nodes, each killed in turn)"
    return [
        Figure(f"nodes moved {tail}", float(len(moved)), ""),
        at_most(f"killed to served by another, p50 {tail}", quantile(moved, 0.5), "s", 5),
        at_most(f"killed to served by another, last {tail}", max(moved), "s", 10),
        at_most(f"pods created meanwhile and lost {tail}", float(lost), "", 0),
        at_most(f"pods created meanwhile and delivered again {tail}", float(again), "", 0),
        at_most(f"delivery records too many or too few {tail}", float(abs(records - created)), "", 0),
        Figure(f"a replica at rest (3 replicas, {SIZE} nodes)", round(rest, 5), "cores"),
    ]


async def _idle(cloud: CloudProcesses) -> float:
    """Of one replica, nodes that keep alive included."""
    await asyncio.sleep(5)
    before = sum(replica.processor_seconds() for replica in cloud.replicas)
    await asyncio.sleep(REST_SECONDS)
    used = sum(replica.processor_seconds() for replica in cloud.replicas) - before
    return used / REST_SECONDS / len(cloud.replicas)


def _owner(node: Any) -> str:
    return claim_on(node).replica


# Workers


async def _throughput(workers: int) -> list[Figure]:
    print(f"  {workers} worker(s)", file=sys.stderr, flush=True)
    async with _cloud(1, workers) as (client, cloud, fleet), Workload(client, "fleet", fleet.journal) as workload:
        (replica,) = cloud.replicas
        pods = [(f"pod-{number}-{node.name}", node.name) for number in range(PODS) for node in fleet.nodes]
        used, began = replica.processor_seconds(), perf_counter()
        await workload.create_pods(pods, lambda: None)
        await _until(lambda: len(fleet.journal.delivered) >= len(pods))
        seconds = perf_counter() - began
        await _until(lambda: len(workload.running) >= len(pods))
        whole = perf_counter() - began
        await asyncio.sleep(5)
        used = replica.processor_seconds() - used
        owners = [_owner(node) for node in (await client.list(NODES)).items]
    tail = f"({workers} worker{'s' if workers > 1 else ''}, {SIZE} nodes, {len(pods)} pods)"
    share = max(owners.count(owner) for owner in set(owners)) / len(owners)
    return [
        Figure(f"pods delivered {tail}", round(len(pods) / seconds, 1), "1/s"),
        Figure(f"pods created to Running {tail}", round(len(pods) / whole, 1), "1/s"),
        Figure(f"pod, create to Running {tail}", round(used / len(pods) * 1000, 3), "ms CPU"),
        Figure(f"nodes at the busiest worker {tail}", round(share * 100, 1), "%"),
    ]


# The cloud


@asynccontextmanager
async def _cloud(replicas: int, workers: int = 1) -> AsyncIterator[tuple[Client, CloudProcesses, Fleet]]:
    """An API server, cloudcores and a fleet that has registered."""
    with tempfile.TemporaryDirectory(prefix="ehr-") as name:
        folder = Path(name)
        async with (
            _api_server(folder / "site") as kubeconfig,
            HttpClient(load(str(kubeconfig))) as client,
            cloud_processes(folder, {"kubeConfig": str(kubeconfig)}, replicas, workers=workers, streams=False) as cloud,
        ):
            hub = Hub(BALANCER, cloud.ports.hub, join.DEFAULT_PROJECT_ID)
            plan = Plan(SIZE, hub, f"https://{BALANCER}:{cloud.ports.https}", await join_token(client), shared_key=True)
            async with Fleet(plan) as fleet:
                await fleet.certify()
                await fleet.connect()
                await fleet.register()
                yield client, cloud, fleet


@asynccontextmanager
async def _api_server(folder: Path) -> AsyncIterator[Path]:
    words = ("edgesite", "up", "--no-node", "--data", str(folder), "--port", str(free_port()))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgehive", *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    kubeconfig = folder / "kubeconfig"
    try:
        async with asyncio.timeout(PATIENCE):
            while not (kubeconfig.exists() and await _answers(kubeconfig)):
                await asyncio.sleep(0.2)
        yield kubeconfig
    finally:
        process.terminate()
        await process.wait()


async def _answers(kubeconfig: Path) -> bool:
    try:
        async with HttpClient(load(str(kubeconfig))) as client:
            await client.list(NODES)
    except Exception:
        return False
    return True


async def _until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)
