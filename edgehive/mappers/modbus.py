"""Modbus devices over TCP and serial lines. Needs pymodbus, and pyserial for lines (`edgehive[modbus]`).

    device   ip, port (502)                                       over TCP, or
             serialPort, baudRate (9600), dataBits (8), parity (none), stopBits (1)
             slaveID (1), timeout in milliseconds (500)
    visitor  register        CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister
             offset, limit   the first one counted from 0, and how many (1)
             scale           what a number read is multiplied by
             isSwap          the bytes in each register are the wrong way round
             isRegisterSwap  the registers are: the lowest comes first
             format          uint, int or float; by default float for FLOAT and DOUBLE in 2 or 4 registers, else uint

Numbers that are read are kept within the model's minimum and maximum. Devices on one line share it and take turns.
"""

import asyncio
import logging
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

from pymodbus import FramerType
from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from edgehive.mapper import Value, Visitor, run

# What pymodbus says of each lost connection is said by the mapper, in one line.
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)

#: By its name in small letters: the client's method that reads a register.
_READ = {
    "coilregister": "read_coils",
    "discreteinputregister": "read_discrete_inputs",
    "inputregister": "read_input_registers",
    "holdingregister": "read_holding_registers",
}
_BITS = frozenset({"coilregister", "discreteinputregister"})
_PARITY = {"none": "N", "even": "E", "odd": "O"}
_FLOATS: dict[int, struct.Struct] = {2: struct.Struct(">f"), 4: struct.Struct(">d")}
_FAULTS = {1: "illegal function", 2: "illegal address", 3: "illegal value", 4: "device failure", 6: "device busy"}


class _Line:
    """A connection, with one request on it at a time; devices of one serial port have the same one."""

    shared: ClassVar[dict[str, "_Line"]] = {}

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name
        self._turn = asyncio.Lock()
        self.users = 0

    async def reach(self) -> None:
        """Connect if need be; raises ConnectionError."""
        async with self._turn:
            await self._connect()

    async def ask(self, request: Callable[[Any], Awaitable[Any]]) -> Any:
        async with self._turn:
            await self._connect()
            try:
                answer = await request(self._client)
            except ModbusException as error:
                raise ConnectionError(f"{self._name} does not answer: {error}") from error
        if answer.isError():
            code = getattr(answer, "exception_code", 0)
            raise ValueError(f"the device answers: {_FAULTS.get(code, f'error {code}')}")
        return answer

    async def _connect(self) -> None:
        if not self._client.connected and not await self._client.connect():
            raise ConnectionError(f"{self._name} cannot be reached")

    def release(self) -> None:
        self.users -= 1
        if self.users <= 0:
            self.shared.pop(self._name, None)
            self._client.close()


class Modbus:
    """One device."""

    protocol = "modbus"

    def __init__(self) -> None:
        self._line: _Line | None = None
        self._unit = 1

    async def open(self, config: Mapping[str, Any]) -> None:
        self._unit = int(config.get("slaveID", 1))
        self._line = _line(config)
        self._line.users += 1
        await self._line.reach()

    async def read(self, visitor: Visitor) -> Value:
        register, offset, limit = _place(visitor)
        ask = _READ[register]
        answer = await self._ask(lambda client: getattr(client, ask)(offset, count=limit, device_id=self._unit))
        if register in _BITS:
            return _from_bits(visitor, answer.bits[:limit])
        return _from_registers(visitor, answer.registers)

    async def write(self, visitor: Visitor, value: Value) -> None:
        register, offset, limit = _place(visitor)
        if register == "coilregister":
            bits = [bool(int(value) >> place & 1) for place in range(limit)]
            await self._ask(lambda client: client.write_coils(offset, bits, device_id=self._unit))
        elif register == "holdingregister":
            words = _to_registers(visitor, value, limit)
            await self._ask(lambda client: client.write_registers(offset, words, device_id=self._unit))
        else:
            raise ValueError(f"{visitor.config['register']} cannot be written; only coils and holding registers can")

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.release()

    async def _ask(self, request: Callable[[Any], Awaitable[Any]]) -> Any:
        if self._line is None:
            raise ConnectionError("the device is not open")
        return await self._line.ask(request)


# The way to a device


def _line(config: Mapping[str, Any]) -> _Line:
    timeout = float(config.get("timeout", 500)) / 1000
    if port := config.get("serialPort"):
        if (found := _Line.shared.get(str(port))) is None:
            found = _Line.shared[str(port)] = _Line(_serial(str(port), config, timeout), str(port))
        return found
    if "ip" not in config:
        raise ValueError("configData has neither ip nor serialPort")
    host, number = str(config["ip"]), int(config.get("port", 502))
    client = AsyncModbusTcpClient(host, port=number, timeout=timeout, retries=0, reconnect_delay=0)
    return _Line(client, f"{host}:{number}")


