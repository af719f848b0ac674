"""Keeps the DeviceStatus of every device: one object each, the newest values in it, and the edge told once they are.

Reports are merged per device until a writer is free: one patch of a device is in flight, the next carries the newest
of all that came meanwhile. A report is confirmed after its values, or newer ones, are in the API, and never before;
what the API refuses for good is said to `refuse` and confirmed too, since repeating it would not help. A status that
somebody deleted is made again; one that somebody else wrote is read again. Of several cloudcores the one that has the
node writes its reports.

Go: cloud/pkg/devicecontroller/controller/upstream.go
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from edgehive.api.devices import Device
from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_STATUSES, DEVICES
from edgehive.beehive.message import Message
from edgehive.cloudcore.devicecontroller.desired_values import Wish
from edgehive.cloudcore.devicecontroller.twin_news import (
    OBSERVED_DESIRED,
    Json,
    Mark,
    Slot,
    StatusDocument,
    Value,
    marks_of,
    overtaken,
    with_values,
)
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, ApiError, BadRequest, Conflict, Invalid, NotFound, RequestTooLarge
from edgehive.wire import resource as paths
from edgehive.wire.devices import Conflict as DesiredConflict
from edgehive.wire.devices import DeviceId, DeviceState

log = logging.getLogger("edgehive.devicecontroller")

#: Devices written at a time, seconds between two writes of one, and how long the API has for one.
WRITERS = 32
SPACING_SECONDS = 0.2
WRITE_SECONDS = 30.0
#: Unconfirmed reports of one device that are remembered; the oldest of more have to be sent again.
REMEMBERED = 4096
#: How often a write is begun anew because the object has changed or gone meanwhile.
ATTEMPTS = 5
#: Errors of the content, which is the same next time.
_REFUSED = (BadRequest, Invalid, RequestTooLarge)


@dataclass(slots=True)
class News:
    """What is to be written of one device, and whom to tell when it is."""

    values: dict[Slot, Value] = field(default_factory=dict)
    state: DeviceState | None = None
    state_at: int = 0
    reports: dict[str, Message] = field(default_factory=dict)
    #: What the edge desires by itself, and what lost against the other side's.
    wishes: dict[str, Wish] = field(default_factory=dict)
    conflicts: dict[str, DesiredConflict] = field(default_factory=dict)

    def add(self, later: "News") -> None:
        """Merge what came later; what was overtaken on the way stays out."""
        for slot, value in later.values.items():
            earlier = self.values.get(slot)
            if earlier is None or not overtaken(value.mark, earlier.mark):
                self.values[slot] = value
        if later.state is not None and later.state_at >= self.state_at:
            self.state, self.state_at = later.state, later.state_at
        # Of a property whose desired value came again, the older wish is void.
        for name, kind in later.values:
            if kind == OBSERVED_DESIRED:
                self.wishes.pop(name, None)
        self.wishes |= later.wishes
        self.conflicts |= later.conflicts
        self.reports.update(later.reports)
        while len(self.reports) > REMEMBERED:
            del self.reports[next(iter(self.reports))]


class _NotOurs(Exception):
    """Another cloudcore has the node, which reports there again."""


@dataclass(slots=True)
class _Held:
    """A DeviceStatus as it was last seen or written; its twins as JSON, which takes a tenth of the memory."""

    uid: str
    version: str
    owner: str
    twins: bytes
    state: str
    last_online: str
    marks: dict[Slot, Mark]

    @classmethod
    def of(cls, document: Document, marks: dict[Slot, Mark] | None = None) -> "_Held":
        status = document.read(StatusDocument).status
        meta, twins = document.meta, status.twins or []
        owner = meta.controller_ref.uid if meta.controller_ref is not None else ""
        known = marks_of(twins) if marks is None else marks
        raw = msgspec.json.encode(twins)
        return cls(meta.uid, meta.resource_version, owner, raw, status.state, status.last_online_time, known)

    def listed(self) -> list[Json]:
        twins: list[Json] = msgspec.json.decode(self.twins)
        return twins


class StatusWriter:
    """`run` it; `add` returns at once.

    `find` gives a device as it is, `agree` takes desired values into it, `confirm` and `refuse` tell of the end.
    """

    def __init__(
        self,
        client: Client,
        *,
        standing: Standing,
        find: Callable[[DeviceId], Document | None],
        confirm: Callable[[Message, str], None],
        agree: Callable[[Document, Mapping[str, Wish], Mapping[str, DesiredConflict]], Awaitable[str]],
        refuse: Callable[[DeviceId, str], None],
    ) -> None:
        self._client = client
        self._standing = standing
        self._find = find
        self._confirm = confirm
        self._agree = agree
        self._refuse = refuse
        self._held: dict[DeviceId, _Held] = {}
        self._waiting: dict[DeviceId, News] = {}
        self._due: OrderedDict[DeviceId, None] = OrderedDict()
        self._busy: set[DeviceId] = set()
        self._resting: dict[DeviceId, asyncio.TimerHandle] = {}
        self._failures: dict[DeviceId, int] = {}
        self._backoff = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.3)
        self._wake = asyncio.Event()

    # Filling

    def add(self, device: DeviceId, news: News) -> None:
        """Have this written, or with nothing in it the status be there."""
        self._waiting.setdefault(device, News()).add(news)
        self._mark(device)

    def forget(self, device: DeviceId) -> None:
        """The device is no more; what waits for it is confirmed, as there is nothing to write it to."""
        self._held.pop(device, None)
        if device in self._waiting:
            self._mark(device)

    def _mark(self, device: DeviceId) -> None:
        if device not in self._busy and device not in self._resting:
            self._due[device] = None
            self._wake.set()

    # Writing

    async def run(self) -> None:
        """Write until cancelled."""
        await self._load()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    group.create_task(self._work(), name=f"device statuses {number}")
        finally:
            for timer in self._resting.values():
                timer.cancel()
            self._resting.clear()

    async def _load(self) -> None:
        """See what is there, so that it need not be asked for one by one; when it cannot be seen, it is."""
        try:
            documents = (await self._client.list(DEVICE_STATUSES)).items
        except ApiError as error:
            log.warning("statuses of devices are read one by one: %s", error)
            return
        for document in documents:
            self._held[DeviceId(document.meta.namespace, document.meta.name)] = _read(document)

    async def _work(self) -> None:
        while True:
            while not self._due:
                self._wake.clear()
                await self._wake.wait()
            device, _ = self._due.popitem(last=False)
            news = self._waiting.pop(device, None)
            if news is None:
                continue
            self._busy.add(device)
            try:
                delay = await self._settle(device, news)
            finally:
                self._busy.discard(device)
            self._rest(device, delay)

    def _rest(self, device: DeviceId, delay: float) -> None:
        """Leave the device alone for a while; then whatever has come is written together."""

        def over() -> None:
            self._resting.pop(device, None)
            if device in self._waiting:
                self._mark(device)

        self._resting[device] = asyncio.get_running_loop().call_later(delay, over)

    async def _settle(self, device: DeviceId, news: News) -> float:
        """Write and confirm, or keep for later; returns how long the device is left alone."""
        version = ""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                version = await self._write(device, news)
        except _REFUSED as error:
            self._held.pop(device, None)
            self._refuse(device, f"its DeviceStatus is refused: {error}")
        except (ApiError, TimeoutError) as error:
            return self._keep(device, news, error)
        except _NotOurs:
            log.debug("what was reported of device %s is left to another cloudcore", device)
            news.reports.clear()
        self._failures.pop(device, None)
        for report in news.reports.values():
            self._confirm(report, version)
        return SPACING_SECONDS

    def _keep(self, device: DeviceId, news: News, error: ApiError | TimeoutError) -> float:
        news.add(self._waiting.pop(device, News()))
        self._waiting[device] = news
        failures = self._failures[device] = self._failures.get(device, 0) + 1
        level = logging.WARNING if failures == 1 else logging.DEBUG
        log.log(level, "the status of device %s is written later: %s", device, error or "no answer in time")
        return self._backoff.delay(failures - 1)

    async def _write(self, device: DeviceId, news: News) -> str:
        """Gives the version of the Device the news were held against, "" when it is gone."""
        for _ in range(ATTEMPTS):
            document = self._find(device)
            if document is None:
                return ""
            if news.reports:
                self._demand_ours(next(reversed(news.reports.values())))
            held = self._held.get(device)
            try:
                if held is None or held.owner not in ("", document.meta.uid):
                    held = self._held[device] = await self._obtain(document)
                await self._patch(device, document, held, news)
                return await self._agree(document, news.wishes, news.conflicts)
            except (NotFound, Conflict):
                # Deleted or written by somebody else: it is read again, and made where it is not.
                self._held.pop(device, None)
        raise Conflict("somebody else keeps writing it")

    def _demand_ours(self, report: Message) -> None:
        node, _ = paths.strip_node(report.route.resource)
        if self._standing.is_contested(node):
            raise Conflict(f"another cloudcore claims node {node}")
        if not self._standing.owns(node):
            raise _NotOurs

    async def _patch(self, device: DeviceId, document: Document, held: _Held, news: News) -> None:
        spec = document.read(Device).spec
        properties = [one.name for one in spec.properties or ()]
        fresh = {slot: value for slot, value in news.values.items() if not overtaken(value.mark, held.marks.get(slot))}
        _note_overtaken(held, news, fresh)
        before = held.listed()
        twins = with_values(before, fresh, properties)
        status: dict[str, Any] = {"twins": twins} if twins != before else {}
        if news.state is not None and (news.state.state, news.state.last_online_time) != (held.state, held.last_online):
            status["state"] = news.state.state
            # As in Go a state without a time leaves the last one.
            status |= {"lastOnlineTime": news.state.last_online_time} if news.state.last_online_time else {}
        if not status:
            return
        patch = {"metadata": {"resourceVersion": held.version}, "status": status}
        answer = await self._client.patch(DEVICE_STATUSES, device.name, patch, device.namespace, type=PatchType.MERGE)
        marks = held.marks | {slot: value.mark for slot, value in fresh.items()}
        self._held[device] = _read(answer, marks)

    async def _obtain(self, document: Document) -> _Held:
        """The status of this life of the device, made when it is not there."""
        meta = document.meta
        try:
            found = _read(await self._client.get(DEVICE_STATUSES, meta.name, meta.namespace))
            if found.owner in ("", meta.uid):
                return found
            # Of an earlier life of that name: it would be collected, with what is written to it.
            await self._client.delete(DEVICE_STATUSES, meta.name, meta.namespace, uid=found.uid)
        except NotFound:
            pass
        try:
            return _read(await self._client.create(DEVICE_STATUSES, _body(document), meta.namespace))
        except AlreadyExists as error:
            raise Conflict(str(error)) from error


def _note_overtaken(held: _Held, news: News, fresh: dict[Slot, Value]) -> None:
    """Remember the counters of what came too late: after a restart only the time of the last value was known."""
    for slot, value in news.values.items():
        last = held.marks.get(slot)
        if slot not in fresh and last is not None and last.version is None:
            held.marks[slot] = last._replace(version=value.mark.version)


def _read(document: Document, marks: dict[Slot, Mark] | None = None) -> _Held:
    try:
        return _Held.of(document, marks)
    except msgspec.ValidationError:
        # Not ours and of no shape; its twins are written anew.
        meta = document.meta
        return _Held(meta.uid, meta.resource_version, meta.uid, b"[]", "", "", {})


def _body(device: Document) -> Json:
    meta = device.meta
    owner = {
        "apiVersion": DEVICES.api_version,
        "kind": DEVICES.kind,
        "name": meta.name,
        "uid": meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": DEVICE_STATUSES.api_version,
        "kind": DEVICE_STATUSES.kind,
        "metadata": {"name": meta.name, "namespace": meta.namespace, "ownerReferences": [owner]},
        "spec": {},
        "status": {},
    }
