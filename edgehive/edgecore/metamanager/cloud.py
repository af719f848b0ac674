"""The road to the cloud as metamanager uses it: a call answered in time or an `Unreachable` at once.

It sends through the hub's module on the bus and knows whether the link is up from the hub's notices. A call
in flight when the link breaks ends right then, so that callers turn to their rows instead of waiting.
"""

import asyncio
import uuid

import msgspec

from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.tasks import first_of
from edgehive.kube.errors import Unreachable
from edgehive.wire.payloads import acknowledge, needs_ack


class Cloud:
    """`hub` is the module that holds the link, `timeout` how long an answer may take."""

    def __init__(self, bus: Bus, hub: str, clock: Clock, timeout: float) -> None:
        self._bus = bus
        self._hub = hub
        self._clock = clock
        self._timeout = timeout
        self._lost: asyncio.Event | None = None

    @property
    def connected(self) -> bool:
        return self._lost is not None

    def link_came(self) -> None:
        if self._lost is None:
            self._lost = asyncio.Event()

    def link_went(self) -> None:
        if self._lost is not None:
            self._lost.set()
            self._lost = None

    async def call(self, message: Message) -> Message:
        """Send under a fresh id and wait for the answer; raises Unreachable when none comes."""
        if self._lost is None:
            raise Unreachable("the cloud cannot be reached")
        # A fresh id: the sender waits on this bus for an answer to its own.
        request = message.with_header(id=str(uuid.uuid4()), timestamp=unix_millis(self._clock.now()))
        try:
            return await first_of(
                self._bus.request(self._hub, request, timeout=self._timeout), self._until_lost(self._lost)
            )
        except ReplyTimeout:
            raise Unreachable(f"the cloud did not answer within {self._timeout:g} s") from None
        except (MailboxFull, NoSuchModule) as error:
            raise Unreachable(f"the cloud cannot be reached: {error}") from error

    async def post(self, message: Message) -> None:
        """Hand over a report, which the hub keeps until the cloud has it; raises Unreachable without a hub."""
        await self._send(message)

    async def answer(self, message: Message, content: msgspec.Raw) -> None:
        """Answer a question of the cloud."""
        await self._send(message.reply(content, timestamp=unix_millis(self._clock.now())))

    async def acknowledge(self, message: Message) -> None:
        """Tell the cloud that its message is stored, where it wants to hear that."""
        if needs_ack(message):
            await self._send(acknowledge(message, timestamp=unix_millis(self._clock.now())))

    async def refuse(self, message: Message, why: str) -> None:
        """Tell the cloud that its message was not stored; it goes on owing it."""
        error = message.reply(why, operation="error", source="metamanager", timestamp=unix_millis(self._clock.now()))
        await self._send(error)

    async def _send(self, message: Message) -> None:
        try:
            await self._bus.send(self._hub, message)
        except (MailboxFull, NoSuchModule) as error:
            raise Unreachable(f"the cloud cannot be reached: {error}") from error

    @staticmethod
    async def _until_lost(lost: asyncio.Event) -> Message:
        await lost.wait()
        raise Unreachable("the link to the cloud broke before the answer came")
