"""A SensorTag that exists in memory, and the driver with a virtual radio that hears it.

mapper dev simulated.py --device device.yaml
"""

import asyncio

from edgehive.mapper import run
from edgehive.mappers import bluetooth
from edgehive.testing.bluetooth import Air, Cell

TEMPERATURE, ENABLE, IO_DATA, IO_CONFIG = (f"f000aa{n}-0451-4000-b000-000000000000" for n in ("01", "02", "65", "66"))


class SensorTag(Cell):
    """Its temperature, which rises while somebody reads it."""

    steps = 20 * 32

    def read(self, connection):
        self.steps += 5
        self.value = (self.steps << 2).to_bytes(4, "little")
        return super().read(connection)


class Simulated(bluetooth.Bluetooth):
    """The driver as it is; only its radio is not the machine's."""

    _air = Air()
    _starting = asyncio.Lock()
    radio = _air.radio

    async def open(self, config):
        async with self._starting:
            if not self._air.devices:
                others = [Cell(uuid, "read write", b"\0") for uuid in (ENABLE, IO_DATA, IO_CONFIG)]
                await self._air.device("CC2650 SensorTag", "BC:6A:29:AE:CC:96", SensorTag(TEMPERATURE), *others)
        await super().open(config)


if __name__ == "__main__":
    run(Simulated)
