"""`Bus`: mailboxes by module and group, and request/reply by message id.

An instance, not a global: two Hives in one process have two. A request takes its reply slot before it is
sent and the slot is a future, so a reply can neither be missed nor block whoever gives it; a reply nobody
waits for is dropped and counted.

    NoSuchModule   nobody of that name is registered
    MailboxFull    the mailbox refuses, or had no room within the time given
    ReplyTimeout   the request was delivered but not answered in time

An answer of operation `error` is an answer and is returned like any other.

Go: staging/src/github.com/kubeedge/beehive/pkg/core/context
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from edgehive.beehive.message import Message
from edgehive.kit.mailbox import Mailbox, MailboxClosed, MailboxFull, Policy

__all__ = ["Bus", "GroupAnswers", "MailboxClosed", "MailboxFull", "NoSuchModule", "Policy", "ReplyTimeout"]

#: Go's default for a synchronous send, in seconds.
DEFAULT_TIMEOUT = 30.0


class NoSuchModule(Exception):
    """The message has no addressee; it was not delivered."""


class ReplyTimeout(Exception):
    """No answer in time. A later one is dropped and counted."""


@dataclass(slots=True)
class GroupAnswers:
    """What a group said in time, by module, and who said nothing."""

    answers: dict[str, Message] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Seat:
    """One registered module."""

    group: str
    mailbox: Mailbox[Message]


class _GroupSlot:
    """Collects one answer per member until all have spoken."""

    def __init__(self, members: set[str]) -> None:
        self.answers: dict[str, Message] = {}
        self.missing = members
        self.complete = asyncio.get_running_loop().create_future()

    def take(self, sender: str, message: Message) -> bool:
        if sender not in self.missing:
            return False
        self.missing.discard(sender)
        self.answers[sender] = message
        if not self.missing and not self.complete.done():
            self.complete.set_result(None)
        return True


class Bus:
    """Register in a module's constructor, send from anywhere; not thread-safe, one event loop."""

    def __init__(self, *, registry: CollectorRegistry | None = None) -> None:
        self._seats: dict[str, _Seat] = {}
        self._slots: dict[str, asyncio.Future[Message]] = {}
        self._group_slots: dict[str, _GroupSlot] = {}
        registry = registry or CollectorRegistry()
        self._late = Counter("edgehive_bus_late_replies", "Replies nobody waited for any more.", registry=registry)
        self._unknown = Counter(
            "edgehive_bus_undeliverable", "Messages to a module that is not there.", ["module"], registry=registry
        )
        self._latency = Histogram(
            "edgehive_bus_request_seconds", "From a request to its reply.", ["module"], registry=registry
        )
        registry.register(_MailboxCollector(self._seats))

    @property
    def late_replies(self) -> int:
        return int(self._late._value.get())

    def register(
        self,
        module: str,
        group: str,
        *,
        size: int = 1024,
        policy: Policy = Policy.BLOCK,
        key: Callable[[Message], Hashable] | None = None,
    ) -> Mailbox[Message]:
        """The module's mailbox; a second registration of a name is a programming error and raises ValueError."""
        if module in self._seats:
            raise ValueError(f"a module named {module!r} is already on this bus")
        mailbox: Mailbox[Message] = Mailbox(module, size=size, policy=policy, key=key)
        self._seats[module] = _Seat(group, mailbox)
        return mailbox

    def unregister(self, module: str) -> int:
        """Close the mailbox and forget the module; returns how many messages it left unread. Idempotent."""
        seat = self._seats.pop(module, None)
        if seat is None:
            return 0
        seat.mailbox.close()
        return len(seat.mailbox)

    def modules(self) -> list[str]:
        return list(self._seats)

    def members(self, group: str) -> list[str]:
        return [name for name, seat in self._seats.items() if seat.group == group]

    def mailbox(self, module: str) -> Mailbox[Message]:
        seat = self._seats.get(module)
        if seat is None:
            self._unknown.labels(module).inc()
            raise NoSuchModule(f"no module named {module!r} runs here; modules are {', '.join(self._seats) or 'none'}")
        return seat.mailbox

    async def send(self, module: str, message: Message, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Put the message into the module's mailbox, waiting for room as its policy says."""
        mailbox = self.mailbox(module)
        try:
            mailbox.put_nowait(message) if len(mailbox) < mailbox.size else await self._put(mailbox, message, timeout)
        except MailboxClosed:
            raise NoSuchModule(f"module {module!r} is stopping") from None

    async def send_group(self, group: str, message: Message, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Every member once, in registration order; a member that is full does not keep it from the others.

        Raises MailboxFull naming those who could not take it, after all others have it.
        """
        full: list[str] = []
        for name in self.members(group):
            try:
                await self.send(name, message, timeout=timeout)
            except NoSuchModule:
                continue
            except MailboxFull:
                full.append(name)
        if full:
            raise MailboxFull(f"group {group!r}: no room in {', '.join(full)}")

    async def request(self, module: str, message: Message, *, timeout: float = DEFAULT_TIMEOUT) -> Message:
        """Send and wait for the message whose parent is this one."""
        loop = asyncio.get_running_loop()
        slot: asyncio.Future[Message] = loop.create_future()
        self._slots[message.id] = slot
        started = loop.time()
        try:
            await self.send(module, message, timeout=timeout)
            remaining = max(0.0, timeout - (loop.time() - started))
            try:
                async with asyncio.timeout(remaining):
                    answer = await slot
            except TimeoutError:
                raise ReplyTimeout(
                    f"{module!r} did not answer {message.route.operation} {message.route.resource} in {timeout:g} s"
                ) from None
        finally:
            self._slots.pop(message.id, None)
        self._latency.labels(module).observe(loop.time() - started)
        return answer

    async def request_group(self, group: str, message: Message, *, timeout: float = DEFAULT_TIMEOUT) -> GroupAnswers:
        """Ask every member; whoever has not answered in time is named in `missing`."""
        slot = _GroupSlot(set(self.members(group)))
        self._group_slots[message.id] = slot
        try:
            async with asyncio.timeout(timeout):
                await self.send_group(group, message, timeout=timeout)
                if slot.missing:
                    await slot.complete
        except (TimeoutError, MailboxFull):
            pass  # a partial result is the answer
        finally:
            self._group_slots.pop(message.id, None)
        return GroupAnswers(slot.answers, slot.missing)

    def reply(self, message: Message, *, sender: str = "") -> bool:
        """Hand an answer to whoever waits for its parent. False, and counted, when nobody does (any more).

        `sender` names the answering module; answers to a group request need it.
        """
        parent = message.header.parent_id
        slot = self._slots.get(parent)
        if slot is not None and not slot.done():
            slot.set_result(message)
            return True
        group_slot = self._group_slots.get(parent)
        if group_slot is not None and group_slot.take(sender or message.route.source, message):
            return True
        self._late.inc()
        return False

    def waits_for(self, message_id: str) -> bool:
        return message_id in self._slots or message_id in self._group_slots

    @staticmethod
    async def _put(mailbox: Mailbox[Message], message: Message, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await mailbox.put(message)
        except TimeoutError:
            raise MailboxFull(f"module {mailbox.name!r} had no room for a message within {timeout:g} s") from None


class _MailboxCollector:
    """Reads every mailbox's counters when metrics are scraped."""

    def __init__(self, seats: dict[str, _Seat]) -> None:
        self._seats = seats

    def collect(self) -> list[GaugeMetricFamily]:
        families = {
            name: GaugeMetricFamily(f"edgehive_mailbox_{name}", text, labels=["module"])
            for name, text in (
                ("depth", "Messages waiting."),
                ("most", "Messages that waited at once, at most."),
                ("size", "Messages a mailbox holds at most."),
                ("put", "Messages put since start."),
                ("dropped", "Oldest messages dropped for newer ones."),
                ("coalesced", "Messages replaced by a newer one of the same key."),
                ("refused", "Messages refused because the mailbox was full."),
            )
        }
        for module, seat in list(self._seats.items()):
            counted = seat.mailbox.statistics()
            for name, family in families.items():
                family.add_metric([module], getattr(counted, name))
        return list(families.values())
