"""Any frames in any order: a tunnel goes on or ends with a reason; it never crashes nor holds more than it may."""

import asyncio

from aiohttp import WSMessage, WSMsgType
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehive.wire import tunnel
from edgehive.wire.streams import MAX_STREAMS, PIECE, STOCK_BUFFER, WINDOW, Stream, StreamBroken, Tunnel
from edgehive.wire.tunnel import Connect

_connects = st.builds(
    lambda path, query, name, value: tunnel.encode_connect(
        Connect(1, tunnel.url_of("/" + path + "?" + query), {name: [value]}, "POST")
    ),
    st.text(max_size=20), st.text(max_size=20), st.text(max_size=10), st.text(max_size=10),
)  # fmt: skip
_data = st.one_of(st.binary(max_size=40), _connects, st.sampled_from([bytes(PIECE), b'{"status":200}', b"\xff" * 10]))
_frames = st.builds(tunnel.encode, st.integers(0, 3), st.integers(0, 10), _data)
_messages = st.one_of(
    _frames.map(lambda data: WSMessage(WSMsgType.TEXT, data, None)),
    st.binary(max_size=30).map(lambda data: WSMessage(WSMsgType.TEXT, data, None)),
    st.sampled_from([WSMessage(WSMsgType.PING, b"ping you", None), WSMessage(WSMsgType.PONG, b"", None)]),
)


class Scripted:
    """Gives its messages and then the end."""

    def __init__(self, messages: list[WSMessage]) -> None:
        self.messages = list(messages)
        self.sent = 0

    async def send_frame(self, message: bytes, opcode: WSMsgType, compress: int | None = None) -> None:
        self.sent += 1

    async def receive(self, timeout: float | None = None) -> WSMessage:
        await asyncio.sleep(0)
        return self.messages.pop(0) if self.messages else WSMessage(WSMsgType.CLOSED, None, None)

    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool:
        return True


@settings(max_examples=300, deadline=None)
@given(st.lists(_messages, max_size=40), st.booleans(), st.booleans())
def test_whatever_comes(messages: list[WSMessage], windowed: bool, edge: bool) -> None:
    asyncio.run(_judge(messages, windowed, edge))


async def _judge(messages: list[WSMessage], windowed: bool, edge: bool) -> None:
    opened: list[Stream] = []

    def on_connect(frame: tunnel.Frame, stream: Stream) -> None:
        opened.append(stream)

    socket = Scripted(messages)
    carrier = Tunnel(
        socket, abort=lambda: None, on_connect=on_connect if edge else None, windowed=windowed, silence=90,
        windowed_silence=20,
    )  # fmt: skip
    if not edge:
        opened = [carrier.open(id) for id in (1, 2)]
    assert await carrier.run()
    assert len(carrier.streams) <= MAX_STREAMS
    assert socket.sent <= 4 * len(messages) + 4
    for stream in opened:
        assert stream._buffered <= max(WINDOW, STOCK_BUFFER) + tunnel.MAX_DATA
        try:
            async with asyncio.timeout(5):
                while await stream.read():
                    pass
        except StreamBroken as error:
            assert str(error)
