"""Unmodified clients reach into pods through the API server: kubectl by SPDY, the Python client by WebSocket.

The kubelet is played by a small server; what it cannot play (SPDY) it refuses, and the refusal must arrive.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from edgehive.api.registry import NODES, PODS
from edgehive.kit import http as doors
from edgehive.kit.clock import SystemClock
from edgehive.kit.tls import new_key
from edgehive.kube.server.app import ServerOptions
from edgehive.kube.server.identity import AUTHENTICATED, MASTERS, User
from edgehive.testing.cluster import Cluster

WS_PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, ERROR = b"\x00", b"\x01", b"\x03"
SUMMARY: dict[str, Any] = {
    "node": {"cpu": {"usageCoreNanoSeconds": 1}, "memory": {"workingSetBytes": 512 * 2**20}},
    "pods": [{
        "podRef": {"name": "p", "namespace": "default"},
        "containers": [{"name": "c", "cpu": {"usageCoreNanoSeconds": 5}, "memory": {"workingSetBytes": 7 * 2**20}}],
    }],
}  # fmt: skip


class Kubelet:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_route("*", "/exec/{namespace}/{pod}/{container}", self._exec)
        application.router.add_get("/containerLogs/default/p/c", self._log)
        application.router.add_get("/stats/summary", self._summary)
        return application

    async def _exec(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.headers['Upgrade']} {request.path_qs}")
        if request.headers["Upgrade"].lower() != "websocket":
            return web.Response(status=404, text='container not found ("c")')
        socket = web.WebSocketResponse(protocols=(WS_PROTOCOL,))
        await socket.prepare(request)
        await socket.send_bytes(STDOUT + " ".join(request.query.getall("command")).encode())
        if "input" in request.query:
            async for message in socket:
                if message.type is WSMsgType.BINARY or message.type is WSMsgType.TEXT:
                    data = message.data if isinstance(message.data, bytes) else message.data.encode()
                    await socket.send_bytes(STDOUT + data.removeprefix(STDIN).upper())
        await socket.send_bytes(ERROR + b'{"metadata":{},"status":"Success"}')
        await socket.close()
        return socket

    async def _log(self, request: web.Request) -> web.Response:
        if "previous" in request.query:
            return web.Response(status=400, text='previous terminated container "c" in pod "p" not found')
        return web.Response(text="line 1\nline 2\n")

    async def _summary(self, _: web.Request) -> web.Response:
        return web.json_response(SUMMARY)


@pytest.fixture
async def kubelet() -> Kubelet:
    return Kubelet()


@pytest.fixture
async def url(kubelet: Kubelet) -> AsyncIterator[str]:
    options = ServerOptions(service_account_key=new_key(), node_metrics=True)
    async with (
        Cluster(clock=SystemClock(), options=options) as cluster,
        doors.serve(kubelet.application(), host="127.0.0.1", port=0) as (host, port),
    ):
        client = cluster.client()
        await client.create(NODES, {"metadata": {"name": "n1"}})
        allocatable = {"status": {"allocatable": {"cpu": "2", "memory": "1Gi"}}}
        await client.patch(NODES, "n1", allocatable, subresource="status")
        spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}
        await client.create(PODS, {"metadata": {"name": "p"}, "spec": spec}, "default")
        await client.patch(PODS, "p", {"status": {"phase": "Running"}}, "default", subresource="status")
        admin = User("admin", (MASTERS, AUTHENTICATED))
        address = f"http://{host}:{port}"
        serving = cluster.server.serve("127.0.0.1", 0, without_credentials=admin, kubelet=lambda _: address)
        async with serving as (own, door):
            yield f"http://{own}:{door}"


async def kubectl(url: str, home: Path, *arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        "kubectl", f"--server={url}", *arguments,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "KUBECONFIG": str(home / "none")},
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.kubectl
async def test_kubectl_falls_back_to_spdy_without_a_word(url: str, kubelet: Kubelet, tmp_path: Path) -> None:
    code, told = await kubectl(url, tmp_path, "exec", "p", "-c", "c", "--", "ls", "-l")
    assert (code, told) == (1, 'error: unable to upgrade connection: container not found ("c")\n')
    assert kubelet.asked == ["POST SPDY/3.1 /exec/default/p/c?output=1&error=1&command=ls&command=-l"]


@pytest.mark.kubectl
async def test_kubectl_logs_and_top(url: str, tmp_path: Path) -> None:
    assert await kubectl(url, tmp_path, "logs", "p") == (0, "line 1\nline 2\n")
    code, told = await kubectl(url, tmp_path, "logs", "p", "--previous")
    assert (code, told) == (
        1,
        'Error from server (BadRequest): previous terminated container "c" in pod "p" not found\n',
    )
    _, told = await kubectl(url, tmp_path, "top", "node")
    assert told.split() == [
        "NAME",
        "CPU(cores)",
        "CPU(%)",
        "MEMORY(bytes)",
        "MEMORY(%)",
        "n1",
        "0m",
        "0%",
        "512Mi",
        "50%",
    ]
    _, told = await kubectl(url, tmp_path, "top", "pod", "p")
    assert told.split("\n")[1].split() == ["p", "0m", "7Mi"]


#: In a process of its own, since this client leaves its sockets to the garbage collector.
PYTHON_CLIENT = """
import sys, kubernetes, kubernetes.stream as streams
core = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(kubernetes.client.Configuration(host=sys.argv[1])))
pod = core.connect_get_namespaced_pod_exec, "p", "default"
print(streams.stream(*pod, command=["echo", "hi"], stderr=True, stdin=False, stdout=True, tty=False))
talk = streams.stream(*pod, command=["cat"], stderr=False, stdin=True, stdout=True, tty=False, _preload_content=False)
print(talk.read_stdout(timeout=5))
talk.write_stdin("loud")
print(talk.read_stdout(timeout=5))
talk.close()
"""


async def test_the_python_client_talks_to_a_process(url: str, kubelet: Kubelet) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PYTHON_CLIENT, url, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        told, _ = await process.communicate()
    assert told.decode().split("\n")[:3] == ["echo hi", "cat", "LOUD"]
    assert kubelet.asked[0] == "GET websocket /exec/default/p/c?output=1&error=1&command=echo&command=hi"
