"""Kept connections to one API server for short requests: a write, a read, nothing between. `HttpClient` uses them.

cloudcore's costs are its requests to the API; a general HTTP client takes two to three times as much for each.
Watches and very large bodies go through aiohttp. Nothing is retried but what was sent on a kept connection that the
server had ended meanwhile, and only where sending twice does no harm.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

from edgehive.kit.keepalive import expect_life_of
from edgehive.kit.shared_buffer import SharedBufferProtocol
from edgehive.kube.answers import Answer, AnswerReader, AnswerTooLarge, BadAnswer

#: Requests at a time: more would only wait at the server, each behind a handshake of its own.
AT_ONCE = 32
#: How long a connection nobody needs is kept.
IDLE_SECONDS = 60.0
#: What may be sent twice.
_IDEMPOTENT = frozenset({"GET", "PUT", "DELETE"})
#: Unread chunks without end would otherwise count for nothing until their last byte.
_SLACK = 1024 * 1024


class Disconnected(ConnectionError):
    """The server ended the connection; `unheard` says that it did so without a byte of answer."""

    def __init__(self, text: str, *, unheard: bool) -> None:
        super().__init__(text)
        self.unheard = unheard


class _Connection(SharedBufferProtocol):
    """One request at a time."""

    def __init__(self) -> None:
        self.used_at = 0.0
        self.generation = 0
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._room = 0

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, limit: int) -> Answer:
        if self._transport is None:
            raise Disconnected("the connection has ended", unheard=True)
        self._reader, self._room = AnswerReader(limit), limit + _SLACK
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        expect_life_of(self._transport, idle=30, interval=10, unacknowledged=30)

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            self.close()  # nobody asked
            return
        self._room -= len(data)
        try:
            if self._room < 0:
                raise AnswerTooLarge
            answer = self._reader.feed(data)
        except (BadAnswer, AnswerTooLarge) as error:
            self.close()
            self._settle(error)
            return
        if answer is not None:
            self._settle(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._reader is None:
            return
        answer = self._reader.end() if exc is None else None
        text = f"the server ended the connection{f': {exc}' if exc else ''}"
        self._settle(answer or Disconnected(text, unheard=not self._reader.begun))

    def _settle(self, outcome: Answer | Exception) -> None:
        answer, self._answer, self._reader = self._answer, None, None
        if answer is None or answer.done():
            return
        if isinstance(outcome, Answer):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)


class Connections:
    """To one server; as many as there are requests at a time, up to a bound. Further ones wait their turn."""

    def __init__(self, server: str, context: ssl.SSLContext | None, server_hostname: str | None) -> None:
        parts = urlsplit(server)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if context is not None else 80)
        self._netloc = parts.netloc.rpartition("@")[2]
        self._context = context
        self._server_hostname = (server_hostname or self._host) if context is not None else None
        self._idle: list[_Connection] = []
        self._generation = 0
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        limit: int,
        timeout: float | None = None,
    ) -> Answer:
        """Raises OSError (TimeoutError too), BadAnswer or AnswerTooLarge.

        The deadline is the server's: it runs from the request's turn. A request that waits behind others has not been
        sent, and calling that "no answer" would only have it asked again.
        """
        request = self._request(method, target, headers, body)
        async with self._turns, asyncio.timeout(timeout):
            while (connection := self._kept()) is not None:
                try:
                    return await self._on(connection, request, limit)
                except Disconnected as error:
                    if not error.unheard or method not in _IDEMPOTENT:
                        raise
            return await self._on(await self._connect(), request, limit)

    def retire(self) -> None:
        """End all connections: the idle ones now, the others after their answers."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _request(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError("a header or path of a request holds a line break")
        return "\r\n".join([*lines, "", ""]).encode() + (body or b"")

    async def _on(self, connection: _Connection, request: bytes, limit: int) -> Answer:
        try:
            answer = await connection.exchange(request, limit)
        except BaseException:
            # Its answer may still come, to nobody.
            connection.close()
            raise
        # After a 401 too: the connection may have shown a client certificate that is out of date.
        if answer.reusable and answer.status != 401 and connection.generation == self._generation:
            self._keep(connection)
        else:
            connection.close()
        return answer

    def _keep(self, connection: _Connection) -> None:
        now = asyncio.get_running_loop().time()
        connection.used_at = now
        self._idle.append(connection)
        while self._idle and (self._idle[0].used_at < now - IDLE_SECONDS or not self._idle[0].open):
            self._idle.pop(0).close()

    def _kept(self) -> _Connection | None:
        """The one used last that is still good."""
        oldest = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.open and connection.used_at >= oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        generation = self._generation
        _, connection = await asyncio.get_running_loop().create_connection(
            _Connection, self._host, self._port, ssl=self._context, server_hostname=self._server_hostname
        )
        connection.generation = generation
        return connection
