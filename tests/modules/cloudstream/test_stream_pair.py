"""Requests of the API server through both ends of the tunnel to the kubelet, and what is said where there is no way."""

import asyncio
import json

import pytest
from prometheus_client import CollectorRegistry

from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit.http import serve
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.streams import NODE, StreamPair, edge_stream, locate, stream_pair
from edgehive.wire.streams import PIECE, WINDOW

LOG = "/containerLogs/default/web/c"
NO_TUNNEL = "node n2 has no tunnel to this cloudcore: it is offline, or its modules.edgeStream is off"
UPGRADES = [
    "POST /exec/default/web/c?command=cat&input=1&output=1",
    "GET /exec/default/web/7d1f/c?command=cat",
    "POST /attach/default/web/c?output=1",
    "POST /attach/default/web/7d1f/c?output=1",
    "POST /portForward/default/web",
    "GET /portForward/default/web/7d1f",
]


async def test_a_log_comes_with_status_and_type() -> None:
    async with stream_pair() as pair:
        pair.kubelet.logs[LOG] = b"one\ntwo\n" * 50000
        answer = await pair.ask(f"GET {LOG}?tailLines=2&timestamps=true")
        assert answer.status == 200
        assert "content-type: text/plain" in answer.head.lower()
        assert await answer.body() == pair.kubelet.logs[LOG]
        assert pair.kubelet.asked[0].startswith(f"GET {LOG}?tailLines=2&timestamps=true HTTP/1.1\r\n")


async def test_a_container_that_is_not_there_is_a_404_in_the_kubelets_words() -> None:
    async with stream_pair() as pair:
        answer = await pair.ask("GET /containerLogs/default/web/nope")
        assert answer.status == 404
        assert await answer.text() == "no such log"


async def test_one_connection_serves_one_request_after_another() -> None:
    async with stream_pair() as pair:
        pair.kubelet.logs[LOG] = b"again"
        answer = await pair.ask(f"GET {LOG}")
        for _ in range(3):
            assert await answer.body() == b"again"
            answer.writer.write(f"GET {LOG} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer.head = (await answer.reader.readuntil(b"\r\n\r\n")).decode()


async def test_a_followed_log_arrives_line_by_line_and_ends_when_the_reader_leaves() -> None:
    async with stream_pair() as pair:
        answer = await pair.ask(f"GET {LOG}?follow=true")
        for number in range(3):
            pair.kubelet.follow.put_nowait(b"line %d\n" % number)
            assert await answer.chunk() == b"line %d\n" % number
        answer.close()
        async with asyncio.timeout(10):
            await pair.kubelet.idle.wait()


async def test_a_followed_log_ends_when_the_container_does() -> None:
    async with stream_pair() as pair:
        answer = await pair.ask(f"GET {LOG}?follow=true")
        pair.kubelet.follow.put_nowait(b"last\n")
        pair.kubelet.follow.put_nowait(b"")
        assert await answer.body() == b"last\n"


@pytest.mark.parametrize("request_line", UPGRADES)
async def test_bytes_go_both_ways(request_line: str) -> None:
    async with stream_pair() as pair:
        answer = await pair.upgrade(request_line)
        assert answer.status == 101 and "Upgrade: SPDY/3.1" in answer.head
        asked = pair.kubelet.asked[0]
        assert asked.startswith(f"{request_line} HTTP/1.1\r\n") and "X-Stream-Protocol-Version: v4" in asked
        sent = bytes(range(256)) * 20000
        writing = spawn(_write(answer.writer, sent), name="write")
        assert await answer.reader.readexactly(len(sent)) == sent
        await writing
        answer.close()
        async with asyncio.timeout(10):
            await pair.kubelet.idle.wait()


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        writer.write(data[start : start + PIECE])
        await writer.drain()


async def test_the_end_of_a_command_ends_the_connection() -> None:
    async def bye(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3) + b" and bye")
        await writer.drain()

    async with stream_pair() as pair:
        pair.kubelet.upgraded = bye
        answer = await pair.upgrade(UPGRADES[0])
        answer.writer.write(b"abc")
        assert await answer.until_end() == b"abc and bye"


