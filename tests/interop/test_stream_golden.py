"""The tunnel as recorded from a live Go pair: byte for byte, and replayed by a scripted peer in both roles."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgehive.testing.stream_peers import stock_cloud, stock_edge
from edgehive.testing.streams import stream_pair
from edgehive.wire import tunnel
from edgehive.wire.tunnel import Connect, FrameType

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or CHECKOUT.parent / "shared")
FILES = sorted((SHARED / "golden").glob("*.jsonl"))
CONNECTS = tunnel.BODY_TYPES | tunnel.STREAM_TYPES

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recorded traffic: {SHARED / 'golden'} is absent (EDGEHIVE_SHARED names its parent)"
)


class Recorded(NamedTuple):
    place: str
    frame: bytes
    message: dict[str, Any]


def recorded() -> Iterator[Recorded]:
    for file in FILES:
        with file.open() as lines:
            for line in lines:
                entry = json.loads(line)
                message = entry["message"]
                if entry["channel"] == "tunnel" and message.get("opcode") == 1 and "frame_hex" in message:
                    yield Recorded(f"{file.name} seq {entry['seq']}", bytes.fromhex(message["frame_hex"]), message)


def test_every_recorded_frame_is_read_and_written_as_go_wrote_it() -> None:
    seen = 0
    for place, payload, message in recorded():
        frame = tunnel.decode(payload)
        assert (frame.connection, frame.type) == (message["connect_id"], message["type"]), place
        assert tunnel.encode(*frame) == payload, place
        seen += 1
    assert seen > 150


def test_every_recorded_request_is_read_and_written_as_go_wrote_it() -> None:
    seen: set[int] = set()
    for place, payload, message in recorded():
        frame = tunnel.decode(payload)
        if frame.type not in CONNECTS:
            continue
        connect = tunnel.decode_connect(frame.data)
        assert tunnel.encode_connect(connect) == frame.data, place
        assert (connect.id, connect.method or "GET") == (frame.connection, message["json"].get("method", "GET")), place
        again = tunnel.url_of(connect.url.target)
        assert again == connect.url, place
        seen.add(frame.type)
    assert seen == {FrameType.LOGS, FrameType.EXEC, FrameType.METRICS, FrameType.ATTACH}


# Replayed


@dataclass
class Exchange:
    """One recorded connection: what asked for it, and what went over it."""

    place: str
    type: FrameType
    request: bytes
    down: bytes = b""
    up: bytes = b""
    #: The client left before the node had finished.
    cut: bool = False
    steps: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def connect(self) -> Connect:
        return tunnel.decode_connect(self.request)


def exchanges() -> list[Exchange]:
    """In the order of their ids."""
    found: dict[int, Exchange] = {}
    if not FILES:
        return []
    for file in (SHARED / "golden" / name for name in ("20-stream.jsonl", "21-stream-kubectl.jsonl")):
        with file.open() as lines:
            for line in lines:
                entry = json.loads(line)
                if entry["channel"] != "tunnel" or "frame_hex" not in entry["message"]:
                    continue
                frame = tunnel.decode(bytes.fromhex(entry["message"]["frame_hex"]))
                if frame.type in CONNECTS:
                    place = f"{file.name} seq {entry['seq']}"
                    found[frame.connection] = Exchange(place, FrameType(frame.type), frame.data)
                    continue
                exchange, down = found[frame.connection], entry["direction"] == "cloud->edge"
                if frame.type == FrameType.REMOVE:
                    exchange.cut = exchange.cut or (down and ("up", b"") not in exchange.steps)
                    exchange.steps.append(("down" if down else "up", b""))
                else:
                    exchange.steps.append(("down" if down else "up", frame.data))
                    exchange.down += frame.data if down else b""
                    exchange.up += b"" if down else frame.data
    return list(found.values())


def head_of(connect: Connect) -> bytes:
    """The request that made the recorded cloud send this."""
    lines = [f"{connect.method or 'GET'} {connect.url.target} HTTP/1.1", "Host: 192.0.2.2:10351"]
    lines += [f"{name}: {value}" for name, values in (connect.header or {}).items() for value in values]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("exchange", exchanges(), ids=lambda exchange: exchange.place)
async def test_our_cloud_asks_a_recorded_edge_the_same_and_passes_its_answer_on(exchange: Exchange) -> None:
    async with (
        stream_pair(edge=False, node="goedge") as pair,
        stock_edge(pair, node="goedge", address="192.0.2.2") as edge,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.face)
        writer.write(head_of(exchange.connect))
        asked = await edge.receive()
        connect = tunnel.decode_connect(asked.data)
        assert connect.id == asked.connection
        connect.id = exchange.connect.id
        assert (asked.type, tunnel.encode_connect(connect)) == (exchange.type, exchange.request)
        async with asyncio.timeout(10):
            for direction, data in exchange.steps:
                if direction == "up":
                    await edge.send(asked.connection, FrameType.DATA if data else FrameType.REMOVE, data)
                    if not data:
                        break
                    if exchange.type in tunnel.STREAM_TYPES:
                        assert await reader.readexactly(len(data)) == data
                elif data:
                    writer.write(data)
                    received = b""
                    while len(received) < len(data):
                        received += (await edge.receive()).data
                    assert received == data
                else:
                    break
            if exchange.type in tunnel.BODY_TYPES and not exchange.cut:
                head, _, body = (await _until_end(reader)).partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 OK")
                assert _unchunked(body) == exchange.up
            if exchange.cut:
                writer.transport.abort()
                assert await edge.receive() == (asked.connection, FrameType.REMOVE, b"")
        writer.transport.abort()


async def _until_end(reader: asyncio.StreamReader) -> bytes:
    """One chunked answer, on a connection that may be kept."""
    return await reader.readuntil(b"\r\n0\r\n\r\n")


def _unchunked(body: bytes) -> bytes:
    data = b""
    while body and (size := int(body.split(b"\r\n", 1)[0], 16)):
        start = body.index(b"\r\n") + 2
        data += body[start : start + size]
        body = body[start + size + 2 :]
    return data


@pytest.mark.parametrize("exchange", exchanges(), ids=lambda exchange: exchange.place)
async def test_our_edge_answers_a_recorded_cloud_the_same(exchange: Exchange) -> None:
    async with recorded_kubelet(exchange) as (port, heads), stock_cloud(port) as cloud:
        await cloud.send(exchange.connect.id, exchange.type, exchange.request)
        received = b""
        while len(received) < len(exchange.up):
            frame = await cloud.receive()
            assert (frame.connection, frame.type) == (exchange.connect.id, FrameType.DATA)
            received += frame.data
            if exchange.down and received == exchange.up[: len(received)] and not heads[1:]:
                heads.append("input sent")
                for direction, data in exchange.steps:
                    if direction == "down" and data:
                        await cloud.send(exchange.connect.id, FrameType.DATA, data)
        assert received == exchange.up
        if exchange.cut:
            await cloud.send(exchange.connect.id, FrameType.REMOVE)
        assert await cloud.receive() == (exchange.connect.id, FrameType.REMOVE, b"")
        asked = heads[0].split("\r\n")
        assert asked[0] == f"{exchange.connect.method or 'GET'} {exchange.connect.url.target} HTTP/1.1"
        for version in (exchange.connect.header or {}).get("X-Stream-Protocol-Version", []):
            assert f"X-Stream-Protocol-Version: {version}" in asked


@asynccontextmanager
async def recorded_kubelet(exchange: Exchange) -> AsyncIterator[tuple[int, list[str]]]:
    """Says what the recorded edge passed on, once it has been given what the recorded cloud passed on."""
    heads: list[str] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if exchange.type in tunnel.STREAM_TYPES:
            switched = exchange.up.index(b"\r\n\r\n") + 4
            writer.write(exchange.up[:switched])
            assert await reader.readexactly(len(exchange.down)) == exchange.down
            writer.write(exchange.up[switched:])
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"%x\r\n%s\r\n" % (len(exchange.up), exchange.up))
            writer.write(b"" if exchange.cut else b"0\r\n\r\n")
        if exchange.cut:
            await reader.read()
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], heads
        async with asyncio.timeout(10):
            await done.wait()
    finally:
        server.close()
