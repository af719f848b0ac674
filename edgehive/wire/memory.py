"""Links inside one process: edgesite joins its cloud and its edge by them, tests both halves of everything.

Messages are handed over as they are (they are immutable), through queues with a bound, so a slow reader
slows the writer as it would over a network. Nothing is encoded and no port is opened.
"""

from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, SystemClock, unix_millis
from edgehive.kit.mailbox import Mailbox, MailboxClosed
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.payloads import control_answer, is_empty

#: Messages under way in one direction before `send` waits.
IN_FLIGHT = 100


class MemoryLink:
    """One end of a pair made by `pair`."""

    def __init__(self, peer: Peer, outgoing: Mailbox[Message], incoming: Mailbox[Message], clock: Clock) -> None:
        self._peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._clock = clock
        self._closed = False
        self._reason = ""

    @property
    def peer(self) -> Peer:
        return self._peer

    async def send(self, message: Message) -> None:
        try:
            await self._outgoing.put(message)
        except MailboxClosed:
            raise LinkClosed("the link is closed") from None

    async def receive(self) -> Message:
        while not self._closed:
            try:
                message = await self._incoming.get()
            except MailboxClosed:
                break
            answer = control_answer(message, timestamp=unix_millis(self._clock.now()))
            if answer is not None:
                await self.send(answer)
            elif not is_empty(message):
                return message
        raise LinkClosed("the link is closed")

    async def close(self, reason: str = "") -> None:  # noqa: ARG002
        self._closed = True
        self._outgoing.close()
        self._incoming.close()


def pair(near: Peer, far: Peer, *, in_flight: int = IN_FLIGHT, clock: Clock | None = None) -> tuple[Link, Link]:
    """Two ends of one connection; the first one's peer is `near`, the second one's `far`."""
    one: Mailbox[Message] = Mailbox("link to the cloud", size=in_flight)
    other: Mailbox[Message] = Mailbox("link to the edge", size=in_flight)
    clock = clock or SystemClock()
    return MemoryLink(near, one, other, clock), MemoryLink(far, other, one, clock)


class MemoryNetwork:
    """A network of one cloud: `dial` from an edge, `acceptor` in the hub."""

    def __init__(self, *, in_flight: int = IN_FLIGHT, clock: Clock | None = None) -> None:
        self._in_flight = in_flight
        self._clock = clock
        self._acceptor = Acceptor("the cloud in this process")

    def acceptor(self) -> Acceptor:
        """The hub's door; enter it once at a time."""
        return self._acceptor

    async def dial(self, peer: Peer) -> Link:
        """Connect as `peer`; raises LinkClosed while no hub accepts."""
        here, there = pair(Peer(node="", address="memory"), peer, in_flight=self._in_flight, clock=self._clock)
        await self._acceptor.offer(there)
        return here