async def test_two_hundred_streams_at_once() -> None:
    async with stream_pair() as pair:

        async def one(number: int) -> None:
            answer = await pair.upgrade(UPGRADES[0])
            data = b"%04d" % number * 5000
            answer.writer.write(data)
            async with asyncio.timeout(30):
                assert await answer.reader.readexactly(len(data)) == data
            answer.close()

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(one(number))
        async with asyncio.timeout(10):
            await pair.kubelet.idle.wait()
        assert not _carrier(pair).streams


def _carrier(pair: StreamPair, node: str = NODE):
    return pair.tunnels._by_node[node]


async def test_a_slow_reader_holds_up_its_own_writer_and_nobody_else() -> None:
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while True:
            writer.write(bytes(PIECE))
            await writer.drain()
            written += PIECE

    async with stream_pair() as pair:
        echoing, pair.kubelet.upgraded = pair.kubelet.upgraded, pour
        slow = await pair.upgrade(UPGRADES[0])
        pair.kubelet.upgraded = echoing
        (stream,) = _carrier(pair).streams.values()
        async with asyncio.timeout(20):
            before = -1
            while written > before:  # until nothing more is taken
                before = written
                for _ in range(20):
                    quick = await pair.upgrade(UPGRADES[0])
                    quick.writer.write(b"still quick")
                    assert await quick.reader.readexactly(11) == b"still quick"
                    quick.close()
        assert stream._buffered <= WINDOW
        slow.close()


# What is said when it cannot be


@pytest.mark.parametrize(
    ("request_line", "status", "sentence"),
    [
        ("GET /containerLogs/default/nowhere/c", 404, 'pods "nowhere" not found'),
        ("GET /containerLogs/default/unbound/c", 400, "pod default/unbound is not bound to a node yet"),
        (
            "GET /containerLogs/default/elsewhere/c",
            500,
            NO_TUNNEL,
        ),
        ("POST /exec/default/web/c?command=ls", 400, "/exec/default/web/c needs an upgrade to SPDY/3.1 or WebSocket"),
        ("GET /pods", 404, "/pods is nothing that the stream port serves"),
    ],
)
async def test_what_cannot_be_served_is_one_sentence(request_line: str, status: int, sentence: str) -> None:
    async with stream_pair() as pair:
        answer = await pair.ask(request_line)
        assert (answer.status, await answer.text()) == (status, sentence)


@pytest.mark.parametrize("kind", ["exec", "attach", "portForward"])
async def test_who_asks_for_a_stream_is_told_in_a_status(kind: str) -> None:
    async with stream_pair() as pair:
        for pod, code, sentence in (
            (
                "elsewhere",
                503,
                NO_TUNNEL,
            ),
            ("nowhere", 404, 'pods "nowhere" not found'),
        ):
            answer = await pair.upgrade(f"POST /{kind}/default/{pod}/c?command=ls")
            status = json.loads(await answer.body())
            assert (answer.status, status["kind"], status["code"], status["message"]) == (
                code,
                "Status",
                code,
                sentence,
            )


async def test_a_kubelet_that_does_not_answer_is_one_sentence() -> None:
    async with stream_pair(edge=False) as pair:
        edge = spawn(edge_stream(pair.door, 1).run(lambda: None), name="edgestream")
        try:
            await pair.connected()
            log = await pair.ask(f"GET {LOG}")
            assert log.status == 500
            assert "kubelet of this node at 127.0.0.1:1 cannot be reached" in await log.text()
            exec = await pair.upgrade(UPGRADES[0])
            assert exec.status == 503
            assert "kubelet of this node at 127.0.0.1:1 cannot be reached" in json.loads(await exec.body())["message"]
        finally:
            await cancel_and_join(edge)


