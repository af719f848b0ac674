"""One device: what is desired is written, what is read is reported and pushed, in tasks of its own.

`Device` joins the three parts that do it (`polling.py`, `report.py`, `push.py`) and knows how the device is.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from edgehive.kit.clock import Clock
from edgehive.mapper.calls import Call, checked, property_of
from edgehive.mapper.definition import Definition
from edgehive.mapper.driver import Driver, Value, Visitor
from edgehive.mapper.polling import DEADLINE, Poller, State
from edgehive.mapper.push import Pushes
from edgehive.mapper.report import Edge, Reading, Reporter

log = logging.getLogger("edgehive.mapper")


class Device:
    """Made with a definition; `run` works until cancelled."""

    def __init__(
        self,
        definition: Definition,
        make: Callable[[], Driver],
        edge: Edge,
        clock: Clock,
        *,
        deadline: float = DEADLINE,
        room: asyncio.Semaphore | None = None,
    ) -> None:
        self.definition = definition
        self.state = State.UNKNOWN
        #: By property, "" for the device as a whole: why it cannot be read or written.
        self.faults: Mapping[str, str] = {}
        #: Values read since the start.
        self.reads = 0
        self._poller = Poller(make, definition, self, deadline=deadline)
        self._reporter = Reporter(definition, edge, clock, room)
        self._pushes = Pushes(definition, clock)
        self._tell_faults()

    def follow(self, definition: Definition) -> None:
        """Work by a newer definition."""
        self.definition = definition
        self._tell_faults()
        self._reporter.follow(definition)
        self._pushes.follow(definition)
        self._poller.follow(definition)

    def tell_everything(self) -> None:
        """The edge began anew and is to hear all."""
        self._reporter.tell_everything()

    def readings(self) -> list[Reading]:
        """The newest reading of each property."""
        return self._reporter.readings()

    async def read_now(self, name: str) -> Value:
        """Ask the device for a property; raises NoSuch or CallFailed."""
        property_of(self.definition, name)
        return await self._poller.take(Call(name))

    async def call(self, method: str, name: str, text: str) -> Value:
        """Call a method upon a property; its value afterwards. Raises NoSuch, BadValue or CallFailed."""
        value = checked(self.definition, method, name, text)
        after = await self._poller.take(Call(name, method, value))
        log.info("%s: method %s was called: %s = %s", self.definition.id, method, name, text[:80])
        return after

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in (self._poller, self._reporter, self._pushes):
                tasks.create_task(part.run(), name=f"{self.definition.id} {type(part).__name__}")

    def has_value(self, visitor: Visitor, value: Value) -> None:
        self.reads += 1
        self._reporter.has_value(visitor, value)
        self._pushes.has_value(visitor, value)

    def was_written(self, visitor: Visitor, text: str) -> None:
        log.info("%s: %s is set to %s", self.definition.id, visitor.property, text[:80])
        self._reporter.was_written(visitor, text)

    def has_state(self, state: State, faults: Mapping[str, str]) -> None:
        self.state, self.faults = state, dict(faults)
        self._reporter.has_state(state)

    def _tell_faults(self) -> None:
        for fault in self.definition.faults:
            log.error("%s: %s", self.definition.id, fault)
