"""One request and its answer per connection: HTTP for doors where a client comes, asks once and goes.

A general HTTP server costs such a door more than TLS does. `OneRequest` takes the head; whoever serves it goes on from
there, by answering (`Exchange`) or by another protocol (`wire.hub_link`). Heads and bodies are bounded, and who is
refused before his body is read still gets the answer.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import format_datetime
from typing import Any, cast

from edgehive.kit import http_request
from edgehive.kit.clock import Clock
from edgehive.kit.door import Visitor
from edgehive.kit.http_request import BadRequest, Head, Headers
from edgehive.kit.refusals import Refusals
from edgehive.kit.shared_buffer import SharedBufferProtocol
from edgehive.kit.tasks import spawn

log = logging.getLogger("edgehive.http")

#: How long what still comes after the answer is taken in, so that the answer arrives.
LINGER_SECONDS = 1.0


class TooLarge(Exception):
    """A body is larger than its reader takes."""


class OneRequest(SharedBufferProtocol):
    """Reads the head of a connection's first request and gives it to `take`, with what came after it."""

    def __init__(self, where: str, lost: asyncio.Event | None, refusals: Refusals) -> None:
        self.where = where
        self.asked = False
        self.transport: asyncio.Transport | None = None
        self.lost = lost
        self._refusals = refusals
        self._buffer = bytearray()

    def visitor(self) -> Visitor:
        return Visitor(self, lambda: self.asked or self.transport is None, self.end)

    def take(self, head: Head, rest: bytes) -> None:
        """The request; called once."""
        raise NotImplementedError

    def end(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def certificate(self) -> dict[str, Any]:
        """The client's, which TLS has verified; empty without one."""
        return (self.transport.get_extra_info("peercert") if self.transport is not None else None) or {}

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            at = http_request.find_end(self._buffer)
            if not at:
                return
            head = http_request.parse_head(bytes(self._buffer[:at]))
        except BadRequest as error:
            self._refuse(error)
            return
        rest = bytes(self._buffer[at:])
        self.asked, self._buffer = True, bytearray()
        self.take(head, rest)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        self.transport = None
        if self.lost is not None:
            self.lost.set()

    def _refuse(self, error: BadRequest) -> None:
        self.asked = True
        self._buffer.clear()
        self._refusals.refuse("malformed request", f"a request from {self.where} is no HTTP: {error}", about=self.where)
        if self.transport is not None:
            self.transport.write(http_request.answer(400, f"{error}\n".encode()))
            self.transport.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"


class Request:
    """One request, as whoever answers it sees it."""

    def __init__(self, exchange: "Exchange", head: Head) -> None:
        self._exchange = exchange
        self.head = head
        self.where = exchange.where
        self.certificate = exchange.certificate()

    @property
    def headers(self) -> Headers:
        return self.head.headers

    async def body(self, limit: int, seconds: float) -> bytes:
        """The whole body; raises TooLarge, or TimeoutError."""
        if self.head.length > limit:
            raise TooLarge
        async with asyncio.timeout(seconds):
            return await self._exchange.body()


class Exchange(OneRequest):
    """Answers the request of one connection, then ends it."""

    def __init__(
        self,
        where: str,
        lost: asyncio.Event | None,
        refusals: Refusals,
        respond: Callable[[Request], Awaitable[Answer]],
        tasks: set[asyncio.Task[None]],
        clock: Clock,
    ) -> None:
        super().__init__(where, lost, refusals)
        self._respond = respond
        self._tasks = tasks
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._body = bytearray()
        #: Bytes of the body still to come.
        self._missing = 0
        self._whole: asyncio.Future[None] | None = None
        self._answered = False

    def take(self, head: Head, rest: bytes) -> None:
        self._missing = head.length
        self._task = spawn(self._answer(Request(self, head)), name=f"request from {self.where}")
        self._tasks.add(self._task)
        self._task.add_done_callback(self._tasks.discard)
        if rest:
            self._take_body(rest)

    async def body(self) -> bytes:
        if self._missing > 0:
            self._whole = asyncio.get_running_loop().create_future()
            if self.transport is not None:
                self.transport.resume_reading()
            await self._whole
        return bytes(self._body)

    def data_received(self, data: bytes) -> None:
        if not self.asked:
            super().data_received(data)
        elif not self._answered:
            self._take_body(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._task is not None:
            self._task.cancel()

    def _take_body(self, data: bytes) -> None:
        taken = data[: self._missing]
        self._body += taken
        self._missing -= len(taken)
        if self._missing > 0 and self._whole is None and self.transport is not None:
            # Nobody has asked for it yet: whether it is wanted is being judged.
            self.transport.pause_reading()
        elif not self._missing and self._whole is not None and not self._whole.done():
            self._whole.set_result(None)

    async def _answer(self, request: Request) -> None:
        try:
            answer = await self._respond(request)
        except Exception:
            log.exception("a request from %s to %s failed", self.where, request.head.path)
            answer = Answer(500, b"500: the server failed on this request; its log says why")
        self._answered = True
        if self.transport is None:
            return
        # Nodes whose own clock is wrong learn the time from it.
        date = {"Date": format_datetime(self._clock.now(), usegmt=True)}
        self.transport.write(
            http_request.answer(answer.status, answer.body, content_type=answer.content_type, headers=date)
        )
        if self._missing > 0:
            # To close on unread bytes would be a reset, and take the answer along.
            self._body.clear()
            with contextlib.suppress(RuntimeError):
                self.transport.resume_reading()
            await asyncio.sleep(LINGER_SECONDS)
        if self.transport is not None:
            self.transport.close()
