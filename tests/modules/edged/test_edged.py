"""Edged over a runtime in memory and an API in memory: what it does when the world misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.document import Document
from edgehive.api.registry import LEASES, NODES, PODS, ApiResource
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.edged.edged import Edged
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import DocumentList
from edgehive.kube.errors import NotFound, Unreachable
from edgehive.testing.cluster import Cluster
from edgehive.testing.cri import FakeRuntime

NODE = "edge-1"


class Flaky:
    """A client that can lose its connection, as MetaClient does: reads go on, writes are Unreachable."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.connected = True
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def patch(self, resource: ApiResource, *arguments: Any, **options: Any) -> Document:
        if not self.connected:
            raise Unreachable("connection lost between EdgeCore and CloudCore")
        self.sent += resource is PODS
        found: Document = await self._client.patch(resource, *arguments, **options)
        return found

    async def delete(self, *arguments: Any, **options: Any) -> Document | None:
        if not self.connected:
            raise Unreachable("connection lost between EdgeCore and CloudCore")
        found: Document | None = await self._client.delete(*arguments, **options)
        return found

    async def list(self, *arguments: Any, **options: Any) -> DocumentList:
        found: DocumentList = await self._client.list(*arguments, **options)
        return found


class Rig:
    def __init__(self, cluster: Cluster, root: Path) -> None:
        self.api = cluster.client()
        self.client = Flaky(self.api)
        self.runtime = FakeRuntime(images=["localhost/busybox:1"])
        self.root = root
        self.bus = Bus()
        self.edged: Edged

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Edged]:
        kubelet = TailoredKubeletConfig(read_only_port=0)
        config = EdgedConfig(root_directory=str(self.root), tailored_kubelet_config=kubelet)
        self.bus = Bus()
        self.edged = Edged(
            bus=self.bus,
            client=self.client,  # type: ignore[arg-type]
            config=config,
            clock=SystemClock(),
            node_name=NODE,
            cri=self.runtime.client(),
        )
        ready = asyncio.Event()
        task = spawn(self.edged.run(ready.set), name="edged")
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            yield self.edged
        finally:
            await cancel_and_join(task)

    async def tell(self, operation: str, resource: str, content: Any) -> None:
        message = Message.of(
            source="edgecontroller",
            group="resource",
            operation=operation,
            resource=resource,
            content=content,
            timestamp=0,
        )
        await self.bus.send("edged", message)

    async def create(self, name: str, **spec: Any) -> dict[str, Any]:
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "localhost/busybox:1"}], **spec}
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        return (await self.api.create(PODS, body, "default")).to_dict()

    async def start(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create it and see it run."""
        made = await self.create(name, **spec)
        await self.tell("insert", f"default/pod/{name}", made)
        await self.until(name, lambda status: status.get("phase") == "Running")
        return made

    async def until(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        last: dict[str, Any] = {}
        try:
            async with asyncio.timeout(8):
                while True:
                    last = (await self.api.get(PODS, name, "default")).to_dict()["status"]
                    if wanted(last):
                        return last
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{name} stayed at {last}") from None


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(8):
        while not check():
            await asyncio.sleep(0.01)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with Cluster(clock=SystemClock()) as cluster:
        yield Rig(cluster, tmp_path)


async def test_pods_of_the_local_store_run_with_the_cloud_away(rig: Rig) -> None:
    await rig.create("web")
    rig.client.connected = False
    async with rig.running():
        await until(lambda: rig.runtime.running("c"))
        rig.client.connected = True
        await rig.tell("connect", "node/connection", "cloud_connected")
        await rig.until("web", lambda status: status.get("phase") == "Running")


async def test_the_newest_status_alone_is_sent_after_an_outage(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        rig.client.connected = False
        sent = rig.client.sent
        for _ in range(3):
            (container,) = rig.runtime.running("c")
            rig.runtime.exit(container, 1)
            await until(lambda before=container: rig.runtime.running("c") not in ([], [before]) or _waits(rig))
            if _waits(rig):
                break
        rig.client.connected = True
        await rig.tell("connect", "node/connection", "cloud_connected")
        found = await rig.until("web", lambda status: status["containerStatuses"][0]["restartCount"] == 1)
        assert found["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
        assert rig.client.sent - sent <= 2


def _waits(rig: Rig) -> bool:
    return any(
        "waiting" in item["state"]
        for worker in rig.edged._pods
        for item in rig.edged._reporter.last(worker.uid)["containerStatuses"]
    )


async def test_an_object_without_kind_or_uid_is_refused_and_counted(rig: Rig) -> None:
    async with rig.running() as edged:
        made = await rig.start("web")
        for broken in (made | {"kind": ""}, made | {"metadata": {"name": "x", "namespace": "default"}}, {}, "text"):
            await rig.tell("update", "default/pod/web", broken)
        await until(lambda: edged._refused._value.get() == 4)
        assert len(rig.runtime.running("c")) == 1


async def test_an_empty_store_stops_nothing(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
    containers = rig.runtime.running("c")

    async def nothing(*_: Any, **__: Any) -> DocumentList:
        return DocumentList([], "1")

    rig.client.list = nothing  # type: ignore[method-assign]
    async with rig.running():
        await asyncio.sleep(0.1)
        assert rig.runtime.running("c") == containers


async def test_a_restarted_edged_adopts_containers(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        before = list(rig.runtime.containers)
    async with rig.running():
        await asyncio.sleep(0.1)
        assert list(rig.runtime.containers) == before
        assert len(rig.runtime.sandboxes) == 1


async def test_after_a_reboot_the_pod_gets_a_new_sandbox_and_keeps_its_count(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
    rig.runtime.reboot()
    async with rig.running():
        found = await rig.until(
            "web",
            lambda status: (
                "running" in status["containerStatuses"][0]["state"]
                and status["containerStatuses"][0]["restartCount"] == 1
            ),
        )
    assert found["phase"] == "Running"


async def test_a_deleted_pod_is_confirmed_once_its_containers_are_gone(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        terminating = (await rig.api.delete(PODS, "web", "default", grace_period_seconds=5)).to_dict()  # type: ignore[union-attr]
        await rig.tell("update", "default/pod/web", terminating)
        await until(lambda: not rig.runtime.running("c"))
        await _gone(rig, "web")
        await rig.tell("delete", "default/pod/web", terminating)
        await until(lambda: not rig.runtime.sandboxes)
        assert list((rig.root / "pods").iterdir()) == []


async def test_a_forced_deletion_stops_the_containers_too(rig: Rig) -> None:
    async with rig.running():
        made = await rig.start("web")
        await rig.api.delete(PODS, "web", "default", grace_period_seconds=0)
        await rig.tell("delete", "default/pod/web", made)
        await until(lambda: not rig.runtime.sandboxes)


async def test_a_removal_noted_before_a_crash_is_finished_afterwards(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehive.edgecore.edged.housekeeping._ORPHANS_SECONDS", 0.05)
    async with rig.running():
        made = await rig.start("web")
    (rig.root / "pods" / made["metadata"]["uid"] / "deleted").touch()
    await rig.api.delete(PODS, "web", "default", grace_period_seconds=0)
    async with rig.running():
        await until(lambda: not rig.runtime.sandboxes)


async def test_a_delete_for_another_uid_touches_nothing(rig: Rig) -> None:
    async with rig.running():
        made = await rig.start("web")
        other = made | {"metadata": made["metadata"] | {"uid": "another"}}
        await rig.tell("delete", "default/pod/web", other)
        await asyncio.sleep(0.1)
        assert rig.runtime.running("c")


async def test_a_missing_runtime_is_said_in_the_nodes_status_and_outlived(rig: Rig) -> None:
    rig.runtime.fail(
        "Version", "UNAVAILABLE", "no container runtime listens on /run/x.sock: start containerd", times=1000
    )
    async with rig.running() as edged:
        async with asyncio.timeout(8):
            while True:
                try:
                    node = (await rig.api.get(NODES, NODE)).to_dict()
                    break
                except NotFound:
                    await asyncio.sleep(0.01)
        ready = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
        assert ready["status"] == "False"
        assert "start containerd" in ready["message"]
        rig.runtime._faults.clear()
        edged._node.look_now()
        await _node_ready(rig)


async def test_a_node_deleted_by_somebody_registers_again_with_its_lease(rig: Rig) -> None:
    async with rig.running() as edged:
        await _node_ready(rig)
        first = (await rig.api.get(NODES, NODE)).meta.uid
        await rig.api.delete(NODES, NODE)
        edged._node.cloud_connected()
        node = await _node_ready(rig)
        assert node["metadata"]["uid"] != first
        assert node["metadata"]["labels"]["node-role.kubernetes.io/edge"] == ""
        assert (await rig.api.get(LEASES, NODE, "kube-node-lease")).to_dict()["spec"]["holderIdentity"] == NODE


async def _node_ready(rig: Rig) -> dict[str, Any]:
    async with asyncio.timeout(8):
        while True:
            try:
                node = (await rig.api.get(NODES, NODE)).to_dict()
                if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ())):
                    return node
            except NotFound:
                pass
            await asyncio.sleep(0.01)


async def _gone(rig: Rig, name: str) -> None:
    async with asyncio.timeout(8):
        while True:
            try:
                await rig.api.get(PODS, name, "default")
            except NotFound:
                return
            await asyncio.sleep(0.01)
