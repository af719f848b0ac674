"""Scripted peers that speak as stock halves do, and worse: what they send harms one stream, or ends the tunnel."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import WSMsgType

from edgehive.kit.tasks import spawn
from edgehive.testing.stream_peers import StockCloud, stock_cloud, stock_edge
from edgehive.testing.streams import NODE, FakeKubelet, echo, stream_pair
from edgehive.wire import streams, tunnel
from edgehive.wire.tunnel import Connect, FrameType

LOG = "/containerLogs/default/web/c"
EXEC = "POST /exec/default/web/c?command=cat"


@asynccontextmanager
async def cloud_and_kubelet() -> AsyncIterator[tuple[StockCloud, FakeKubelet]]:
    async with FakeKubelet(upgraded=echo).serving() as kubelet, stock_cloud(kubelet.port) as cloud:
        yield cloud, kubelet


# Our cloud, a stock edge


async def test_a_stock_edge_is_asked_in_frames_it_knows_alone() -> None:
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        asking = spawn(pair.ask(f"GET {LOG}?tailLines=2"), name="ask")
        id, connect, type = await edge.connect()
        assert (type, connect.url.target, connect.method) == (FrameType.LOGS, f"{LOG}?tailLines=2", "")
        for piece in (b"one\n", b"\xff\xfe two\n"):
            await edge.send(id, FrameType.DATA, piece)
        await edge.send(id, FrameType.REMOVE)
        answer = await asking
        assert (answer.status, await answer.body()) == (200, b"one\n\xff\xfe two\n")
        asking = spawn(pair.upgrade(EXEC), name="ask")
        id, connect, type = await edge.connect()
        assert (type, connect.method, connect.header["Upgrade"]) == (FrameType.EXEC, "POST", ["SPDY/3.1"])
        await edge.send(id, FrameType.DATA, b"HTTP/1.1 101 Switching Protocols\r\n\r\nhi")
        assert (await asking).status == 101


async def test_credentials_of_the_api_server_do_not_reach_the_node() -> None:
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        asking = spawn(pair.ask(f"GET {LOG}", ["Authorization: Bearer secret", "X-Y: z"]), name="ask")
        id, connect, _ = await edge.connect()
        assert connect.header == {"X-Y": ["z"]}
        await edge.send(id, FrameType.REMOVE)
        await asking


async def test_a_client_that_leaves_is_told_to_the_node_once() -> None:
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        asking = spawn(pair.upgrade(EXEC), name="ask")
        id, _, _ = await edge.connect()
        await edge.send(id, FrameType.DATA, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        (await asking).close()
        assert await edge.receive() == (id, FrameType.REMOVE, b"")
        asking = spawn(pair.ask(f"GET {LOG}"), name="ask")
        id, _, type = await edge.connect()  # and nothing else came in between
        assert type == FrameType.LOGS
        await edge.send(id, FrameType.REMOVE)
        await asking


async def test_frames_that_mean_nothing_here_are_counted_and_ignored() -> None:
    """[81; B8]"""
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        for _ in range(1500):
            await edge.send(77, FrameType.REMOVE)
        await edge.send(77, FrameType.DATA, b"for nobody")
        await edge.send(5, 99, b"?")
        await edge.send(5, FrameType.LOGS, b"{}")
        asking = spawn(pair.ask(f"GET {LOG}"), name="ask")
        id, _, _ = await edge.connect()
        await edge.send(id, FrameType.DATA, b"fine")
        await edge.send(id, FrameType.REMOVE)
        assert await (await asking).body() == b"fine"
        assert pair.tunnels._by_node[NODE].refused_frames == 2


@pytest.mark.parametrize("kind", ["binary", "no frame", "too large"])
async def test_garbage_ends_the_tunnel_and_tells_those_who_wait(kind: str) -> None:
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        asking = spawn(pair.ask(f"GET {LOG}"), name="ask")
        await edge.connect()
        if kind == "binary":
            await edge.websocket.send_bytes(b"\x01\x03abc")
        elif kind == "no frame":
            await edge.websocket.send_frame(b"\xff" * 20, WSMsgType.TEXT)
        else:
            await edge.send(1, FrameType.DATA, bytes(tunnel.MAX_DATA + 1000))
        answer = await asking
        assert answer.status == 500
        assert "the tunnel to the node was lost: the other side broke the protocol" in await answer.text()
        await edge.closed()


async def test_a_log_that_nobody_reads_is_ended_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STOCK_PATIENCE", 0.05)
    async with stream_pair(edge=False) as pair, stock_edge(pair) as edge:
        pouring = spawn(pair.upgrade(EXEC), name="slow")
        slow, _, _ = await edge.connect()
        await edge.send(slow, FrameType.DATA, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        answer = await pouring
        asking = spawn(pair.upgrade(EXEC), name="quick")
        quick, _, _ = await edge.connect()
        await edge.send(quick, FrameType.DATA, b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        other = await asking
        for _ in range(40):  # more than all buffers on the way hold
            await edge.send(slow, FrameType.DATA, os.urandom(512 * 1024))
        await edge.send(quick, FrameType.DATA, b"not held up")
        async with asyncio.timeout(10):
            assert await other.reader.readexactly(11) == b"not held up"
        assert await edge.receive() == (slow, FrameType.REMOVE, b"")
        assert list(pair.tunnels._by_node[NODE].streams) == [quick]
        answer.close()


# A stock cloud, our edge


async def test_a_stock_cloud_is_answered_in_frames_it_knows_alone() -> None:
    async with cloud_and_kubelet() as (cloud, kubelet):
        assert cloud.headers[tunnel.NODE_HEADER] == NODE
        assert cloud.headers[tunnel.ADDRESS_HEADER] == "192.0.2.7"
        kubelet.logs[LOG] = kubelet.logs["/metrics"] = b"one\ntwo\n" * 1000
        await cloud.ask(1, FrameType.LOGS, LOG, Accept_Encoding=["gzip"])
        assert await cloud.until_removed(1) == kubelet.logs[LOG]
        assert "gzip" not in kubelet.asked[0]
        await cloud.ask(2, FrameType.METRICS, "/metrics")
        assert await cloud.until_removed(2) == kubelet.logs["/metrics"]
        await cloud.ask(3, FrameType.LOGS, "/containerLogs/default/web/nope")
        assert await cloud.until_removed(3) == b"no such log"


@pytest.mark.parametrize("type", [FrameType.EXEC, FrameType.ATTACH])
async def test_a_stock_clouds_streams_carry_the_upgrade_and_are_confirmed_when_they_end(type: FrameType) -> None:
    """[81; B8]"""
    async with cloud_and_kubelet() as (cloud, kubelet):
        await cloud.ask(4, type, "/exec/default/web/c", "POST", Connection=["Upgrade"], Upgrade=["SPDY/3.1"])
        head = await cloud.receive()
        assert head.data.startswith(b"HTTP/1.1 101 ")
        await cloud.send(4, FrameType.DATA, b"\xff\x00input")
        assert (await cloud.receive()).data == b"\xff\x00input"
        for _ in range(1200):  # what a stock cloud does when its client leaves
            await cloud.send(4, FrameType.REMOVE)
        assert await cloud.receive() == (4, FrameType.REMOVE, b"")
        async with asyncio.timeout(10):
            await kubelet.idle.wait()
        kubelet.logs[LOG] = b"still here"
        await cloud.ask(5, FrameType.LOGS, LOG)
        assert await cloud.until_removed(5) == b"still here"


async def test_a_stock_cloud_hears_of_a_kubelet_that_does_not_answer() -> None:
    async with cloud_and_kubelet() as (cloud, kubelet):
        kubelet.silent = True
        await cloud.ask(1, FrameType.LOGS, LOG)
        async with asyncio.timeout(10):
            while not kubelet.asked:
                await asyncio.sleep(0.01)
        await cloud.send(1, FrameType.REMOVE)
        assert await cloud.receive() == (1, FrameType.REMOVE, b"")


async def test_requests_that_are_none_end_alone() -> None:
    async with cloud_and_kubelet() as (cloud, kubelet):
        kubelet.logs[LOG] = b"fine"
        for id, data in ((1, b"no json"), (2, b'{"MessID":2,"url":{"Path":"/a","RawQuery":"x y\\r\\n"},"header":{}}')):
            await cloud.send(id, FrameType.LOGS, data)
            assert await cloud.receive() == (id, FrameType.REMOVE, b"")
        await cloud.ask(3, FrameType.LOGS, LOG)
        assert await cloud.until_removed(3) == b"fine"


async def test_only_the_nodes_own_kubelet_is_dialled_whatever_the_cloud_names() -> None:
    async with cloud_and_kubelet() as (cloud, kubelet):
        kubelet.logs[LOG] = b"mine"
        connect = Connect(1, tunnel.url_of(LOG), {"Host": ["evil"]})
        connect.url.host = "192.0.2.99:80"
        await cloud.send(1, FrameType.LOGS, tunnel.encode_connect(connect))
        assert await cloud.until_removed(1) == b"mine"


async def test_an_edge_that_is_told_to_go_comes_back() -> None:
    async with cloud_and_kubelet() as (cloud, kubelet):
        kubelet.logs[LOG] = b"again"
        cloud.connected.clear()
        await cloud.send(0, FrameType.CLOSE_TUNNEL, b"failed to Update KubeletEndpoint Port")
        async with asyncio.timeout(10):
            await cloud.connected.wait()
        await cloud.ask(1, FrameType.LOGS, LOG)
        assert await cloud.until_removed(1) == b"again"
