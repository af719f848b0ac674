"""One session per connected node: its outbox, its writer and its reader; and the register of all of them.

A session that is idle costs one task, which reads. There is a writer while there is something to write.

A session has an epoch. A second connection of a node replaces the first and takes over what that had not
delivered; the end of the first then finds that it is no longer registered and touches nothing. Silence is
found by one sweep over all sessions, which stand in the order of their last keepalive.

Go: cloud/pkg/cloudhub/session
"""

import asyncio
import contextlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.conduct import Conduct
from edgehive.cloudcore.cloudhub.outbox import ATTEMPTS, Outbox, Parcel, Verdict
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import payloads
from edgehive.wire.codec import MessageTooLarge
from edgehive.wire.link import Link, LinkClosed, ProtocolError
from edgehive.wire.names import Operation, Path

log = logging.getLogger("edgehive.cloudhub")


#: A timer may fire this much early; what is due then counts as due, or the loop would spin on it.
CLOCK_STEP = 0.001


class Session:
    """The cloud's end of one connection."""

    def __init__(
        self,
        link: Link,
        epoch: int,
        *,
        on_message: Callable[["Session", Message], Awaitable[None]],
        on_delivered: Callable[["Session", Parcel], None],
        on_overflow: Callable[[str], None],
        on_keepalive: Callable[["Session"], None],
        on_hello: Callable[["Session"], None],
        on_inventory: Callable[["Session", Message], None],
        on_dropped: Callable[["Session", int], None],
        conduct: Conduct,
    ) -> None:
        self.node = link.peer.node
        self.epoch = epoch
        self.outbox = Outbox()
        self._link = link
        self._ended = ""
        self._reading: asyncio.Timeout | None = None
        self._writing: asyncio.Task[None] | None = None
        #: When the outbox is looked at again although nothing was put into it.
        self._later: asyncio.TimerHandle | None = None
        self._on_message = on_message
        self._on_delivered = on_delivered
        self._on_overflow = on_overflow
        self._on_keepalive = on_keepalive
        self._on_hello = on_hello
        self._on_inventory = on_inventory
        self._on_dropped = on_dropped
        self._conduct = conduct
        #: What this edge can do beyond Go; None before its first keepalive.
        self.offers: frozenset[str] | None = None
        #: Runs while an inventory is asked for and has not come.
        self.asking: asyncio.TimerHandle | None = None
        #: Questions for an inventory whose answers may come.
        self.asked = 0

    # Filling the outbox

    def notice(self, message: Message) -> None:
        self.outbox.notice(message)
        self._filled()

    def reply(self, parcel: Parcel) -> None:
        self.outbox.reply(parcel)
        self._filled()

    def push(self, parcel: Parcel) -> Verdict:
        verdict = self.outbox.push(parcel)
        self._write_soon()
        return verdict

    def release(self, uid: str) -> None:
        self.outbox.release(uid)
        self._write_soon()

    def _filled(self) -> None:
        if self.outbox.dropped:
            self._on_dropped(self, self.outbox.dropped)
            self.outbox.dropped = 0
        self._write_soon()

    # Life

    async def run(self) -> str:
        """Write and read until the link ends or `end` is called; returns why."""
        try:
            # Due at once when `end` is called: a timeout of a task's own is a cancellation nobody else sees.
            async with asyncio.timeout(0 if self._ended else None) as self._reading:
                self._write_soon()
                await self._read()
        except TimeoutError:
            if not self._ended:
                raise
        except LinkClosed as error:
            self._ended = self._ended or str(error)
        except ProtocolError as error:
            self._ended = self._ended or f"the node broke the protocol: {error}"
        finally:
            self._reading = None
            self._forget_timers()
            await cancel_and_join(self._writing)
            await self._link.close(self._ended)
        return self._ended

    def _forget_timers(self) -> None:
        self.answered()
        if self._later is not None:
            self._later.cancel()

    def answered(self) -> None:
        """Nothing more is asked."""
        if self.asking is not None:
            self.asking.cancel()

    def end(self, reason: str) -> None:
        """Have the session end soon."""
        self._ended = self._ended or reason
        if self._reading is not None and not self._reading.expired():
            self._reading.reschedule(asyncio.get_running_loop().time())

    def fall_silent(self, seconds: float) -> None:
        """No keepalive came for so long."""
        self._conduct.silent(self.node, seconds)
        self.end(f"no keepalive within {seconds:g} s")

    def _write_soon(self) -> None:
        """Have a writer, once the session lives."""
        if self._writing is None and self._reading is not None:
            self._writing = spawn(self._write(), name=f"writer {self.node}")

    async def _write(self) -> None:
        """Write what there is to write now."""
        try:
            while (message := self._next()) is not None:
                try:
                    await self._link.send(message)
                except MessageTooLarge as error:
                    log.error("node %s: not sent: %s", self.node, error)
                    self.outbox.acknowledge(message.id)
        except LinkClosed as error:
            self.end(str(error))
        except Exception:
            log.exception("session %d of node %s cannot write", self.epoch, self.node)
            self.end("cloudcore failed; its log says why")
        else:
            self._writing = None
            self._rest()

    def _next(self) -> Message | None:
        message = self.outbox.next(asyncio.get_running_loop().time() + CLOCK_STEP)
        if self.outbox.given_up:
            self._conduct.unacknowledged(self.node, self.outbox.given_up, ATTEMPTS)
            self.outbox.given_up = ""
        return message

    def _rest(self) -> None:
        if self.outbox.overflowed and not len(self.outbox):
            self.outbox.overflowed = False
            self._on_overflow(self.node)
        if self._later is not None:
            self._later.cancel()
            self._later = None
        due = self.outbox.wake_at
        if due is not None and self._reading is not None:
            self._later = asyncio.get_running_loop().call_at(due, self._write_soon)

    async def _read(self) -> None:
        while True:
            message = await self._link.receive()
            operation = message.route.operation
            if operation == Operation.KEEPALIVE:
                self._alive(message)
            elif operation == Operation.RESPONSE:
                self._answered(message)
            elif operation == Operation.ERROR:
                self._conduct.could_not_store(self.node, message.route.resource, _text(message))
            elif message.id:
                await self._on_message(self, message)

    def _alive(self, keepalive: Message) -> None:
        self._on_keepalive(self)
        if self.offers is None:
            self.offers = payloads.read_offers(keepalive)
            self._on_hello(self)

    def _answered(self, message: Message) -> None:
        if message.route.resource == Path.INVENTORY:
            if not self.asked:
                self._conduct.told_unasked(self.node)
                return
            self.asked -= 1
            self._on_inventory(self, message)
            return
        id = message.header.parent_id
        parcel = self.outbox.acknowledge(id)
        if parcel is not None:
            self._on_delivered(self, parcel)
            self._write_soon()
        elif self.outbox.was_acknowledged(id):
            self._conduct.acknowledged_again(self.node)
        elif id:
            self._conduct.acknowledged_unsent(self.node)


