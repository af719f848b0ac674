"""Takes an HTTP server's connection over and joins two byte streams, with back-pressure.

For whoever passes on what it does not read: edged to the runtime's streams, an API server to a node, a tunnel's end
to a local port. Bytes are carried, never looked at; only the head of the answer to an upgrade is read.
Go: staging/src/k8s.io/apimachinery/pkg/util/proxy/upgradeaware.go
"""

import asyncio
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from aiohttp import web
from multidict import CIMultiDictProxy

from edgehive.kit.tasks import cancel_and_join, spawn

#: What one direction holds at most is about three times this: read, buffered, and on its way out.
_PIECE = 64 * 1024
_HEAD_LIMIT = 64 * 1024
_BODY_LIMIT = 64 * 1024
_HEAD_END = b"\r\n\r\n"
#: Everything else in a request's head is between the asker and us: credentials above all.
_PASSED_ON = frozenset({"upgrade", "connection", "x-stream-protocol-version", "user-agent"})


class BackendFailed(Exception):
    """The other side gave no usable answer to an upgrade; one sentence for the person who asked."""


class Source(Protocol):
    """What bytes are read from; `asyncio.StreamReader` is one."""

    async def read(self, n: int = -1, /) -> bytes:
        """At most `n` bytes, none at the end."""
        ...


class Sink(Protocol):
    """What bytes are written to; `asyncio.StreamWriter` is one."""

    def write(self, data: bytes, /) -> None: ...

    async def drain(self) -> None: ...

    def can_write_eof(self) -> bool: ...

    def write_eof(self) -> None: ...

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


class Duplex(NamedTuple):
    """One end of a byte stream."""

    reader: Source
    writer: Sink


async def relay(left: Duplex, right: Duplex, *, linger: float = 30.0) -> None:
    """Carry bytes both ways until both directions have ended, or one has for `linger` seconds; closes both."""
    pumps = [
        spawn(_pump(left.reader, right.writer), name="relay out"),
        spawn(_pump(right.reader, left.writer), name="relay back"),
    ]
    try:
        done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if all(pump.result() for pump in done):
            await asyncio.wait(pumps, timeout=linger)
    finally:
        try:
            await cancel_and_join(*pumps)
        finally:  # for a caller that is cancelled while the pumps end
            left.writer.close()
            right.writer.close()


async def _pump(source: Source, sink: Sink) -> bool:
    """Whether the end of `source` was passed on as an end of writing, so that the other direction may go on."""
    try:
        while data := await source.read(_PIECE):
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
            return True
    except OSError:
        # Either peer is gone: whatever is left has nobody to go to.
        return False
    return False


# --- an HTTP server's connection ---


class Hijacked(web.StreamResponse):
    """A request's connection with HTTP taken off; the handler returns it when it is done with `stream`."""

    def __init__(self, stream: Duplex) -> None:
        super().__init__(status=101)
        self.force_close()
        self.stream = stream

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing of HTTP is written any more."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Whoever used the stream has closed it."""


def hijack(request: web.Request) -> Hijacked:
    """Take the connection from the server: bytes from here on are the caller's, the answer's head included."""
    handler, transport = request.protocol, request.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    early = _Early()
    handler.keep_alive(False)
    handler.set_parser(early)  # type: ignore[arg-type]
    reader = asyncio.StreamReader(limit=_PIECE)
    protocol = _Switched(reader, transport.get_protocol())
    protocol.connection_made(transport)
    transport.set_protocol(protocol)
    reader.feed_data(early.data)
    writer = asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())
    return Hijacked(Duplex(reader, writer))


class _Early:
    """Receives what the server had read behind the head of an upgrade."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The reader learns of the end by itself."""


class _Switched(asyncio.StreamReaderProtocol):
    """Tells the server too when the connection is gone: it counts them, and cancels the handler of a lost one."""

    def __init__(self, reader: asyncio.StreamReader, server: asyncio.BaseProtocol) -> None:
        super().__init__(reader)
        self._server = server

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connection_lost(exc)


# --- upgrades ---


def is_upgrade(request: web.BaseRequest) -> bool:
    """The client wants to go on with another protocol."""
    tokens = {token.strip().lower() for value in request.headers.getall("Connection", ()) for token in value.split(",")}
    return "upgrade" in tokens and bool(request.headers.get("Upgrade"))


async def pass_on_upgrade(
    request: web.Request, backend: Duplex, target: str, *, host: str, deadline: float = 30.0
) -> web.StreamResponse:
    """Ask `backend` for the upgrade that `request` asks of us and join both; its refusal is passed on as it is.

    `target` is the path (and query) there. Closes `backend`. Raises BackendFailed while nothing has been answered yet.
    """
    try:
        answer = await _ask(backend, _request_head(request.method, target, host, request.headers), host, deadline)
        if isinstance(answer, web.Response):
            return answer
        taken = hijack(request)
        taken.stream.writer.write(answer)
        await relay(taken.stream, backend)
        return taken
    finally:
        backend.writer.close()


async def _ask(backend: Duplex, head: bytes, host: str, deadline: float) -> bytes | web.Response:
    """What the backend sent when it agreed, as it is, or its refusal."""
    try:
        async with asyncio.timeout(deadline):
            backend.writer.write(head)
            await backend.writer.drain()
            answer, rest = await _read_head(backend.reader)
            status, fields = _parse_head(answer)
            return answer + rest if status == 101 else await _refusal(status, fields, rest, backend.reader)
    except TimeoutError as error:
        raise BackendFailed(f"{host} did not answer the upgrade within {deadline:g}s") from error
    except OSError as error:
        raise BackendFailed(f"{host} gave no answer to the upgrade: {error}") from error


def _request_head(method: str, target: str, host: str, headers: "CIMultiDictProxy[str]") -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [
        f"{name}: {value}"
        for name, value in headers.items()
        if name.lower() in _PASSED_ON or name.lower().startswith("sec-websocket-")
    ]
    lines += ["Content-Length: 0"] if method != "GET" else []
    return ("\r\n".join(lines)).encode() + _HEAD_END


async def _read_head(reader: Source) -> tuple[bytes, bytes]:
    """The answer's head with its empty line, and what came behind it."""
    data = b""
    while _HEAD_END not in data:
        if len(data) > _HEAD_LIMIT:
            raise ConnectionError("the head of the answer does not end")
        piece = await reader.read(_PIECE)
        if not piece:
            raise ConnectionError("it closed the connection")
        data += piece
    head, _, rest = data.partition(_HEAD_END)
    return head + _HEAD_END, rest


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ConnectionError(f"{first[:80]!r} is no HTTP answer")
    return int(words[1]), dict(_fields(lines))


def _fields(lines: list[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            yield name.lower(), value.strip()


async def _refusal(status: int, fields: dict[str, str], body: bytes, reader: Source) -> web.Response:
    """The backend's own words, as far as it says how long they are."""
    length = fields.get("content-length", "")
    wanted = min(int(length), _BODY_LIMIT) if length.isdecimal() else 0
    while len(body) < wanted and (piece := await reader.read(wanted - len(body))):
        body += piece
    kind = fields.get("content-type", "text/plain; charset=utf-8")
    return web.Response(status=max(status, 200), body=body[:wanted], headers={"Content-Type": kind})
