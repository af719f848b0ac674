"""Readings pushed past the edge to applications and databases: `pushMethod` of a property, every report cycle.

Each target has a bounded queue and a task: one that is away keeps its newest readings and holds up nobody else. How
each kind of target is spoken to is in `push_targets.py`.

Go: staging/src/github.com/kubeedge/mapper-framework/_template/mapper/data
"""

import asyncio
import logging
from collections import deque

from edgehive.api import devices as api
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, unix_millis
from edgehive.mapper import values
from edgehive.mapper.definition import Definition
from edgehive.mapper.driver import Value, Visitor
from edgehive.mapper.push_targets import PushFailed, Sample, Target, targets_of

log = logging.getLogger("edgehive.mapper")

#: Readings a target that is away may miss before its oldest are dropped.
QUEUE = 1000
#: Seconds one push may take.
DEADLINE = 10.0
PATIENT = Backoff(first=1.0, factor=2.0, limit=60.0, jitter=0.3)


class _Line:
    """One property on its way to one target."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._samples: deque[Sample] = deque()
        self._wake = asyncio.Event()
        self._dropped = 0

    def put(self, sample: Sample) -> None:
        if len(self._samples) >= QUEUE:
            self._samples.popleft()
            self._dropped += 1
        self._samples.append(sample)
        self._wake.set()

    async def run(self) -> None:
        attempt = 0
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._samples:
                    attempt = await self._push_next(attempt)
        finally:
            await self._target.close()

    async def _push_next(self, attempt: int) -> int:
        """The oldest sample; it stays until the target has it. The next attempt's number."""
        sample = self._samples[0]
        try:
            async with asyncio.timeout(DEADLINE):
                await self._target.push(sample)
        except (PushFailed, OSError, TimeoutError, EOFError) as error:
            if attempt == 0:
                why = str(error) or type(error).__name__
                log.warning("%s/%s: push to %s fails: %s", sample.device, sample.name, self._target.name, why)
            await asyncio.sleep(PATIENT.delay(attempt))
            return attempt + 1
        if self._samples and self._samples[0] is sample:
            self._samples.popleft()
        if attempt:
            log.info("%s: push works again; %d readings were dropped", self._target.name, self._dropped)
            self._dropped = 0
        return 0


class Pushes:
    """One device's."""

    def __init__(self, definition: Definition, clock: Clock) -> None:
        self._definition = definition
        self._clock = clock
        self._changed = asyncio.Event()
        self._lines: dict[str, list[_Line]] = {}
        self._last: dict[str, float] = {}
        self._changed.set()

    def follow(self, definition: Definition) -> None:
        before, self._definition = self._definition, definition
        if _methods(before) != _methods(definition):
            self._changed.set()

    def has_value(self, visitor: Visitor, value: Value) -> None:
        name = visitor.property
        lines, item = self._lines.get(name), self._definition.properties.get(name)
        if not lines or item is None:
            return
        now = asyncio.get_running_loop().time()
        # Half a collect cycle early is on time: readings come in whole ones.
        if now - self._last.get(name, -1e9) < item.report_cycle - item.collect_cycle / 2:
            return
        self._last[name] = now
        text = values.text_of(visitor.type, value)
        kind = values.TWIN_TYPES[visitor.type]
        sample = Sample(self._definition.id, name, text, value, kind, unix_millis(self._clock.now()))
        for line in lines:
            line.put(sample)

    async def run(self) -> None:
        """Keep a task for every target until cancelled."""
        while True:
            self._changed.clear()
            self._lines = {
                name: [_Line(target) for target in targets_of(method)]
                for name, method in _methods(self._definition).items()
            }
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(line.run(), name=f"push {name}")
                    for name, lines in self._lines.items()
                    for line in lines
                ]
                await self._changed.wait()
                for task in running:
                    task.cancel()


def _methods(definition: Definition) -> dict[str, api.PushMethod]:
    return {name: item.push for name, item in definition.properties.items() if item.push is not None}
