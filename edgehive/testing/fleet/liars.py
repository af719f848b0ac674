"""Nodes that lie, for any cloudcore: what a broken or hostile edge does to it, and never stops doing.

`Liars` is a fleet whose nodes join and connect as all do and then misbehave, each in its one way, until the fleet is
left. `garbage` needs no certificate: it knocks at the hub's door with what is no TLS. Only for one's own clouds.
"""

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
import uuid
from collections.abc import Mapping, Sequence

from edgehive.beehive.message import Message
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.fleet import objects
from edgehive.testing.fleet.fleet import Fleet, Plan
from edgehive.testing.fleet.node import HollowNode
from edgehive.wire import payloads
from edgehive.wire.link import LinkClosed
from edgehive.wire.names import Group, Operation, Source

#: A liar whose connection was ended comes back after this many seconds.
RETURN_SECONDS = 1.0
#: Messages a second of the kinds that send on their own.
UNSENT_PER_SECOND, FLOOD_PER_SECOND = 100, 5000
#: Connections a half-open liar keeps at each stage, and how long it waits for their end.
HALF_OPEN, HALF_OPEN_SECONDS = 5, 60.0
#: Connections one garbage liar has open at a time.
GARBAGE_AT_ONCE = 16
_STEP_SECONDS = 0.01
_RUBBISH = (
    b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n",
    b"\x16\x03\x01\xff\xff" + bytes(64),
    b"\x00" * 1024,
    b"SSH-2.0-liar\r\n",
    b"",
)


class Liar(HollowNode):
    """Connected like any node; `lie` runs for ever and may raise LinkClosed, after which it connects again."""

    async def lie(self) -> None:
        await asyncio.Event().wait()

    def count(self, what: str, number: int = 1) -> None:
        self._journal.counts[what] += number


class AcknowledgesNothing(Liar):
    """Takes everything and never says so."""

    def _send(self, message: Message) -> None:
        if _is_acknowledgement(message):
            self.count("acknowledgements kept back")
        else:
            super()._send(message)


class AcknowledgesTwice(Liar):
    """Says everything twice."""

    def _send(self, message: Message) -> None:
        super()._send(message)
        if _is_acknowledgement(message):
            self.count("acknowledgements repeated")
            super()._send(message)


class AcknowledgesUnsent(Liar):
    """Acknowledges what nobody sent."""

    async def lie(self) -> None:
        while True:
            self.count("acknowledgements of nothing")
            self._send(unsent(self.name))
            await asyncio.sleep(1 / UNSENT_PER_SECOND)


class Floods(Liar):
    """Asks far more often than a node may."""

    async def lie(self) -> None:
        for number in itertools.count():
            for _ in range(int(FLOOD_PER_SECOND * _STEP_SECONDS)):
                self._send(self._question(number))
            self.count("messages too many", int(FLOOD_PER_SECOND * _STEP_SECONDS))
            await asyncio.sleep(_STEP_SECONDS)

    def _question(self, number: int) -> Message:
        return Message.of(
            source=Source.EDGED,
            group=Group.META,
            operation=Operation.QUERY,
            resource=f"{objects.NAMESPACE}/configmap/flood-{number % 10}",
            timestamp=self._now(),
        )


class HalfOpen(Liar):
    """Opens connections and goes no further: before TLS, after TLS, and after the upgrade."""

    async def lie(self) -> None:
        while True:
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(HALF_OPEN):
                    for tls in (None, self.context):
                        stack.enter_context(contextlib.closing(await self._knock(tls)))
                # This node's own connection, upgraded before, says nothing more either.
                await asyncio.sleep(HALF_OPEN_SECONDS)

    async def _knock(self, tls: ssl.SSLContext | None) -> asyncio.StreamWriter:
        self.count("connections half open")
        try:
            _, writer = await asyncio.open_connection(self._hub.host, self._hub.port, ssl=tls)
        except OSError as error:
            raise LinkClosed(str(error)) from error
        return writer


class Reconnects(Liar):
    """Connects, leaves, connects."""

    async def lie(self) -> None:
        while True:
            self.count("connections in a loop")
            await self.connect()
            self.cut()
            await asyncio.sleep(0)


class Garbage(Liar):
    """Needs no name: connections with what is no TLS, as fast as they are taken."""

    async def lie(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(GARBAGE_AT_ONCE):
                group.create_task(self._throw_for_ever())

    async def _throw_for_ever(self) -> None:
        while True:
            await throw((self._hub.host, self._hub.port), random.choice(_RUBBISH))  # noqa: S311 - any will do
            self.count("connections of garbage")


KINDS: Mapping[str, type[Liar]] = {
    "acks-nothing": AcknowledgesNothing,
    "acks-twice": AcknowledgesTwice,
    "acks-unsent": AcknowledgesUnsent,
    "floods": Floods,
    "half-open": HalfOpen,
    "reconnects": Reconnects,
    "garbage": Garbage,
}


class Liars(Fleet):
    """`async with Liars(...) as liars: await liars.begin()`; they lie until it is left."""

    def __init__(self, plan: Plan, kinds: Sequence[str]) -> None:
        super().__init__(plan)
        self.nodes: list[HollowNode] = []
        self._liars = [
            KINDS[kind](f"{plan.prefix}-{kind}-{number:04}", plan.hub, self.journal, self.clock)
            for number, kind in enumerate(kinds, 1)
        ]
        self.nodes += self._liars
        self._lying: list[asyncio.Task[None]] = []

    async def __aexit__(self, *error: object) -> None:
        await cancel_and_join(*self._lying)
        await super().__aexit__(*error)

    async def begin(self) -> None:
        """All join, connect and register; then they lie."""
        await self.certify()
        honest_at_first = [liar for liar in self._liars if not isinstance(liar, Garbage)]
        for liar in honest_at_first:
            await self._connect(liar)
            await liar.register()
        for liar in self._liars:
            if isinstance(liar, HalfOpen):
                self.keepalives.remove(liar)
        self._lying = [spawn(self._keep_lying(liar), name=f"{liar.name} lies") for liar in self._liars]

    async def _keep_lying(self, liar: Liar) -> None:
        while True:
            try:
                if not liar.connected and not isinstance(liar, Garbage | Reconnects):
                    await liar.connect()
                await liar.lie()
            except (LinkClosed, OSError):
                self.journal.count("liars shut out")
                await asyncio.sleep(RETURN_SECONDS)


def unsent(node: str) -> Message:
    """An acknowledgement of a message that nobody sent."""
    nothing = Message.of(
        source=Source.EDGE_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.UPDATE,
        resource=f"{objects.NAMESPACE}/pod/{node}",
        timestamp=0,
        id=str(uuid.uuid4()),
    )
    return payloads.acknowledge(nothing, timestamp=0)


async def throw(address: tuple[str, int], rubbish: bytes) -> None:
    """One connection: the rubbish, then its end; nothing of it is waited for."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            await loop.sock_connect(connection, address)
            await loop.sock_sendall(connection, rubbish)


def _is_acknowledgement(message: Message) -> bool:
    return message.route.operation == Operation.RESPONSE
