"""The tunnel's WebSocket from either side: an edge connects, cloudstream accepts. `streams.Tunnel` speaks over it.

Go: cloud/pkg/cloudstream/tunnelserver.go, edge/pkg/edgestream/edgestream.go
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
from aiohttp import web
from yarl import URL

from edgehive.wire import tunnel
from edgehive.wire.dialing import dial_error
from edgehive.wire.streams import OnConnect, StreamBroken, Tunnel
from edgehive.wire.tunnel import FrameType

#: How long a peer that says nothing at all is believed to be there. Ours answers every ping; a stock half may be
#: held up by a slow reader, and a stock edge stops pinging when it is.
SILENCE_SECONDS, STOCK_SILENCE_SECONDS = 20.0, 90.0
#: How long a peer may take to answer a close before the connection is simply ended.
CLOSE_SECONDS = 1.0


@asynccontextmanager
async def connect(
    server: str,
    *,
    node: str,
    address: str,
    ssl_context: ssl.SSLContext | None,
    on_connect: OnConnect,
    handshake_timeout: float = 30.0,
) -> AsyncIterator[Tunnel]:
    """The edge's end, not yet running, to `host:port`. Raises LinkClosed or JoinRefused.

    `ssl_context` holds the node's certificate and the cloud's CA; None is for plain `ws://` in tests.
    """
    url = URL(f"{'ws' if ssl_context is None else 'wss'}://{server}{tunnel.CONNECT_PATH}")
    headers = {tunnel.NODE_HEADER: node, tunnel.ADDRESS_HEADER: address, tunnel.HELLO_HEADER: tunnel.HELLO_VERSION}
    connector = aiohttp.TCPConnector(limit=1, force_close=True)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        try:
            async with asyncio.timeout(handshake_timeout):
                websocket = await session.ws_connect(
                    url,
                    headers=headers,
                    ssl=ssl_context if ssl_context is not None else True,
                    max_msg_size=tunnel.MAX_FRAME + 1,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
                    autoping=False,
                    decode_text=False,
                )
        except (OSError, aiohttp.ClientError) as error:
            raise dial_error(error, url) from error
        connection = websocket._response.connection
        yield Tunnel(
            websocket,
            abort=_aborting(connection.transport if connection else None),
            on_connect=on_connect,
            pings=True,
            silence=STOCK_SILENCE_SECONDS,
            windowed_silence=SILENCE_SECONDS,
        )


async def accept(request: web.Request) -> tuple[Tunnel, web.WebSocketResponse]:
    """The cloud's end, not yet running, of an edge's connection. Raises web.HTTPError for what is no upgrade."""
    websocket = web.WebSocketResponse(
        max_msg_size=tunnel.MAX_FRAME + 1, compress=False, timeout=CLOSE_SECONDS, autoping=False, decode_text=False
    )
    await websocket.prepare(request)
    ours = request.headers.get(tunnel.HELLO_HEADER) == tunnel.HELLO_VERSION
    carrier = Tunnel(
        websocket,
        abort=_aborting(request.transport),
        windowed=ours,
        silence=STOCK_SILENCE_SECONDS,
        windowed_silence=SILENCE_SECONDS,
    )
    if ours:
        with contextlib.suppress(StreamBroken):  # `run` says it
            await carrier.send(0, FrameType.CREDIT, tunnel.uvarint(0))
    return carrier, websocket


def _aborting(transport: asyncio.BaseTransport | None) -> Callable[[], None]:
    def abort() -> None:
        if transport is not None:
            # uvloop's transports are of no class of asyncio's.
            cast("asyncio.WriteTransport", transport).abort()

    return abort