async def test_a_cut_ends_every_stream_and_the_next_tunnel_serves_again() -> None:
    async with stream_pair() as pair:
        log = await pair.ask(f"GET {LOG}?follow=true")
        pair.kubelet.follow.put_nowait(b"line\n")
        await log.chunk()
        upgraded = [await pair.upgrade(line) for line in UPGRADES]
        tunnel = _carrier(pair)
        tunnel._abort()
        assert (await log.chunk()).startswith(b"\nthe tunnel to the node was lost")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await log.body()
        for answer in upgraded:
            assert await answer.until_end() == b""
        assert not tunnel.streams
        async with asyncio.timeout(10):
            await pair.kubelet.idle.wait()
        pair.kubelet.logs[LOG] = b"back"
        async with asyncio.timeout(10):
            while (answer := await pair.ask(f"GET {LOG}")).status != 200:
                assert "no tunnel" in await answer.text() or "lost" in await answer.text()
        assert await answer.body() == b"back"


async def test_a_request_that_waits_for_its_answer_when_the_tunnel_is_cut_is_told() -> None:
    async with stream_pair() as pair:
        pair.kubelet.silent = True
        asking = spawn(pair.upgrade(UPGRADES[0]), name="ask")
        async with asyncio.timeout(10):
            while not _carrier(pair).streams:
                await asyncio.sleep(0)
            _carrier(pair)._abort()
            answer = await asking
        assert answer.status == 503
        assert "the tunnel to the node was lost" in json.loads(await answer.body())["message"]


async def test_a_newer_tunnel_takes_the_older_ones_place() -> None:
    async with stream_pair(edge=False) as pair:
        pair.kubelet.logs[LOG] = b"hello"
        first = spawn(edge_stream(pair.door, pair.kubelet.port)._hold(), name="first")
        await pair.connected()
        older = _carrier(pair)
        second = spawn(edge_stream(pair.door, pair.kubelet.port)._hold(), name="second")
        assert "another tunnel" in await first
        assert _carrier(pair) is not older
        assert await (await pair.ask(f"GET {LOG}")).body() == b"hello"
        await cancel_and_join(second)


# Metrics


@pytest.mark.parametrize(
    "headers",
    [
        ["X-Forwarded-Uri: /api/v1/nodes/n1/proxy/stats/summary"],
        ["X-Forwarded-Uri: /api/v1/nodes/https:n1:10250/proxy/stats/summary"],
        ["X-Forwarded-Uri: /api/v1/nodes/n1:10250/proxy/stats/summary"],
    ],
)
async def test_statistics_of_the_node_that_the_api_servers_proxy_names(headers: list[str]) -> None:
    async with stream_pair() as pair:
        pair.kubelet.logs["/stats/summary"] = b'{"node":{}}'
        assert await (await pair.ask("GET /stats/summary", headers)).body() == b'{"node":{}}'


async def test_metrics_of_the_node_whose_address_is_asked() -> None:
    async with stream_pair() as pair:
        pair.kubelet.logs["/metrics/resource"] = b"cpu 1\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.face)
        writer.write(b"GET /metrics/resource HTTP/1.1\r\nHost: 192.0.2.7:10351\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"cpu 1\n\r\n0\r\n\r\n")
        writer.close()
        answer = await pair.ask("GET /metrics")
        assert answer.status == 404
        assert "ask through the API server" in await answer.text()


async def test_paths_of_strangers_are_counted_as_one_kind() -> None:
    registry = CollectorRegistry()
    face = KubeletFace(Tunnels(enforced=False), locate, None, registry)
    async with serve(face.app(), host="127.0.0.1", port=0, drain=0.1) as (_, port):
        for line in ("OPTIONS *", "GET /secret-1", "GET /secret-2", "GET //exec", "GET /stats/summary"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert (await reader.read()).split(b" ", 2)[1] in (b"404", b"405")
            writer.close()
    kinds = {sample.labels["kind"] for metric in registry.collect() for sample in metric.samples}
    assert kinds == {"other", "stats"}
