"""`Tunnel`: many byte streams over one WebSocket, for cloudstream and edgestream alike.

Between halves of ours every stream has a window: who reads slowly holds up its own writer and nobody else. A stock
half knows no windows, so what it sends faster than it is read is buffered up to a limit; then the tunnel is read no
further while nobody else uses it, and otherwise the slow stream is ended. When the tunnel ends, every stream of it ends
with the tunnel's reason. Who opens and serves streams is the two modules' affair.

Go: pkg/stream/tunnel.go, cloud/pkg/cloudstream/session.go, edge/pkg/edgestream/tunnel.go
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import aiohttp
from aiohttp import WSMsgType

from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import tunnel
from edgehive.wire.link import ProtocolError
from edgehive.wire.tunnel import Frame, FrameType, Head

log = logging.getLogger("edgehive.stream")

#: What a peer of ours may send on one stream before it is given credit for more.
WINDOW = 512 * 1024
#: What of a stock peer is kept for a slow reader, and how long the tunnel waits for it while others use it, and alone.
STOCK_BUFFER = 4 * 1024 * 1024
STOCK_PATIENCE, STOCK_PATIENCE_ALONE = 1.0, 30.0
#: The largest piece sent in one frame: others get their turn between two.
PIECE = 64 * 1024
MAX_STREAMS = 512
PING_SECONDS = 5.0
#: How long the other side is given to take a farewell.
END_SECONDS = 1.0


class StreamBroken(ConnectionError):
    """The stream ended before its time; the text is one sentence for the person at its end."""


class Socket(Protocol):
    """What the client's and the server's WebSocket of aiohttp have in common; made with autoping off."""

    async def send_frame(self, message: bytes, opcode: WSMsgType, compress: int | None = None) -> None: ...
    async def receive(self, timeout: float | None = None) -> Any: ...
    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool: ...


class Stream:
    """One connection through the tunnel; reads and writes as asyncio's streams do (`kit.relay` joins it to others)."""

    def __init__(self, carrier: "Tunnel", id: int) -> None:
        self.id = id
        self.head: Head | None = None
        #: Something of an answer has been sent from this side.
        self.answering = False
        self._tunnel = carrier
        self._pieces: deque[bytes] = deque()
        self._buffered = 0
        self._consumed = 0
        self._changed = asyncio.Event()
        self._peer_ended = False
        self._fault = ""
        self._closed = False
        self._pending: deque[bytes] = deque()
        self._allowance = WINDOW
        self._credited = asyncio.Event()
        self._room = asyncio.Event()

    # Reading

    async def read(self, n: int = -1, /) -> bytes:
        """What has arrived, at most `n` bytes, none at the end. Raises StreamBroken."""
        await self._something()
        if self._pieces:
            await self._give_credit()
            return self._take(n if n >= 0 else PIECE)
        if self._fault:
            raise StreamBroken(self._fault)
        return b""

    async def answered(self) -> Head | None:
        """Return with the first sign of the other side: a head, data or the end. Raises StreamBroken."""
        await self._something(head=True)
        if self._fault and not self._pieces:
            raise StreamBroken(self._fault)
        return self.head

    @property
    def windowed(self) -> bool:
        """The other side is one of ours: it sends a head, and no more than is read."""
        return self._tunnel.windowed

    async def _something(self, *, head: bool = False) -> None:
        while not (self._pieces or self._peer_ended or self._fault or (head and self.head)):
            self._changed.clear()
            await self._changed.wait()

    def _take(self, most: int) -> bytes:
        taken, size = [], 0
        while self._pieces and size < most:
            piece = self._pieces.popleft()
            if size + len(piece) > most:
                self._pieces.appendleft(piece[most - size :])
                piece = piece[: most - size]
            taken.append(piece)
            size += len(piece)
        self._buffered -= size
        self._consumed += size
        if self._buffered <= STOCK_BUFFER // 2:
            self._room.set()
        return taken[0] if len(taken) == 1 else b"".join(taken)

    async def _give_credit(self) -> None:
        if self._tunnel.windowed and self._consumed >= WINDOW // 2:
            credit, self._consumed = self._consumed, 0
            with contextlib.suppress(StreamBroken):  # what has arrived is read all the same
                await self._tunnel.send(self.id, FrameType.CREDIT, tunnel.uvarint(credit))

    # Writing

    def write(self, data: bytes, /) -> None:
        """Takes data for the next `drain`."""
        self._pending.append(data)

    async def drain(self) -> None:
        """Send all of it, as fast as the other side reads. Raises StreamBroken."""
        while self._pending:
            self.answering = True
            data = self._pending.popleft()
            start = 0
            while start < len(data):
                room = await self._room_to_send()
                piece = data[start : start + min(room, PIECE)]
                self._allowance -= len(piece)
                start += len(piece)
                await self._tunnel.send(self.id, FrameType.DATA, piece)

    async def _room_to_send(self) -> int:
        while True:
            if self._fault:
                raise StreamBroken(self._fault)
            if self._peer_ended or self._closed:
                raise StreamBroken("the other side has ended the stream")
            if not self._tunnel.windowed:
                return PIECE
            if self._allowance > 0:
                return self._allowance
            self._credited.clear()
            await self._credited.wait()

    async def ask(self, type: int, request: bytes) -> None:
        """Tell the other side what the stream is for. Raises StreamBroken."""
        await self._tunnel.send(self.id, type, request)

    async def send_head(self, head: Head) -> None:
        """Status and type of an answer; a second one says that the answer was broken off. Stock peers know neither."""
        self.answering = True
        if self._tunnel.windowed:
            await self._tunnel.send(self.id, FrameType.HEAD, tunnel.encode_head(head))

    def can_write_eof(self) -> bool:
        """The protocol has no half-closed streams."""
        return False

    def write_eof(self) -> None:
        raise NotImplementedError("a tunnel's streams end as a whole")

    def close(self) -> None:
        """End it from this side; the other is told."""
        if not self._closed:
            self._closed = True
            self._tunnel._forget(self, tell=not self._fault)
            # Whoever waits for room in it, or for leave to send, has nothing to wait for any more.
            self._room.set()
            self._credited.set()

    async def wait_closed(self) -> None:
        """The end is sent by the tunnel; there is nothing to wait for."""

    # What the tunnel tells

    def _feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._buffered += len(data)
        self._changed.set()

    def _begin(self, head: Head) -> None:
        if self.head is not None:
            self._end("the node broke off its answer")
        self.head = head
        self._changed.set()

    def _add_credit(self, amount: int) -> None:
        self._allowance = min(self._allowance + amount, WINDOW)
        self._credited.set()

    def _end(self, fault: str = "") -> None:
        """No more comes: the other side is done, or `fault` says why."""
        if not (self._peer_ended or self._fault):
            self._fault = fault
            self._peer_ended = not fault
        for event in (self._changed, self._credited, self._room):
            event.set()


