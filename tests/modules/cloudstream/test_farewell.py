"""What is put behind a command's bytes when they break off."""

import asyncio
import json

import pytest

from edgehive.cloudcore.cloudstream.farewell import SpdyWithFarewell
from edgehive.kit.relay import Duplex
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.streams import StreamBroken

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n"
FRAME = bytes.fromhex("80030002000000100000000100000000") + bytes(8)
DATA = bytes.fromhex("0000000500000003") + b"abc"


class Broken:
    """Gives pieces, then breaks off."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)

    async def read(self, n: int = -1, /) -> bytes:
        if not self.pieces:
            raise StreamBroken("the tunnel was lost")
        return self.pieces.pop(0)


def broken(*pieces: bytes) -> Duplex:
    source = Broken(*pieces)
    return Duplex(source, source)  # type: ignore[arg-type]


async def everything(source: SpdyWithFarewell) -> bytes:
    collected = b""
    while piece := await source.read(100):
        collected += piece
    return collected


@pytest.mark.parametrize("size", [1, 3, 8, 100])
async def test_the_reason_comes_on_the_error_stream_after_whole_frames(size: int) -> None:
    sent = FRAME + DATA + DATA
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    got = await everything(SpdyWithFarewell(HEAD, broken(*pieces)))
    assert got.startswith(sent)
    last = got[len(sent) :]
    assert last[:5] == b"\0\0\0\1\1" and int.from_bytes(last[5:8], "big") == len(last) - 8
    status = json.loads(last[8:])
    assert (status["status"], status["message"]) == ("Failure", "the tunnel was lost")


async def test_what_came_with_the_head_counts_too() -> None:
    got = await everything(SpdyWithFarewell(HEAD + DATA[:6], broken(DATA[6:])))
    assert got.startswith(DATA[6:] + b"\0\0\0\1\1")


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (HEAD, [DATA[:-1]]),
        (HEAD, [DATA, DATA[:4]]),
        (HEAD.replace(b"v4.", b""), [DATA]),
        (HEAD.replace(b"SPDY/3.1", b"websocket"), [DATA]),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n", [b"abc"]),
    ],
)
async def test_where_nothing_can_be_said_the_stream_just_breaks(head: bytes, pieces: list[bytes]) -> None:
    with pytest.raises(StreamBroken):
        await everything(SpdyWithFarewell(head, broken(*pieces)))


async def test_a_write_that_fails_does_not_come_before_the_reason() -> None:
    class Unwritable(Broken):
        def write(self, data: bytes, /) -> None:
            pass

        async def drain(self) -> None:
            raise StreamBroken("the tunnel was lost")

    node = Unwritable()
    told = SpdyWithFarewell(HEAD, Duplex(node, node))
    told.write(b"input")
    writing = spawn(told.drain(), name="write")
    await asyncio.sleep(0)
    assert not writing.done()
    assert b"the tunnel was lost" in await told.read(100)
    await cancel_and_join(writing)
