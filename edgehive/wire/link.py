"""`Link`: one connection between cloud and edge, whatever carries it.

Both sides see only this; WebSocket and memory implement it, `testing.links` adds faults. A Link delivers
whole messages in order or raises; it never retries and never drops.
"""

from dataclasses import dataclass
from typing import Protocol

from edgehive.beehive.message import Message


class ProtocolError(Exception):
    """The peer sent what the protocol forbids; the text names it. The link is closed by whoever catches this."""


class LinkClosed(Exception):
    """The connection is gone; nobody is to blame."""


class EndedUnanswered(LinkClosed):
    """The peer ended the connection right after the handshake: all that TLS 1.3 shows of a refused certificate."""


class JoinRefused(Exception):
    """The other side will not have us (token, certificate, CA hash); the text says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as the transport knows it."""

    node: str
    address: str = ""
    common_name: str = ""
    organizations: tuple[str, ...] = ()
    project: str = ""


class Link(Protocol):
    """Send and receive whole messages. One reader and any number of senders at a time."""

    @property
    def peer(self) -> Peer: ...

    async def send(self, message: Message) -> None:
        """Returns once the message is handed to the transport under its back-pressure. Raises LinkClosed."""
        ...

    async def receive(self) -> Message:
        """The next message. Raises LinkClosed at the end, ProtocolError for a frame that is none."""
        ...

    async def close(self, reason: str = "") -> None:
        """Close both directions; harmless when already closed."""
        ...
