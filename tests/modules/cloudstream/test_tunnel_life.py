"""A tunnel by itself, in virtual time: pings, silence, a stuck reader, and streams after its end."""

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMessage, WSMsgType

from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import tunnel
from edgehive.wire.streams import MAX_STREAMS, STOCK_BUFFER, WINDOW, Stream, StreamBroken, Tunnel
from edgehive.wire.tunnel import FrameType, Head

pytestmark = pytest.mark.looptime


class MemorySocket:
    """What is sent is kept; what a test puts in is received."""

    def __init__(self) -> None:
        self.sent: list[tuple[float, WSMsgType, bytes]] = []
        self.incoming: asyncio.Queue[WSMessage] = asyncio.Queue()
        self.answers_pings = False

    async def send_frame(self, message: bytes, opcode: WSMsgType, compress: int | None = None) -> None:
        self.sent.append((asyncio.get_running_loop().time(), opcode, bytes(message)))
        if opcode is WSMsgType.PING and self.answers_pings:
            self.incoming.put_nowait(WSMessage(WSMsgType.PONG, message, None))

    async def receive(self, timeout: float | None = None) -> Any:
        return await self.incoming.get()

    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool:
        return True

    def put(self, id: int, type: int, data: bytes = b"") -> None:
        self.incoming.put_nowait(WSMessage(WSMsgType.TEXT, tunnel.encode(id, type, data), None))

    def abort(self) -> None:
        self.incoming.put_nowait(WSMessage(WSMsgType.CLOSED, None, None))

    def frames(self) -> list[tunnel.Frame]:
        return [tunnel.decode(data) for _, opcode, data in self.sent if opcode is WSMsgType.TEXT]


def tunnel_over(socket: MemorySocket, **options: Any) -> Tunnel:
    return Tunnel(socket, abort=socket.abort, silence=90, windowed_silence=20, **options)


async def test_an_edge_pings_every_five_seconds_and_an_answer_is_a_sign_of_life() -> None:
    socket = MemorySocket()
    socket.answers_pings = True
    running = spawn(tunnel_over(socket, pings=True, windowed=True).run(), name="tunnel")
    await asyncio.sleep(121)
    pings = [(when, data) for when, opcode, data in socket.sent if opcode is WSMsgType.PING]
    assert [round(when) for when, _ in pings[:3]] == [5, 10, 15] and len(pings) == 24
    assert {data for _, data in pings} == {b"ping you"}
    assert not running.done()
    await cancel_and_join(running)


@pytest.mark.parametrize(("windowed", "seconds"), [(True, 25), (False, 95)])
async def test_silence_ends_a_tunnel_and_its_streams(windowed: bool, seconds: int) -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=windowed)
    stream = carrier.open(1)
    running = spawn(carrier.run(), name="tunnel")
    with pytest.raises(StreamBroken, match="the tunnel to the node was lost: nothing was heard"):
        await stream.read()
    assert round(asyncio.get_running_loop().time()) == seconds
    assert "nothing was heard" in await running
    with pytest.raises(StreamBroken, match="lost"):
        carrier.open(2)


async def test_pings_of_the_other_side_are_answered() -> None:
    socket = MemorySocket()
    running = spawn(tunnel_over(socket).run(), name="tunnel")
    socket.incoming.put_nowait(WSMessage(WSMsgType.PING, b"ping you", None))
    await asyncio.sleep(1)
    assert (WSMsgType.PONG, b"ping you") in [(opcode, data) for _, opcode, data in socket.sent]
    await cancel_and_join(running)


async def test_a_writer_waits_when_its_window_is_used_up() -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=True)
    stream = carrier.open(1)
    running = spawn(carrier.run(), name="tunnel")
    stream.write(bytes(WINDOW + 1000))
    writing = spawn(stream.drain(), name="write")
    await asyncio.sleep(1)
    assert not writing.done() and sum(len(frame.data) for frame in socket.frames()) == WINDOW
    socket.put(1, FrameType.CREDIT, tunnel.uvarint(5000))
    await asyncio.sleep(1)
    assert writing.done() and sum(len(frame.data) for frame in socket.frames()) == WINDOW + 1000
    await cancel_and_join(running)


