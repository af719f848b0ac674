"""One node's connection to a hub: TLS, the upgrade as a Go edge asks for it, and whole messages as bytes.

For fleets of thousands: a callback per message, no task and no timer per connection. Never retries; what the peer
cannot take in time ends the connection. `wire.ws` is the link of real edges.

Go: staging/src/github.com/kubeedge/viaduct/pkg/client/ws.go
"""

import asyncio
import base64
import hashlib
import ssl
from collections.abc import Callable
from typing import cast

from edgehive.wire import frames, join
from edgehive.wire.codec import MAX_FRAME
from edgehive.wire.link import LinkClosed

#: More than this unsent means that the hub does not read.
MAX_UNSENT = 16 * 1024 * 1024
MAX_HEAD = 16 * 1024
HANDSHAKE_SECONDS = 30.0

#: The key guards against caches between, of which there are none under TLS: one serves all.
_KEY = base64.b64encode(b"edgehive's fleet").decode()
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_ACCEPT = base64.b64encode(hashlib.sha1(_KEY.encode() + _GUID, usedforsecurity=False).digest())


def upgrade_request(host: str, node: str, project_id: str) -> bytes:
    """The request as Go writes it, letter for letter."""
    lines = (
        f"GET {join.hub_path(project_id, node)} HTTP/1.1",
        f"Host: {host}",
        "User-Agent: Go-http-client/1.1",
        "Connection: Upgrade",
        f"Connectionuse: {join.CONNECTION_USE_MESSAGES}",
        f"Node_id: {node}",
        f"Project_id: {project_id}",
        f"Sec-WebSocket-Key: {_KEY}",
        "Sec-WebSocket-Version: 13",
        "Upgrade: websocket",
    )
    return "\r\n".join([*lines, "", ""]).encode()


class HubSocket(asyncio.Protocol):
    """Use `dial`; `on_message` gets every message, `on_end` the reason, once."""

    def __init__(self, request: bytes, on_message: Callable[[bytes], None], on_end: Callable[[str], None]) -> None:
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._on_message = on_message
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._upgraded = False
        self._reason = ""

    def send(self, message: bytes) -> None:
        """Raises LinkClosed when the connection is gone or takes nothing."""
        transport = self._transport
        if transport is None or transport.is_closing():
            raise LinkClosed(self._reason or "the connection is closed")
        if transport.get_write_buffer_size() > MAX_UNSENT:
            self._break("the hub takes no data")
            raise LinkClosed(self._reason)
        transport.write(frames.client_frame(frames.TEXT, message))

    def cut(self, reason: str) -> None:
        """End the connection without a word, as a lost network does."""
        self._break(reason)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            if self._upgraded or self._upgrade():
                self._take_frames()
        except frames.BrokenFrame as error:
            self._break(f"the hub broke the protocol: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        reason = self._reason or (f"the connection broke: {exc}" if exc else "the hub closed the connection")
        self._reason, self._transport = reason, None
        if not self.opened.done():
            self.opened.set_exception(LinkClosed(reason))
            self.opened.exception()  # who dialled may have left already
        else:
            self._on_end(reason)

    # Inside

    def _upgrade(self) -> bool:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            if len(head) > MAX_HEAD:
                raise frames.BrokenFrame("its answer to the upgrade does not end")
            return False
        if not head.startswith(b"HTTP/1.1 101") or _ACCEPT not in head:
            status = head.split(b"\r\n", 1)[0].decode(errors="replace")
            said = " ".join(rest[:200].decode(errors="replace").split())
            self._break(f"the hub refuses the connection: {status}{f': {said}' if said else ''}")
            return False
        self._buffer = rest
        self._upgraded = True
        if not self.opened.done():
            self.opened.set_result(None)
        return True

    def _take_frames(self) -> None:
        buffer, at = self._buffer, 0
        while (frame := frames.find(buffer, at, MAX_FRAME, masked=False)) is not None:
            at = frame.end
            self._take(frame, frames.payload_of(buffer, frame))
        del buffer[:at]

    def _take(self, frame: frames.Frame, payload: bytes) -> None:
        if frame.opcode in (frames.TEXT, frames.BINARY, frames.CONTINUATION):
            if frame.final and not self._parts:
                self._on_message(payload)
                return
            # Stock cloudcore splits what is larger than its write buffer.
            self._parts.append(payload)
            if sum(map(len, self._parts)) > MAX_FRAME:
                raise frames.BrokenFrame(f"a message of more than {MAX_FRAME} bytes")
            if frame.final:
                whole, self._parts = b"".join(self._parts), []
                self._on_message(whole)
        elif frame.opcode == frames.PING and self._transport is not None:
            self._transport.write(frames.client_frame(frames.PONG, payload))
        elif frame.opcode == frames.CLOSE:
            self._break(f"the hub closed the connection: {frames.close_reason(payload) or 'no reason given'}")

    def _break(self, reason: str) -> None:
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()


async def dial(
    address: tuple[str, int],
    context: ssl.SSLContext,
    request: bytes,
    on_message: Callable[[bytes], None],
    on_end: Callable[[str], None],
) -> HubSocket:
    """An open connection; raises LinkClosed with the reason."""
    host, port = address
    socket: HubSocket | None = None
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            _, socket = await asyncio.get_running_loop().create_connection(
                lambda: HubSocket(request, on_message, on_end),
                host,
                port,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
            )
            await socket.opened
            return socket
    except ssl.SSLCertVerificationError as error:
        raise LinkClosed(f"the certificate of {host}:{port} does not verify: {error.verify_message}") from error
    except TimeoutError:
        if socket is not None:
            socket.cut("no answer in time")
        raise LinkClosed(f"{host}:{port} did not answer in {HANDSHAKE_SECONDS:g} s") from None
    except OSError as error:
        raise LinkClosed(
            f"{host}:{port} cannot be reached: {error.strerror or error or type(error).__name__}"
        ) from error
