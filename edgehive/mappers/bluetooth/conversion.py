"""Between the bytes of a characteristic and a property's value, as a visitor says. Pure.

The converter is that of the 2019 device model. Go's computed with decimal digits read as hexadecimal ones and gave 0
without a shift; this one does what its documents say: the bytes from `startIndex` to `endIndex` are one number, that
one is shifted, and then goes through the operations in their order.

Go: mappers/bluetooth_mapper/data_converter/data_converter.go (until 1.7)
"""

import base64
import binascii
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from edgehive.mapper import Value, Visitor
from edgehive.mapper.values import text_of

#: Bytes an attribute holds at most (Bluetooth Core, volume 3, part F, 3.2.9), and a number in one.
ATTRIBUTE_LIMIT, NUMBER_LIMIT = 512, 8
_BASE = "-0000-1000-8000-00805f9b34fb"
_FLOATS = {4: struct.Struct("<f"), 8: struct.Struct("<d")}
_SIZES = (1, 2, 4, 8)

_Operation = tuple[str, float]
_DO: dict[str, Callable[[float, float], float]] = {
    "add": lambda number, by: number + by,
    "subtract": lambda number, by: number - by,
    "multiply": lambda number, by: number * by,
    "divide": lambda number, by: number / by,
}
_INVERSE = {"add": "subtract", "subtract": "add", "multiply": "divide", "divide": "multiply"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a device a property is."""

    uuid: str
    #: "": whichever service has it.
    service: str = ""
    #: Wait for what the device tells, instead of asking it.
    notify: bool = False


@dataclass(frozen=True, slots=True)
class Converter:
    """`dataConverter` of a visitor."""

    start: int
    end: int
    #: Bits to the left; to the right where it is negative.
    shift: int
    operations: tuple[_Operation, ...]
    signed: bool

    def number(self, data: bytes) -> float:
        """What the bytes mean; raises ValueError."""
        last = max(self.start, self.end)
        if last >= len(data):
            raise ValueError(
                f"dataConverter takes bytes {self.start} to {self.end}, and the device has {len(data)} (from 0)"
            )
        taken = data[min(self.start, self.end) : last + 1]
        order: Any = "big" if self.start <= self.end else "little"
        whole = int.from_bytes(taken, order, signed=self.signed)
        return _done(whole << self.shift if self.shift >= 0 else whole >> -self.shift, self.operations)

    def data(self, number: float) -> bytes:
        """What is written so that `number` is read; raises ValueError."""
        if min(self.start, self.end) > 0:
            raise ValueError("a dataConverter that leaves out the first bytes cannot be written with; give dataWrite")
        if ("multiply", 0) in self.operations:
            raise ValueError("a dataConverter that multiplies with 0 cannot be written with; give dataWrite")
        whole = round(_done(number, [(_INVERSE[name], by) for name, by in reversed(self.operations)]))
        whole = whole >> self.shift if self.shift >= 0 else whole << -self.shift
        size = abs(self.start - self.end) + 1
        return _bytes_of(whole, size, self.signed, "big" if self.start <= self.end else "little")


def place_of(config: Mapping[str, Any]) -> Place:
    """Raises ValueError."""
    service = config.get("serviceUUID", "")
    return Place(
        uuid=uuid_of(config.get("characteristicUUID", ""), "characteristicUUID"),
        service=uuid_of(service, "serviceUUID") if service else "",
        notify=config.get("notify") is True,
    )


def uuid_of(told: Any, what: str) -> str:
    """With hyphens and in small letters, also of one in the short form; raises ValueError."""
    text = str(told).lower().removeprefix("0x")
    try:
        if len(text) in (4, 8):
            return str(UUID(text.rjust(8, "0") + _BASE))
        return str(UUID(text))
    except ValueError:
        raise ValueError(f"{what} {shown(told)} is no UUID like f000aa01-0451-4000-b000-000000000000 or 2a1c") from None


def value_of(visitor: Visitor, data: bytes) -> Value:
    """What the bytes of a characteristic mean; raises ValueError."""
    if (converter := converter_of(visitor.config)) is not None:
        number = converter.number(data)
        return round(number) if visitor.type == "INT" else bool(number) if visitor.type == "BOOLEAN" else number
    names = names_of(visitor.config)
    found = next((name for name, written in names.items() if written == data), None)
    if found is not None:
        return found
    if names and visitor.type in ("STRING", "BOOLEAN"):
        raise ValueError(f"the device has {shown(data.hex())}, which is none of dataWrite: {listed(names)}")
    return _plain_value(visitor, data)


def data_of(visitor: Visitor, value: Value) -> bytes:
    """What is written for a value; raises ValueError."""
    names = names_of(visitor.config)
    if names:
        text = text_of(visitor.type, value)
        if text not in names:
            raise ValueError(f"{shown(text)} is none of dataWrite: {listed(names)}")
        return names[text]
    converter = converter_of(visitor.config)
    if converter is not None and isinstance(value, int | float):
        return converter.data(value)
    return bounded(_plain_data(visitor, value))


def converter_of(config: Mapping[str, Any]) -> Converter | None:
    """None where the visitor has none; raises ValueError."""
    told = structure(config, "dataConverter")
    if told is None:
        return None
    start, end = (_index(told, name) for name in ("startIndex", "endIndex"))
    if abs(start - end) >= NUMBER_LIMIT:
        raise ValueError(f"dataConverter takes {abs(start - end) + 1} bytes; a number has {NUMBER_LIMIT} at most")
    left, right = (_index(told, name, 64) for name in ("shiftLeft", "shiftRight"))
    if left and right:
        raise ValueError("dataConverter has shiftLeft and shiftRight; give one of them")
    signed = bool(told.get("signed", config.get("signed", False)))
    return Converter(start, end, left or -right, _operations(told.get("orderOfOperations")), signed)


def names_of(config: Mapping[str, Any]) -> dict[str, bytes]:
    """`dataWrite`: the bytes that stand for a value; raises ValueError."""
    name = "dataWrite" if "dataWrite" in config else "dataWriteToBluetooth"
    return {
        str(key): bytes_of(data, f"{name} of {shown(key)}") for key, data in (structure(config, name) or {}).items()
    }


def bytes_of(told: Any, what: str) -> bytes:
    """A list of numbers, or base64 as Go writes bytes; raises ValueError."""
    if isinstance(told, str) and len(told) <= 2 * ATTRIBUTE_LIMIT:
        try:
            return bounded(base64.b64decode(told, validate=True))
        except binascii.Error:
            pass
    elif isinstance(told, str):
        raise ValueError(f"{what} has {len(told)} letters; a characteristic holds {ATTRIBUTE_LIMIT} bytes at most")
    if isinstance(told, list) and all(isinstance(item, int) and 0 <= item <= 255 for item in told):
        return bounded(bytes(told))
    raise ValueError(f"{what} is {shown(told)}, no list of numbers from 0 to 255, as [1, 255]")


def structure(config: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """An object, also written as JSON text, as stock edges let no objects pass in configData; raises ValueError."""
    told = config.get(name)
    if isinstance(told, str) and len(told) <= 65536:
        try:
            told = msgspec.json.decode(told)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"{name} is no JSON: {error}") from None
    if told is None or isinstance(told, dict):
        return told
    raise ValueError(f"{name} is {shown(told)}, not an object")


def bounded(data: bytes) -> bytes:
    """Raises ValueError for more than a characteristic holds."""
    if len(data) > ATTRIBUTE_LIMIT:
        raise ValueError(f"{len(data)} bytes do not fit into a characteristic, which holds {ATTRIBUTE_LIMIT} at most")
    return data


def shown(told: Any) -> str:
    """However long it is, some of it."""
    text = repr(told[:80] if isinstance(told, str | bytes | list) else told)
    return text if len(text) <= 80 else f"{text[:80]}..."


def listed(names: Mapping[str, Any] | list[str]) -> str:
    """The first few of them."""
    some = [name[:40] for name in list(names)[:12]]
    return ", ".join(some + ["..."] * (len(names) > len(some))) or "none"


def _done(number: float, operations: Sequence[_Operation]) -> float:
    try:
        for name, by in operations:
            number = _DO[name](number, by)
        if math.isfinite(number):
            return number
    except OverflowError:
        pass
    raise ValueError("orderOfOperations leads beyond all numbers")


def _plain_value(visitor: Visitor, data: bytes) -> Value:
    """As Bluetooth has numbers: the lowest byte first."""
    if visitor.type == "BYTES":
        return data
    if visitor.type in ("STRING", "STREAM"):
        try:
            return data.decode().rstrip("\0")
        except UnicodeDecodeError:
            raise ValueError(f"the device has {shown(data.hex())}, which is no text; use type BYTES") from None
    if visitor.type == "BOOLEAN":
        return any(data)
    if not 1 <= len(data) <= NUMBER_LIMIT:
        raise ValueError(f"the device has {len(data)} bytes; pick those of the number with dataConverter")
    if visitor.type in ("FLOAT", "DOUBLE") and len(data) in _FLOATS:
        number: float = _FLOATS[len(data)].unpack(data)[0]
        return number
    return int.from_bytes(data, "little", signed=visitor.config.get("signed") is True)


def _plain_data(visitor: Visitor, value: Value) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, float):
        return _float_bytes(value, 4 if visitor.type == "FLOAT" else 8)
    size, signed = visitor.config.get("length"), visitor.config.get("signed") is True
    if size is None:
        bits = int(value).bit_length() + signed
        size = next((size for size in _SIZES if bits <= 8 * size), NUMBER_LIMIT)
    if not isinstance(size, int) or not 1 <= size <= NUMBER_LIMIT:
        raise ValueError(f"length {shown(size)} is no number from 1 to {NUMBER_LIMIT}")
    return _bytes_of(int(value), size, signed, "little")


def _float_bytes(number: float, size: int) -> bytes:
    try:
        packed: bytes = _FLOATS[size].pack(number)
    except OverflowError:
        raise ValueError(f"{number} does not fit into {size} bytes") from None
    return packed


def _bytes_of(whole: int, size: int, signed: bool, order: Any) -> bytes:
    try:
        data: bytes = whole.to_bytes(size, order, signed=signed)
    except OverflowError:
        why = "; say signed: true" if whole < 0 and not signed else ""
        raise ValueError(f"{whole} does not fit into {size} bytes{why}") from None
    return data


def _operations(told: Any) -> tuple[_Operation, ...]:
    if not isinstance(told or [], list) or len(told or []) > 16:
        raise ValueError(f"orderOfOperations {shown(told)} is no list of at most 16 operations")
    return tuple(_operation(item) for item in told or [])


def _operation(told: Any) -> _Operation:
    name, by = (told.get("operationType"), told.get("operationValue")) if isinstance(told, dict) else (None, None)
    if str(name).lower() not in _DO:
        raise ValueError(f"operationType {shown(name)} is none of Add, Subtract, Multiply, Divide")
    if not isinstance(by, int | float) or isinstance(by, bool) or not math.isfinite(by):
        raise ValueError(f"operationValue {shown(by)} of {name} is no number")
    if by == 0 and str(name).lower() == "divide":
        raise ValueError("operationValue 0 of Divide: nothing can be divided by it")
    return str(name).lower(), by


def _index(told: Mapping[str, Any], name: str, limit: int = ATTRIBUTE_LIMIT - 1) -> int:
    found = told.get(name, 0)
    if not isinstance(found, int) or not 0 <= found <= limit:
        raise ValueError(f"dataConverter: {name} {shown(found)} is no number from 0 to {limit}")
    return found
