"""Requests for a node whose tunnel another cloudcore has, passed on to that one.

Who has a tunnel is written nowhere: the others are asked, all at once, when somebody wants a stream; the first yes is
taken. So nothing has to be kept true, and a tunnel that has moved is found where it is. Upgrades are joined as bytes;
answers with a body go through piece by piece, cut where they were cut.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from edgehive.cloudcore.cloudstream.peers import PEER_NAME, TUNNEL_PATH
from edgehive.cloudcore.replicas.presence import Presence, Replica
from edgehive.kit.keepalive import expect_life_of
from edgehive.kit.relay import BackendFailed, Duplex, is_upgrade, pass_on_upgrade
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.streams import PIECE, StreamBroken

log = logging.getLogger("edgehive.cloudstream")

#: How long another cloudcore may take to say whether it has a tunnel, and to take a connection.
ASK_SECONDS = 3.0
#: A little more than the other one waits for its node.
ANSWER_SECONDS = 65.0
_LIFE = {"idle": 20, "interval": 5, "unacknowledged": 30}
#: Everything else is between whoever asks and this cloudcore: credentials above all.
_PASSED_ON = ("Accept", "Accept-Encoding", "User-Agent")


class Forwarder:
    """Made by `forwarding`. A cloudcore that has no others finds none."""

    def __init__(self, presence: Presence, context: ssl.SSLContext, session: aiohttp.ClientSession) -> None:
        self._presence = presence
        self._context = context
        self._session = session

    async def serve(self, request: web.Request, node: str) -> web.StreamResponse:
        """Answer for the node; raises StreamBroken where no cloudcore has its tunnel."""
        peer = await self.holder(node)
        if peer is None:
            which = "any" if await self._presence.others() else "this"
            raise StreamBroken(
                f"node {node} has no tunnel to {which} cloudcore: it is offline, or its modules.edgeStream is off"
            )
        log.debug("%s %s goes to cloudcore %s", request.method, request.path, peer.name)
        if is_upgrade(request):
            return await self._upgrade(request, peer)
        return await self._body(request, node, peer)

    # Who

    async def holder(self, node: str) -> Replica | None:
        """The first of the others that says it has the tunnel."""
        asked = [spawn(self._has(peer, node), name=f"ask {peer.name}") for peer in await self._presence.others()]
        try:
            for answer in asyncio.as_completed(asked):
                if (peer := await answer) is not None:
                    return peer
        finally:
            await cancel_and_join(*asked)
        return None

    async def _has(self, peer: Replica, node: str) -> Replica | None:
        url = _url(peer, URL.build(path=f"{TUNNEL_PATH}/{node}").raw_path)
        try:
            async with (
                asyncio.timeout(ASK_SECONDS),
                self._session.get(url, ssl=self._context, server_hostname=PEER_NAME) as answer,
            ):
                return peer if answer.status == 200 else None
        except (aiohttp.ClientError, OSError) as error:
            log.info("cloudcore %s at %s cannot be asked: %s", peer.name, peer.address, error or "no answer in time")
            return None

    # Streams

    async def _upgrade(self, request: web.Request, peer: Replica) -> web.StreamResponse:
        host, _, port = peer.address.rpartition(":")
        try:
            async with asyncio.timeout(ASK_SECONDS):
                reader, writer = await asyncio.open_connection(
                    host.strip("[]"), int(port), ssl=self._context, server_hostname=PEER_NAME, limit=PIECE
                )
        except (OSError, ValueError) as error:
            raise StreamBroken(_gone(peer, error)) from error
        expect_life_of(writer.transport, **_LIFE)
        try:
            return await pass_on_upgrade(
                request, Duplex(reader, writer), request.raw_path, host=PEER_NAME, deadline=ANSWER_SECONDS
            )
        except BackendFailed as error:
            raise StreamBroken(_gone(peer, error)) from error

    # Bodies

    async def _body(self, request: web.Request, node: str, peer: Replica) -> web.StreamResponse:
        # A stock node gives no sign before there is something to follow.
        silent = request.query.get("follow", "").lower() in ("1", "true", "t")
        asked = self._session.request(
            request.method,
            _url(peer, request.raw_path),
            headers=_headers(request, node),
            ssl=self._context,
            server_hostname=PEER_NAME,
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(None if silent else ANSWER_SECONDS):
                    answer = await stack.enter_async_context(asked)
            except (aiohttp.ClientError, OSError) as error:
                raise StreamBroken(_gone(peer, error)) from error
            if answer.connection is not None:
                expect_life_of(answer.connection.transport, **_LIFE)
            return await _pass_on(request, answer, peer)


@asynccontextmanager
async def forwarding(presence: Presence, context: ssl.SSLContext) -> AsyncIterator[Forwarder]:
    """Be able to pass requests on until left."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=ASK_SECONDS)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        yield Forwarder(presence, context, session)


def _url(peer: Replica, raw_path: str) -> URL:
    return URL(f"https://{peer.address}{raw_path}", encoded=True)


def _headers(request: web.Request, node: str) -> CIMultiDict[str]:
    """Which node is meant goes with it as the API server's proxy says it: by its address only we can tell."""
    headers = CIMultiDict({name: value for name, value in request.headers.items() if name.title() in _PASSED_ON})
    headers["X-Forwarded-Uri"] = f"/api/v1/nodes/{node}/proxy{request.path}"
    return headers


async def _pass_on(request: web.Request, answer: aiohttp.ClientResponse, peer: Replica) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status)
    for name in ("Content-Type", "Content-Encoding", "Content-Length"):
        if name in answer.headers:
            response.headers[name] = answer.headers[name]
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            await response.write(piece)
    except aiohttp.ClientError as error:
        # Why it was cut is in what has come; here it stops before its end too.
        log.warning("%s %s was cut off by cloudcore %s: %s", request.method, request.path, peer.name, error)
        if request.transport is not None:
            request.transport.close()
        return response
    await response.write_eof()
    return response


def _gone(peer: Replica, error: Exception) -> str:
    return f"cloudcore {peer.name}, to which the node is connected, does not answer: {error or type(error).__name__}"
