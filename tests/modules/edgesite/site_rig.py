"""A cluster in memory with all controllers, the scheduler and pretend nodes: what the tests here stand on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.registry import LEASES, NODES, PODS, ApiResource
from edgehive.edgesite.controllers.roster import run_controllers
from edgehive.kit.clock import rfc3339, rfc3339_micro
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kit.tls import self_signed_ca
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.informer import Informer
from edgehive.testing.cluster import EPOCH, Cluster

Json = dict[str, Any]
AUTHORITY = self_signed_ca("test", datetime(2026, 1, 1, tzinfo=UTC), timedelta(days=3650))


class LoopClock:
    """The date follows the loop's (virtual) time."""

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=asyncio.get_running_loop().time())


class Site:
    """What a test talks to."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.client = cluster.client()
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self.refuse: set[str] = set()

    async def add_node(self, name: str, cpu: str = "4", pods: str = "110", labels: Json | None = None) -> None:
        """A node whose kubelet runs whatever it is given and sends heartbeats."""
        resources = {"cpu": cpu, "memory": "8Gi", "pods": pods}
        body = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "status": {"allocatable": resources, "capacity": resources},
        }
        await self.client.create(NODES, body)
        self.start_node(name)

    def start_node(self, name: str) -> None:
        self._nodes[name] = spawn(self._kubelet(name), name=f"kubelet {name}")

    async def stop_node(self, name: str) -> None:
        await cancel_and_join(self._nodes.pop(name))

    async def close(self) -> None:
        await cancel_and_join(*self._nodes.values())

    async def _kubelet(self, name: str) -> None:
        informer = Informer(self.client, PODS, field_selector=f"spec.nodeName={name}")
        async with asyncio.TaskGroup() as group:
            group.create_task(informer.run())
            group.create_task(self._heartbeat(name))
            async for change in informer.changes():
                if change.new is not None:
                    group.create_task(self._run_pod(change.new))

    async def _heartbeat(self, name: str) -> None:
        while True:
            now = LoopClock().now()
            lease = {
                "metadata": {"name": name, "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": rfc3339_micro(now)},
            }
            try:
                await self.client.patch(LEASES, name, lease, "kube-node-lease")
            except NotFound:
                await self.client.create(LEASES, lease, "kube-node-lease")
            conditions = [
                {"type": type, "status": status, "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": rfc3339(now)}
                for type, status in (
                    ("Ready", "True"),
                    ("MemoryPressure", "False"),
                    ("DiskPressure", "False"),
                    ("PIDPressure", "False"),
                )
            ]
            await self.client.patch(
                NODES, name, {"status": {"conditions": conditions}}, type=PatchType.STRATEGIC, subresource="status"
            )
            await asyncio.sleep(10)

    async def _run_pod(self, document: Document) -> None:
        pod = document.read(Pod)
        meta = pod.metadata
        try:
            if meta.deletion_timestamp:
                await self.client.delete(PODS, meta.name, meta.namespace, grace_period_seconds=0, uid=meta.uid)
            elif pod.status.phase in ("", "Pending") and pod.spec.containers[0].image not in self.refuse:
                await self.set_phase(meta.namespace, meta.name, "Running")
        except ApiError:
            return

    async def set_phase(self, namespace: str, name: str, phase: str) -> None:
        ready = "True" if phase == "Running" else "False"
        condition = {"type": "Ready", "status": ready, "lastTransitionTime": rfc3339(LoopClock().now())}
        status = {"phase": phase, "podIP": f"10.0.0.{hash(name) % 250 + 1}", "conditions": [condition]}
        patch = {"status": status}
        await self.client.patch(PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status")

    async def get(self, resource: ApiResource, name: str, namespace: str = "default") -> Json:
        return (await self.client.get(resource, name, namespace if resource.namespaced else "")).to_dict()

    async def items(self, resource: ApiResource, namespace: str = "default", labels: str = "") -> list[Json]:
        space = namespace if resource.namespaced else ""
        return [item.to_dict() for item in (await self.client.list(resource, space, label_selector=labels)).items]

    async def until(self, condition: Callable[[], Any], timeout: float = 60.0) -> Any:
        """Wait (in virtual time) until the awaited condition is truthy."""
        async with asyncio.timeout(timeout):
            while True:
                try:
                    found = await condition()
                except NotFound:
                    found = None
                if found:
                    return found
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running_site() -> AsyncIterator[Site]:
    """A cluster with its controllers."""
    clock = LoopClock()
    async with Cluster(clock=clock) as cluster:
        controllers = spawn(
            run_controllers(lambda name: cluster.client(f"system:{name}"), AUTHORITY, "test", clock),
            name="controllers",
        )
        site = Site(cluster)
        try:
            yield site
        finally:
            await site.close()
            await cancel_and_join(controllers)
        if not controllers.cancelled():
            controllers.result()


async def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait until it is true of real processes."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
