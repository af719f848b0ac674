"""The link of a simulation: messages take time, break off, vanish, come twice and overtake each other.

What real links promise holds: one connection delivers whole messages in order, or breaks. So acknowledgements may
be lost, doubled or held back, and an object may be followed by itself or by its older version, as happens over
several connections; requests and pings keep their order. A half-open link takes everything and delivers nothing
until the kernel gives it up.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable

from edgehive.api.document import Document
from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, unix_millis
from edgehive.testing.pair.story import Story
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.names import Operation
from edgehive.wire.payloads import control_answer, is_empty

#: Messages under way in one direction before `send` waits.
IN_FLIGHT = 100
#: When the kernel gives up a peer that acknowledges nothing, at the latest.
DEAD_PEER_SECONDS = 30.0
_PUSHES = (Operation.INSERT, Operation.UPDATE, Operation.DELETE)


class Disturbance:
    """What is done to the next messages of whatever link there is."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.lose_acks = self.repeat_acks = self.hold_acks = self.foreign_acks = 0
        self.repeat_messages = self.stale_messages = 0

    def heal(self) -> None:
        self.__init__()  # type: ignore[misc]


class Pipe:
    """One direction: what was put is got in its order, each after its time on the way."""

    def __init__(self) -> None:
        self._items: deque[tuple[float, Message]] = deque()
        self._changed = asyncio.Event()
        self.closed = self.vanishing = False

    async def put(self, message: Message, latency: float) -> None:
        while len(self._items) >= IN_FLIGHT and not self.closed:
            await self._until_changed(None)
        if self.closed:
            raise LinkClosed("the link is closed")
        if not self.vanishing:
            self._items.append((asyncio.get_running_loop().time() + latency, message))
            self._changed.set()

    async def get(self) -> Message:
        while not self.closed:
            if not self._items:
                await self._until_changed(None)
            elif self._items[0][0] <= asyncio.get_running_loop().time():
                self._changed.set()
                return self._items.popleft()[1]
            else:
                await self._until_changed(self._items[0][0])
        raise LinkClosed("the link is closed")

    def close(self) -> None:
        self.closed = True
        self._changed.set()

    def vanish(self) -> None:
        """What is on the way, and all that comes, is never seen again."""
        self.vanishing = True
        self._items.clear()
        self._changed.set()

    async def _until_changed(self, due: float | None) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout_at(due):
                await self._changed.wait()
        except TimeoutError:
            return


class End:
    """One end of a connection; the edge's is disturbed, in what it sends and in what it gets."""

    def __init__(self, peer: Peer, outgoing: Pipe, incoming: Pipe, network: "Network", *, edge: bool) -> None:
        self._peer = peer
        self._outgoing = outgoing
        self._incoming = incoming
        self._network = network
        self._edge = edge
        self._held: list[Message] = []
        self._again: deque[Message] = deque()
        self._last: dict[str, Message] = {}

    @property
    def peer(self) -> Peer:
        return self._peer

    async def send(self, message: Message) -> None:
        network, disturbance = self._network, self._network.disturbance
        network.said("edge" if self._edge else "cloud", message)
        if self._edge and message.route.operation == Operation.RESPONSE:
            for ack in self._disturbed(message):
                await self._outgoing.put(ack, disturbance.latency)
            return
        await self._outgoing.put(message, disturbance.latency)

    async def receive(self) -> Message:
        while True:
            message = self._again.popleft() if self._again else await self._incoming.get()
            answer = control_answer(message, timestamp=unix_millis(self._network.clock.now()))
            if answer is not None:
                await self._outgoing.put(answer, self._network.disturbance.latency)
            elif not is_empty(message):
                if self._edge and message.route.operation in _PUSHES:
                    self._repeat(message)
                return message

    async def close(self, reason: str = "") -> None:  # noqa: ARG002
        self._outgoing.close()
        self._incoming.close()

    def _disturbed(self, ack: Message) -> list[Message]:
        """What really goes out in the place of this acknowledgement."""
        now = self._network.disturbance
        if now.lose_acks:
            now.lose_acks -= 1
            return []
        if now.hold_acks:
            now.hold_acks -= 1
            self._held.append(ack)
            return []
        held, self._held = self._held[::-1], []
        copies = 2 if now.repeat_acks else 1
        now.repeat_acks = max(0, now.repeat_acks - 1)
        foreign = [ack.with_header(id="foreign", parent_id="never sent")] * now.foreign_acks
        now.foreign_acks = 0
        return [*foreign, *[ack] * copies, *held]

    def _repeat(self, push: Message) -> None:
        """Have a push followed by itself, or by the older version of the same life of the object."""
        now, path = self._network.disturbance, push.route.resource
        older = self._last.pop(path, None)
        if now.repeat_messages:
            now.repeat_messages -= 1
            self._again.append(push)
        if older is not None and now.stale_messages and _uid(older) == _uid(push):
            now.stale_messages -= 1
            self._again.append(older)
        if push.route.operation != Operation.DELETE:
            self._last[path] = push


class Network:
    """Between one edge and one cloud. `watch` is shown every message as it is sent."""

    def __init__(
        self, clock: Clock, story: Story, chance: random.Random, watch: Callable[[str, Message], None]
    ) -> None:
        self.clock = clock
        self.disturbance = Disturbance()
        self.plugged = True
        self._story = story
        self._chance = chance
        self._watch = watch
        self._acceptor = Acceptor("the cloud in this process")
        self._pipes: list[Pipe] = []

    def acceptor(self) -> Acceptor:
        """The hub's door; enter it once at a time."""
        return self._acceptor

    async def dial(self, peer: Peer) -> Link:
        if not self.plugged:
            raise OSError("the cable is cut")
        up, down = Pipe(), Pipe()
        await self._acceptor.offer(End(peer, down, up, self, edge=False))
        self._pipes = [up, down]
        self._story.tell("link", "connected")
        return End(Peer(node="", address="memory"), up, down, self, edge=True)

    def cut(self) -> None:
        """The link breaks, and what is on its way is lost."""
        for pipe in self._pipes:
            pipe.close()
        self._pipes = []

    def fall_silent(self, up: bool, down: bool) -> None:
        """The link is half open from now on, in these directions, until the kernel gives it up."""
        pipes = self._pipes
        for pipe, silent in zip(pipes, (up, down), strict=False):
            if silent:
                pipe.vanish()
        later = self._chance.uniform(1.0, DEAD_PEER_SECONDS)
        for pipe in pipes:
            asyncio.get_running_loop().call_later(later, pipe.close)

    def said(self, who: str, message: Message) -> None:
        self._watch(who, message)


def _uid(message: Message) -> str:
    return Document(bytes(message.content)).meta.uid
