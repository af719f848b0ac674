"""What is to be said about a device: conditions in its own status, and an Event when something goes wrong.

DeviceStatus has no conditions upstream, and its schema would drop them; `Device.status` is open there and here, so
`kubectl describe device` and `kubectl wait` show them on either. A condition is written when it changes, and of one
device at most every few seconds.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from edgehive.api.devices import Device, OwnStatus
from edgehive.api.document import Document
from edgehive.api.meta import Condition
from edgehive.api.registry import DEVICES
from edgehive.kit.clock import Clock, rfc3339
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound
from edgehive.kube.recorder import Recorder
from edgehive.wire.devices import DeviceId

log = logging.getLogger("edgehive.devicecontroller")

WRITERS = 4
SPACING_SECONDS = 5.0
RETRY_SECONDS = 2.0
WRITE_SECONDS = 30.0
MESSAGE_LIMIT = 1024


class ConditionType(StrEnum):
    """`Accepted`: its node is told of it. `ReportsValid`: what it reports fits its model.

    `Healthy`: its state is none of those that are trouble.
    `DesiredAgreed`, `DefinitionAgreed`: nothing lost that was set on both sides (decisions 0021 and 0023).
    """

    ACCEPTED = "Accepted"
    REPORTS_VALID = "ReportsValid"
    HEALTHY = "Healthy"
    DESIRED_AGREED = "DesiredAgreed"
    DEFINITION_AGREED = "DefinitionAgreed"


#: Their Events come from the edge: it decided a conflict (decision 0021), and knows why a device is ill.
_TOLD_BY_EDGES = frozenset({ConditionType.DESIRED_AGREED, ConditionType.HEALTHY})


class Finding(NamedTuple):
    """One condition as it should read; `good` gives its status."""

    type: ConditionType
    good: bool
    reason: str
    message: str
    #: An annotation that goes when this is written.
    ends: str = ""

    def ends_on(self, device: Document) -> bool:
        return bool(self.ends) and self.ends in (device.meta.annotations or {})


class _Holder(msgspec.Struct):
    status: OwnStatus = OwnStatus()


def conditions_of(device: Document) -> list[Condition]:
    """What its status says; nothing when it cannot be read."""
    try:
        return device.read(_Holder).status.conditions or []
    except msgspec.ValidationError:
        return []


def may_be_of_v1alpha2(device: Document) -> bool:
    """Nothing converts such an object: v1beta1 shows it nearly empty, and written through v1beta1 it would be."""
    spec = device.read(Device).spec
    return not (spec.node_name or spec.properties or (spec.protocol is not None and spec.protocol.protocol_name))


def says(conditions: list[Condition], finding: Finding) -> bool:
    """Whether this is what stands there."""
    wanted = (finding.type, _status(finding), finding.reason, finding.message)
    return any((one.type, one.status, one.reason, one.message) == wanted for one in conditions)


def _status(finding: Finding) -> str:
    return "True" if finding.good else "False"


def with_findings(conditions: list[Condition], findings: list[Finding], now: str) -> list[dict[str, Any]]:
    """The list to write: others stay, and the time of the transition is that of the status."""
    after = {one.type: _written(one) for one in conditions}
    for finding in findings:
        before = after.get(finding.type, {})
        since = before.get("lastTransitionTime") if before.get("status") == _status(finding) else None
        after[finding.type] = {
            "type": str(finding.type),
            "status": _status(finding),
            "reason": finding.reason,
            "message": finding.message,
            "lastTransitionTime": since or now,
        }
    return list(after.values())


def _written(one: Condition) -> dict[str, Any]:
    fields = {
        "type": one.type,
        "status": one.status,
        "reason": one.reason,
        "message": one.message,
        "lastTransitionTime": one.last_transition_time,
    }
    return {key: value for key, value in fields.items() if value}


def _passes(error: ApiError | TimeoutError) -> bool:
    """Whether it is worth trying again; where cloudcore may not write to devices it is not."""
    return isinstance(error, TimeoutError | Conflict) or error.transient


class Conditions:
    """`run` it; `find` takes what was found. `find_device` gives the device as it is."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        recorder: Recorder,
        *,
        find_device: Callable[[DeviceId], Document | None],
    ) -> None:
        self._client = client
        self._clock = clock
        self._recorder = recorder
        self._find_device = find_device
        self._waiting: dict[DeviceId, dict[ConditionType, Finding]] = {}
        self._due: OrderedDict[DeviceId, None] = OrderedDict()
        self._resting: dict[DeviceId, asyncio.TimerHandle] = {}
        self._busy: set[DeviceId] = set()
        self._complained: set[type[BaseException]] = set()
        self._wake = asyncio.Event()

    def find(self, device: Document, finding: Finding) -> None:
        """Have the condition read like this; one that was never there is not made just to say that all is well."""
        id = DeviceId(device.meta.namespace, device.meta.name)
        finding = finding._replace(message=finding.message[:MESSAGE_LIMIT])
        waiting = self._waiting.get(id, {})
        if finding.type not in waiting:
            conditions, ends = conditions_of(device), finding.ends_on(device)
            if says(conditions, finding) and not ends:
                return
            optional = finding.good and finding.type is not ConditionType.ACCEPTED and not ends
            if optional and all(one.type != finding.type for one in conditions):
                return
        self._waiting.setdefault(id, waiting)[finding.type] = finding
        self._mark(id)

    def _mark(self, id: DeviceId) -> None:
        if id not in self._busy and id not in self._resting:
            self._due[id] = None
            self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(WRITERS):
                    group.create_task(self._work(), name=f"conditions of devices {number}")
        finally:
            for timer in self._resting.values():
                timer.cancel()
            self._resting.clear()

    async def _work(self) -> None:
        while True:
            while not self._due:
                self._wake.clear()
                await self._wake.wait()
            id, _ = self._due.popitem(last=False)
            findings = self._waiting.pop(id, {})
            self._busy.add(id)
            delay = SPACING_SECONDS
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._write(id, findings)
            except (ApiError, TimeoutError) as error:
                if _passes(error):
                    self._waiting[id] = findings | self._waiting.get(id, {})
                    delay = RETRY_SECONDS
                self._complain(id, error)
            finally:
                self._busy.discard(id)
            self._rest(id, delay)

    def _complain(self, id: DeviceId, error: ApiError | TimeoutError) -> None:
        """Once for each kind of error: it is the same for every device."""
        level = logging.DEBUG if type(error) in self._complained or isinstance(error, Conflict) else logging.WARNING
        self._complained.add(type(error))
        log.log(level, "conditions of device %s are not written: %s", id, error or "no answer in time")

    def _rest(self, id: DeviceId, delay: float) -> None:
        def over() -> None:
            self._resting.pop(id, None)
            if id in self._waiting:
                self._mark(id)

        self._resting[id] = asyncio.get_running_loop().call_later(delay, over)

    async def _write(self, id: DeviceId, findings: dict[ConditionType, Finding]) -> None:
        device = self._find_device(id)
        if device is None:
            return
        conditions = conditions_of(device)
        news = [finding for finding in findings.values() if not says(conditions, finding)]
        ended = {finding.ends: None for finding in findings.values() if finding.ends_on(device)}
        if not news and not ended:
            return
        if may_be_of_v1alpha2(device):
            await self._tell(device, news)
            return
        # Held against the version it was seen in: a list is written whole.
        patch: dict[str, Any] = {
            "metadata": {"resourceVersion": device.meta.resource_version},
            "status": {"conditions": with_findings(conditions, news, rfc3339(self._clock.now()))},
        }
        if ended:
            patch["metadata"]["annotations"] = ended
        try:
            await self._client.patch(DEVICES, id.name, patch, id.namespace, type=PatchType.MERGE)
        except NotFound:
            return
        await self._tell(device, news)

    async def _tell(self, device: Document, news: list[Finding]) -> None:
        for finding in news:
            if not finding.good and finding.type not in _TOLD_BY_EDGES:
                await self._recorder.event(device, "Warning", finding.reason, finding.message)
