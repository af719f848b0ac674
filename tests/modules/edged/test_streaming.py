"""exec, attach and portForward at edged's door: paths, parameters, refusals, and bytes that pass through."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from node_rig import Rig

from edgehive.edgecore.edged import streaming
from edgehive.kit.clock import SystemClock
from edgehive.kit.http import serve
from edgehive.protos import cri_pb2 as cri
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.timeout(30)
UPGRADE = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}


class Streams:
    """The runtime's streaming server: a WebSocket that echoes, and a refusal for everything else."""

    async def talk(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade") != "websocket":
            return web.Response(status=403, text="SPDY is not spoken here")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        async for message in socket:
            await socket.send_bytes(message.data)
        return socket


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    app = web.Application()
    app.router.add_route("*", "/stream/{number}", Streams().talk)
    async with (
        Cluster(clock=SystemClock()) as cluster,
        serve(app, host="127.0.0.1", port=0) as (_, port),
    ):
        rig = Rig(cluster, tmp_path, SystemClock())
        rig.runtime.streaming_url = f"http://127.0.0.1:{port}"
        async with rig.running():
            yield rig


async def ask(rig: Rig, path: str, method: str = "POST", **headers: str) -> tuple[int, str]:
    url = f"http://127.0.0.1:{rig.port}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as answer:
        return answer.status, await answer.text()


async def echoes(rig: Rig, path: str) -> bool:
    """Whether a WebSocket opened there gives back what it is given."""
    url = f"http://127.0.0.1:{rig.port}{path}"
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(url, protocols=["v4.channel.k8s.io"])
        await socket.send_bytes(b"\x00ping")
        found: bool = await socket.receive_bytes() == b"\x00ping" and socket.protocol == "v4.channel.k8s.io"
        await socket.close()
        return found


async def test_exec_asks_the_runtime_for_what_was_asked(rig: Rig) -> None:
    made = await rig.start("web")
    assert await echoes(rig, "/exec/default/web/c?command=sh&command=-c&command=a+b&input=1&output=1&error=1")
    (container,) = rig.runtime.running("c")
    assert rig.runtime.streams[-1] == cri.ExecRequest(
        container_id=container, cmd=["sh", "-c", "a b"], stdin=True, stdout=True, stderr=True
    )
    uid = made["metadata"]["uid"]
    assert await echoes(rig, f"/exec/default/web/{uid}/c?command=sh&stdin=true&stdout=true&stderr=true&tty=true")
    assert rig.runtime.streams[-1] == cri.ExecRequest(
        container_id=container, cmd=["sh"], stdin=True, stdout=True, tty=True
    )


async def test_attach_takes_the_terminal_the_container_was_started_with(rig: Rig) -> None:
    await rig.start("plain")
    await rig.start("shell", containers=[{"name": "c", "image": "localhost/busybox:1", "tty": True, "stdin": True}])
    assert await echoes(rig, "/attach/default/plain/c?output=1&error=1&tty=1")
    assert await echoes(rig, "/attach/default/shell/c?input=1&output=1&error=1")
    plain, shell = rig.runtime.streams
    assert (plain.tty, plain.stderr, shell.tty, shell.stderr) == (False, False, True, False)  # type: ignore[attr-defined]


async def test_ports_are_forwarded_into_the_sandbox(rig: Rig) -> None:
    made = await rig.start("web")
    (sandbox,) = rig.runtime.sandboxes
    assert await echoes(rig, f"/portForward/default/web/{made['metadata']['uid']}?port=80,8080&port=443")
    assert rig.runtime.streams[-1] == cri.PortForwardRequest(pod_sandbox_id=sandbox, port=[80, 8080, 443])
    # A SPDY client names its ports later, in the stream.
    assert await ask(rig, "/portForward/default/web", **UPGRADE) == (403, "SPDY is not spoken here")


@pytest.mark.parametrize(("path", "answer"), [
    ("/exec/default/web/c?command=ls", (400, "you must specify at least 1 of stdin, stdout, stderr")),
    ("/exec/default/nope/c?command=ls&output=1", (404, "pod does not exist")),
    ("/exec/default/web/nope?command=ls&output=1", (404, 'container not found ("nope")')),
    ("/exec/default/web/other-uid/c?command=ls&output=1", (404, 'container not found ("c")')),
    ("/attach/default/nope/c?output=1", (404, "pod does not exist")),
    ("/portForward/default/nope", (404, "pod does not exist")),
    ("/portForward/default/web/other-uid", (404, "pod not found")),
    ("/portForward/default/web?port=0", (400, 'unable to parse "0" as a port')),
    ("/portForward/default/web?port=80,x", (400, 'unable to parse "80,x" as a port')),
])  # fmt: skip
async def test_refusals(rig: Rig, path: str, answer: tuple[int, str]) -> None:
    await rig.start("web")
    assert await ask(rig, path, "GET", **UPGRADE) == answer
    assert await ask(rig, path, **UPGRADE) == answer


async def test_a_websocket_must_name_its_ports(rig: Rig) -> None:
    await rig.start("web")
    headers = {"Connection": "Upgrade", "Upgrade": "websocket"}
    assert await ask(rig, "/portForward/default/web", "GET", **headers) == (400, 'query parameter "port" is required')


async def test_what_does_not_run_or_does_not_upgrade_is_said(rig: Rig) -> None:
    await rig.start("web")
    assert await ask(rig, "/exec/default/web/c?command=ls&output=1") == (400, "Upgrade request required")
    rig.runtime.script("c", [0])
    rig.runtime.exit(rig.runtime.running("c")[0], 0)
    await rig.edged._pleg.relist()
    await rig.until("web", lambda status: "waiting" in status["containerStatuses"][0]["state"])
    assert await ask(rig, "/exec/default/web/c?command=ls&output=1", **UPGRADE) == (
        400,
        'container "c" in pod "web" is not running',
    )


async def test_the_runtimes_own_refusal_and_its_silence_are_passed_on(rig: Rig) -> None:
    await rig.start("web")
    path = "/exec/default/web/c?command=ls&output=1"
    rig.runtime.fail("Exec", "RESOURCE_EXHAUSTED", "maximum number of in-flight requests exceeded")
    assert await ask(rig, path, **UPGRADE) == (429, "maximum number of in-flight requests exceeded")
    rig.runtime.fail("Exec", "UNAVAILABLE", "no container runtime listens")
    assert (await ask(rig, path, **UPGRADE))[0] == 503
    rig.runtime.streaming_url = "http://127.0.0.1:1"
    status, text = await ask(rig, path, **UPGRADE)
    assert status == 502
    assert text.startswith("container runtime: its streaming server at 127.0.0.1:1 cannot be reached")
    rig.runtime.streaming_url = "https://127.0.0.1:1"
    assert (await ask(rig, path, **UPGRADE))[0] == 502


async def test_streams_are_counted_and_freed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.start("web")
    path = f"http://127.0.0.1:{rig.port}/exec/default/web/c?command=ls&output=1"
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(path) for _ in range(streaming._MAX_STREAMS)]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(path)
        assert refused.value.status == 429
        await asyncio.gather(*(socket.close() for socket in sockets))
        async with asyncio.timeout(10):
            while True:
                try:
                    await (await session.ws_connect(path)).close()
                    break
                except aiohttp.WSServerHandshakeError:
                    continue


async def test_only_this_machine_is_served(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await rig.start("web")
    monkeypatch.setattr(streaming, "_from_this_machine", lambda _: False)
    status, text = await ask(rig, "/exec/default/web/c?command=ls&output=1", **UPGRADE)
    assert (status, "to the node itself only" in text) == (403, True)


@pytest.mark.parametrize(("remote", "local"), [
    ("127.0.0.1", True), ("::1", True), ("127.8.8.8", True), ("10.0.0.1", False), (None, False), ("@", False),
])  # fmt: skip
def test_who_is_this_machine(remote: Any, local: bool) -> None:
    class Request:
        pass

    Request.remote = remote  # type: ignore[attr-defined]
    assert streaming._from_this_machine(Request()) is local  # type: ignore[arg-type]
