"""`HubLink`: the cloud's end of a WebSocket that an edge opened, as a `Link`. For thousands at once.

It is the connection's protocol itself: no task, no timer and no buffer while nothing happens. Whoever sends too much
is read more slowly, whoever does not read is left after a deadline; nothing is retried here. `hub_door` upgrades
connections to it.

Go: staging/src/github.com/kubeedge/viaduct/pkg/{server,lane,conn}
"""

import asyncio
from typing import cast

from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.refusals import Refusals
from edgehive.kit.shared_buffer import SharedBufferProtocol
from edgehive.wire import codec, frames
from edgehive.wire.frames import BrokenFrame, Frame
from edgehive.wire.link import LinkClosed, Peer, ProtocolError
from edgehive.wire.link_metrics import LinkMetrics
from edgehive.wire.names import CONTROL_OPERATIONS, Operation
from edgehive.wire.payloads import control_answer, is_empty

WRITE_SECONDS = 15.0
#: How long the other side may take to answer a close before the connection is simply ended.
CLOSE_SECONDS = 1.0
#: Received and not yet taken by the reader; beyond, the connection is not read.
WAITING_BYTES, WAITING_FRAMES = 256 * 1024, 64
#: Messages a second that a node may send before it is read more slowly, unless configured, and for how many seconds'
#: worth of them at once; an edge limits itself to 30 a second, and to 60 at once (edgeHub.messageQPS, messageBurst).
MESSAGE_RATE, BURST_SECONDS = 100.0, 3.0
#: What acknowledgements and keepalives count: nothing beyond the hub has work with them.
LIGHT = 0.2
_LIGHT_OPERATIONS = frozenset({Operation.RESPONSE, Operation.KEEPALIVE, *CONTROL_OPERATIONS})


