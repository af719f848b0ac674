"""What a node may send below the level of messages: no number of empty parts or pings makes the hub hold more."""

import asyncio
import logging
import sys

from edgehive.beehive.message import Message
from edgehive.kit.clock import SystemClock
from edgehive.kit.refusals import Refusals
from edgehive.wire import frames
from edgehive.wire.codec import encode
from edgehive.wire.hub_link import HubLink
from edgehive.wire.link import Peer
from edgehive.wire.link_metrics import UNREGISTERED

MASK = b"\0\0\0\0"


class FullTransport(asyncio.Transport):
    """A transport whose reader has stopped reading: it keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def write(self, data: bytes) -> None:  # type: ignore[override]
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def hub_link() -> tuple[HubLink, FullTransport]:
    transport = FullTransport()
    link = HubLink(
        transport,
        Peer(node="n1", address="a"),
        clock=SystemClock(),
        metrics=UNREGISTERED,
        refusals=Refusals("hub", logging.getLogger("edgehive.cloudhub")),
        links=set(),
    )
    return link, transport


def part(payload: bytes, *, first: bool = False, final: bool = False) -> bytes:
    opcode = frames.TEXT if first else frames.CONTINUATION
    return bytes([(0x80 if final else 0) | opcode, 0x80 | len(payload)]) + MASK + payload


async def test_parts_without_end_cost_no_more_than_their_bytes() -> None:
    link, _ = hub_link()
    link.data_received(part(b"", first=True))
    empty = part(b"") * 10_000
    before = sys.getsizeof(link._parts)
    for _ in range(20):
        link.data_received(empty)
    assert sys.getsizeof(link._parts) == before
    link.data_received(part(b"x") * 10_000)
    assert sys.getsizeof(link._parts) < 20_000


async def test_a_message_in_the_smallest_parts_arrives_whole() -> None:
    link, _ = hub_link()
    message = Message.of(source="edged", group="meta", operation="query", resource="a/b/c", timestamp=1)
    text = encode(message)
    sent = part(b"", first=True) + b"".join(part(text[at : at + 1]) for at in range(len(text))) + part(b"", final=True)
    link.data_received(sent)
    assert (await link.receive()).route.resource == "a/b/c"


async def test_pings_of_one_who_reads_nothing_are_not_answered_until_he_reads() -> None:
    link, transport = hub_link()
    ping = bytes([0x80 | frames.PING, 0x80]) + MASK
    link.data_received(ping)
    assert transport.written == b"\x8a\0"
    link.pause_writing()
    link.data_received(ping * 1000)
    assert transport.written == b"\x8a\0"
    link.resume_writing()
    link.data_received(ping)
    assert transport.written == b"\x8a\0" * 2
