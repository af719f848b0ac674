"""A device that exists in memory, with faults on demand: for trials, documents and tests of whatever stands above.

Protocol `virtual`. The device's `configData` sets its faults; properties hold what was written, or move by themselves:

    device   latency     milliseconds each call takes
             failing     true: it cannot be opened
             flapping    N: the connection is lost at every Nth read
             hanging     true: reads never answer
    visitor  kind        value (default): what was written, at first `initial`
                         sine, ramp, random: between `low` and `high` over `period` seconds; `noise` is added
                         time: seconds since the device was opened
             failing     true: this property cannot be read or written
             lying       true: it returns text that is no value of its type
             refusing    true: writes are refused
             ignoring    true: writes are taken and nothing changes
"""

import asyncio
import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar

from edgehive.mapper import Value, Visitor, run

_DEFAULTS: dict[str, Value] = {
    "INT": 0, "FLOAT": 0.0, "DOUBLE": 0.0, "STRING": "", "BOOLEAN": False, "BYTES": b"", "STREAM": "",
}  # fmt: skip


class Virtual:
    """One device. What was written outlives `close` only in a device with `memory`, by that name."""

    protocol = "virtual"
    #: Contents of devices that have a `memory`.
    memories: ClassVar[dict[str, dict[str, Value]]] = {}

    async def open(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._values = self.memories.setdefault(str(config["memory"]), {}) if "memory" in config else {}
        self._reads = 0
        self._opened = asyncio.get_running_loop().time()
        await self._take_time()
        if config.get("failing"):
            raise ConnectionError("the virtual device is switched off (failing)")

    async def read(self, visitor: Visitor) -> Value:
        await self._take_time()
        self._reads += 1
        if self._config.get("hanging"):
            await asyncio.Event().wait()
        if (every := self._config.get("flapping")) and self._reads % every == 0:
            raise ConnectionError(f"the virtual device lost the connection at read {self._reads} (flapping)")
        if visitor.config.get("failing"):
            raise ValueError("this property is broken (failing)")
        if visitor.config.get("lying"):
            return "no such value \N{GRINNING FACE}" if visitor.type != "STRING" else b"\xff"
        return self._value(visitor)

    async def write(self, visitor: Visitor, value: Value) -> None:
        await self._take_time()
        if visitor.config.get("failing") or visitor.config.get("refusing"):
            raise ValueError("the virtual device refuses this value (refusing)")
        if not visitor.config.get("ignoring"):
            self._values[visitor.property] = value

    async def close(self) -> None:
        await self._take_time()

    async def _take_time(self) -> None:
        if latency := self._config.get("latency"):
            await asyncio.sleep(latency / 1000)

    def _value(self, visitor: Visitor) -> Value:
        config, kind = visitor.config, visitor.config.get("kind", "value")
        low, high = float(config.get("low", 0)), float(config.get("high", 100))
        age = asyncio.get_running_loop().time() - self._opened
        turn = age / max(0.001, config.get("period", 60.0))
        noise = random.uniform(-1, 1) * config.get("noise", 0.0)  # noqa: S311
        if kind == "sine":
            number: float = low + (high - low) * (1 + math.sin(2 * math.pi * turn)) / 2 + noise
        elif kind == "ramp":
            number = low + (high - low) * (turn % 1) + noise
        elif kind == "random":
            number = random.uniform(low, high)  # noqa: S311
        elif kind == "time":
            number = age
        elif kind == "value":
            initial: Value = config.get("initial", _DEFAULTS[visitor.type])
            return self._values.get(visitor.property, initial)
        else:
            raise ValueError(f"kind {kind!r} is none of value, sine, ramp, random, time")
        return round(number) if visitor.type == "INT" else number


if __name__ == "__main__":
    run(Virtual)
