"""A property's value between its type and the text that travels. Pure.

Desired values arrive as text and are checked here before a driver sees them; what a driver read becomes text here, in
letters a Go edge lets pass (`twins.py` has them). BYTES are hexadecimal digits.

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/common/dataconverter.go
"""

import math
import struct

from edgehive.api.devices import PropertyType
from edgehive.mapper.driver import Value, Visitor

#: What a type is called in the metadata of a report: edges know these and no others.
TWIN_TYPES = {
    PropertyType.INT: "int",
    PropertyType.FLOAT: "float",
    PropertyType.DOUBLE: "float",
    PropertyType.STRING: "string",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.BYTES: "string",
    PropertyType.STREAM: "string",
}
#: Characters of a value, beyond which edges refuse it.
TEXT_LIMIT = 4096

_INT64 = range(-(2**63), 2**63)
_NUMBERS = frozenset({PropertyType.INT, PropertyType.FLOAT, PropertyType.DOUBLE})
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_SINGLE = struct.Struct("<f")


def wanted(visitor: Visitor, text: str, what: str = "desired value") -> Value:
    """A value to be written, as a driver gets it; raises ValueError with a sentence."""
    try:
        value = exact(visitor.type, text)
    except ValueError as error:
        raise ValueError(f"property {visitor.property!r}: {what} {text[:80]!r} {error}") from None
    if fault := _outside(visitor, value):
        raise ValueError(f"property {visitor.property!r}: {what} {text[:80]!r} {fault}")
    return value


def exact(type: PropertyType, value: object) -> Value:
    """What was read, or text, as precisely the type; raises ValueError saying what is wrong."""
    if type is PropertyType.INT:
        return _integer(value)
    if type in (PropertyType.FLOAT, PropertyType.DOUBLE):
        return _number(value)
    if type is PropertyType.BOOLEAN:
        return _boolean(value)
    if type is PropertyType.BYTES:
        return _bytes(value)
    if not isinstance(value, str | int | float):
        raise ValueError(f"is {_kind(value)}, not text")
    text = str(value)
    if len(text) > TEXT_LIMIT:
        raise ValueError(f"has {len(text)} characters, the limit is {TEXT_LIMIT}")
    return text


def text_of(type: PropertyType, value: Value) -> str:
    """How an exact value travels."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        # A plus is a letter a Go edge refuses.
        return (_shortest_single(value) if type is PropertyType.FLOAT else repr(value)).replace("e+", "e")
    return str(value)


def limit(text: str, what: str) -> float | None:
    """A model's minimum or maximum; raises ValueError."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} {text[:80]!r} is no number")
    return number


def single(value: float) -> float:
    """The shortest decimal that is the same 32-bit float: 0.1 where 0.10000000149011612 arrived."""
    return float(_shortest_single(value))


def _shortest_single(value: float) -> str:
    try:
        rounded = _SINGLE.unpack(_SINGLE.pack(value))[0]
    except OverflowError:
        return repr(value)
    for digits in range(6, 10):
        text = f"{value:.{digits}g}"
        if _SINGLE.unpack(_SINGLE.pack(float(text)))[0] == rounded:
            return repr(float(text))
    return repr(value)


def _integer(value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value.strip(), 10)
        except ValueError:
            raise ValueError("is no whole number, and the property's type is INT") from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise ValueError(f"is {_kind(value)}, and the property's type is INT")
    if value not in _INT64:
        raise ValueError("does not fit into 64 bits")
    return int(value)


def _number(value: object) -> float:
    try:
        if not isinstance(value, int | float | str):
            raise ValueError(f"is {_kind(value)}, and the property's type is a number")
        number = float(value)
    except (ValueError, OverflowError) as error:
        if isinstance(value, str | int):
            raise ValueError("is no number, and the property's type is one") from None
        raise error
    if not math.isfinite(number):
        raise ValueError(f"is {number}, which is no number that can be sent")
    return number


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    found = _TRUTH.get(str(value).strip().lower())
    if found is None:
        raise ValueError("is neither true nor false, and the property's type is BOOLEAN")
    return found


def _bytes(value: object) -> bytes:
    if isinstance(value, bytes | bytearray):
        found = bytes(value)
    else:
        try:
            found = bytes.fromhex(str(value))
        except ValueError:
            raise ValueError("is not made of hexadecimal digits, and the property's type is BYTES") from None
    if 2 * len(found) > TEXT_LIMIT:
        raise ValueError(f"has {len(found)} bytes, the limit is {TEXT_LIMIT // 2}")
    return found


def _outside(visitor: Visitor, value: Value) -> str:
    if visitor.type not in _NUMBERS or not isinstance(value, int | float):
        return ""
    if visitor.minimum is not None and value < visitor.minimum:
        return f"is below the minimum {visitor.minimum:g}"
    if visitor.maximum is not None and value > visitor.maximum:
        return f"is above the maximum {visitor.maximum:g}"
    return ""


def _kind(value: object) -> str:
    return "nothing (None)" if value is None else f"{str(value)[:80]!r} ({type(value).__name__})"
