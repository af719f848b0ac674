"""Module `cloudhub`: the cloud's end of every connection to a node.

It opens the doors (or takes the acceptors it is given), owns the sessions and the delivery records, and hands
messages between nodes and cloud modules. It never reads what objects say beyond their identity.

Go: cloud/pkg/cloudhub/cloudhub.go
"""

import asyncio
import logging
from contextlib import AsyncExitStack

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from edgehive.beehive.bus import MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.cloudcore.cloudhub import authz, dispatch
from edgehive.cloudcore.cloudhub.conduct import Conduct
from edgehive.cloudcore.cloudhub.doors import open_doors
from edgehive.cloudcore.cloudhub.outbox import Parcel
from edgehive.cloudcore.cloudhub.ownership import Ownership
from edgehive.cloudcore.cloudhub.sessions import Session, Sessions
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.kit.clock import unix_millis
from edgehive.kit.refusals import Refusals
from edgehive.wire import inventory
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.link import Link
from edgehive.wire.link_metrics import LinkMetrics
from edgehive.wire.names import CloudModule, Operation, Source

log = logging.getLogger("edgehive.cloudhub")

#: How long a cloud module may have no room before a node's message is refused: less than a keepalive.
HAND_ON_SECONDS = 5.0
#: Seconds until a node that did not tell what it holds, as when its disk failed it, is asked again.
ASK_AGAIN_SECONDS = 60.0
#: How long sessions may take to close their links when the hub stops.
STOP_SECONDS = 3.0


