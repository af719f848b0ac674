"""The hub's WebSocket door: takes the upgrade of an edge, or refuses it with a sentence, and offers its link.

Any path upgrades; who asks is told by headers and by the certificate that TLS has verified. A refused connection is
answered, counted and said. `hub_link` speaks on what was accepted.

Go: staging/src/github.com/kubeedge/viaduct/pkg/server/ws.go, cloud/pkg/cloudhub/servers/server.go
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from yarl import URL

from edgehive.kit import http_request
from edgehive.kit.clock import Clock, SystemClock
from edgehive.kit.door import USUAL, Strangers, Visitor, open_door
from edgehive.kit.exchange import OneRequest
from edgehive.kit.http_request import Head
from edgehive.kit.keepalive import expect_life
from edgehive.kit.refusals import Refusals
from edgehive.kit.ssl_contexts import subject_in
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.dialing import REFUSAL_HEADER
from edgehive.wire.hub_link import MESSAGE_RATE, HubLink
from edgehive.wire.link import LinkClosed, Peer
from edgehive.wire.link_metrics import UNREGISTERED, LinkMetrics

#: Silence after which the kernel asks the peer for life, and how long sent bytes may stay unacknowledged.
KEEPALIVE_SECONDS, UNACKNOWLEDGED_SECONDS = 20, 30
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """No link for who asks; the text is told to him."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _everybody(_: Peer) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class HubDoor:
    """`judge` says why a peer may not connect, "" when he may."""

    acceptor: Acceptor
    refusals: Refusals
    judge: Callable[[Peer], str] = _everybody
    clock: Clock = field(default_factory=SystemClock)
    metrics: LinkMetrics = UNREGISTERED
    message_rate: float = MESSAGE_RATE
    _links: set[HubLink] = field(default_factory=set)
    _offers: set[asyncio.Task[None]] = field(default_factory=set)

    @asynccontextmanager
    async def serve(
        self, *, host: str, port: int, ssl_context: ssl.SSLContext | None, strangers: Strangers = USUAL
    ) -> AsyncIterator[tuple[str, int]]:
        """Accept until left; gives the address bound. Links that are open then are closed."""

        def receive(where: str, lost: asyncio.Event | None) -> Visitor:
            return _Greeting(where, lost, self).visitor()

        async with open_door(
            receive,
            host=host,
            port=port,
            ssl_context=ssl_context,
            strangers=strangers,
            refusals=self.refusals,
            prepare=_expect_life,
        ) as bound:
            try:
                yield bound
            finally:
                await cancel_and_join(*self._offers)
                await asyncio.gather(*(link.close("the server is stopping") for link in self._links))

    def admit(self, head: Head, peer: Peer) -> bytes:
        """The answer that upgrades; raises Refused."""
        if not self.acceptor.open:
            raise Refused(503, "the hub does not accept links now; try again later")
        if not peer.node:
            raise Refused(400, f"header {join.NODE_ID_HEADER} is missing: it names the node")
        if wrong := self.judge(peer):
            raise Refused(403, wrong)
        _check_origin(head)
        if head.headers.get(join.CONNECTION_USE_HEADER) != join.CONNECTION_USE_MESSAGES:
            raise Refused(
                400,
                f"header {join.CONNECTION_USE_HEADER} is to be {join.CONNECTION_USE_MESSAGES!r}: "
                "this port carries messages only",
            )
        return _upgrade(head)

    def enter(self, transport: asyncio.Transport, peer: Peer, lost: asyncio.Event | None) -> HubLink:
        """The link on a connection that was upgraded, in line to be accepted."""
        link = HubLink(
            transport,
            peer,
            clock=self.clock,
            metrics=self.metrics,
            refusals=self.refusals,
            links=self._links,
            lost=lost,
            message_rate=self.message_rate,
        )
        if not self.acceptor.offer_now(link):
            offer = spawn(self._offer(link), name=f"link of {peer.node}")
            self._offers.add(offer)
            offer.add_done_callback(self._offers.discard)
        return link

    async def _offer(self, link: HubLink) -> None:
        with contextlib.suppress(LinkClosed):
            await self.acceptor.offer(link)


class _Greeting(OneRequest):
    """A connection until it is a link."""

    def __init__(self, where: str, lost: asyncio.Event | None, door: HubDoor) -> None:
        super().__init__(where, lost, door.refusals)
        self._door = door

    def take(self, head: Head, rest: bytes) -> None:
        transport = self.transport
        assert transport is not None
        certificate = self.certificate()
        common_name, organizations = subject_in(certificate)
        # The connection would keep it for ever, and nobody reads more of it.
        certificate.clear()
        peer = Peer(
            node=head.headers.get(join.NODE_ID_HEADER, ""),
            address=self.where,
            common_name=common_name,
            organizations=organizations,
            project=head.headers.get(join.PROJECT_ID_HEADER, ""),
        )
        try:
            answer = self._door.admit(head, peer)
        except Refused as refused:
            self._turn_away(refused)
            return
        transport.write(answer)
        link = self._door.enter(transport, peer, self.lost)
        transport.set_protocol(link)
        self.transport = None
        if rest:
            link.data_received(rest)

    def _turn_away(self, refused: Refused) -> None:
        text = str(refused)
        reason = "identity" if refused.status == 403 else "no edge"
        self._refusals.refuse(reason, f"connection from {self.where}: {text}", about=self.where)
        if self.transport is not None:
            # Clients that show no body of a refused upgrade show the header.
            self.transport.write(
                http_request.answer(refused.status, text.encode(errors="replace"), headers={REFUSAL_HEADER: text})
            )
            self.transport.close()


def _expect_life(listener: socket.socket) -> None:
    expect_life(listener, idle=KEEPALIVE_SECONDS, interval=5, unacknowledged=UNACKNOWLEDGED_SECONDS)


def _check_origin(head: Head) -> None:
    """A browser's page may not open the hub: Go's rule that Origin, when sent, names the request's own host."""
    origin = head.headers.get("Origin")
    if not origin:
        return
    with contextlib.suppress(ValueError):
        if URL(origin).authority.lower() == head.headers.get("Host", "").lower():
            return
    raise Refused(403, f"origin {origin!r} may not open this link")


def _upgrade(head: Head) -> bytes:
    headers = head.headers
    offered = [word.strip() for word in headers.get("Connection", "").lower().split(",")]
    if head.method != "GET" or headers.get("Upgrade", "").lower() != "websocket" or "upgrade" not in offered:
        raise Refused(400, "this port speaks WebSocket: send GET with Connection: Upgrade and Upgrade: websocket")
    if headers.get("Sec-WebSocket-Version") != "13":
        raise Refused(400, "header Sec-WebSocket-Version is to be 13")
    key = headers.get("Sec-WebSocket-Key", "")
    if not _is_key(key) or head.length:
        raise Refused(400, "header Sec-WebSocket-Key is to hold 16 bytes in base64, and no body may follow")
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    lines = (
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