class Allowance:
    """How many messages a peer may send; who sends more is read more slowly, and nothing is lost."""

    __slots__ = ("_at", "_burst", "_left", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self._burst = burst
        self._left = float(burst)
        self._at = 0.0

    def take(self, now: float, cost: float = 1.0) -> float:
        """Count one message at `now`; the seconds to wait before it is handed on."""
        self._left = min(self._burst, self._left + (now - self._at) * self.rate)
        self._at = now
        self._left -= cost
        return max(0.0, -self._left / self.rate)


class _Ended(asyncio.Transport):
    """What a link has instead of a transport once its connection has ended."""

    def is_closing(self) -> bool:
        return True

    def abort(self) -> None:
        """There is nothing left to end."""


_ENDED = _Ended()


class HubLink(SharedBufferProtocol):
    """See the file's head."""

    __slots__ = (
        "_allowance", "_answered_close", "_buffer", "_clock", "_closed", "_closing", "_code", "_end", "_frames",
        "_full", "_links", "_loop", "_lost", "_metrics", "_parting", "_parts", "_paused", "_peer", "_reader",
        "_refusals", "_transport", "_waiting", "_writers",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        peer: Peer,
        *,
        clock: Clock,
        metrics: LinkMetrics,
        refusals: Refusals,
        links: "set[HubLink]",
        lost: asyncio.Event | None = None,
        message_rate: float = MESSAGE_RATE,
    ) -> None:
        """It stands in `links` while it is connected; `lost` is set afterwards."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._peer = peer
        self._clock = clock
        self._metrics = metrics
        self._refusals = refusals
        self._allowance = Allowance(message_rate, round(BURST_SECONDS * message_rate))
        self._links = links
        self._lost = lost
        #: The beginning of a frame; bytes while there is none.
        self._buffer: bytes | bytearray = b""
        #: What came of a message in parts; None between messages.
        self._parts: bytearray | None = None
        #: Whole frames that nobody has taken, and their size.
        self._frames: list[bytes] = []
        self._waiting = 0
        self._reader: asyncio.Future[None] | None = None
        self._full = False
        #: Why no frame will follow.
        self._end: LinkClosed | ProtocolError | None = None
        self._paused = False
        self._writers: list[asyncio.Future[None]] = []
        self._closing = False
        self._closed: asyncio.Event | None = None
        self._answered_close = False
        self._parting: asyncio.Future[None] | None = None
        self._code = frames.NORMAL
        links.add(self)

    @property
    def peer(self) -> Peer:
        return self._peer

    # Link

    async def send(self, message: Message) -> None:
        frame = codec.encode(message)
        if self._paused and not self._closing:
            await self._drained()
        if self._closing or self._transport.is_closing():
            raise LinkClosed("the link is closed")
        self._transport.write(frames.server_frame(frames.TEXT, frame))
        self._metrics.sent(len(frame))

    async def receive(self) -> Message:
        while True:
            message = self._decode(await self._next_frame())
            light = message.route.operation in _LIGHT_OPERATIONS
            delay = self._allowance.take(self._loop.time(), LIGHT if light else 1.0)
            if delay:
                await self._slow_down(delay)
            if message.route.operation in CONTROL_OPERATIONS:
                await self._answer_control(message)
            elif not is_empty(message):
                return message

    async def close(self, reason: str = "") -> None:
        if self._closed is not None:
            await self._closed.wait()
            return
        self._closing, self._closed = True, asyncio.Event()
        self._frames.clear()
        self._wake_reader()
        self._wake_writers()
        transport = self._transport
        if not transport.is_closing() and not self._answered_close:
            transport.write(frames.server_frame(frames.CLOSE, frames.close_payload(self._code, reason)))
            if self._end is None and not await self._peer_answers():
                transport.abort()
        if not transport.is_closing():
            transport.close()
        self._closed.set()

    def abort(self) -> None:
        """End the connection without a word."""
        self._transport.abort()

    # Reading

    async def _next_frame(self) -> bytes:
        while not self._frames:
            if self._closing:
                raise LinkClosed("the link is closed")
            if self._end is not None:
                # A new one each time: one that is kept, with where it was raised, would keep link and connection.
                raise type(self._end)(*self._end.args)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        frame = self._frames.pop(0)
        self._waiting -= len(frame)
        if self._full and not self._frames:
            self._full = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return frame

    def _decode(self, frame: bytes) -> Message:
        try:
            message = codec.decode(frame)
        except ProtocolError as error:
            raise self._refused(error) from None
        self._metrics.received(len(frame))
        return message

    def _refused(self, error: ProtocolError) -> ProtocolError:
        self._metrics.refused.inc()
        said = f"node {self._peer.node} at {self._peer.address} broke the protocol: {error}"
        self._refusals.refuse("bad frame", said, about=self._peer.node)
        return error

    async def _slow_down(self, delay: float) -> None:
        self._metrics.slowed.inc()
        node = self._peer.node
        said = f"node {node} sends more than {self._allowance.rate:g} messages a second and is read more slowly"
        self._refusals.refuse("message rate", f"{said} (modules.cloudHub.nodeMessageQPS)", about=node)
        await asyncio.sleep(delay)

    async def _answer_control(self, message: Message) -> None:
        answer = control_answer(message, timestamp=unix_millis(self._clock.now()))
        if answer is not None:
            await self.send(answer)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    # Writing

    async def _drained(self) -> None:
        """Wait until the peer takes data; who does not in time is left."""
        writer = self._loop.create_future()
        self._writers.append(writer)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await writer
        except TimeoutError:
            self.abort()
            raise LinkClosed(f"the peer took no data for {WRITE_SECONDS:g} s") from None

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    async def _peer_answers(self) -> bool:
        """Wait for the close or the end of the other side; what else comes is not wanted any more."""
        if self._full:
            self._full = False
            self._transport.resume_reading()
        self._parting = self._loop.create_future()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._parting
        except TimeoutError:
            return False
        return True

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._end is not None:
            return
        buffer: bytes | bytearray = data
        if self._buffer:
            self._buffer += data
            buffer = self._buffer
        at = 0
        try:
            while (frame := frames.find(buffer, at, codec.MAX_FRAME, masked=True)) is not None:
                at = frame.end
                self._take(frame, frames.unmasked(buffer, frame))
        except BrokenFrame as error:
            self._code = error.code
            self._ended(self._refused(ProtocolError(f"the peer sent a bad WebSocket frame: {error}")))
            return
        self._keep(buffer, at)
        if not self._full and (self._waiting > WAITING_BYTES or len(self._frames) > WAITING_FRAMES):
            self._full = True
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_writers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(LinkClosed(f"the connection broke: {exc}" if exc else "the peer closed the connection"))
        self._paused = False
        self._wake_writers()
        self._links.discard(self)
        # uvloop keeps our methods, so that both would wait for the garbage collector with all of TLS's memory.
        self._transport = _ENDED
        if self._lost is not None:
            self._lost.set()

    # Frames

    def _keep(self, buffer: bytes | bytearray, at: int) -> None:
        """What follows the last whole frame."""
        if at == len(buffer) or self._end is not None:
            self._buffer = b""
        elif isinstance(buffer, bytearray):
            del buffer[:at]
        else:
            self._buffer = bytearray(buffer[at:])

    def _take(self, frame: Frame, payload: bytes) -> None:
        opcode = frame.opcode
        if self._end is not None:
            return
        if opcode in (frames.TEXT, frames.BINARY, frames.CONTINUATION):
            self._take_data(frame, payload)
        elif opcode == frames.PING:
            # Pongs for one who does not read them would pile up; a later ping is answered instead.
            if not self._paused and not self._transport.is_closing():
                self._transport.write(frames.server_frame(frames.PONG, payload))
        elif opcode == frames.CLOSE:
            self._take_close(payload)

    def _take_data(self, frame: Frame, payload: bytes) -> None:
        if (frame.opcode == frames.CONTINUATION) is not (self._parts is not None):
            raise BrokenFrame("the parts of a message do not follow each other")
        if not frame.final or self._parts is not None:
            # One buffer for all parts: however small they are, they cost no more than their bytes.
            self._parts = self._parts if self._parts is not None else bytearray()
            self._parts += payload
            if len(self._parts) > codec.MAX_FRAME:
                raise BrokenFrame(f"the largest accepted size of a message is {codec.MAX_FRAME}", frames.TOO_LARGE)
            if not frame.final:
                return
            payload, self._parts = bytes(self._parts), None
        if not self._closing:
            self._frames.append(payload)
            self._waiting += len(payload)
            self._wake_reader()

    def _take_close(self, payload: bytes) -> None:
        if not self._closing and not self._transport.is_closing():
            self._transport.write(frames.server_frame(frames.CLOSE, payload[:2]))
        self._answered_close = True
        reason = frames.close_reason(payload)
        self._ended(LinkClosed("the peer closed the connection" + (f": {reason}" if reason else "")))

    def _ended(self, end: LinkClosed | ProtocolError) -> None:
        self._end = self._end or end
        self._buffer = b""
        self._parts = None
        self._wake_reader()
        if self._parting is not None and not self._parting.done():
            self._parting.set_result(None)
