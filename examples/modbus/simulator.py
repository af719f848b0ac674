"""A boiler that speaks Modbus TCP: holding register 0 is its target and input register 0 its temperature, both tenths.

python simulator.py [PORT]    (5020)
"""

import asyncio
import sys

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

READ_INPUT, WRITE_ONE, WRITE_SOME = 4, 6, 16


class Boiler:
    """It warms or cools by half a degree whenever somebody looks."""

    def __init__(self):
        self.temperature, self.target = 400, 550

    async def asked(self, function, start, address, count, registers, values):
        if function in (WRITE_ONE, WRITE_SOME) and address == 0:
            self.target = values[0]
        elif function == READ_INPUT and address == 0:
            self.temperature += max(-5, min(5, self.target - self.temperature))
            registers[address - start] = self.temperature

    def device(self):
        bits = [SimData(0, values=[True] * 8, datatype=DataType.BITS)]
        target = [SimData(0, values=[self.target] * 8, datatype=DataType.REGISTERS)]
        temperature = [SimData(0, values=[self.temperature] * 8, datatype=DataType.REGISTERS)]
        return SimDevice(1, simdata=(bits, bits, target, temperature), action=self.asked)


async def main(port):
    server = ModbusTcpServer(Boiler().device(), address=("127.0.0.1", port))
    await server.listen()
    print(f"a boiler at 127.0.0.1:{port}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5020))
