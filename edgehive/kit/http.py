"""aiohttp set-up shared by every HTTP door: limits, TLS, clear errors, graceful drain.

What strangers may cost before their request is read is `kit.door`'s.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientPayloadError, ClientResponse, web
from aiohttp.http_exceptions import HttpProcessingError

from edgehive.kit.door import USUAL, PortInUse, Strangers, Visitor, open_door
from edgehive.kit.refusals import Refusals
from edgehive.kit.ssl_contexts import subject_in

log = logging.getLogger("edgehive.http")

#: The largest request body any of our doors takes unless it says otherwise.
MAX_BODY = 3 * 1024 * 1024
#: A body that has not arrived by then is given up.
BODY_SECONDS = 60.0


async def read_body(request: web.Request, seconds: float = BODY_SECONDS) -> bytes:
    """The whole body: the one way any door reads one.

    Raises HTTPRequestEntityTooLarge beyond what the application takes (`client_max_size`), and TimeoutError.
    """
    async with asyncio.timeout(seconds):
        return await request.read()


async def read_answer(answer: ClientResponse, limit: int) -> bytes:
    """The whole answer of somebody asked; raises ClientPayloadError beyond `limit` bytes."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > limit:
            answer.close()
            raise ClientPayloadError(f"{answer.url.authority} answers with more than {limit} bytes")
    return bytes(body)


def subject_of(request: web.Request) -> tuple[str, tuple[str, ...]]:
    """CN and O of the client certificate that TLS verified; ("", ()) without one."""
    return subject_in(request.get_extra_info("peercert"))


@asynccontextmanager
async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    drain: float = 2.0,
    strangers: Strangers = USUAL,
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
        server = runner.server
        assert server is not None

        def receive(_: str, lost: asyncio.Event | None) -> Visitor:
            return _visitor(server(), lost)

        async with open_door(
            receive, host=host, port=port, ssl_context=ssl_context, strangers=strangers, refusals=refusals
        ) as bound:
            yield bound
    finally:
        await runner.cleanup()


def _visitor(handler: web.RequestHandler, lost: asyncio.Event | None) -> Visitor:
    def asked() -> bool:
        # aiohttp shows nowhere in public whether a request has begun.
        return handler.transport is None or bool(handler._request_count)

    return Visitor(_Watched(handler, lost) if lost is not None else handler, asked, handler.force_close)


class _Watched(asyncio.Protocol):
    """An HTTP connection whose end is told."""

    def __init__(self, handler: web.RequestHandler, lost: asyncio.Event) -> None:
        self._handler = handler
        self._lost = lost

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
        self._lost.set()
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


__all__ = ["MAX_BODY", "PortInUse", "Strangers", "read_answer", "read_body", "serve", "subject_of"]
