"""Scripted peers of the stream tunnel that speak as stock halves do, a frame at a time, and as no half should.

async with stream_pair(edge=False) as pair, stock_edge(pair) as edge: ...
async with FakeKubelet().serving() as kubelet, stock_cloud(kubelet.port) as cloud: ...
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import WSMsgType, web

from edgehive.kit.http import serve
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.streams import NODE, PATIENCE, StreamPair, edge_stream
from edgehive.wire import tunnel
from edgehive.wire.tunnel import Connect, Frame, FrameType


class StockEdge:
    """An edge that knows neither windows nor heads."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self.websocket = websocket

    async def send(self, id: int, type: int, data: bytes = b"") -> None:
        await self.websocket.send_frame(tunnel.encode(id, type, data), WSMsgType.TEXT)

    async def receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE):
            message = await self.websocket.receive()
        assert message.type is WSMsgType.TEXT, message
        return tunnel.decode(message.data)

    async def connect(self) -> tuple[int, Connect, FrameType]:
        frame = await self.receive()
        return frame.connection, tunnel.decode_connect(frame.data), FrameType(frame.type)

    async def closed(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await self.websocket.receive()).type not in (WSMsgType.CLOSED, WSMsgType.CLOSE, WSMsgType.ERROR):
                pass


@asynccontextmanager
async def stock_edge(pair: StreamPair, *, node: str = NODE, address: str = "192.0.2.7") -> AsyncIterator[StockEdge]:
    headers = {tunnel.NODE_HEADER: node, tunnel.ADDRESS_HEADER: address}
    url = f"ws://127.0.0.1:{pair.door}{tunnel.CONNECT_PATH}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, headers=headers, autoping=False, decode_text=False) as websocket,
    ):
        await pair.connected(node)
        yield StockEdge(websocket)


class StockCloud:
    """A cloud's tunnel door that a test plays by hand."""

    def __init__(self) -> None:
        self.websocket: web.WebSocketResponse | None = None
        self.headers: dict[str, str] = {}
        self.connected = asyncio.Event()
        self.ended = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        websocket = web.WebSocketResponse(autoping=False, decode_text=False)
        await websocket.prepare(request)
        self.websocket, self.headers = websocket, dict(request.headers)
        self.connected.set()
        await self.ended.wait()
        return websocket

    async def send(self, id: int, type: int, data: bytes = b"") -> None:
        assert self.websocket is not None
        await self.websocket.send_frame(tunnel.encode(id, type, data), WSMsgType.TEXT)

    async def ask(self, id: int, type: FrameType, target: str, method: str = "", **header: list[str]) -> None:
        spelt = {name.replace("_", "-"): values for name, values in header.items()}
        await self.send(id, type, tunnel.encode_connect(Connect(id, tunnel.url_of(target), spelt, method)))

    async def receive(self) -> Frame:
        assert self.websocket is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self.websocket.receive()
                if message.type is WSMsgType.TEXT:
                    return tunnel.decode(message.data)
                assert message.type is WSMsgType.PING, message

    async def until_removed(self, id: int) -> bytes:
        data = b""
        while (frame := await self.receive()).type == FrameType.DATA:
            assert frame.connection == id
            data += frame.data
        assert (frame.connection, frame.type, frame.data) == (id, FrameType.REMOVE, b"")
        return data


@asynccontextmanager
async def stock_cloud(kubelet: int) -> AsyncIterator[StockCloud]:
    """With an edgestream connected to it, whose kubelet listens at that port."""
    cloud = StockCloud()
    app = web.Application()
    app.router.add_get(tunnel.CONNECT_PATH, cloud.handle)
    async with serve(app, host="127.0.0.1", port=0, drain=0.1) as (_, port):
        running = spawn(edge_stream(port, kubelet).run(lambda: None), name="edgestream")
        try:
            async with asyncio.timeout(PATIENCE):
                await cloud.connected.wait()
            yield cloud
        finally:
            cloud.ended.set()
            await cancel_and_join(running)
