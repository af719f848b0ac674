"""The Modbus driver against pymodbus's own server, over TCP and over a serial line made of pseudo-terminals."""

import asyncio
import os
import struct
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edgehive.api.devices import PropertyType
from edgehive.mapper import Value, Visitor
from edgehive.mappers.modbus import Modbus

PI = list(struct.unpack(">2H", struct.pack(">f", 3.5)))
COIL, INPUT_BIT, INPUT, HOLDING = "CoilRegister", "DiscreteInputRegister", "InputRegister", "HoldingRegister"


def memory(unit: int = 0) -> SimDevice:
    """Coils and discrete inputs 1 0 1 0 …, input register n holds 100 + n, holding registers as below."""
    bits = [SimData(0, values=[True, False] * 8, datatype=DataType.BITS)]
    words = [0, 215, 0x0001, 0x0000, *PI, 0xFFFE, 0x4142, 0x4300, 0x3412, 0, 0, 0, 0, 0, 0]
    holding = [SimData(0, values=words, datatype=DataType.REGISTERS)]
    inputs = [SimData(0, values=[100 + n for n in range(16)], datatype=DataType.REGISTERS)]
    return SimDevice(unit, simdata=(bits, bits, holding, inputs))


@asynccontextmanager
async def tcp_device() -> AsyncIterator[int]:
    server = ModbusTcpServer(memory(), address=("127.0.0.1", 0))
    await server.listen()
    port = server.transport.sockets[0].getsockname()[1]
    try:
        yield port
    finally:
        await server.shutdown()


@pytest.fixture
async def modbus() -> AsyncIterator[Modbus]:
    async with tcp_device() as port:
        driver = Modbus()
        await driver.open({"ip": "127.0.0.1", "port": port})
        yield driver
        await driver.close()


def at(register: str, offset: int, limit: int = 1, type: str = "INT", **rest: Any) -> Visitor:
    config = {"register": register, "offset": offset, "limit": limit, **rest}
    limits = {name: config.pop(name) for name in ("minimum", "maximum") if name in config}
    return Visitor("p", PropertyType(type), config, writable=True, **limits)


@pytest.mark.parametrize(
    ("visitor", "value"),
    [
        (at(COIL, 0, type="BOOLEAN"), True),
        (at(COIL, 1, type="BOOLEAN"), False),
        (at(COIL, 0, 4), 0b0101),
        (at(INPUT_BIT, 2, type="BOOLEAN"), True),
        (at(INPUT, 0), 100),
        (at(INPUT, 7), 107),
        (at(HOLDING, 1), 215),
        (at(HOLDING, 1, type="FLOAT", scale=0.1), pytest.approx(21.5)),
        (at(HOLDING, 1, type="FLOAT", scale=0.1, maximum=20.0), 20.0),
        (at(HOLDING, 1, minimum=300.0), 300),
        (at(HOLDING, 2, 2), 0x00010000),
        (at(HOLDING, 2, 2, isRegisterSwap=True), 1),
        (at(HOLDING, 2, 2, isSwap=True), 0x01000000),
        (at(HOLDING, 4, 2, type="FLOAT"), 3.5),
        (at(HOLDING, 2, 2, type="FLOAT", format="uint"), 65536.0),
        (at(HOLDING, 6), 0xFFFE),
        (at(HOLDING, 6, format="int"), -2),
        (at(HOLDING, 7, 2, type="STRING"), "ABC"),
        (at(HOLDING, 7, 2, type="BYTES"), b"ABC\0"),
        (at(HOLDING, 9, isSwap=True), 0x1234),
        (at(HOLDING, 1, type="BOOLEAN"), True),
    ],
)
async def test_a_value_is_read(modbus: Modbus, visitor: Visitor, value: Value) -> None:
    assert await modbus.read(visitor) == value


@pytest.mark.parametrize(
    ("visitor", "value"),
    [
        (at(COIL, 3, type="BOOLEAN"), True),
        (at(COIL, 0, type="BOOLEAN"), False),
        (at(HOLDING, 10), 65535),
        (at(HOLDING, 10, format="int"), -5),
        (at(HOLDING, 10, 2), 0x00050000),
        (at(HOLDING, 10, 2), 5),
        (at(HOLDING, 10, 2, isRegisterSwap=True), 0x12345678),
        (at(HOLDING, 10, 4), 2**63),
        (at(HOLDING, 10, 2, type="FLOAT", isSwap=True, isRegisterSwap=True), -0.5),
        (at(HOLDING, 10, 4, type="DOUBLE"), 1e-300),
        (at(HOLDING, 10, type="FLOAT", scale=0.5), 12.5),
        (at(HOLDING, 10, 3, type="STRING"), "valve"),
    ],
)
async def test_what_is_written_is_read(modbus: Modbus, visitor: Visitor, value: Value) -> None:
    await modbus.write(visitor, value)
    assert await modbus.read(visitor) == value


