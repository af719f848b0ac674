"""What the cloud has yet to hear of the devices: the newest, one report a device on its way at a time.

devicetwin tells what changed (`touch`) and what the cloud confirmed; this decides when a report goes to the hub, which
keeps it on disk until then. A device has at most one report of its twins and one of its state in the hub at a time,
however fast it changes and however long the cloud is away: the rows remember what is still to be told.

Go: edge/pkg/devicetwin/dtmanager/communicate.go
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from edgehive.beehive.bus import MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.wire.devices import ReportKind

log = logging.getLogger("edgehive.devicetwin")

#: Reports on their way at once: what the cloud confirms in two seconds, within these. More would wait on their way and
#: grow old, where the next is written with the newest values; fewer would leave a fast cloud waiting.
WINDOW, WIDEST = 64, 256
#: Seconds between two reports of one thing: a value that changes a thousand times a second is told this often.
PACE = 0.2
#: Seconds after which an unconfirmed report no longer holds back a newer one, which then takes its place in the hub.
PATIENCE = 15.0


class Topic(NamedTuple):
    """What a report is about."""

    id: str
    kind: ReportKind


class Report(NamedTuple):
    """A message and what devicetwin wants back when it is confirmed."""

    message: Message
    sent: Any


#: The report due about a topic; None when there is nothing to tell (any more).
Write = Callable[[Topic], Report | None]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class _Flight:
    message_id: str
    sent: Any
    at: float
    again: bool = False


class Reports:
    """One per devicetwin; `run` sends while the link is up, and reads what is to be told while it holds `gate`."""

    def __init__(self, write: Write, send: Send, gate: asyncio.Lock) -> None:
        self._gate = gate
        self._write = write
        self._send = send
        self._waiting: OrderedDict[Topic, None] = OrderedDict()
        self._flights: dict[Topic, _Flight] = {}
        self._topics: dict[str, Topic] = {}
        self._sent_at: dict[Topic, float] = {}
        self._timers: dict[Topic, asyncio.TimerHandle] = {}
        self._connected = False
        self._wake = asyncio.Event()
        self._window = WINDOW
        self._confirmed, self._counted_at = 0, 0.0

    def touch(self, topic: Topic) -> None:
        """There is news; it is told now, or with what follows the report that is on its way."""
        now = asyncio.get_running_loop().time()
        flight = self._flights.get(topic)
        if flight is not None and now - flight.at < PATIENCE:
            flight.again = True
            return
        if topic in self._timers or topic in self._waiting:
            return
        wait = self._sent_at.get(topic, -PACE) + PACE - now
        if wait > 0:
            self._timers[topic] = asyncio.get_running_loop().call_later(wait, self._due, topic)
        else:
            self._due(topic)

    def confirmed(self, message_id: str) -> tuple[Topic, Any] | None:
        """The cloud has a report: what it was about and what was sent; None for another message."""
        topic = self._topics.pop(message_id, None)
        flight = self._flights.get(topic) if topic is not None else None
        if topic is None or flight is None or flight.message_id != message_id:
            return None
        del self._flights[topic]
        self._confirmed += 1
        return topic, flight.sent

    def forget(self, id: str) -> None:
        """The device is gone, or begins another life."""
        for kind in ReportKind:
            topic = Topic(id, kind)
            self._waiting.pop(topic, None)
            self._sent_at.pop(topic, None)
            if timer := self._timers.pop(topic, None):
                timer.cancel()
            if flight := self._flights.pop(topic, None):
                self._topics.pop(flight.message_id, None)

    def link(self, connected: bool) -> None:
        self._connected = connected
        self._wake.set()

    async def run(self) -> None:
        try:
            while True:
                await self._rest()
                while self._connected and self._waiting and self._has_room():
                    await self._next()
        finally:
            for timer in self._timers.values():
                timer.cancel()

    async def _rest(self) -> None:
        """Until there is news; where only room is missing, until some has grown old."""
        try:
            async with asyncio.timeout(1.0 if self._connected and self._waiting else None):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _has_room(self) -> bool:
        """A cloud may never answer about a device it does not know: such reports hold back no others for long."""
        now = asyncio.get_running_loop().time()
        if (passed := now - self._counted_at) >= 1.0:
            self._window = min(max(WINDOW, round(2 * self._confirmed / passed)), WIDEST)
            self._confirmed, self._counted_at = 0, now
        if len(self._flights) < self._window:
            return True
        return sum(now - flight.at < PATIENCE for flight in self._flights.values()) < self._window

    def release(self) -> None:
        """A report was confirmed and dealt with: there is room for another."""
        self._wake.set()

    def _due(self, topic: Topic) -> None:
        self._timers.pop(topic, None)
        self._waiting[topic] = None
        self._wake.set()

    async def _next(self) -> None:
        topic, _ = self._waiting.popitem(last=False)
        async with self._gate:
            report = self._write(topic)
        if report is None:
            return
        if (older := self._flights.pop(topic, None)) is not None:
            self._topics.pop(older.message_id, None)
        now = asyncio.get_running_loop().time()
        self._flights[topic] = _Flight(report.message.id, report.sent, now)
        self._topics[report.message.id] = topic
        self._sent_at[topic] = now
        try:
            await self._send(report.message)
        except (MailboxFull, NoSuchModule) as error:
            log.warning("%s cannot be reported yet: %s", topic.id, error)
            self._flights.pop(topic, None)
            self._topics.pop(report.message.id, None)
            self.touch(topic)
