"""Pods made by podspec really run in containerd: network, environment, limits, logs, ports, restarts, images."""

import asyncio
import ipaddress
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from edgehive.api.core import Pod
from edgehive.edgecore.edged.containerd import Containerd, TaskEventKind
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.images import ImageError, ImagePuller
from edgehive.edgecore.edged.logs import LogFile, LogOptions, read_log
from edgehive.edgecore.edged.podspec import ContainerFacts, Node, PodFacts, container_config, log_path, sandbox_config
from edgehive.edgesite.containerd import ContainerdUnavailable, PrivateContainerd
from edgehive.edgesite.images import (
    BUSYBOX,
    HELLO,
    Image,
    busybox_image,
    import_image,
    pause_image,
    read_archive,
    write_archive,
)
from edgehive.protos import cri_pb2

pytestmark = pytest.mark.containerd


@dataclass
class Running:
    """A pod with one started container."""

    sandbox: str
    container: str
    ip: str
    log: Path


class Runner:
    """Runs pods as edged does: configuration from podspec, calls through CriClient."""

    def __init__(self, client: CriClient, logs: Path) -> None:
        self.client = client
        self.node = Node(pod_logs=str(logs), memory_capacity=2**30)

    async def run(self, container: dict[str, Any], **spec: Any) -> Running:
        body = {
            "metadata": {"name": "p", "namespace": "default", "uid": str(uuid.uuid4()), "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": BUSYBOX, **container}], "nodeName": "n1", **spec},
        }
        pod = msgspec.convert(body, Pod)
        sandbox = sandbox_config(pod, self.node)
        sandbox_id = await self.client.run_pod_sandbox(sandbox)
        ip = (await self.client.pod_sandbox_status(sandbox_id)).network.ip
        made = container_config(
            pod,
            pod.spec.containers[0],
            self.node,
            PodFacts(pod_ips=(ip,), host_ips=("192.0.2.1",)),
            ContainerFacts(image=pod.spec.containers[0].image),
        )
        container_id = await self.client.create_container(sandbox_id, made, sandbox)
        await self.client.start_container(container_id)
        return Running(sandbox_id, container_id, ip, Path(sandbox.log_directory) / log_path("c", 0))

    async def exited(self, running: Running) -> cri_pb2.ContainerStatus:
        status = await eventually(lambda: self.client.container_status(running.container), _has_exited)
        assert status is not None
        return status

    async def output(self, running: Running, **options: Any) -> str:
        await self.exited(running)
        file = LogFile(running.log, _nobody_runs)
        return b"".join([piece async for piece in read_log(file, LogOptions(**options))]).decode()


async def eventually(ask: Callable[[], Any], good: Callable[[Any], bool], timeout: float = 20.0) -> Any:
    """Ask again until the answer is good; a runtime has no event for everything."""
    async with asyncio.timeout(timeout):
        while not good(answer := await ask()):
            await asyncio.sleep(0.05)
    return answer


def _has_exited(status: cri_pb2.ContainerStatus) -> bool:
    return status.state == cri_pb2.CONTAINER_EXITED


async def _nobody_runs() -> bool:
    return False


async def page(address: str) -> str:
    async def ask() -> str:
        try:
            async with session.get(f"http://{address}/") as response:
                return await response.text()
        except (aiohttp.ClientError, TimeoutError):
            return ""

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
        return str(await eventually(ask, bool))


