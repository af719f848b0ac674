"""Pod lifecycle events: tells which pods changed in the runtime, from its event stream and from relisting.

For `pods.py`, which looks afresh at every pod named. The stream is quick and may break or miss; the list is slow
and sure, so it runs every second while there is no stream and every ten seconds beside one.

Go: pkg/kubelet/pleg
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping

from edgehive.edgecore.edged.containerd import TaskEvent, TaskEventKind
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.podspec import POD_UID
from edgehive.kit.backoff import Backoff
from edgehive.protos import cri_pb2 as cri

log = logging.getLogger("edgehive.edged")

RELIST_SECONDS = 1.0
RELIST_BESIDE_EVENTS_SECONDS = 10.0
_SETTLE_FIRST_SECONDS, _SETTLE_LAST_SECONDS = 0.005, 2.0

Snapshot = dict[str, frozenset[tuple[str, int]]]


class Pleg:
    """`run` for ever; `changed` is called with pod UIDs."""

    def __init__(
        self,
        client: CriClient,
        events: Callable[[], AsyncIterator[TaskEvent]] | None,
        owners: Mapping[str, str],
        changed: Callable[[str], None],
    ) -> None:
        self._cri = client
        self._events = events
        self._owners = owners
        self._changed = changed
        self._known: Snapshot = {}
        self._streaming = False
        self._relist_now = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        #: "" while the runtime answers.
        self.trouble = "the container runtime has not answered yet"

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._relist_for_ever(), name="pleg relist")
            if self._events is not None:
                group.create_task(self._follow(self._events), name="pleg events")

    async def relist(self) -> Snapshot:
        """Look at everything once; name the pods that changed since the last look."""
        sandboxes = await self._cri.list_pod_sandboxes()
        containers = await self._cri.list_containers()
        found: dict[str, set[tuple[str, int]]] = {}
        seen = [(item.labels.get(POD_UID, ""), item.id, int(item.state)) for item in sandboxes]
        seen += [(item.labels.get(POD_UID, ""), item.id, int(item.state)) for item in containers]
        for uid, id, state in seen:
            if uid:
                found.setdefault(uid, set()).add((id, state))
        snapshot = {uid: frozenset(items) for uid, items in found.items()}
        for uid in {*snapshot, *self._known}:
            if snapshot.get(uid) != self._known.get(uid):
                self._changed(uid)
        self._known = snapshot
        return snapshot

    async def _relist_for_ever(self) -> None:
        while True:
            try:
                await self.relist()
                self._answered()
            except RuntimeRefused as error:
                self._silent(error)
            pause = RELIST_BESIDE_EVENTS_SECONDS if self._streaming else RELIST_SECONDS
            self._relist_now.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._relist_now.wait()
            except TimeoutError:
                continue

    def _answered(self) -> None:
        if self.trouble:
            log.info("the container runtime answers")
            self.trouble = ""

    def _silent(self, error: RuntimeRefused) -> None:
        if str(error) != self.trouble:
            log.warning("the container runtime does not answer, trying again: %s", error)
            self.trouble = str(error)

    async def _follow(self, events: Callable[[], AsyncIterator[TaskEvent]]) -> None:
        """Subscribe, and again after every break; what happened between is found by a relist."""
        delays = Backoff(first=0.5, limit=5.0)
        failures = 0
        while True:
            try:
                stream = events()
                self._streaming = True
                self._relist_now.set()
                async for event in stream:
                    failures = 0
                    self._take(event)
            except RuntimeRefused as error:
                log.debug("no runtime events: %s", error)
            self._streaming = False
            self._relist_now.set()
            await asyncio.sleep(delays.delay(failures))
            failures += 1

    def _take(self, event: TaskEvent) -> None:
        # A start is always our own doing: whoever started it looks anyway.
        if event.kind is TaskEventKind.START:
            return
        uid = self._owners.get(event.container_id)
        if uid is None:
            # Over before anyone had looked at it (a short job): the list tells whose it is.
            self._relist_now.set()
            return
        self._changed(uid)
        if event.kind is TaskEventKind.EXIT and self._group is not None:
            self._group.create_task(self._settle(event.container_id, uid), name="pleg settle")

    async def _settle(self, container_id: str, uid: str) -> None:
        """CRI takes an exit in a moment later than containerd tells it: look until it has."""
        pause = _SETTLE_FIRST_SECONDS
        while pause < _SETTLE_LAST_SECONDS:
            await asyncio.sleep(pause)
            pause *= 2
            try:
                status = await self._cri.container_status(container_id)
            except RuntimeRefused:
                # A sandbox's own process, or gone already.
                break
            if status.state != cri.CONTAINER_RUNNING:
                break
        self._changed(uid)
