"""The edge's end of a hub link: WebSocket with TLS, as Go halves speak it. One text frame is one message.

The cloud's end is `hub_link`. Dead peers are found by the kernel (keepalive and an unacknowledged-data limit), so a
slow line with a large message on it is not mistaken for one. Nothing is retried here.

Go: staging/src/github.com/kubeedge/viaduct/pkg/{client,lane}
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import aiohttp
from aiohttp import WSMsgType
from yarl import URL

from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, SystemClock, unix_millis
from edgehive.kit.keepalive import expect_life_of
from edgehive.wire import codec, join
from edgehive.wire.dialing import dial_error
from edgehive.wire.link import LinkClosed, Peer, ProtocolError
from edgehive.wire.link_metrics import UNREGISTERED, LinkMetrics
from edgehive.wire.payloads import control_answer, is_empty

HANDSHAKE_SECONDS = 30.0
WRITE_SECONDS = 15.0
#: How long the other side may take to answer a close before the connection is simply ended.
CLOSE_SECONDS = 1.0
#: Silence after which the kernel asks the peer for life, and how long sent bytes may stay unacknowledged.
KEEPALIVE_SECONDS, UNACKNOWLEDGED_SECONDS = 20, 30


class WebSocketLink:
    """The edge's end of a hub link."""

    def __init__(
        self,
        websocket: aiohttp.ClientWebSocketResponse[bool],
        peer: Peer,
        *,
        transport: asyncio.BaseTransport | None,
        clock: Clock | None = None,
        metrics: LinkMetrics | None = None,
        write_timeout: float = WRITE_SECONDS,
        on_close: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._websocket = websocket
        self._peer = peer
        self._transport = transport
        self._clock = clock or SystemClock()
        self._metrics = metrics or UNREGISTERED
        self._write_timeout = write_timeout
        self._on_close = on_close
        self._ended = False
        self._closing = False
        self._closed = asyncio.Event()

    @property
    def peer(self) -> Peer:
        return self._peer

    async def send(self, message: Message) -> None:
        frame = codec.encode(message)
        if self._closing:
            raise LinkClosed("the link is closed")
        try:
            async with asyncio.timeout(self._write_timeout):
                await self._websocket.send_frame(frame, WSMsgType.TEXT)
        except TimeoutError:
            self._abort()
            raise LinkClosed(f"the peer took no data for {self._write_timeout:g} s") from None
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            raise LinkClosed(f"the connection broke: {error or type(error).__name__}") from error
        self._metrics.sent(len(frame))

    async def receive(self) -> Message:
        while True:
            message = self._decode(await self._next_frame())
            answer = control_answer(message, timestamp=unix_millis(self._clock.now()))
            if answer is not None:
                await self.send(answer)
            elif not is_empty(message):
                return message

    async def close(self, reason: str = "") -> None:
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                # A close frame holds 123 bytes of reason.
                await self._websocket.close(message=reason.encode()[:120])
        except (TimeoutError, OSError, aiohttp.ClientError, RuntimeError):
            self._abort()
        finally:
            self._closed.set()
            if self._on_close is not None:
                await self._on_close()

    def _refused(self, error: ProtocolError) -> ProtocolError:
        self._metrics.refused.inc()
        return error

    async def _next_frame(self) -> bytes:
        if self._ended or self._closing:
            raise LinkClosed("the link is closed")
        received = await self._websocket.receive()
        if received.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            return received.data  # type: ignore[no-any-return]
        self._ended = True
        if received.type is WSMsgType.ERROR and isinstance(received.data, aiohttp.WebSocketError):
            raise self._refused(ProtocolError(f"the peer sent a bad WebSocket frame: {received.data}"))
        raise LinkClosed("the peer closed the connection" + _close_text(received))

    def _decode(self, frame: bytes) -> Message:
        try:
            message = codec.decode(frame)
        except ProtocolError as error:
            raise self._refused(error) from None
        self._metrics.received(len(frame))
        return message

    def _abort(self) -> None:
        if self._transport is not None:
            # uvloop's transports are of no class of asyncio's.
            cast("asyncio.WriteTransport", self._transport).abort()


def _close_text(received: Any) -> str:
    reason = received.extra if received.type is WSMsgType.CLOSE else ""
    return f": {reason}" if reason else ""


def _expect_life(transport: asyncio.BaseTransport | None) -> None:
    expect_life_of(transport, idle=KEEPALIVE_SECONDS, interval=5, unacknowledged=UNACKNOWLEDGED_SECONDS)


async def connect(
    url: str,
    *,
    node: str,
    ssl_context: ssl.SSLContext | None,
    project_id: str = join.DEFAULT_PROJECT_ID,
    headers: Mapping[str, str] | None = None,
    peer: Peer | None = None,
    clock: Clock | None = None,
    metrics: LinkMetrics | None = None,
    handshake_timeout: float = HANDSHAKE_SECONDS,
    write_timeout: float = WRITE_SECONDS,
) -> WebSocketLink:
    """Dial a cloud (`wss://host:10000`); raises LinkClosed when it cannot be reached, JoinRefused when it refuses.

    A URL without a path gets the one a Go edge would dial. `ssl_context` holds the node's certificate and the
    cloud's CA; None is for plain `ws://` in tests.
    """
    target = URL(url)
    if target.path in ("", "/"):
        target = target.with_path(join.hub_path(project_id, node))
    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, force_close=True), auto_decompress=False)
    websocket: aiohttp.ClientWebSocketResponse[bool] | None = None
    identity = {
        join.NODE_ID_HEADER: node,
        join.PROJECT_ID_HEADER: project_id,
        join.CONNECTION_USE_HEADER: join.CONNECTION_USE_MESSAGES,
    }
    try:
        async with asyncio.timeout(handshake_timeout):
            websocket = await session.ws_connect(
                target,
                headers={**identity, **(headers or {})},
                ssl=ssl_context if ssl_context is not None else True,
                max_msg_size=codec.MAX_FRAME + 1,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                decode_text=False,
            )
    except (OSError, aiohttp.ClientError) as error:
        raise dial_error(error, target) from error
    finally:
        if websocket is None:
            await session.close()
    # aiohttp shows the transport nowhere in public, and a peer that takes no data can only be left by aborting it.
    connection = websocket._response.connection
    transport = connection.transport if connection else None
    _expect_life(transport)
    return WebSocketLink(
        websocket,
        peer or Peer(node="", address=f"{target.host}:{target.port}"),
        transport=transport,
        clock=clock,
        metrics=metrics,
        write_timeout=write_timeout,
        on_close=session.close,
    )