def commands() -> Iterator[bytes]:
    """The command line of every process."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


@pytest.fixture
async def runner(cri: CriClient, tmp_path: Path) -> AsyncIterator[Runner]:
    yield Runner(cri, tmp_path)


async def test_hello_pod_serves_a_page_with_its_name_on_the_bridge_network(
    runner: Runner, containerd: PrivateContainerd
) -> None:
    running = await runner.run({"image": HELLO})
    assert ipaddress.ip_address(running.ip) in ipaddress.ip_network(containerd.subnet)
    assert "Hello from p" in await page(f"{running.ip}:8080")


async def test_hello_pod_ends_within_its_grace_period(runner: Runner) -> None:
    running = await runner.run({"image": HELLO})
    await page(f"{running.ip}:8080")
    started = asyncio.get_running_loop().time()
    await runner.client.stop_container(running.container, timeout=30)
    assert asyncio.get_running_loop().time() - started < 10
    assert (await runner.exited(running)).exit_code == 0


async def test_environment_command_and_arguments_arrive(runner: Runner) -> None:
    running = await runner.run({
        "command": ["sh", "-c"],
        "args": ['echo "$GREETING|$IP|$(pwd)|$(hostname)|$0" $(NAME)', "zero"],
        "workingDir": "/tmp",
        "env": [
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "GREETING", "value": "hi $(NAME)"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
    })  # fmt: skip
    assert await runner.output(running) == f"hi p|{running.ip}|/tmp|p|zero p\n"


async def test_memory_limit_is_enforced_and_told(runner: Runner) -> None:
    hog = {"command": ["sh", "-c", "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}"]}
    running = await runner.run({**hog, "resources": {"limits": {"memory": "32Mi"}}})
    status = await runner.exited(running)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


async def test_lines_longer_than_16_kib_are_put_together_again(runner: Runner) -> None:
    running = await runner.run({"command": ["sh", "-c", "head -c 40000 /dev/zero | tr '\\0' a; echo; echo end"]})
    assert await runner.output(running) == "a" * 40000 + "\nend\n"
    assert b" stdout P " in running.log.read_bytes()
    assert await runner.output(running, tail=1) == "end\n"
    assert len(await runner.output(running, tail=2)) == 40005


async def test_following_a_log_ends_with_the_container(runner: Runner) -> None:
    running = await runner.run({"command": ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"]})

    async def runs() -> bool:
        return not _has_exited(await runner.client.container_status(running.container))

    pieces = [piece async for piece in read_log(LogFile(running.log, runs), LogOptions(follow=True))]
    assert b"".join(pieces) == b"1\n2\n3\n"


async def test_host_port_leads_to_the_pod(runner: Runner, unused_tcp_port: int) -> None:
    await runner.run({"image": HELLO, "ports": [{"containerPort": 8080, "hostPort": unused_tcp_port}]})
    assert "Hello from p" in await page(f"127.0.0.1:{unused_tcp_port}")


async def test_host_network_pod_has_the_nodes_interfaces(runner: Runner) -> None:
    running = await runner.run({"command": ["hostname"]}, hostNetwork=True)
    assert running.ip == ""
    assert await runner.output(running) == Path("/proc/sys/kernel/hostname").read_text()


async def test_security_context_confines_the_process(runner: Runner) -> None:
    running = await runner.run({
        "command": ["sh", "-c", "id -u; id -g; id -G; touch /x 2>&1; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status"],
        "securityContext": {
            "runAsUser": 1000, "runAsGroup": 2000, "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"},
        },
    }, securityContext={"fsGroup": 3000})  # fmt: skip
    lines = (await runner.output(running)).split("\n")
    assert lines[:2] == ["1000", "2000"]
    assert "3000" in lines[2].split()
    assert "Read-only file system" in lines[3]
    assert [line.split() for line in lines[4:6]] == [["NoNewPrivs:", "1"], ["Seccomp:", "2"]]


async def test_exec_gives_code_and_output(runner: Runner) -> None:
    running = await runner.run({"command": ["sleep", "60"]})
    result = await runner.client.exec_sync(running.container, ["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=5)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    with pytest.raises(RuntimeRefused) as slow:
        await runner.client.exec_sync(running.container, ["sleep", "30"], timeout=1)
    assert slow.value.code == "DEADLINE_EXCEEDED"


async def test_task_events_tell_of_an_exit_with_its_code(runner: Runner, containerd: PrivateContainerd) -> None:
    async with Containerd(containerd.endpoint) as client:
        seen: asyncio.Queue[Any] = asyncio.Queue()

        async def listen() -> None:
            async for event in client.task_events():
                seen.put_nowait(event)

        listener = asyncio.get_running_loop().create_task(listen())
        await asyncio.sleep(0.2)
        running = await runner.run({"command": ["sh", "-c", "exit 5"]})
        async with asyncio.timeout(20):
            while (event := await seen.get()).kind is not TaskEventKind.EXIT:
                pass
        listener.cancel()
        await asyncio.gather(listener, return_exceptions=True)
    assert (event.container_id, event.exit_code) == (running.container, 5)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_pods_survive_a_restart_of_containerd(runner: Runner, containerd: PrivateContainerd, how: str) -> None:
    running = await runner.run({"image": HELLO})
    await page(f"{running.ip}:8080")
    if how == "kill":
        await containerd.kill()
    else:
        await containerd._end_process()
    assert "Hello from p" in await page(f"{running.ip}:8080")
    with pytest.raises(RuntimeRefused) as down:
        await runner.client.version()
    assert down.value.transient
    await containerd.start()
    status = await runner.client.container_status(running.container)
    assert status.state == cri_pb2.CONTAINER_RUNNING
    assert (await runner.client.pod_sandbox_status(running.sandbox)).network.ip == running.ip
    assert "Hello from p" in await page(f"{running.ip}:8080")


async def test_a_running_containerd_is_adopted(containerd: PrivateContainerd) -> None:
    before = containerd.pid
    await PrivateContainerd(containerd.root, bridge=containerd.bridge, subnet=containerd.subnet).start()
    assert containerd.pid == before


async def test_a_subnet_in_use_is_refused(containerd: PrivateContainerd, tmp_path: Path, runner: Runner) -> None:
    await runner.run({"command": ["sleep", "60"]})
    with pytest.raises(ContainerdUnavailable, match=f"is in use by interface {containerd.bridge}: choose another"):
        await PrivateContainerd(tmp_path, bridge="eh-other", subnet=containerd.subnet).start()


async def test_stopping_leaves_no_trace_even_after_a_crash() -> None:
    root = Path(tempfile.mkdtemp(prefix="ehive-", dir="/tmp"))
    pid = os.getpid()
    private = PrivateContainerd(root, bridge=f"ehx{pid % 10**7}", subnet=f"10.{200 + pid // 256 % 24}.{pid % 256}.0/24")
    await private.start()
    try:
        async with Containerd(private.endpoint) as client:
            for image in (pause_image(), busybox_image()):
                await import_image(client, image)
        async with CriClient(private.endpoint) as client:
            await Runner(client, root / "logs").run({"command": ["sleep", "12345"]})
        await private.kill()
    finally:
        await private.stop(purge=True)
    assert not root.exists()
    assert str(root) not in Path("/proc/self/mountinfo").read_text()
    assert not Path(f"/sys/class/net/{private.bridge}").exists()
    assert not [text for text in commands() if b"sleep\x0012345" in text or bytes(root) in text]


async def test_image_archive_is_imported_and_usable_at_once(
    cri: CriClient, containerd: PrivateContainerd, tmp_path: Path
) -> None:
    made = pause_image()
    write_archive(Image("localhost/carried:2", made.manifest, made.blobs), tmp_path / "image.tar")
    async with Containerd(containerd.endpoint) as client:
        for image in read_archive(tmp_path / "image.tar"):
            await import_image(client, image)
            await import_image(client, image)
    found = await eventually(lambda: cri.image_status("localhost/carried:2"), lambda image: image is not None)
    assert "localhost/carried:2" in found.repo_tags


async def test_image_that_cannot_be_pulled_says_so(cri: CriClient) -> None:
    puller = ImagePuller(cri)
    pod = msgspec.convert({"metadata": {"uid": "u"}, "spec": {"containers": [{"image": "127.0.0.1:1/x:1"}]}}, Pod)
    with pytest.raises(ImageError, match="connection refused") as first:
        await puller.ensure(pod, pod.spec.containers[0])
    assert first.value.reason == "ErrImagePull"
    with pytest.raises(ImageError) as second:
        await puller.ensure(pod, pod.spec.containers[0])
    assert second.value.reason == "ImagePullBackOff"
