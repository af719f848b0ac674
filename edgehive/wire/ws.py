"""Links over WebSocket with TLS: the transport that Go halves speak too. One text frame is one message.

`connect` is the edge's side; `accept` and `handler` are the cloud's, on any aiohttp application that asks
for client certificates. Dead peers are found by the kernel (keepalive and an unacknowledged-data limit), so a
slow line with a large message on it is not mistaken for one. Nothing is retried here.

Go: staging/src/github.com/kubeedge/viaduct/pkg/{client,server,lane}
"""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, cast

import aiohttp
from aiohttp import WSMsgType, web
from prometheus_client import CollectorRegistry, Counter
from yarl import URL

from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, SystemClock, unix_millis
from edgehive.kit.keepalive import expect_life_of
from edgehive.kit.refusals import Refusals
from edgehive.wire import codec, join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.dialing import REFUSAL_HEADER, dial_error
from edgehive.wire.link import LinkClosed, Peer, ProtocolError
from edgehive.wire.payloads import control_answer, is_empty

HANDSHAKE_SECONDS = 30.0
WRITE_SECONDS = 15.0
#: How long the other side may take to answer a close before the connection is simply ended.
CLOSE_SECONDS = 1.0
#: Silence after which the kernel asks the peer for life, and how long sent bytes may stay unacknowledged.
KEEPALIVE_SECONDS, UNACKNOWLEDGED_SECONDS = 20, 30


#: What a node may send before it is read more slowly; an edge limits itself to 30 a second (edgeHub.messageQPS).
MESSAGE_RATE, MESSAGE_BURST = 500.0, 2000


class LinkMetrics:
    """Counts what crosses the links of one process."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.messages = Counter("edgehive_link_messages", "Messages over hub links.", ["direction"], registry=registry)
        self.bytes = Counter(
            "edgehive_link_bytes", "Bytes of messages over hub links.", ["direction"], registry=registry
        )
        self.refused = Counter("edgehive_link_refused_frames", "Frames that are no message.", registry=registry)
        self.slowed = Counter(
            "edgehive_link_slowed_messages",
            "Messages read late because their sender sends too many.",
            registry=registry,
        )


_UNREGISTERED = LinkMetrics(None)


class Allowance:
    """How many messages a peer may send; who sends more is read more slowly, and nothing is lost."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Count one message at `now`; the seconds to wait before it is handed on."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        self._left -= 1
        return max(0.0, -self._left / self._rate)


class _Socket(Protocol):
    """What the client's and the server's WebSocket of aiohttp have in common."""

    async def send_frame(self, message: bytes, opcode: WSMsgType, compress: int | None = None) -> None: ...
    async def receive(self, timeout: float | None = None) -> Any: ...
    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool: ...
    def get_extra_info(self, name: str, default: Any = None) -> Any: ...


