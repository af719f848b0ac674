"""What of a device's readings goes to the edge, and when: changes beyond the deadband, at most once per report cycle.

Everything due at about the same time goes in one call. What could not be told stays and is told later, in its newest
form; a registration has everything told again. One per device, in its own task, so a slow edge never delays a reading.

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/grpcclient/report.go
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, unix_millis
from edgehive.mapper import values
from edgehive.mapper.definition import Definition, Property
from edgehive.mapper.driver import Value, Visitor
from edgehive.wire.devices import DeviceId

log = logging.getLogger("edgehive.mapper")

#: Seconds after which a value that did not change is told again; the first time sooner, as a Go cloud shows a value
#: from its second report on.
REFRESH, SECOND = 60.0, 5.0
#: Seconds a report waits for other properties of the same round.
GATHER = 0.01
#: Seconds: what is due that soon is due.
TICK = 0.001
#: States that are told unasked: DMI has no other way to say that something is wrong with a device.
ILL = frozenset({"offline", "unhealthy"})
#: Values in one call.
BATCH = 500
PATIENT = Backoff(first=0.5, factor=2.0, limit=15.0, jitter=0.3)


class EdgeAway(Exception):
    """The edge did not answer; what was to be told stays."""


class EdgeRefused(Exception):
    """The edge said no."""


class Reading(NamedTuple):
    """A property as it is told: texts, the twin type, and when it was read."""

    name: str
    text: str
    observed_desired: str
    type: str
    millis: int


class Edge(Protocol):
    """Where reports go."""

    async def report(self, device: DeviceId, readings: Sequence[Reading]) -> None:
        """Raises EdgeAway or EdgeRefused."""
        ...

    async def report_state(self, device: DeviceId, state: str) -> None:
        """Raises EdgeAway or EdgeRefused."""
        ...


@dataclass(slots=True)
class _Known:
    """A property: the newest reading, what was told last and when, and when there is something to tell."""

    value: Value | None = None
    text: str = ""
    millis: int = 0
    observed: str = ""
    told: tuple[Value | None, str] | None = None
    told_at: float = 0.0
    is_told_twice: bool = False
    due: float | None = None


class Reporter:
    """One device."""

    def __init__(self, definition: Definition, edge: Edge, clock: Clock, room: asyncio.Semaphore | None = None) -> None:
        """Devices that share `room` tell that many at a time; what is told is read when it is one's turn."""
        self._room = room or asyncio.Semaphore()
        self._definition = definition
        self._edge = edge
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._state = ""
        self._state_due: float | None = None
        self._is_told_ill = False
        self._wake = asyncio.Event()

    def follow(self, definition: Definition) -> None:
        before, self._definition = self._definition, definition
        for name in self._known.keys() - definition.properties.keys():
            del self._known[name]
        for name, known in self._known.items():
            item, old = definition.properties[name], before.properties.get(name)
            if old is None or item.visitor.type != old.visitor.type:
                self._known[name] = _Known()
            elif item.desired_text != old.desired_text or item.report_to_cloud != old.report_to_cloud:
                self._judge(item, known)
        if definition.report_state and not before.report_state and self._state:
            self._state_due = self._now()
        self._wake.set()

    def has_value(self, visitor: Visitor, value: Value) -> None:
        known = self._known.setdefault(visitor.property, _Known())
        known.value, known.text = value, values.text_of(visitor.type, value)
        known.millis = unix_millis(self._clock.now())
        if (item := self._definition.properties.get(visitor.property)) is not None:
            if item.desired is not None and item.desired == value:
                known.observed = item.desired_text or ""
            self._judge(item, known)

    def was_written(self, visitor: Visitor, text: str) -> None:
        self._known.setdefault(visitor.property, _Known()).observed = text

    def has_state(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._state_due = self._now()
            self._wake.set()

    def tell_everything(self) -> None:
        """The edge began anew."""
        for name, known in self._known.items():
            known.told = None
            if (item := self._definition.properties.get(name)) is not None:
                self._judge(item, known)
        if self._state:
            self._state_due = self._now()
        self._wake.set()

    def readings(self) -> list[Reading]:
        """The newest of every property that was read."""
        return [self._reading(name, known) for name, known in self._known.items() if known.value is not None]

    async def run(self) -> None:
        """Tell what is due until cancelled."""
        attempt = 0
        while True:
            await self._until_due()
            try:
                async with self._room:
                    await self._tell_state()
                    await self._tell_values()
                attempt = 0
            except EdgeAway:
                await asyncio.sleep(PATIENT.delay(attempt))
                attempt += 1

    def _judge(self, item: Property, known: _Known) -> None:
        if not item.report_to_cloud or known.value is None:
            known.due = None
        elif self._is_news(item, known):
            due = max(self._now(), _earliest(item, known))
            if known.due is None or due < known.due:
                known.due = due
                self._wake.set()

    def _is_news(self, item: Property, known: _Known) -> bool:
        if known.told is None or self._now() - known.told_at >= (REFRESH if known.is_told_twice else SECOND):
            return True
        value, observed = known.told
        if observed != known.observed:
            return True
        if isinstance(value, int | float) and isinstance(known.value, int | float):
            return value != known.value and abs(value - known.value) > item.deadband
        return value != known.value

    async def _until_due(self) -> None:
        while True:
            self._wake.clear()
            due = min((at for at in self._times() if at is not None), default=None)
            now = self._now()
            if due is not None and due <= now + TICK:
                await asyncio.sleep(GATHER)
                return
            try:
                async with asyncio.timeout(None if due is None else due - now):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _times(self) -> list[float | None]:
        state = self._state_due if self._tells_state() else None
        return [state, *(known.due for known in self._known.values())]

    def _tells_state(self) -> bool:
        """Where nobody asked for states, that the device is ill is told all the same, and that it is well again."""
        return self._definition.report_state or self._state in ILL or self._is_told_ill

    async def _tell_state(self) -> None:
        now, state = self._now(), self._state
        if not self._tells_state() or self._state_due is None or self._state_due > now + TICK:
            return
        try:
            await self._edge.report_state(self._definition.id, state)
        except EdgeRefused as error:
            log.error("%s: the edge refuses its state: %s", self._definition.id, error)
        self._is_told_ill = state in ILL
        if state == self._state:
            self._state_due = now + self._definition.state_cycle if self._definition.report_state else None

    async def _tell_values(self) -> None:
        now = self._now()
        due = [
            (name, known) for name, known in self._known.items() if known.due is not None and known.due <= now + TICK
        ]
        for start in range(0, len(due), BATCH):
            batch = due[start : start + BATCH]
            told = [(known, (known.value, known.observed)) for _, known in batch]
            try:
                await self._edge.report(self._definition.id, [self._reading(name, known) for name, known in batch])
            except EdgeRefused as error:
                log.error("%s: the edge refuses a report: %s", self._definition.id, error)
            for known, what in told:
                known.is_told_twice = known.told is not None
                known.told, known.told_at, known.due = what, now, None
            for name, known in batch:
                if (item := self._definition.properties.get(name)) is not None:
                    self._judge(item, known)

    def _reading(self, name: str, known: _Known) -> Reading:
        item = self._definition.properties.get(name)
        type = values.TWIN_TYPES[item.visitor.type] if item else "string"
        return Reading(name, known.text, known.observed, type, known.millis)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _earliest(item: Property, known: _Known) -> float:
    """When it may be told again: a desired value that the device has taken at once, the rest at its cycle.

    Readings that come no more often than that are told as they come: counted from the last telling, which is always a
    little after its reading, they would be later and later, by up to a cycle.
    """
    if known.told is None or known.told[1] != known.observed:
        return 0.0
    return known.told_at + (item.report_cycle if item.report_cycle > item.collect_cycle else item.report_cycle / 2)
