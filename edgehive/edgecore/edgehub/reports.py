"""Reports to the cloud, each delivered: stored, sent over whatever link there is, forgotten when the cloud has it.

Device reports are answered by the cloud one by one. For the rest the hub sends a ping after each batch; links are
first in, first out, so its answer proves that all before it was read. Both hold with a Go cloud. What is not
answered is sent again, ever more seldom, and over every new link: a report may arrive twice, under the same id.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from edgehive.beehive.message import Message
from edgehive.edgecore.edgehub.outbound import Lane
from edgehive.edgecore.edgehub.spool import Row, Spool
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.mailbox import Mailbox
from edgehive.kit.sqlite import DatabaseError
from edgehive.wire.codec import MessageTooLarge
from edgehive.wire.names import Group, Operation, Path, Source

log = logging.getLogger("edgehive.edgehub")

#: Reports on their way at once in each lane, besides those that were not answered in time.
WINDOW = 64
#: Seconds until an unanswered report is sent again over the same link (as Go's device twin does), and at most.
REPEAT_SECONDS, REPEAT_LIMIT = 60.0, 3600.0
#: A timer may fire this much early; what is due then counts as due, or the loop would spin on it.
CLOCK_STEP = 0.001

#: Sends over the present link; False when that broke.
Send = Callable[[Message], Awaitable[bool]]
#: Takes what the disk refuses.
Fallback = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class _Flight:
    """Reports sent together and what is still to be heard of them."""

    sequences: list[int]
    due: float
    interval: float = REPEAT_SECONDS

    @property
    def late(self) -> bool:
        return self.interval > REPEAT_SECONDS


class _Line:
    """One lane over one link."""

    def __init__(self, spool: Spool, lane: Lane, send: Send, clock: Clock) -> None:
        self._spool = spool
        self._lane = lane
        self._send = send
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._heard: list[int] = []
        self.wake = asyncio.Event()

    def heard(self, parent_id: str) -> bool:
        """The cloud has spoken about a message of this line."""
        flight = self._flights.pop(parent_id, None)
        if flight is None:
            return False
        self._heard += flight.sequences
        self.wake.set()
        return True

    async def run(self) -> None:
        """Until the link breaks."""
        loop = asyncio.get_running_loop()
        last = 0
        while True:
            if self._heard:
                heard, self._heard = self._heard, []
                await self._spool.remove(heard)
            room = WINDOW - sum(len(flight.sequences) for flight in self._flights.values() if not flight.late)
            rows = await self._spool.after(self._lane, last, room) if room > 0 else []
            if rows:
                last = rows[-1].sequence
                if not await self._send_all(rows, REPEAT_SECONDS):
                    return
            elif not await self._repeat(loop.time() + CLOCK_STEP):
                return
            if not rows and not self._heard:
                await self._rest()

    async def _send_all(self, rows: list[Row], interval: float) -> bool:
        due = asyncio.get_running_loop().time() + interval
        for row in rows:
            if self._lane is Lane.ANSWER:
                self._flights[row.message.id] = _Flight([row.sequence], due, interval)
            if not await self._send(row.message):
                return False
        if self._lane is Lane.ANSWER:
            return True
        ping = _ping(unix_millis(self._clock.now()))
        self._flights[ping.id] = _Flight([row.sequence for row in rows], due, interval)
        return await self._send(ping)

    async def _repeat(self, now: float) -> bool:
        for id, flight in [(id, flight) for id, flight in self._flights.items() if flight.due <= now]:
            del self._flights[id]
            rows = await self._spool.those(flight.sequences)
            if rows and not await self._send_all(rows, min(2 * flight.interval, REPEAT_LIMIT)):
                return False
        return True

    async def _rest(self) -> None:
        due = min((flight.due for flight in self._flights.values()), default=None)
        try:
            async with asyncio.timeout_at(due):
                await self.wake.wait()
        except TimeoutError:
            return
        self.wake.clear()


class Reports:
    """One per hub: `run` stores, `deliver` sends over a link, `heard` is told of every answer."""

    def __init__(self, spool: Spool, clock: Clock, dropped: Counter, fallback: Fallback) -> None:
        self._spool = spool
        self._clock = clock
        self._dropped = dropped
        self._fallback = fallback
        self._incoming: Mailbox[Message] = Mailbox("reports to be stored")
        #: Taken from `_incoming` and not known to be on disk.
        self._storing: list[Message] = []
        self._lines: list[_Line] = []

    async def keep(self, message: Message) -> None:
        """Take a report; waits while the disk is slow."""
        await self._incoming.put(message)

    async def run(self) -> None:
        """Store what comes, until cancelled."""
        while True:
            self._storing = [await self._incoming.get()]
            await self._store(self._storing)
            self._storing = []

    async def flush(self, rest: Sequence[Message] = ()) -> None:
        """Store what was taken, and `rest` after it; for the end, when nobody runs this any more.

        What was being stored then is stored once more: a cancelled write may not have been made.
        """
        batch, self._storing = self._storing, []
        if batch or len(self._incoming):
            await self._store(batch)
        if rest:
            await self._store(list(rest))

    async def deliver(self, send: Send) -> None:
        """Send what is stored and what will be, until the link breaks."""
        self._lines = [_Line(self._spool, lane, send, self._clock) for lane in Lane]
        try:
            async with asyncio.TaskGroup() as group:
                works = [group.create_task(self._work(line), name="reports") for line in self._lines]
                await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
                for work in works:
                    work.cancel()
        finally:
            self._lines = []

    def heard(self, parent_id: str) -> bool:
        """An answer came: whether it was to a message of these."""
        return bool(parent_id) and any(line.heard(parent_id) for line in self._lines)

    async def _work(self, line: _Line) -> None:
        while True:
            try:
                await line.run()
                return
            except (DatabaseError, sqlite3.Error) as error:
                log.error("reports kept on disk cannot be reached: %s", error)
                await asyncio.sleep(REPEAT_SECONDS)

    async def _store(self, batch: list[Message]) -> None:
        while len(self._incoming):
            batch.append(self._incoming.get_nowait())
        try:
            await self._put(batch)
        except MessageTooLarge:
            for message in batch:
                await self._store_alone(message)
        except (DatabaseError, sqlite3.Error) as error:
            log.error("%d reports to the cloud are not kept on disk: %s", len(batch), error)
            for message in batch:
                await self._fallback(message)
        for line in self._lines:
            line.wake.set()

    async def _store_alone(self, message: Message) -> None:
        try:
            await self._put([message])
        except MessageTooLarge as error:
            self._dropped.labels("out", "too large").inc()
            log.error("a report is lost: %s", error)
        except (DatabaseError, sqlite3.Error):
            await self._fallback(message)

    async def _put(self, messages: list[Message]) -> None:
        if surplus := await self._spool.put(messages):
            self._dropped.labels("out", "spool full").inc(surplus)
            log.warning("%d of the oldest reports to the cloud made room for newer ones", surplus)


def _ping(timestamp: int) -> Message:
    """wire: both sides' links answer it at once, in order with all else they read (wire.md §2.1)."""
    return Message.of(
        source=Source.WEBSOCKET,
        group=Group.RESOURCE,
        operation=Operation.PING,
        resource=Path.KEEPALIVE,
        timestamp=timestamp,
    )