class WebSocketLink:
    """A Link over one WebSocket of either side."""

    def __init__(
        self,
        websocket: _Socket,
        peer: Peer,
        *,
        transport: asyncio.BaseTransport | None,
        clock: Clock | None = None,
        metrics: LinkMetrics | None = None,
        write_timeout: float = WRITE_SECONDS,
        on_close: Callable[[], Awaitable[None]] | None = None,
        allowance: Allowance | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._websocket = websocket
        self._allowance = allowance
        self._refusals = refusals
        self._peer = peer
        self._transport = transport
        self._clock = clock or SystemClock()
        self._metrics = metrics or _UNREGISTERED
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
        self._count("sent", len(frame))

    async def receive(self) -> Message:
        while True:
            message = self._decode(await self._next_frame())
            await self._pace()
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

    async def wait_closed(self) -> None:
        """Return once this side has closed the link; the server's request handler waits here."""
        await self._closed.wait()

    async def _pace(self) -> None:
        if self._allowance is None:
            return
        delay = self._allowance.take(asyncio.get_running_loop().time())
        if not delay:
            return
        self._metrics.slowed.inc()
        if self._refusals is not None:
            self._refusals.refuse(
                "message rate", f"node {self._peer.node} sends too many messages", about=self._peer.node
            )
        await asyncio.sleep(delay)

    def _refused(self, error: ProtocolError) -> ProtocolError:
        self._metrics.refused.inc()
        if self._refusals is not None:
            said = f"node {self._peer.node} at {self._peer.address} broke the protocol: {error}"
            self._refusals.refuse("bad frame", said, about=self._peer.node)
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
        self._count("received", len(frame))
        return message

    def _count(self, direction: str, size: int) -> None:
        self._metrics.messages.labels(direction).inc()
        self._metrics.bytes.labels(direction).inc(size)

    def _abort(self) -> None:
        if self._transport is not None:
            # uvloop's transports are of no class of asyncio's.
            cast("asyncio.WriteTransport", self._transport).abort()


def _close_text(received: Any) -> str:
    reason = received.extra if received.type is WSMsgType.CLOSE else ""
    return f": {reason}" if reason else ""


def _expect_life(transport: asyncio.BaseTransport | None) -> None:
    expect_life_of(transport, idle=KEEPALIVE_SECONDS, interval=5, unacknowledged=UNACKNOWLEDGED_SECONDS)


# The edge's side


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


# The cloud's side


async def accept(
    request: web.Request,
    *,
    clock: Clock | None = None,
    metrics: LinkMetrics | None = None,
    refusals: Refusals | None = None,
) -> tuple[WebSocketLink, web.WebSocketResponse]:
    """Upgrade a request on any path; raises web.HTTPError for one that is no edge's.

    The request's handler keeps running while the link lives (`await link.wait_closed()`) and returns the response.
    """
    peer = peer_of(request)
    _check_origin(request)
    if request.headers.get(join.CONNECTION_USE_HEADER) != join.CONNECTION_USE_MESSAGES:
        raise _refusal(
            web.HTTPBadRequest,
            f"header {join.CONNECTION_USE_HEADER} is to be {join.CONNECTION_USE_MESSAGES!r}: "
            "this port carries messages only",
        )
    websocket = web.WebSocketResponse(
        max_msg_size=codec.MAX_FRAME + 1, compress=False, timeout=CLOSE_SECONDS, decode_text=False
    )
    await websocket.prepare(request)
    _expect_life(request.transport)
    link = WebSocketLink(
        websocket,
        peer,
        transport=request.transport,
        clock=clock,
        metrics=metrics,
        allowance=Allowance(MESSAGE_RATE, MESSAGE_BURST),
        refusals=refusals,
    )
    return link, websocket


def handler(
    acceptor: Acceptor,
    *,
    clock: Clock | None = None,
    metrics: LinkMetrics | None = None,
    refusals: Refusals | None = None,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An aiohttp handler that offers every accepted link to `acceptor` and ends with it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if not acceptor.open:
            raise _refusal(web.HTTPServiceUnavailable, "the hub does not accept links now; try again later")
        link, response = await accept(request, clock=clock, metrics=metrics, refusals=refusals)
        try:
            await acceptor.offer(link)
            await link.wait_closed()
        except LinkClosed:
            pass
        finally:
            await link.close("the server is stopping")
        return response

    return handle


def peer_of(request: web.Request) -> Peer:
    """Who asks, by header and by certificate; raises HTTPBadRequest without a node id."""
    node = request.headers.get(join.NODE_ID_HEADER, "")
    if not node:
        raise _refusal(web.HTTPBadRequest, f"header {join.NODE_ID_HEADER} is missing: it names the node")
    common_name, organizations = subject_of(request)
    return Peer(
        node=node,
        address=request.remote or "",
        common_name=common_name,
        organizations=organizations,
        project=request.headers.get(join.PROJECT_ID_HEADER, ""),
    )


def subject_of(request: web.Request) -> tuple[str, tuple[str, ...]]:
    """CN and O of the client certificate that TLS verified; ("", ()) without one."""
    certificate: dict[str, Any] = request.get_extra_info("peercert") or {}
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    common_name = next((value for name, value in pairs if name == "commonName"), "")
    return common_name, tuple(value for name, value in pairs if name == "organizationName")


def _check_origin(request: web.Request) -> None:
    """A browser's page may not open the hub: Go's rule that Origin, when sent, names the request's own host."""
    origin = request.headers.get("Origin")
    if not origin:
        return
    with contextlib.suppress(ValueError):
        if URL(origin).authority.lower() == request.host.lower():
            return
    raise _refusal(web.HTTPForbidden, f"origin {origin!r} may not open this link")


def _refusal(error: type[web.HTTPError], text: str) -> web.HTTPError:
    return error(text=text, headers={REFUSAL_HEADER: text})
