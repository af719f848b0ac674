"""aiohttp set-up shared by every HTTP door: limits, TLS, clear errors, graceful drain.

A door accepts connections itself, so that what a stranger costs is bounded before a byte of his is parsed: how many
connections one address and all together may have open, and how long a handshake and the first headers may take.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from edgehive.kit.fatal import Fatal
from edgehive.kit.refusals import Refusals
from edgehive.kit.tasks import cancel_and_join, spawn

log = logging.getLogger("edgehive.http")

#: The largest request body any of our doors takes unless it says otherwise.
MAX_BODY = 3 * 1024 * 1024
#: A body that has not arrived by then is given up.
BODY_SECONDS = 60.0
#: Connections the kernel holds for us while we are busy.
BACKLOG = 1024
#: A pause after the process has run out of file descriptors.
EXHAUSTED_SECONDS = 0.5
#: To a client that speaks HTTP without TLS at a TLS port; in the words of Go's net/http.
_NO_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


async def read_body(request: web.Request, seconds: float = BODY_SECONDS) -> bytes:
    """The whole body: the one way any door reads one.

    Raises HTTPRequestEntityTooLarge beyond what the application takes (`client_max_size`), and TimeoutError.
    """
    async with asyncio.timeout(seconds):
        return await request.read()


class PortInUse(Fatal):
    """The address cannot be bound; the text names it and the mend."""


@dataclass(frozen=True, slots=True)
class Strangers:
    """What a door grants connections it does not know yet.

    They count until their handshake or their end; without TLS nobody is known by a handshake, so there it is the end.
    """

    handshake_seconds: float = 10.0
    headers_seconds: float = 10.0
    per_address: int = 1024
    together: int = 8192
    count_until: Literal["handshake", "end"] = "handshake"


@asynccontextmanager
async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    drain: float = 2.0,
    strangers: Strangers = Strangers(),
    refusals: Refusals | None = None,
    **server_options: Any,
) -> AsyncIterator[tuple[str, int]]:
    """Serve until the block is left; gives the address bound (port 0 picks a free one)."""
    refusals = refusals or Refusals("http", log)
    options = {"keepalive_timeout": 300, "max_line_size": 16384, "max_field_size": 16384} | server_options
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=drain,
        logger=_ServerLog(refusals),
        **options,
    )
    await runner.setup()
    try:
        listener = _listen(host, port)
        assert runner.server is not None
        door = _Door(listener, runner.server, ssl_context, strangers, refusals)
        accepting = spawn(door.accept(), name=f"accept at port {port}")
        try:
            bound = listener.getsockname()
            yield str(bound[0]), int(bound[1])
        finally:
            await cancel_and_join(accepting)
            listener.close()
            await door.close()
    finally:
        await runner.cleanup()


class _Door:
    """Accepts connections and hands those within the limits to the HTTP server."""

    def __init__(
        self,
        listener: socket.socket,
        server: web.Server,
        ssl_context: ssl.SSLContext | None,
        strangers: Strangers,
        refusals: Refusals,
    ) -> None:
        self._listener = listener
        self._server = server
        self._ssl_context = ssl_context
        self._strangers = strangers
        self._refusals = refusals
        self._open: Counter[str] = Counter()
        self._count = 0
        self._greetings: set[asyncio.Task[None]] = set()

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                self._refusals.refuse("no descriptors", f"connections cannot be accepted: {error.strerror or error}")
                await asyncio.sleep(EXHAUSTED_SECONDS)
                continue
            where = str(address[0])
            if why := self._surplus(where):
                self._refusals.refuse("too many connections", f"a connection from {where} is refused: {why}")
                connection.close()
                continue
            self._open[where] += 1
            self._count += 1
            task = spawn(self._greet(connection, where), name=f"connection from {where}")
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    def _surplus(self, where: str) -> str:
        limits = self._strangers
        if self._open[where] >= limits.per_address:
            return f"it has {limits.per_address} open"
        if self._count >= limits.together:
            return f"{limits.together} are open"
        return ""

    async def _greet(self, connection: socket.socket, where: str) -> None:
        """The first seconds of a connection: handshake and headers, each with a deadline."""
        handler = self._server()
        to_the_end = self._ssl_context is None or self._strangers.count_until == "end"
        watched = _Watched(handler) if to_the_end else None
        try:
            if await self._shake_hands(watched or handler, connection, where):
                loop = asyncio.get_running_loop()
                loop.call_later(self._strangers.headers_seconds, self._demand_headers, handler, where)
                if watched is not None:
                    await watched.lost.wait()
        finally:
            self._forget(where)

    async def _shake_hands(self, protocol: asyncio.BaseProtocol, connection: socket.socket, where: str) -> bool:
        seconds = self._strangers.handshake_seconds
        tls: dict[str, Any] = {}
        if self._ssl_context is not None:
            tls = {"ssl": self._ssl_context, "ssl_handshake_timeout": seconds}
        # A failed handshake takes its socket along, and who came without TLS is still to be told so.
        with connection.dup() if tls else nullcontext(connection) as answering:
            return await self._attempt(protocol, connection, where, answering, tls)

    async def _attempt(
        self,
        protocol: asyncio.BaseProtocol,
        connection: socket.socket,
        where: str,
        answering: socket.socket,
        tls: dict[str, Any],
    ) -> bool:
        try:
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: protocol, connection, **tls)
        except ssl.SSLError as error:
            said = f"no TLS with {where}: {_tls_text(error)}"
            self._refusals.refuse(_tls_reason(error), said, about=said)
            if error.reason == "HTTP_REQUEST":
                with suppress(OSError):
                    answering.send(_NO_TLS)
        except (TimeoutError, ConnectionError) as error:
            text = str(error) or f"nothing came within {self._strangers.handshake_seconds:g} s"
            self._refusals.refuse("handshake", f"no TLS with {where}: {text}", about=where, level=logging.INFO)
        except OSError as error:
            self._refusals.refuse("handshake", f"no connection with {where}: {error}", about=where)
        else:
            return True
        connection.close()
        return False

    def _demand_headers(self, protocol: web.RequestHandler, where: str) -> None:
        # aiohttp shows nowhere in public whether a request has begun.
        if protocol.transport is not None and not protocol._request_count:
            seconds = self._strangers.headers_seconds
            self._refusals.refuse(
                "slow headers", f"{where} sent no request within {seconds:g} s", about=where, level=logging.INFO
            )
            protocol.force_close()

    def _forget(self, where: str) -> None:
        self._count -= 1
        self._open[where] -= 1
        if self._open[where] <= 0:
            del self._open[where]

    async def close(self) -> None:
        await cancel_and_join(*self._greetings)


class _Watched(asyncio.Protocol):
    """An HTTP connection whose end can be waited for."""

    def __init__(self, handler: web.RequestHandler) -> None:
        self._handler = handler
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._handler.connection_lost(exc)


class _ServerLog(logging.LoggerAdapter[logging.Logger]):
    """aiohttp's log of one door, with what strangers send wrong as refusals instead of tracebacks."""

    def __init__(self, refusals: Refusals) -> None:
        super().__init__(log)
        self._refusals = refusals

    def exception(self, msg: object, *args: object, exc_info: Any = True, **options: Any) -> None:
        if not self._refused(args, exc_info):
            super().exception(msg, *args, exc_info=exc_info, **options)

    def debug(self, msg: object, *args: object, exc_info: Any = None, **options: Any) -> None:
        if not self._refused(args, exc_info):
            super().debug(msg, *args, exc_info=exc_info, **options)

    def _refused(self, args: tuple[object, ...], error: object) -> bool:
        if not isinstance(error, HttpProcessingError):
            return False
        where = str(args[0]) if args else ""
        text = " ".join(error.message.split())[:200]
        self._refusals.refuse("malformed request", f"a request from {where} is no HTTP: {text}", about=where)
        return True


def _tls_reason(error: ssl.SSLError) -> str:
    refused = isinstance(error, ssl.SSLCertVerificationError) or error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    return "client certificate" if refused else "handshake"


def _tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate, which this port demands"
    return (error.reason or str(error)).replace("_", " ").lower()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PortInUse(_why(host, port, error)) from error
    listener.setblocking(False)
    return listener


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the program that listens there or configure another port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights: run as root or configure a port above 1023"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