@pytest.mark.parametrize(
    ("visitor", "sentence"),
    [
        (at("Register", 0), "register 'Register' is none of CoilRegister"),
        (at(HOLDING, -1), "offset -1 is no number from 0 to 65535"),
        (at(HOLDING, 0, 200), "limit 200 is no number from 1 to 125"),
        (at(HOLDING, 5000), "the device answers: illegal address"),
        (at(HOLDING, 0, 3, format="float"), "float in 2 or 4 registers"),
    ],
)
async def test_a_wrong_visitor_is_told_and_the_connection_goes_on(
    modbus: Modbus, visitor: Visitor, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        await modbus.read(visitor)
    assert await modbus.read(at(HOLDING, 1)) == 215


@pytest.mark.parametrize(
    ("visitor", "value", "sentence"),
    [
        (at(INPUT, 0), 1, "InputRegister cannot be written"),
        (at(HOLDING, 0), 70000, "70000 does not fit into 1 registers"),
        (at(HOLDING, 0), -1, "-1 does not fit"),
        (at(HOLDING, 0, type="STRING"), "too long", "8 bytes do not fit into 1 registers"),
    ],
)
async def test_what_cannot_be_written_is_refused(modbus: Modbus, visitor: Visitor, value: Value, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        await modbus.write(visitor, value)


async def test_a_device_that_is_not_there_is_told_as_lost() -> None:
    async with tcp_device() as port:
        pass
    driver = Modbus()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await driver.open({"ip": "127.0.0.1", "port": port})
    await driver.close()


async def test_a_device_that_goes_away_is_told_as_lost() -> None:
    async with tcp_device() as port:
        driver = Modbus()
        await driver.open({"ip": "127.0.0.1", "port": port, "timeout": 200})
        assert await driver.read(at(HOLDING, 1)) == 215
    with pytest.raises(ConnectionError):
        await driver.read(at(HOLDING, 1))
    await driver.close()


async def test_a_device_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="neither ip nor serialPort"):
        await Modbus().open({"slaveID": 1})


@asynccontextmanager
async def serial_line(*units: int) -> AsyncIterator[str]:
    """A line with devices at one end; the other end's path."""
    ours, theirs = os.openpty(), os.openpty()
    for pair in (ours, theirs):
        tty.setraw(pair[0])
        tty.setraw(pair[1])
    loop = asyncio.get_running_loop()

    def ask() -> None:
        request = os.read(ours[0], 4096)
        if request[0] in units:  # the server would answer for a device that is not there
            os.write(theirs[0], request)

    loop.add_reader(ours[0], ask)
    loop.add_reader(theirs[0], lambda: os.write(ours[0], os.read(theirs[0], 4096)))
    context = [memory(unit) for unit in units]
    server = ModbusSerialServer(context, framer=FramerType.RTU, port=os.ttyname(theirs[1]), baudrate=19200)
    await server.listen()
    try:
        yield os.ttyname(ours[1])
    finally:
        await server.shutdown()
        for source in (ours[0], theirs[0]):
            loop.remove_reader(source)
        for number in (*ours, *theirs):
            os.close(number)


async def test_devices_on_one_serial_line_share_it_and_a_dead_one_leaves_the_others_alone() -> None:
    async with serial_line(1, 2) as port:
        drivers = {unit: Modbus() for unit in (1, 2, 3)}
        for unit, driver in drivers.items():
            await driver.open({"serialPort": port, "baudRate": 19200, "slaveID": unit, "timeout": 300})
        await drivers[1].write(at(HOLDING, 10, 2), 0x00010000)
        both = await asyncio.gather(*(drivers[unit].read(at(HOLDING, 10, 2)) for unit in (1, 2)))
        assert both == [0x00010000, 0]
        with pytest.raises(ConnectionError, match="does not answer"):
            await drivers[3].read(at(HOLDING, 1))
        await drivers[3].close()
        assert await drivers[2].read(at(HOLDING, 1)) == 215
        for unit in (1, 2):
            await drivers[unit].close()