def _text(message: Message) -> str:
    return message.content_bytes()[:500].decode(errors="replace")


class Sessions:
    """The register: at most one session per node."""

    def __init__(self, *, silence: float) -> None:
        self._silence = silence
        self._by_node: dict[str, Session] = {}
        self._deadlines: OrderedDict[Session, float] = OrderedDict()
        self._epochs = itertools.count(1)
        #: Of sessions that ended.
        self._most = 0
        self._heard = asyncio.Event()
        self._emptied = asyncio.Event()

    def __len__(self) -> int:
        return len(self._by_node)

    def get(self, node: str) -> Session | None:
        return self._by_node.get(node)

    def waiting(self) -> int:
        """Messages in all outboxes."""
        return sum(len(session.outbox) for session in self._by_node.values())

    def most_waiting(self) -> int:
        """Messages that waited in one outbox at once, at most, since start."""
        return max([self._most, *(session.outbox.most for session in self._by_node.values())])

    def next_epoch(self) -> int:
        return next(self._epochs)

    def enter(self, session: Session) -> None:
        """Register a session; an older one of the node hands over its outbox and ends."""
        older = self._by_node.get(session.node)
        if older is not None:
            session.outbox.adopt(older.outbox)
            self._deadlines.pop(older, None)
            older.end("another connection of this node took its place")
        self._by_node[session.node] = session
        self.heard(session)

    def leave(self, session: Session) -> bool:
        """Remove exactly this session; False when another one has taken its place."""
        self._deadlines.pop(session, None)
        self._most = max(self._most, session.outbox.most)
        if self._by_node.get(session.node) is not session:
            return False
        del self._by_node[session.node]
        if not self._by_node:
            self._emptied.set()
        return True

    def heard(self, session: Session) -> None:
        """A keepalive came (or the session began)."""
        if self._by_node.get(session.node) is not session:
            return
        self._deadlines[session] = asyncio.get_running_loop().time() + self._silence
        self._deadlines.move_to_end(session)
        self._heard.set()

    async def end_all(self, reason: str, patience: float) -> None:
        """End every session and wait, but not for ever, until they have left."""
        for session in self._by_node.values():
            session.end(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._by_node:
                    self._emptied.clear()
                    await self._emptied.wait()

    async def sweep(self) -> None:
        """End sessions that stay silent, until cancelled: one timer for all of them."""
        loop = asyncio.get_running_loop()
        while True:
            if not self._deadlines:
                self._heard.clear()
                await self._heard.wait()
                continue
            session, deadline = next(iter(self._deadlines.items()))
            if deadline > loop.time() + CLOCK_STEP:
                await asyncio.sleep(deadline - loop.time())
                continue
            del self._deadlines[session]
            session.fall_silent(self._silence)
