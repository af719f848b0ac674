"""Whose pods are whose, and which cloudcore holds a node: cloudhub's view of the shared copies.

It answers authorization's question and claims on its Node each node that connects here, unless the Node says so
already. An edge has one connection, so its newest one decides: a claim is written only over the one that was known when
the node connected, and where another is found instead the session has to show that it lives before it goes on.

Go: cloud/pkg/cloudhub/common, cloud/pkg/cloudhub/handler
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakSet

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import DEVICES, NODES, PODS
from edgehive.cloudcore.cloudhub.sessions import Session, Sessions
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.placement import node_of
from edgehive.cloudcore.replicas.claims import UNCLAIMED, Claim, annotations, claim_on
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound

log = logging.getLogger("edgehive.cloudhub")

#: Writes of annotations at a time: after a restart all nodes connect at once.
AT_ONCE = 8
RETRY = Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.3)
#: What a node sent on a connection it has left is read within this time; only later words prove that it is there.
DRAIN_SECONDS = 1.0


@dataclass(slots=True)
class _Contest:
    """A session whose node another replica claims. `since` is when that was seen."""

    session: Session
    rival: Claim
    since: float
    timers: tuple[asyncio.TimerHandle, ...]

    def close(self) -> None:
        for timer in self.timers:
            timer.cancel()


class Ownership:
    """See the file's head. `ask` has an edge say something, if it can be asked."""

    #: Where claims are written; the hub sets it before anything connects.
    tasks: asyncio.TaskGroup

    def __init__(
        self, deps: CloudDeps, sessions: Sessions, records: DeliveryRecords, ask: Callable[[Session], None]
    ) -> None:
        self._client = deps.client
        self._address = deps.address
        self._standing = deps.standing
        self._patience = float(deps.config.modules.cloud_hub.keepalive_interval)
        self._pods = deps.informers.of(PODS)
        self._devices = deps.informers.of(DEVICES) if deps.config.modules.device_controller.enable else None
        self._nodes = deps.informers.of(NODES, label_selector=EDGE_NODE_SELECTOR)
        self._sessions = sessions
        self._records = records
        self._ask = ask
        self._slots = asyncio.Semaphore(AT_ONCE)
        #: The epoch under which the present session of a node was claimed.
        self._written: dict[str, int] = {}
        self._writing: set[Session] = set()
        self._contests: dict[str, _Contest] = {}
        #: Those that have proved once to be the newest.
        self._defended: WeakSet[Session] = WeakSet()

    async def wait_synced(self) -> None:
        await self._pods.wait_synced()
        await self._nodes.wait_synced()

    def node_of_pod(self, namespace: str, name: str) -> str | None:
        """The node a pod is bound to, "" for none yet, None when no such pod is known."""
        return _bound(self._pods.get(name, namespace))

    def node_of_device(self, namespace: str, name: str) -> str | None:
        """The same of a device."""
        return _bound(self._devices.get(name, namespace)) if self._devices is not None else None

    # The life of a session

    def begin(self, session: Session) -> None:
        """A node has connected: it is this cloudcore's from now on."""
        node = session.node
        self._settle(node)
        self._written.pop(node, None)
        self._standing.hold(node)
        self._records.take_over(node)
        document = self._nodes.get(node)
        if document is not None and not self._says_so(document):
            self._start_claiming(session, claim_on(document))

    def end(self, session: Session) -> None:
        """The last session of the node here is over."""
        node = session.node
        self._settle(node)
        self._written.pop(node, None)
        self._standing.release(node)
        if not self._standing.owns(node):
            self._records.let_go(node)

    def heard(self, session: Session) -> None:
        """The node has said something by itself: where its session is contested, that proves it to be the newest."""
        contest = self._contests.get(session.node)
        if contest is None or contest.session is not session:
            return
        if asyncio.get_running_loop().time() - contest.since < DRAIN_SECONDS:
            return
        self._settle(session.node)
        self._defended.add(session)
        self._standing.hold(session.node)
        self._records.take_over(session.node)
        log.info("node %s is here, although cloudcore %s claims it", session.node, contest.rival.replica)
        self._start_claiming(session, contest.rival)

    # Claims of others

    async def follow(self) -> None:
        """Give way to whoever claims a node after us, until cancelled."""
        if self._standing.alone:
            return
        async with self._nodes.changes() as changes:
            async for change in changes:
                if change.new is None:
                    self._written.pop(change.document.meta.name, None)
                else:
                    self._see(change.new, claim_on(change.old))

    def _see(self, node: Document, before: Claim) -> None:
        claim, name = claim_on(node), node.meta.name
        session = self._sessions.get(name)
        if session is None:
            if before.replica == self._standing.name != claim.replica:
                self._records.let_go(name)
            return
        if session in self._writing or name in self._contests:
            return
        if not claim.replica:
            self._start_claiming(session, claim)
        elif claim.replica != self._standing.name:
            self._rival(session, claim)

    def _rival(self, session: Session, claim: Claim) -> None:
        written = self._written.get(session.node, 0)
        if written >= claim.epoch:
            return  # older news than what was written here
        if written or session in self._defended:
            self._lose(session, claim)
        else:
            self._contest(session, claim)

    def _lose(self, session: Session, claim: Claim) -> None:
        self._standing.contest(session.node)
        self._records.let_go(session.node)
        session.end(f"the node has connected to cloudcore {claim.replica}")

    def _contest(self, session: Session, claim: Claim) -> None:
        """Write nothing for the node until it is known which connection is the newer one."""
        loop = asyncio.get_running_loop()
        log.info("cloudcore %s claims node %s too; it has to say something here", claim.replica, session.node)
        self._standing.contest(session.node)
        timers = (
            loop.call_later(DRAIN_SECONDS, self._ask, session),
            loop.call_later(self._patience, self._lose, session, claim),
        )
        self._contests[session.node] = _Contest(session, claim, loop.time(), timers)

    def _settle(self, node: str) -> None:
        contest = self._contests.pop(node, None)
        if contest is not None:
            contest.close()

    # Writing

    def _says_so(self, node: Document) -> bool:
        claimed = self._standing.alone or claim_on(node).replica == self._standing.name
        return claimed and annotations(UNCLAIMED, self._address).items() <= (node.meta.annotations or {}).items()

    def _start_claiming(self, session: Session, known: Claim) -> None:
        self._writing.add(session)
        self.tasks.create_task(self._claim(session, known), name=f"claim {session.node}")

    async def _claim(self, session: Session, known: Claim) -> None:
        """Write the claim that follows `known`; found another one, contest the session."""
        document = self._nodes.get(session.node)
        try:
            for delay in RETRY.delays():
                try:
                    await self._write(session, known, document)
                    return
                except Conflict:
                    log.debug("node %s has changed while it was claimed", session.node)
                except NotFound:
                    return
                except ApiError as error:
                    log.warning("node %s is not claimed: %s", session.node, error)
                    if not error.transient:
                        return
                    await asyncio.sleep(delay)
                document = await self._read(session.node) or document
        finally:
            self._writing.discard(session)

    async def _read(self, node: str) -> Document | None:
        try:
            return await self._client.get(NODES, node)
        except ApiError:
            return None

    async def _write(self, session: Session, known: Claim, document: Document | None) -> None:
        if document is None or self._sessions.get(session.node) is not session or self._says_so(document):
            return
        if self._standing.alone:
            await self._annotate(session.node, {"annotations": annotations(UNCLAIMED, self._address)})
            return
        present = claim_on(document)
        mine = present.replica == self._standing.name
        if present != known and not mine:
            self._rival(session, present)
            return
        claim = present if mine else present.taken_by(self._standing.name)
        version = document.meta.resource_version
        await self._annotate(
            session.node, {"annotations": annotations(claim, self._address), "resourceVersion": version}
        )
        self._written[session.node] = claim.epoch

    async def _annotate(self, node: str, metadata: dict[str, object]) -> None:
        async with self._slots:
            await self._client.patch(NODES, node, {"metadata": metadata}, type=PatchType.MERGE)


def _bound(document: Document | None) -> str | None:
    try:
        return node_of(document) if document is not None else None
    except msgspec.ValidationError:
        return ""
