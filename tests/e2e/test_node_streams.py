"""exec, attach and port-forward into real containers, over WebSocket as the Kubernetes clients speak it."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from pod_site import Site, container, first, running

from edgehive.api.registry import PODS

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(120)]

STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
SPDY = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": "v4.channel.k8s.io"}


@asynccontextmanager
async def stream(site: Site, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        asyncio.timeout(30),
        aiohttp.ClientSession() as session,
        session.ws_connect(site.door + path, protocols=["v4.channel.k8s.io"]) as socket,
    ):
        assert socket.protocol == "v4.channel.k8s.io"
        yield socket


async def everything(socket: aiohttp.ClientWebSocketResponse) -> dict[int, bytes]:
    """What came on each channel until the other side ended the stream."""
    found: dict[int, bytes] = {}
    async for message in socket:
        found[message.data[0]] = found.get(message.data[0], b"") + message.data[1:]
    return found


async def until_shown(socket: aiohttp.ClientWebSocketResponse, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        message = await socket.receive_bytes()
        assert message[0] in (STDOUT, STDERR), message
        seen += message[1:]
    return seen


def status(found: dict[int, bytes]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(found[STATUS])
    return told


async def test_exec_gives_output_errors_and_the_exit_code(site: Site) -> None:
    async with site.edged():
        await site.create("web")
        await site.status("web", running)
        command = "command=sh&command=-c&command=echo+out;+echo+err+>%262;+exit+7"
        async with stream(site, f"/exec/default/web/c?{command}&output=1&error=1") as socket:
            found = await everything(socket)
        assert (found[STDOUT], found[STDERR]) == (b"out\n", b"err\n")
        assert status(found)["reason"] == "NonZeroExitCode"
        assert status(found)["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}]
        async with stream(site, "/exec/default/web/c?command=true&output=1&error=1") as socket:
            assert status(await everything(socket))["status"] == "Success"


async def test_a_shell_reads_what_is_typed_and_a_terminal_has_a_size(site: Site) -> None:
    async with site.edged():
        await site.create("web")
        await site.status("web", running)
        async with stream(site, "/exec/default/web/c?command=sh&input=1&output=1&error=1") as socket:
            await socket.send_bytes(b"\x00echo ready; read line; echo got $line\n")
            await until_shown(socket, b"ready\n")
            await socket.send_bytes(b"\x00hello\n")
            await until_shown(socket, b"got hello\n")
            await socket.send_bytes(b"\x00exit 3\n")
            assert status(await everything(socket))["details"]["causes"][0]["message"] == "3"
        async with stream(site, "/exec/default/web/c?command=sh&input=1&output=1&tty=1") as socket:
            await socket.send_bytes(bytes([RESIZE]) + json.dumps({"Width": 123, "Height": 45}).encode())
            await socket.send_bytes(b"\x00until stty size | grep 45; do sleep 0.1; done\n")
            await until_shown(socket, b"45 123")
            await socket.send_bytes(b"\x00exit\n")
            assert status(await everything(socket))["status"] == "Success"


async def test_four_megabytes_go_in_and_out_unharmed(site: Site) -> None:
    async with site.edged():
        await site.create("web")
        await site.status("web", running)
        async with stream(
            site, "/exec/default/web/c?command=head&command=-c&command=4194304&input=1&output=1"
        ) as socket:
            block = bytes(range(256)) * 128

            async def type_it() -> None:
                for _ in range(4194304 // len(block)):
                    await socket.send_bytes(b"\x00" + block)

            typing = asyncio.ensure_future(type_it())
            found = await everything(socket)
            await typing
        assert found[STDOUT] == block * (4194304 // len(block))


async def test_attach_joins_the_containers_own_process(site: Site) -> None:
    async with site.edged():
        pod = container("while read line; do echo got $line; done; echo end", stdin=True, stdinOnce=True)
        await site.create("reader", containers=[pod], restartPolicy="Never")
        await site.status("reader", running)
        async with stream(site, "/attach/default/reader/c?input=1&output=1&error=1") as socket:
            await socket.send_bytes(b"\x00one\n")
            await until_shown(socket, b"got one\n")
        # stdinOnce: when the first client leaves, the process sees the end of its input.
        await site.status("reader", lambda told: told.get("phase") == "Succeeded")
        assert site.log("reader") == "got one\nend"


async def test_a_pods_port_is_reached_through_the_node(site: Site) -> None:
    async with site.edged():
        await site.create("web", containers=[container("while true; do echo hello | nc -l -p 8080; done")])
        await site.status("web", running)
        async with stream(site, "/portForward/default/web?port=8080") as socket:
            data, errors = await socket.receive_bytes(), await socket.receive_bytes()
            assert {data, errors} == {bytes([0]) + struct.pack("<H", 8080), bytes([1]) + struct.pack("<H", 8080)}
            assert await socket.receive_bytes() == b"\x00hello\n"


async def test_a_debugger_sees_the_processes_of_its_target(site: Site) -> None:
    async with site.edged():
        await site.create("web", containers=[container("exec sleep 4321")])
        await site.status("web", running)
        made = (await site.api.get(PODS, "web", "default")).to_dict()
        debug = container("sleep 3600") | {"name": "debug", "targetContainerName": "c"}
        made["spec"]["ephemeralContainers"] = [debug]
        await site.api.update(PODS, made, "default", name="web", subresource="ephemeralcontainers")
        await site.status("web", debugging)
        async with stream(site, "/exec/default/web/debug?command=ps&output=1&error=1") as socket:
            assert b"sleep 4321" in (await everything(socket))[STDOUT]


def debugging(told: dict[str, Any]) -> bool:
    return any("running" in item["state"] for item in told.get("ephemeralContainerStatuses", ()))


async def test_logs_are_read_and_followed_through_the_node(site: Site) -> None:
    async with site.edged(), aiohttp.ClientSession() as session:
        script = "echo try $(cat /tmp/n 2>/dev/null); for n in 1 2 3; do sleep 0.2; echo line $n; done; exit 1"
        await site.create("job", containers=[container(script)], restartPolicy="OnFailure")
        await site.status("job", running)
        url = f"{site.door}/containerLogs/default/job/c"
        async with session.get(f"{url}?follow=true") as answer:
            assert await answer.text() == "try\nline 1\nline 2\nline 3\n"
        await site.status("job", lambda told: first(told).get("restartCount") == 1)
        async with session.get(f"{url}?previous=true&tailLines=1&timestamps=true") as answer:
            stamp, _, text = (await answer.text()).partition(" ")
            assert (text, stamp[-1]) == ("line 3\n", "Z")
        async with session.get(f"{url}?previous=true&limitBytes=5") as answer:
            assert await answer.text() == "try\nl"
        async with session.get(f"{site.door}/containerLogs/default/job/nope") as answer:
            assert (answer.status, await answer.text()) == (404, 'container "nope" not found in pod "job"')


async def test_spdy_is_agreed_upon_with_the_runtime(site: Site) -> None:
    async with site.edged():
        await site.create("web")
        await site.status("web", running)
        host, _, port = site.door.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = "".join(f"{name}: {value}\r\n" for name, value in SPDY.items())
        writer.write(f"POST /exec/default/web/c?command=ls&output=1 HTTP/1.1\r\nHost: {host}\r\n{head}\r\n".encode())
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101")
        assert b"SPDY/3.1" in answer
        assert b"v4.channel.k8s.io" in answer
        writer.close()


async def test_collectors_find_what_a_kubelet_offers(site: Site) -> None:
    async with site.edged(), aiohttp.ClientSession() as session:
        probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
        await site.create("web", containers=[container(readinessProbe=probe)])
        await site.status("web", running)
        pages = {}
        for path in ("resource", "cadvisor", "probes"):
            async with session.get(f"{site.door}/metrics/{path}") as answer:
                assert answer.status == 200
                pages[path] = await answer.text()
        async with session.get(f"{site.door}/stats/summary") as answer:
            (pod,) = (await answer.json())["pods"]
    where = 'container="c",namespace="default",pod="web"'
    for name in ("cpu_usage_seconds_total", "memory_working_set_bytes", "start_time_seconds"):
        assert f"container_{name}{{{where}}}" in pages["resource"]
    assert "node_cpu_usage_seconds_total " in pages["resource"]
    assert "resource_scrape_error 0.0" in pages["resource"]
    assert 'image="localhost/busybox:1"' in pages["cadvisor"]
    assert "container_network_receive_bytes_total{" in pages["cadvisor"]
    assert 'result="successful"' in pages["probes"]
    assert pod["network"]["rxBytes"] >= 0
    assert pod["podRef"]["name"] == "web"
    assert pod["containers"][0]["startTime"]
