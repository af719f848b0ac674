"""aiohttp set-up shared by every HTTP door: limits, TLS, clear errors, graceful drain."""

import errno
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from edgehive.kit.fatal import Fatal

#: The largest request body any of our doors takes unless it says otherwise.
MAX_BODY = 3 * 1024 * 1024


class PortInUse(Fatal):
    """The address cannot be bound; the text names it and the mend."""


@asynccontextmanager
async def serve(
    app: web.Application,
    *,
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    drain: float = 2.0,
    **server_options: Any,
) -> AsyncIterator[tuple[str, int]]:
    """Serve until the block is left; gives the address bound (port 0 picks a free one)."""
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=drain,
        keepalive_timeout=300,
        max_line_size=16384,
        max_field_size=16384,
        **server_options,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=ssl_context, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise PortInUse(_why(host, port, error)) from error
        bound = runner.addresses[0]
        yield str(bound[0]), int(bound[1])
    finally:
        await runner.cleanup()


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the program that listens there or configure another port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights: run as root or configure a port above 1023"
    return f"cannot listen on {host}:{port}: {error.strerror or error}"