async def test_credit_is_given_for_what_has_been_read() -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=True)
    stream = carrier.open(1)
    running = spawn(carrier.run(), name="tunnel")
    for _ in range(8):
        socket.put(1, FrameType.DATA, bytes(WINDOW // 8))
    received = 0
    while received < WINDOW:
        received += len(await stream.read(WINDOW // 8))
    socket.put(1, FrameType.DATA, b"more")
    await stream.read()
    given = [tunnel.read_uvarint(frame.data, 0)[0] for frame in socket.frames() if frame.type == FrameType.CREDIT]
    assert sum(given) == WINDOW
    await cancel_and_join(running)


async def test_who_sends_more_than_allowed_loses_the_stream() -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=True)
    stream, other = carrier.open(1), carrier.open(2)
    running = spawn(carrier.run(), name="tunnel")
    for _ in range(40):
        socket.put(1, FrameType.DATA, bytes(64 * 1024))
    socket.put(2, FrameType.DATA, b"fine")
    assert await other.read() == b"fine"
    with pytest.raises(StreamBroken, match="more than it was allowed to"):
        await stream.read()
    assert (1, FrameType.REMOVE, b"") in socket.frames()
    await cancel_and_join(running)


async def test_a_stock_peers_tunnel_waits_for_its_only_reader_and_not_for_ever() -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket)
    stream = carrier.open(1)
    running = spawn(carrier.run(), name="tunnel")
    piece = bytes(512 * 1024)
    for _ in range(20):
        socket.put(1, FrameType.DATA, piece)
    await asyncio.sleep(20)
    assert stream._buffered <= STOCK_BUFFER + len(piece) and not running.done()
    received = 0
    while received < 20 * len(piece):
        received += len(await stream.read(1 << 20))
    for _ in range(20):
        socket.put(1, FrameType.DATA, piece)
    await asyncio.sleep(40)
    with pytest.raises(StreamBroken, match="4 MiB wait for a reader that takes nothing"):
        await stream.read()
    assert not running.done()
    await cancel_and_join(running)


async def test_a_second_head_says_that_an_answer_was_broken_off() -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=True)
    stream = carrier.open(1)
    running = spawn(carrier.run(), name="tunnel")
    socket.put(1, FrameType.HEAD, tunnel.encode_head(Head(200, "text/plain")))
    assert await stream.answered() == Head(200, "text/plain")
    socket.put(1, FrameType.DATA, b"half")
    socket.put(1, FrameType.HEAD, tunnel.encode_head(Head(500)))
    await asyncio.sleep(1)
    assert await stream.read() == b"half"
    with pytest.raises(StreamBroken, match="the node broke off its answer"):
        await stream.read()
    await cancel_and_join(running)


async def test_more_streams_than_a_tunnel_holds_are_refused_one_by_one() -> None:
    socket = MemorySocket()
    opened: list[Stream] = []
    carrier = tunnel_over(socket, on_connect=lambda frame, stream: opened.append(stream))
    running = spawn(carrier.run(), name="tunnel")
    for id in range(1, MAX_STREAMS + 3):
        socket.put(id, FrameType.LOGS, b"{}")
    await asyncio.sleep(1)
    assert len(opened) == MAX_STREAMS and carrier.refused_frames == 2
    assert [frame.connection for frame in socket.frames()] == [MAX_STREAMS + 1, MAX_STREAMS + 2]
    await cancel_and_join(running)


@pytest.mark.parametrize(
    "message",
    [
        WSMessage(WSMsgType.ERROR, aiohttp.WebSocketError(1009, "too big"), None),
        WSMessage(WSMsgType.BINARY, b"\x01\x03", None),
        WSMessage(WSMsgType.TEXT, b"\x80", None),
        WSMessage(WSMsgType.TEXT, tunnel.encode(1, FrameType.HEAD, b"no json"), None),
        WSMessage(WSMsgType.TEXT, tunnel.encode(1, FrameType.CREDIT, b""), None),
    ],
)
async def test_what_breaks_the_protocol_ends_the_tunnel_and_is_counted(message: WSMessage) -> None:
    socket = MemorySocket()
    carrier = tunnel_over(socket, windowed=True)
    carrier.open(1)
    socket.incoming.put_nowait(message)
    assert "broke the protocol" in await carrier.run()
    assert carrier.refused_frames == 1


@pytest.mark.parametrize("moment", range(12))
async def test_a_tunnel_leaves_the_table_whenever_its_request_is_cancelled(moment: int) -> None:
    socket = MemorySocket()
    tunnels = Tunnels()
    carrier = tunnel_over(socket)
    stream = carrier.open(1)
    holding = spawn(tunnels._hold("n1", "192.0.2.7", carrier), name="hold")
    await asyncio.sleep(1)
    assert "n1" in tunnels
    socket.abort()
    for _ in range(moment):
        await asyncio.sleep(0)
    await cancel_and_join(holding)
    assert "n1" not in tunnels and tunnels.node_at("192.0.2.7") is None
    with pytest.raises(StreamBroken):
        await stream.read()
