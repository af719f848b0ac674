"""edgehub: holds the one link to the cloud and carries messages both ways; it never looks into their content.

While there is no link it dials again and again. Reports go through the disk (`reports.py`), little else waits.
Modules learn that the link came or went by one notice per change. The node works without it: the hub is ready
before it first dials.

Go: edge/pkg/edgehub
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable

from prometheus_client import CollectorRegistry

from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.edgecore.deps import Dial, Renewed
from edgehive.edgecore.edgehub import inbound, outbound
from edgehive.edgecore.edgehub.outbound import Fate
from edgehive.edgecore.edgehub.pace import TokenBucket
from edgehive.edgecore.edgehub.reports import Reports
from edgehive.edgecore.edgehub.spool import Spool
from edgehive.kit import metrics
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.sqlite import Database
from edgehive.kit.tasks import cancel_and_join, first_of, spawn
from edgehive.wire import inventory
from edgehive.wire.codec import MessageTooLarge
from edgehive.wire.link import JoinRefused, Link, LinkClosed, ProtocolError
from edgehive.wire.names import EdgeModule, Group, Source
from edgehive.wire.payloads import connection_notice, keepalive

log = logging.getLogger("edgehive.edgehub")

#: Who hears that the link came or went.
NOTICE_GROUPS = (Group.META, Group.TWIN, Group.BUS, Group.TASK_MANAGER, Group.EDGED)
#: What this edge can do beyond Go, told in the first keepalive of a connection; metamanager answers for it.
OFFERS = (inventory.OFFER,)
#: Acknowledgements held in memory while there is no link; older ones make room.
HELD_LIMIT = 256
#: Seconds for which messageQPS holds everything back before that is said.
HELD_SECONDS = 10.0
#: A cloud that comes back is found within half a minute, and many nodes do not knock at once.
RECONNECT = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.5)


class EdgeHub:
    """The module `websocket`. `renewed` returns when the node has a new certificate, and the link is dialled anew."""

    name = str(EdgeModule.EDGE_HUB)
    group = str(Group.HUB)
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        dial: Dial,
        *,
        renewed: Renewed | None = None,
        heartbeat: float = 15.0,
        rate: float = 30.0,
        burst: int = 60,
        dial_timeout: float = 60.0,
        backoff: Backoff = RECONNECT,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._bus = bus
        self._mailbox = bus.register(self.name, self.group)
        self._clock = clock
        self._dial = dial
        self._renewed = renewed
        self._heartbeat = heartbeat
        self._rate, self._burst = rate, burst
        self._dial_timeout = dial_timeout
        self._backoff = backoff
        self._link: Link | None = None
        #: A report on its way to `_reports`.
        self._in_hand: Message | None = None
        self._broken = asyncio.Event()
        self._sending = asyncio.Lock()
        self._held: deque[Message] = deque()
        self._pace: TokenBucket | None = None
        self._told_of_pace = False
        registry = registry or CollectorRegistry()
        self._connected = metrics.gauge(
            "edgehive_hub_connected", "1 while the link to the cloud is up.", registry=registry
        )
        self._connections = metrics.counter("edgehive_hub_connections", "Links made to the cloud.", registry=registry)
        self._dropped = metrics.counter(
            "edgehive_hub_dropped", "Messages that reached nobody.", ["direction", "why"], registry=registry
        )
        self._reports = Reports(Spool(database), clock, self._dropped, self._send_or_hold)

    async def run(self, ready: Ready) -> None:
        self._pace = TokenBucket(self._rate, self._burst)
        works = [
            spawn(self._pump_out(), name="hub to cloud"),
            spawn(self._reports.run(), name="hub reports"),
            spawn(self._stay_connected(), name="hub link"),
        ]
        ready()
        try:
            await first_of(*works)
        finally:
            await cancel_and_join(*works)
            await self._keep_the_rest()

    async def _keep_the_rest(self) -> None:
        """Reports that were handed over before the end are not lost by it."""
        rest = [self._in_hand] if self._in_hand is not None else []
        while len(self._mailbox):
            message = self._mailbox.get_nowait()
            if outbound.fate(message) is Fate.REPORT:
                rest.append(message)
        self._in_hand = None
        await self._reports.flush(rest)

    # The link

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        attempt, said = 0, ""
        while True:
            try:
                async with asyncio.timeout(self._dial_timeout):
                    link = await self._dial()
            except (LinkClosed, JoinRefused, ProtocolError, OSError, TimeoutError) as error:
                said = _say_once(error, said)
                await asyncio.sleep(self._backoff.delay(attempt))
                attempt += 1
                continue
            started = loop.time()
            said = ""
            await self._use(link)
            # A link that fell at once is a failed attempt too; after a good one the first retry is quick.
            attempt = attempt + 1 if loop.time() - started < self._heartbeat else 0
            await asyncio.sleep(self._backoff.delay(attempt))

    async def _use(self, link: Link) -> None:
        """Work with a fresh link until it breaks or has to be renewed."""
        reason = "edgecore stops"
        try:
            await link.send(keepalive(timestamp=self._now(), offers=OFFERS))
            self._connections.inc()
            self._connected.set(1)
            log.info("connected to the cloud at %s", link.peer.address or "this process")
            await self._notify(connected=True)
            reason = await first_of(*self._session(link))
        except (LinkClosed, ProtocolError) as error:
            reason = str(error)
        finally:
            self._link = None
            await link.close(reason)
            if self._connected._value.get():
                self._connected.set(0)
                log.warning("the link to the cloud is down: %s", reason)
                await self._notify(connected=False)

    def _session(self, link: Link) -> list[Awaitable[str]]:
        self._broken = asyncio.Event()
        works: list[Awaitable[str]] = [
            self._receive(link),
            self._keep_alive(link),
            self._send_waiting(link, self._broken),
            self._deliver_reports(link),
        ]
        if self._renewed is not None:
            works.append(self._until_renewed(self._renewed))
        return works

    async def _keep_alive(self, link: Link) -> str:
        while True:
            await asyncio.sleep(self._heartbeat)
            await link.send(keepalive(timestamp=self._now()))

    @staticmethod
    async def _until_renewed(renewed: Renewed) -> str:
        await renewed()
        return "the node has a new certificate"

    async def _notify(self, *, connected: bool) -> None:
        """Every group once; a module that has no room yet is waited for, since it must not miss a change."""
        notice = connection_notice(connected, timestamp=self._now())
        for group in NOTICE_GROUPS:
            for module in self._bus.members(group):
                await self._deliver_notice(module, notice)

    async def _deliver_notice(self, module: str, notice: Message) -> None:
        while True:
            try:
                await self._bus.send(module, notice)
                return
            except NoSuchModule:
                return
            except MailboxFull as error:
                log.error("%s; it has yet to learn about the link", error)

    # From the cloud

    async def _receive(self, link: Link) -> str:
        while True:
            message = await link.receive()
            if self._reports.heard(message.header.parent_id) and message.route.source == Source.WEBSOCKET:
                continue
            try:
                await self._pass_on(message)
            except (MailboxFull, NoSuchModule) as error:
                # Not acknowledged, so the cloud sends it again.
                self._drop(message, "in", "no room", str(error))

    async def _pass_on(self, message: Message) -> None:
        where = inbound.destination(message, self._bus.waits_for(message.header.parent_id))
        if where.waiter:
            self._bus.reply(message)
        elif where.module:
            await self._bus.send(where.module, message)
        elif where.group and self._bus.members(where.group):
            await self._bus.send_group(where.group, message)
        else:
            self._drop(message, "in", "nobody", f"group {message.route.group!r} has no module here")

    # To the cloud

    async def _pump_out(self) -> None:
        async for message in self._mailbox:
            if outbound.fate(message) is Fate.REPORT:
                self._in_hand = message
                await self._reports.keep(message)
                self._in_hand = None
            else:
                await self._send_or_hold(message)

    async def _send_or_hold(self, message: Message) -> None:
        async with self._sending:
            if self._link is None or not await self._send(self._link, message):
                self._hold(message)

    async def _deliver_reports(self, link: Link) -> str:
        async def send(message: Message) -> bool:
            async with self._sending:
                return await self._send(link, message)

        await self._reports.deliver(send)
        return "the link broke"

    async def _send(self, link: Link, message: Message) -> bool:
        """True when the transport took it, or never will."""
        assert self._pace is not None
        await self._pace.take()
        self._tell_of_pace(self._pace)
        try:
            await link.send(message)
        except MessageTooLarge as error:
            self._drop(message, "out", "too large", str(error))
        except LinkClosed:
            self._broken.set()
            return False
        return True

    def _tell_of_pace(self, pace: TokenBucket) -> None:
        """Once, until there was room again: whoever looks at old values in the cloud is to find the reason."""
        if pace.held < HELD_SECONDS:
            self._told_of_pace = self._told_of_pace and pace.held > 0
        elif not self._told_of_pace:
            self._told_of_pace = True
            log.warning(
                "more is to be told than %g messages a second, so the cloud hears late, as of what devices report; "
                "raise modules.edgeHub.messageQPS (and modules.cloudHub.nodeMessageQPS beyond 100)",
                pace.rate,
            )

    def _hold(self, message: Message) -> None:
        if outbound.fate(message) is Fate.DROP:
            return
        if len(self._held) >= HELD_LIMIT:
            self._drop(self._held.popleft(), "out", "no link", "too many messages wait for the link")
        self._held.append(message)

    async def _send_waiting(self, link: Link, broken: asyncio.Event) -> str:
        """What was set aside goes first, in order; only then may new messages use the link."""
        async with self._sending:
            if not await self._send_held(link):
                return "the link broke"
            self._link = link
        await broken.wait()
        return "the link broke"

    async def _send_held(self, link: Link) -> bool:
        while self._held:
            message = self._held[0]
            if outbound.fate(message) is Fate.IF_AWAITED and not self._bus.waits_for(message.id):
                self._held.popleft()
                continue
            if not await self._send(link, message):
                return False
            self._held.popleft()
        return True

    def _drop(self, message: Message, direction: str, why: str, text: str) -> None:
        self._dropped.labels(direction, why).inc()
        route = message.route
        log.warning("dropped %s %s from %s: %s", route.operation, route.resource, route.source, text)

    def _now(self) -> int:
        return unix_millis(self._clock.now())


def _say_once(error: Exception, said: str) -> str:
    """Log a failure to connect when it differs from the last one."""
    text = str(error) or "the cloud did not answer in time"
    if text != said:
        log.log(logging.ERROR if isinstance(error, JoinRefused) else logging.WARNING, "no link: %s", text)
    return text
