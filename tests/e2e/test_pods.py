"""Edged on a real containerd: what a user's pod needs, and what survives a restart of the agent."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, PODS, SECRETS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.edged import Edged
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, EventType
from edgehive.kube.errors import NotFound
from edgehive.testing.cluster import Cluster

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(180)]

NODE = "edge-1"
BUSYBOX = "localhost/busybox:1"


class Site:
    """An API server in memory, an Edged on the real runtime, and what metamanager would pass between them."""

    def __init__(self, cluster: Cluster, containerd: PrivateContainerd, root: Path) -> None:
        self.api: Client = cluster.client()
        self._endpoint = containerd.endpoint
        self.root = root
        self._bus = Bus()

    @asynccontextmanager
    async def edged(self) -> AsyncIterator[Edged]:
        kubelet = TailoredKubeletConfig(container_runtime_endpoint=self._endpoint, read_only_port=0)
        config = EdgedConfig(root_directory=str(self.root), tailored_kubelet_config=kubelet)
        self._bus = Bus()
        edged = Edged(bus=self._bus, client=self.api, config=config, clock=SystemClock(), node_name=NODE)
        ready = asyncio.Event()
        tasks = [spawn(edged.run(ready.set), name="edged"), spawn(self._feed(), name="feed")]
        try:
            async with asyncio.timeout(10):
                await ready.wait()
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


@pytest.fixture
async def site(containerd: PrivateContainerd, cri: CriClient, tmp_path: Path) -> AsyncIterator[Site]:
    async with Cluster(clock=SystemClock()) as cluster:
        yield Site(cluster, containerd, tmp_path)


async def test_a_pod_runs_and_says_so(site: Site) -> None:
    async with site.edged():
        await site.create("plain")
        status = await site.status("plain", running)
    assert status["podIP"] == status["podIPs"][0]["ip"] != status["hostIP"]
    assert first(status)["containerID"].startswith("containerd://")
    assert first(status)["restartCount"] == 0


async def test_env_and_volumes_come_from_configmaps_and_secrets_and_follow_them(site: Site) -> None:
    await site.api.create(CONFIG_MAPS, _object("ConfigMap", "settings", data={"color": "blue"}), "default")
    await site.api.create(SECRETS, _object("Secret", "key", stringData={"pin": "1234"}), "default")
    pod = container(
        "echo $COLOR $PIN $NAME; while true; do cat /etc/settings/color; echo; sleep 0.1; done",
        env=[
            {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
        envFrom=[{"prefix": "", "secretRef": {"name": "key"}}],
        volumeMounts=[{"name": "settings", "mountPath": "/etc/settings"}],
    )
    pod["env"].append({"name": "PIN", "valueFrom": {"secretKeyRef": {"name": "key", "key": "pin"}}})
    async with site.edged():
        await site.create(
            "configured", containers=[pod], volumes=[{"name": "settings", "configMap": {"name": "settings"}}]
        )
        await site.status("configured", running)
        await _until(lambda: "blue 1234 configured" in site.log("configured"))
        await site.api.patch(CONFIG_MAPS, "settings", {"data": {"color": "green"}}, "default")
        await _until(lambda: site.log("configured").endswith("green"))


async def test_init_containers_run_in_order_before_the_pod(site: Site) -> None:
    mounts = [{"name": "work", "mountPath": "/scratch"}]
    inits = [
        {**container("echo one >> /scratch/log", volumeMounts=mounts), "name": "first"},
        {**container("echo two >> /scratch/log", volumeMounts=mounts), "name": "second"},
    ]
    main = container("cat /scratch/log", volumeMounts=mounts)
    async with site.edged():
        await site.create("steps", initContainers=inits, containers=[main], volumes=[{"name": "work", "emptyDir": {}}],
                          restartPolicy="Never")  # fmt: skip
        await site.status("steps", lambda status: status.get("phase") == "Succeeded")
        assert site.log("steps") == "one\ntwo"


async def test_a_failing_container_is_restarted_then_waits_in_back_off(site: Site) -> None:
    async with site.edged():
        await site.create("crash", containers=[container("exit 3")])
        status = await site.status(
            "crash",
            lambda status: first(status).get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff",
        )
    assert first(status)["restartCount"] == 1
    assert first(status)["lastState"]["terminated"]["exitCode"] == 3
    assert first(status)["lastState"]["terminated"]["reason"] == "Error"


async def test_never_and_on_failure_end_as_kubernetes_says(site: Site) -> None:
    async with site.edged():
        await site.create("done", containers=[container("exit 0")], restartPolicy="OnFailure")
        await site.create("lost", containers=[container("exit 7")], restartPolicy="Never")
        await site.status("done", lambda status: status.get("phase") == "Succeeded")
        lost = await site.status("lost", lambda status: status.get("phase") == "Failed")
    assert first(lost)["state"]["terminated"]["exitCode"] == 7


async def test_deletion_runs_the_hook_gives_grace_and_leaves_nothing(site: Site, cri: CriClient) -> None:
    mounts = [{"name": "out", "mountPath": "/out"}]
    out = site.root / "out"
    pod = container(
        "trap 'echo stopped >> /out/log; exit 0' TERM; while true; do sleep 0.1; done",
        lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo hook >> /out/log"]}}},
        volumeMounts=mounts,
    )
    async with site.edged():
        volume = {"name": "out", "hostPath": {"path": str(out), "type": "DirectoryOrCreate"}}
        await site.create("polite", containers=[pod], terminationGracePeriodSeconds=10, volumes=[volume])
        uid = (await site.api.get(PODS, "polite", "default")).meta.uid
        await site.status("polite", running)
        await site.api.delete(PODS, "polite", "default")
        await site.gone("polite")
        assert (out / "log").read_text() == "hook\nstopped\n"
        await _until(lambda: not (site.root / "pods" / uid).exists())
        async with asyncio.timeout(10):
            while await cri.list_pod_sandboxes(labels={"io.kubernetes.pod.uid": uid}):
                await asyncio.sleep(0.05)


async def test_host_network_pods_have_the_nodes_address(site: Site) -> None:
    async with site.edged():
        await site.create("host", hostNetwork=True)
        status = await site.status("host", running)
    assert status["podIP"] == status["hostIP"]


async def test_a_new_edged_adopts_what_runs(site: Site, cri: CriClient) -> None:
    async with site.edged():
        for number in range(3):
            await site.create(f"kept-{number}")
        before = {n: first(await site.status(f"kept-{n}", running))["containerID"] for n in range(3)}
    async with site.edged():
        await asyncio.sleep(2)
        after = {n: first(await site.status(f"kept-{n}", running)) for n in range(3)}
        assert {n: item["containerID"] for n, item in after.items()} == before
        assert {item["restartCount"] for item in after.values()} == {0}
        assert len(await cri.list_containers()) == 3


async def test_pods_come_back_when_every_container_is_gone(site: Site, cri: CriClient) -> None:
    async with site.edged():
        await site.create("phoenix")
        before = first(await site.status("phoenix", running))["containerID"]
    for sandbox in await cri.list_pod_sandboxes():
        await cri.stop_pod_sandbox(sandbox.id)
        await cri.remove_pod_sandbox(sandbox.id)
    async with site.edged():
        again = await site.status(
            "phoenix", lambda status: running(status) and first(status).get("containerID") != before
        )
    assert first(again)["restartCount"] == 1


async def test_a_missing_configmap_is_named_and_its_arrival_starts_the_pod(site: Site) -> None:
    variable = {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "x"}}}
    async with site.edged():
        await site.create("waits", containers=[container(env=[variable])])
        status = await site.status(
            "waits",
            lambda status: (
                first(status).get("state", {}).get("waiting", {}).get("reason") == "CreateContainerConfigError"
            ),
        )
        assert first(status)["state"]["waiting"]["message"] == 'configmap "late" not found'
        await site.api.create(CONFIG_MAPS, _object("ConfigMap", "late", data={"x": "1"}), "default")
        await site.status("waits", running, seconds=8)


async def test_a_readiness_probe_decides_ready(site: Site) -> None:
    probe = {"exec": {"command": ["cat", "/tmp/ready"]}, "periodSeconds": 1}
    async with site.edged():
        await site.create("probed", containers=[container("sleep 2; touch /tmp/ready; sleep 60", readinessProbe=probe)])
        status = await site.status("probed", lambda status: status.get("phase") == "Running")
        assert first(status)["ready"] is False
        await site.status("probed", running)


def _object(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, **more}


async def _until(check: Callable[[], bool], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not check():
            await asyncio.sleep(0.05)
