"""CriClient and task events over a unix socket: answers, refusals, deadlines, a runtime that goes and comes."""

import asyncio
from pathlib import Path

import pytest

from edgehive.edgecore.edged.containerd import Containerd, TaskEvent, TaskEventKind
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.cri import FakeRuntime


def sandbox(uid: str = "u1", attempt: int = 0) -> cri.PodSandboxConfig:
    meta = cri.PodSandboxMetadata(name="p", namespace="ns", uid=uid, attempt=attempt)
    return cri.PodSandboxConfig(metadata=meta, labels={"io.kubernetes.pod.uid": uid})


def container(name: str = "c") -> cri.ContainerConfig:
    return cri.ContainerConfig(metadata=cri.ContainerMetadata(name=name), image=cri.ImageSpec(image="app:1"))


async def test_a_pods_whole_life(tmp_path: Path) -> None:
    runtime = FakeRuntime(images=["app:1"])
    async with runtime.serve(tmp_path / "cri.sock") as endpoint, CriClient(endpoint) as client:
        assert (await client.version()).runtime_name == "fake"
        assert all(item.status for item in (await client.status()).status.conditions)
        pod = await client.run_pod_sandbox(sandbox())
        assert (await client.pod_sandbox_status(pod)).network.ip.startswith("10.250.")
        made = await client.create_container(pod, container(), sandbox())
        await client.start_container(made)
        assert (await client.container_status(made)).state == cri.CONTAINER_RUNNING
        assert [item.id for item in await client.list_containers(sandbox_id=pod)] == [made]
        assert [item.id for item in await client.list_containers(state=cri.CONTAINER_EXITED)] == []
        assert [item.id for item in await client.list_pod_sandboxes(labels={"io.kubernetes.pod.uid": "u2"})] == []
        await client.stop_container(made, timeout=3)
        assert runtime.stops == {made: 3}
        await client.stop_pod_sandbox(pod)
        assert [item.id for item in await client.list_pod_sandboxes(ready=False)] == [pod]
        await client.remove_pod_sandbox(pod)
        assert not runtime.containers


async def test_a_refusal_carries_code_and_text(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    async with runtime.serve(tmp_path / "cri.sock") as endpoint, CriClient(endpoint) as client:
        with pytest.raises(RuntimeRefused) as missing:
            await client.container_status("none")
        assert missing.value.not_found
        assert not missing.value.transient
        runtime.fail("RunPodSandbox", "UNKNOWN", "failed to setup network")
        with pytest.raises(RuntimeRefused, match="RunPodSandbox: failed to setup network"):
            await client.run_pod_sandbox(sandbox())


async def test_a_slow_runtime_meets_the_deadline(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    runtime.delay("ListContainers", 60)
    async with runtime.serve(tmp_path / "cri.sock") as endpoint, CriClient(endpoint, timeout=0.01) as client:
        with pytest.raises(RuntimeRefused) as slow:
            await client.list_containers()
    assert slow.value.code == "DEADLINE_EXCEEDED"
    assert slow.value.transient


async def test_a_runtime_that_goes_and_comes_back_is_found_again(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    path = tmp_path / "cri.sock"
    async with CriClient(f"unix://{path}") as client:
        with pytest.raises(RuntimeRefused, match=r"no container runtime listens on .*: start containerd"):
            await client.version()
        for _ in range(2):
            async with runtime.serve(path):
                await client.version()
            with pytest.raises(RuntimeRefused) as gone:
                await client.version()
            assert gone.value.code == "UNAVAILABLE"


def test_an_endpoint_that_is_no_socket_is_refused() -> None:
    with pytest.raises(ValueError, match="write unix:///path/to/"):
        CriClient("tcp://127.0.0.1:1")


async def test_task_events_arrive_and_end_with_the_runtime(tmp_path: Path) -> None:
    runtime = FakeRuntime(images=["app:1"])
    client = runtime.client()
    seen: list[TaskEvent] = []
    subscribed = asyncio.Event()

    async def listen(endpoint: str) -> None:
        async with Containerd(endpoint) as events:
            async for event in events.task_events():
                seen.append(event)
                subscribed.set()

    async with asyncio.TaskGroup() as group:
        async with runtime.serve(tmp_path / "cri.sock") as endpoint:
            listener = group.create_task(_refused(listen(endpoint)))
            pod = await client.run_pod_sandbox(sandbox())
            made = await client.create_container(pod, container(), sandbox())
            async with asyncio.timeout(10):
                while not runtime._listeners:
                    await asyncio.sleep(0)
            await client.start_container(made)
            runtime.exit(made, 5)
            async with asyncio.timeout(10):
                await subscribed.wait()
                while len(seen) < 2:
                    await asyncio.sleep(0)
        assert (await listener).transient
    assert seen == [TaskEvent(TaskEventKind.START, made), TaskEvent(TaskEventKind.EXIT, made, 5)]


async def _refused(work: object) -> RuntimeRefused:
    with pytest.raises(RuntimeRefused) as caught:
        await work  # type: ignore[misc]
    return caught.value