class HubMetrics:
    """Made once per process: a hub that is disabled and enabled again goes on counting."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("edgehive_hub_sessions", "Nodes connected.", registry=registry)
        self.waiting = Gauge(
            "edgehive_hub_waiting_messages", "Messages that wait in the outboxes of connected nodes.", registry=registry
        )
        self.most_waiting = Gauge(
            "edgehive_hub_most_waiting_messages",
            "Messages that waited for one node at once, at most.",
            registry=registry,
        )
        self.refused = Counter("edgehive_hub_refused_messages", "Messages a node may not send.", registry=registry)
        self.dropped = Counter(
            "edgehive_hub_dropped_messages", "Answers and notices a node was too slow for.", registry=registry
        )
        self.links = LinkMetrics(registry)
        self.refusals = Refusals("hub", log, registry)


class CloudHub:
    """See the file's head."""

    name: str = CloudModule.CLOUD_HUB
    group: str = CloudModule.CLOUD_HUB
    needs: tuple[str, ...] = ()

    def __init__(self, deps: CloudDeps, records: DeliveryRecords, metrics: HubMetrics) -> None:
        self._deps = deps
        self._config = deps.config.modules.cloud_hub
        self._records = records
        self._mailbox = deps.bus.register(self.name, self.group, size=8192)
        self._sessions = Sessions(silence=self._config.keepalive_interval)
        self._ownership = Ownership(deps, self._sessions, records, self._greet)
        self._downstream = dispatch.Downstream(
            self._sessions, records, self._node_deleted, deps.standing.owns, self._greet
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._metrics = metrics
        self._conduct = Conduct(metrics.refusals)
        metrics.waiting.set_function(self._sessions.waiting)
        metrics.most_waiting.set_function(self._sessions.most_waiting)

    async def run(self, ready: Ready) -> None:
        async with asyncio.TaskGroup() as group, AsyncExitStack() as doors:
            self._tasks = self._ownership.tasks = group
            group.create_task(self._records.run(), name="delivery records")
            group.create_task(self._sessions.sweep(), name="keepalive sweep")
            await self._records.wait_loaded()
            await self._ownership.wait_synced()
            group.create_task(self._ownership.follow(), name="claims of other cloudcores")
            acceptors = self._deps.acceptors
            if acceptors is None:
                acceptors = await doors.enter_async_context(open_doors(self._deps, group, self._metrics.links))
            for acceptor in acceptors:
                await doors.enter_async_context(acceptor)
                group.create_task(self._accept(acceptor), name="accept nodes")
            # Pushed last, so it runs first: doors close quickly when nobody stands in them.
            doors.push_async_callback(self._sessions.end_all, "cloudcore is stopping", STOP_SECONDS)
            ready()
            async for message in self._mailbox:
                self._downstream.dispatch(message)

    # Sessions

    async def _accept(self, acceptor: Acceptor) -> None:
        async for link in acceptor:
            assert self._tasks is not None
            self._tasks.create_task(self._hold(link), name=f"session {link.peer.node}")

    async def _hold(self, link: Link) -> None:
        """The life of one session, from its registration to its end."""
        node = link.peer.node
        if self._sessions.get(node) is None and len(self._sessions) >= self._config.node_limit:
            reason = f"{self._config.node_limit} nodes are connected, which is the limit (cloudHub.nodeLimit)"
            self._metrics.refusals.refuse("node limit", f"node {node} is refused: {reason}", about=node)
            await link.close(reason)
            return
        if reason := await self._conduct.patient(node):
            await link.close(reason)
            return
        session = Session(
            link,
            self._sessions.next_epoch(),
            on_message=self._upstream,
            on_delivered=self._delivered,
            on_overflow=self._flowed_over,
            on_keepalive=self._heard,
            on_hello=self._greet,
            on_inventory=self._compare,
            on_dropped=self._count_dropped,
            conduct=self._conduct,
        )
        self._sessions.enter(session)
        self._metrics.connected.set(len(self._sessions))
        log.info("node %s connected from %s (session %d)", node, link.peer.address, session.epoch)
        self._ownership.begin(session)
        self._announce(node)
        reason = ""
        try:
            reason = await session.run()
        except Exception:
            log.exception("session %d of node %s failed", session.epoch, node)
        finally:
            last = self._sessions.leave(session)
            if last:
                self._ownership.end(session)
            self._metrics.connected.set(len(self._sessions))
            log.info("session %d of node %s ended%s: %s", session.epoch, node, "" if last else " (replaced)", reason)

    def _heard(self, session: Session) -> None:
        self._sessions.heard(session)
        self._ownership.heard(session)

    def _count_dropped(self, session: Session, count: int) -> None:
        """Answers and notices make room for newer ones when a node is too slow; it asks again for what it needs."""
        self._metrics.dropped.inc(count)
        log.debug("node %s reads too slowly: %d of the oldest answers and notices dropped", session.node, count)

    def _greet(self, session: Session) -> None:
        """An edge of ours is asked what it holds as soon as it says that it can tell."""
        if inventory.OFFER in (session.offers or ()):
            self._ask(session)

    def _ask(self, session: Session) -> None:
        session.answered()
        session.asked += 1
        session.notice(inventory.question(timestamp=self._now()))
        session.asking = asyncio.get_running_loop().call_later(ASK_AGAIN_SECONDS, self._ask, session)

    def _compare(self, session: Session, answer: Message) -> None:
        """Hold the records against what the node says it has, and have synccontroller mend the difference."""
        try:
            held = inventory.read(answer)
        except msgspec.MsgspecError as error:
            said = f"node {session.node}: its inventory cannot be read and is ignored: {error}"
            self._metrics.refusals.refuse("unreadable inventory", said, about=session.node)
            return
        finally:
            session.answered()
            self._ownership.heard(session)
        missing, strays = self._records.compare(session.node, {dispatch.held_ref(item): item.version for item in held})
        if missing or strays:
            log.info("node %s lacks or lags in %d objects and holds %d unrecorded ones", session.node, missing, strays)
            self._announce(session.node)

    def _flowed_over(self, node: str) -> None:
        """What its outbox refused is sent now that there is room; of strays only the node itself still knows."""
        self._announce(node)
        if (session := self._sessions.get(node)) is not None:
            self._greet(session)

    def _announce(self, node: str) -> None:
        """Have synccontroller deliver what the node missed."""
        message = Message.of(
            source=Source.CLOUD_HUB,
            group=CloudModule.SYNC_CONTROLLER,
            operation=Operation.CONNECT,
            resource=f"node/{node}/connection",
            timestamp=self._now(),
        )
        assert self._tasks is not None
        self._tasks.create_task(self._send_announcement(message), name=f"announce {node}")

    async def _send_announcement(self, message: Message) -> None:
        try:
            await self._deps.bus.send(CloudModule.SYNC_CONTROLLER, message)
        except NoSuchModule:
            log.debug("synccontroller is off: a node that returns is told nothing it missed")
        except MailboxFull as error:
            log.warning("a node's return is noticed at the next round only: %s", error)

    def _node_deleted(self, node: str) -> None:
        """The Node object is gone: end its session and its records. The delete itself is never written."""
        self._records.forget_node(node)
        session = self._sessions.get(node)
        if session is not None:
            session.end("the node was deleted from the cluster")

    def _delivered(self, session: Session, parcel: Parcel) -> None:
        ref = dispatch.object_ref(parcel.message)
        if parcel.deletion:
            self._records.deleted(session.node, ref)
        else:
            self._records.acknowledged(session.node, ref, parcel.version)

    # Up

    async def _upstream(self, session: Session, message: Message) -> None:
        if self._forbidden(session, message):
            return
        answer = dispatch.certificate_authority_reply(message, self._deps.api_ca, timestamp=self._now())
        if answer is not None:
            session.notice(answer)
            return
        await self._hand_on(session, message)

    def _forbidden(self, session: Session, message: Message) -> bool:
        """Whether the message was refused, or would be if authorization did not only watch."""
        node, route = session.node, message.route
        malformed = authz.malformed(message)
        reason = malformed or authz.violation(
            node, message, self._ownership.node_of_pod, self._ownership.node_of_device
        )
        if not reason:
            return False
        enforced = bool(malformed) or self._config.authorization.enforced
        self._metrics.refused.inc()
        cause = "malformed" if malformed else "forbidden" if enforced else "forbidden, only audited"
        said = f"node {node} may not {route.operation[:80]} {route.resource[:300]}: {reason}"
        self._metrics.refusals.refuse(cause, said, about=f"{node} {route.operation[:80]}")
        if enforced:
            self._refuse(session, message, f"node {node!r} may not do this: {reason}")
        return enforced

    async def _hand_on(self, session: Session, message: Message) -> None:
        module = dispatch.destination(message)
        if not module:
            log.debug("node %s: ignored %s %s", session.node, message.route.operation, message.route.resource)
            return
        try:
            await self._deps.bus.send(module, dispatch.with_node(session.node, message), timeout=HAND_ON_SECONDS)
        except NoSuchModule:
            # wire: such messages get no answer from Go either; whoever sent one repeats it or gives up.
            said = f"node {session.node} speaks to module {module}, which this cloudcore does not run"
            self._metrics.refusals.refuse("no such module", said, about=module, level=logging.INFO)
        except MailboxFull as error:
            self._metrics.refusals.refuse("no room", f"node {session.node}: not served now: {error}")
            self._refuse(session, message, f"cloudcore is overloaded, try again: {error}")

    def _refuse(self, session: Session, message: Message, reason: str) -> None:
        answer = dispatch.refusal(message, reason, timestamp=self._now())
        if answer is not None:
            session.notice(answer)

    def _now(self) -> int:
        return unix_millis(self._deps.clock.now())