#: Serves what a connect frame asks for on its stream; edges have one.
OnConnect = Callable[[Frame, Stream], None]


class Tunnel:
    """One WebSocket; `run` is its life. `silence` ends it, `windowed_silence` one between halves of ours."""

    def __init__(
        self,
        socket: Socket,
        *,
        abort: Callable[[], None],
        on_connect: OnConnect | None = None,
        windowed: bool = False,
        pings: bool = False,
        silence: float,
        windowed_silence: float,
    ) -> None:
        self.windowed = windowed
        self.streams: dict[int, Stream] = {}
        self.refused_frames = 0
        self._socket = socket
        self._abort = abort
        self._on_connect = on_connect
        self._pings = pings
        self._silence = {False: silence, True: windowed_silence}
        self._reason = ""
        self._heard = 0.0
        self._notes: set[asyncio.Task[None]] = set()

    @property
    def reason(self) -> str:
        """Why it ended; "" while it stands."""
        return self._reason

    async def run(self) -> str:
        """Until the tunnel ends; why it did. All its streams have ended then."""
        self._heard = asyncio.get_running_loop().time()
        keeper = spawn(self._keep(), name="tunnel keeper")
        try:
            while True:
                await self._receive()
        except ProtocolError as error:
            self.refused_frames += 1
            self._reason = self._reason or f"the other side broke the protocol: {error}"
        except (StreamBroken, OSError, aiohttp.ClientError, RuntimeError) as error:
            self._reason = self._reason or str(error) or type(error).__name__
        finally:
            self._reason = self._reason or "the connection was lost"
            for stream in list(self.streams.values()):
                stream._end(f"the tunnel to the node was lost: {self._reason}")
            try:
                await cancel_and_join(keeper, *self._notes)
                await self._leave()
            finally:
                self._abort()
        return self._reason

    def open(self, id: int) -> Stream:
        """A stream of that id from this side. Raises StreamBroken when the tunnel has ended or is full."""
        if self._reason:
            raise StreamBroken(f"the tunnel to the node was lost: {self._reason}")
        if len(self.streams) >= MAX_STREAMS:
            raise StreamBroken(f"{MAX_STREAMS} streams are open on the node's tunnel already; try again later")
        stream = self.streams[id] = Stream(self, id)
        return stream

    async def send(self, id: int, type: int, data: bytes = b"") -> None:
        """Raises StreamBroken."""
        if self._reason:
            raise StreamBroken(f"the tunnel to the node was lost: {self._reason}")
        try:
            await self._socket.send_frame(tunnel.encode(id, type, data), WSMsgType.TEXT)
        except (OSError, aiohttp.ClientError, RuntimeError) as error:
            raise StreamBroken(f"the tunnel to the node was lost: {self._reason or error or 'it broke'}") from error

    async def end(self, reason: str, *, tell: bool = True) -> None:
        """End the tunnel from this side."""
        if tell:
            with contextlib.suppress(StreamBroken, TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await self.send(0, FrameType.CLOSE_TUNNEL, reason.encode())
        self._reason = self._reason or reason
        self._abort()

    # Frames

    async def _receive(self) -> None:
        received = await self._socket.receive()
        self._heard = asyncio.get_running_loop().time()
        match received.type:
            case WSMsgType.TEXT:
                await self._handle(tunnel.decode(received.data))
            case WSMsgType.PING:
                # In a task: reading goes on while the other side takes nothing.
                if not any(task.get_name() == "pong" for task in self._notes):
                    self._note(self._pong(received.data), "pong")
            case WSMsgType.PONG:
                pass
            case WSMsgType.BINARY:
                raise ProtocolError("a binary message; tunnel frames are text messages")
            case WSMsgType.ERROR if isinstance(received.data, aiohttp.WebSocketError):
                raise ProtocolError(str(received.data))
            case _:
                raise StreamBroken(self._reason or "the other side closed the connection")

    async def _handle(self, frame: Frame) -> None:
        stream = self.streams.get(frame.connection)
        match frame.type:
            case FrameType.DATA:
                if stream is not None and frame.data:
                    stream._feed(frame.data)
                    await self._within_bounds(stream)
            case FrameType.REMOVE:
                # Stock clouds send bursts of these, and for streams long gone.
                if stream is not None:
                    stream._end()
            case FrameType.CREDIT:
                self._credit(frame, stream)
            case FrameType.HEAD:
                if stream is not None:
                    stream._begin(tunnel.decode_head(frame.data))
            case FrameType.CLOSE_TUNNEL:
                raise StreamBroken(f"the other side ended it: {frame.data[:500].decode(errors='replace')}")
            case FrameType.LOGS | FrameType.EXEC | FrameType.METRICS | FrameType.ATTACH:
                self._connect(frame, stream)
            case _:
                self._refuse(f"a tunnel frame of unknown type {frame.type}")

    def _credit(self, frame: Frame, stream: Stream | None) -> None:
        amount, _ = tunnel.read_uvarint(frame.data, 0)
        if frame.connection == 0:
            self.windowed = True
        elif stream is not None:
            stream._add_credit(amount)

    def _connect(self, frame: Frame, present: Stream | None) -> None:
        if self._on_connect is None or present is not None:
            self._refuse(f"a connect frame for stream {frame.connection} that has no business here")
            return
        try:
            stream = self.open(frame.connection)
        except StreamBroken as error:
            self._refuse(str(error))
            self._tell_end(frame.connection)
            return
        self._on_connect(frame, stream)

    def _refuse(self, what: str) -> None:
        self.refused_frames += 1
        log.debug("ignored: %s", what)

    async def _within_bounds(self, stream: Stream) -> None:
        """Keep what waits for a slow reader within its limit."""
        if self.windowed:
            if stream._buffered > WINDOW + PIECE:
                self._drop(stream, "the other side sent more than it was allowed to")
            return
        while stream._buffered > STOCK_BUFFER and stream.id in self.streams:
            alone = len(self.streams) == 1
            stream._room.clear()
            try:
                async with asyncio.timeout(STOCK_PATIENCE_ALONE if alone else STOCK_PATIENCE):
                    await stream._room.wait()
            except TimeoutError:
                self._drop(stream, f"{STOCK_BUFFER >> 20} MiB wait for a reader that takes nothing")
            finally:
                self._heard = asyncio.get_running_loop().time()

    def _drop(self, stream: Stream, why: str) -> None:
        log.warning("stream %d is ended: %s", stream.id, why)
        stream._pieces.clear()
        stream._buffered = 0
        stream._end(f"the stream was ended: {why}")
        if self.streams.pop(stream.id, None) is not None:
            self._tell_end(stream.id)

    def _forget(self, stream: Stream, *, tell: bool) -> None:
        if self.streams.pop(stream.id, None) is None:
            return
        # A stock cloud sends removals until it is given one; an edge that has said its own needs no answer.
        if tell and (self._on_connect is not None or not stream._peer_ended):
            self._tell_end(stream.id)

    def _tell_end(self, id: int) -> None:
        self._note(self._send_end(id), f"end of stream {id}")

    def _note(self, sending: Coroutine[None, None, None], name: str) -> None:
        task = spawn(sending, name=name)
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _send_end(self, id: int) -> None:
        with contextlib.suppress(StreamBroken):
            await self.send(id, FrameType.REMOVE)

    async def _pong(self, data: bytes) -> None:
        with contextlib.suppress(OSError, aiohttp.ClientError, RuntimeError):
            await self._socket.send_frame(data, WSMsgType.PONG)

    # Life

    async def _keep(self) -> None:
        """Ping, and end a tunnel on which nothing is heard."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_SECONDS)
            silent = loop.time() - self._heard
            if silent > self._silence[self.windowed]:
                await self.end(f"nothing was heard from the other side for {silent:.0f} s", tell=False)
                return
            if self._pings:
                with contextlib.suppress(OSError, aiohttp.ClientError, RuntimeError):
                    async with asyncio.timeout(PING_SECONDS):
                        await self._socket.send_frame(tunnel.PING, WSMsgType.PING)

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._socket.close(message=self._reason.encode()[:120])
        except (TimeoutError, OSError, aiohttp.ClientError, RuntimeError):
            pass  # it is aborted next