def _serial(port: str, config: Mapping[str, Any], timeout: float) -> AsyncModbusSerialClient:
    parity = str(config.get("parity", "none")).lower()
    return AsyncModbusSerialClient(
        port,
        framer=FramerType.RTU,
        baudrate=int(config.get("baudRate", 9600)),
        bytesize=int(config.get("dataBits", 8)),
        parity=_PARITY.get(parity, parity.upper()),
        stopbits=int(config.get("stopBits", 1)),
        timeout=timeout,
        retries=0,
        reconnect_delay=0,
    )


def _place(visitor: Visitor) -> tuple[str, int, int]:
    """Register, offset and limit; raises ValueError saying what is missing."""
    config = visitor.config
    register = str(config.get("register", "")).lower()
    if register not in _READ:
        raise ValueError(
            f"register {config.get('register')!r} is none of CoilRegister, DiscreteInputRegister, InputRegister, "
            "HoldingRegister"
        )
    offset, limit = config.get("offset"), config.get("limit", 1)
    if not isinstance(offset, int) or not 0 <= offset <= 65535:
        raise ValueError(f"offset {offset!r} is no number from 0 to 65535")
    if not isinstance(limit, int) or not 1 <= limit <= 125:
        raise ValueError(f"limit {limit!r} is no number from 1 to 125")
    return register, offset, limit


# Values


def _from_bits(visitor: Visitor, bits: list[bool]) -> Value:
    """The first one is the lowest."""
    if visitor.type == "BOOLEAN":
        return any(bits)
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def _from_registers(visitor: Visitor, words: list[int]) -> Value:
    data = _ordered(visitor, b"".join(word.to_bytes(2, "big") for word in words))
    if visitor.type == "STRING":
        return data.decode("latin-1").strip("\0 ")
    if visitor.type == "BYTES":
        return data
    number: float
    if _format(visitor, len(words)) == "float":
        number = _FLOATS[len(words)].unpack(data)[0]
    else:
        number = int.from_bytes(data, "big", signed=_format(visitor, len(words)) == "int")
    if visitor.type == "BOOLEAN":
        return bool(number)
    number *= visitor.config.get("scale", 1)
    if visitor.minimum is not None:
        number = max(number, visitor.minimum)
    if visitor.maximum is not None:
        number = min(number, visitor.maximum)
    return round(number) if visitor.type == "INT" else number


def _to_registers(visitor: Visitor, value: Value, limit: int) -> list[int]:
    data = _ordered(visitor, _bytes_of(visitor, value, limit))
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


def _bytes_of(visitor: Visitor, value: Value, limit: int) -> bytes:
    size = 2 * limit
    if isinstance(value, str | bytes):
        data = value.encode("latin-1", "replace") if isinstance(value, str) else value
        if len(data) > size:
            raise ValueError(f"{len(data)} bytes do not fit into {limit} registers")
        return data.ljust(size, b"\0")
    number = float(value) / visitor.config.get("scale", 1) if "scale" in visitor.config else value
    if _format(visitor, limit) == "float":
        packed: bytes = _FLOATS[limit].pack(number)
        return packed
    try:
        whole: bytes = round(number).to_bytes(size, "big", signed=_format(visitor, limit) == "int")
    except OverflowError:
        raise ValueError(f"{round(number)} does not fit into {limit} registers") from None
    return whole


def _format(visitor: Visitor, limit: int) -> str:
    is_real = visitor.type in ("FLOAT", "DOUBLE") and limit in _FLOATS
    found = visitor.config.get("format", "float" if is_real else "uint")
    if found not in ("uint", "int", "float") or (found == "float" and limit not in _FLOATS):
        raise ValueError(f"format {found!r} with {limit} registers: use uint or int, or float in 2 or 4 registers")
    return str(found)


def _ordered(visitor: Visitor, data: bytes) -> bytes:
    """Between the wire's order and the highest byte first; it is its own inverse."""
    words = [data[at : at + 2] for at in range(0, len(data), 2)]
    if visitor.config.get("isSwap"):
        words = [word[::-1] for word in words]
    if visitor.config.get("isRegisterSwap"):
        words.reverse()
    return b"".join(words)


if __name__ == "__main__":
    run(Modbus)
