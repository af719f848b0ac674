"""A TCP port that bounds what strangers cost before a byte of theirs is parsed.

How many connections one address and all together may have open, and how long a handshake and the first request may
take. What speaks on a connection is the caller's: aiohttp (`kit.http`) or a protocol of our own (`kit.exchange`).
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from edgehive.kit.fatal import Fatal
from edgehive.kit.refusals import Refusals
from edgehive.kit.tasks import cancel_and_join, spawn

#: Connections the kernel holds for us while we are busy.
BACKLOG = 1024
#: A pause after the process has run out of file descriptors.
EXHAUSTED_SECONDS = 0.5
#: A handshake that fails sooner keeps its place among the open connections this long: no address fails ever faster.
FAILED_SECONDS = 1.0
#: To a client that speaks HTTP without TLS at a TLS port; in the words of Go's net/http.
_NO_TLS = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"


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


USUAL = Strangers()


class Visitor(NamedTuple):
    """Who speaks on a new connection, whether a request of his has come, and how to send him away."""

    protocol: asyncio.BaseProtocol
    asked: Callable[[], bool]
    dismiss: Callable[[], None]


#: Makes the visitor of a connection from an address; the event, where there is one, is to be set at its end.
Receive = Callable[[str, asyncio.Event | None], Visitor]


@asynccontextmanager
async def open_door(
    receive: Receive,
    *,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None,
    strangers: Strangers,
    refusals: Refusals,
    prepare: Callable[[socket.socket], None] | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """Accept until the block is left; gives the address bound (port 0 picks a free one).

    `prepare` sets the listener's options: the kernel passes them on to every connection.
    """
    listener = _listen(host, port)
    if prepare is not None:
        prepare(listener)
    door = _Door(listener, receive, ssl_context, strangers, refusals)
    accepting = spawn(door.accept(), name=f"accept at port {port}")
    try:
        bound = listener.getsockname()
        yield str(bound[0]), int(bound[1])
    finally:
        await cancel_and_join(accepting)
        listener.close()
        await door.close()


class _Door:
    """Accepts connections and receives those within the limits."""

    def __init__(
        self,
        listener: socket.socket,
        receive: Receive,
        ssl_context: ssl.SSLContext | None,
        strangers: Strangers,
        refusals: Refusals,
    ) -> None:
        self._listener = listener
        self._receive = receive
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
            # A connection that waits is accepted without a pause: between two of them the others have their turn.
            await asyncio.sleep(0)

    def _surplus(self, where: str) -> str:
        limits = self._strangers
        if self._open[where] >= limits.per_address:
            return f"it has {limits.per_address} open"
        if self._count >= limits.together:
            return f"{limits.together} are open"
        return ""

    async def _greet(self, connection: socket.socket, where: str) -> None:
        """The first seconds of a connection: handshake and headers, each with a deadline."""
        to_the_end = self._ssl_context is None or self._strangers.count_until == "end"
        lost = asyncio.Event() if to_the_end else None
        visitor = self._receive(where, lost)
        loop = asyncio.get_running_loop()
        stays_until = loop.time() + FAILED_SECONDS
        try:
            if await self._shake_hands(visitor.protocol, connection, where):
                stays_until = 0.0
                demand = loop.call_later(self._strangers.headers_seconds, self._demand_headers, visitor, where)
                if lost is not None:
                    await lost.wait()
                    # Or it would hold the connection's memory as long.
                    demand.cancel()
        finally:
            if stays_until > loop.time():
                loop.call_at(stays_until, self._forget, where)
            else:
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

    def _demand_headers(self, visitor: Visitor, where: str) -> None:
        if not visitor.asked():
            seconds = self._strangers.headers_seconds
            self._refusals.refuse(
                "slow headers", f"{where} sent no request within {seconds:g} s", about=where, level=logging.INFO
            )
            visitor.dismiss()

    def _forget(self, where: str) -> None:
        self._count -= 1
        self._open[where] -= 1
        if self._open[where] <= 0:
            del self._open[where]

    async def close(self) -> None:
        await cancel_and_join(*self._greetings)


def _tls_reason(error: ssl.SSLError) -> str:
    refused = isinstance(error, ssl.SSLCertVerificationError) or error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    return "client certificate" if refused else "handshake"


def _tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate does not verify: {error.verify_message}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it shows no certificate, which this port demands"
    return (error.reason or str(error)).replace("_", " ").lower()


#: Whether ports are opened for several processes, among which the kernel deals out connections.
_shared = ContextVar("ports are shared", default=False)


def share_ports() -> None:
    """From here on, tasks of this one open ports that other processes of this user may open too."""
    _shared.set(True)


def demand_free(host: str, port: int) -> None:
    """Raise PortInUse where nobody could listen alone."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=_shared.get() and port != 0
        )
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
