"""Kubernetes protobuf request bodies to plain JSON objects, for the API server's write verbs.

kubectl and every typed Go client since 1.32 send them. Driven by the field table; answers are never
encoded this way. Bytes come from the network: whatever they hold, the outcome is an object or `BadRequest`.
Go: apimachinery/pkg/runtime/serializer/protobuf/protobuf.go
"""

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from edgehive.kit.clock import rfc3339, rfc3339_micro
from edgehive.kube import fields
from edgehive.kube.errors import BadRequest
from edgehive.kube.fields import Field, TypeInfo

MAGIC: Final = b"k8s\x00"
_MAX_DEPTH: Final = 64
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Value = int | bytes


class _Malformed(Exception):
    """The bytes are not the protobuf they claim to be."""


def decode_body(data: bytes) -> tuple[str, str, dict[str, Any]]:
    """apiVersion, kind and the object of a `k8s\\0` envelope; the object carries both fields too."""
    if not data.startswith(MAGIC):
        raise BadRequest("the body is not Kubernetes protobuf: it does not start with the bytes 'k8s\\0'")
    try:
        return _decode_envelope(data[len(MAGIC) :], _MAX_DEPTH)
    except _Malformed as error:
        raise BadRequest(f"the body is not valid Kubernetes protobuf: {error}") from None


def _decode_envelope(data: bytes, depth: int) -> tuple[str, str, dict[str, Any]]:
    """`runtime.Unknown`: field 1 says what field 2 is."""
    api_version = kind = ""
    raw = b""
    for number, value in _records(data):
        if number == 1:
            names = dict(_records(_as_bytes(value)))
            api_version, kind = _text(names.get(1, b"")), _text(names.get(2, b""))
        elif number == 2:
            raw = _as_bytes(value)
    schema = fields.type_of(api_version, kind)
    if schema is None:
        raise BadRequest(f'no kind "{kind}" is registered for version "{api_version}" as protobuf; send it as JSON')
    decoded = _message(schema, raw, depth - 1)
    return api_version, kind, {"kind": kind, "apiVersion": api_version} | decoded


# ---------------------------------------------------------------- the wire


def _records(data: bytes) -> Iterator[tuple[int, Value]]:
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _Malformed("a field has the number 0")
        value: Value
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire == _BYTES:
            length, position = _varint(data, position)
            value, position = data[position : position + length], position + length
        elif wire in (_FIXED64, _FIXED32):
            width = 8 if wire == _FIXED64 else 4
            value, position = int.from_bytes(data[position : position + width], "little"), position + width
        else:
            raise _Malformed(f"field {number} has the unknown wire type {wire}")
        if position > end:
            raise _Malformed(f"field {number} is cut short")
        yield number, value


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise _Malformed("a number is cut short or too long")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def _as_bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise _Malformed("a number stands where bytes belong")
    return value


def _as_number(value: Value, bits: int = 64) -> int:
    if not isinstance(value, int):
        raise _Malformed("bytes stand where a number belongs")
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _text(value: Value) -> str:
    try:
        return _as_bytes(value).decode()
    except UnicodeDecodeError:
        raise _Malformed("a string is not valid UTF-8") from None


# ---------------------------------------------------------------- messages


def _message(schema: TypeInfo, data: bytes, depth: int) -> dict[str, Any]:
    if depth <= 0:
        raise _Malformed(f"messages nest deeper than {_MAX_DEPTH}")
    result: dict[str, Any] = {}
    for number, value in _records(data):
        field = schema.by_number.get(number)
        if field is not None and field.name != "-":
            _take(result, field, value, depth)
    return result


def _take(result: dict[str, Any], field: Field, value: Value, depth: int) -> None:
    """Put one occurrence of a field where it belongs; Go leaves zero values of plain fields out."""
    container, inner = fields.container_of(field.type)
    if container == "list":
        result.setdefault(field.name, []).extend(_elements(inner, value, depth))
    elif container == "map":
        key, item = _map_entry(inner, _as_bytes(value), depth)
        result.setdefault(field.name, {})[key] = item
    elif field.name == "":
        result |= _single(inner, value, depth) or {}
    else:
        decoded = _single(field.type if container else inner, value, depth)
        if decoded is None or (field.omit_empty and not field.is_pointer and decoded in ("", 0, False)):
            return
        result[field.name] = decoded


def _elements(inner: str, value: Value, depth: int) -> list[Any]:
    """One element, or several where numbers are packed."""
    if isinstance(value, bytes) and inner in ("int32", "int64", "bool"):
        packed, position = [], 0
        while position < len(value):
            number, position = _varint(value, position)
            packed.append(_single(inner, number, depth))
        return packed
    return [_single(inner, value, depth)]


def _map_entry(inner: str, data: bytes, depth: int) -> tuple[str, Any]:
    entry = dict(_records(data))
    key = _text(entry.get(1, b""))
    if 2 in entry:
        return key, _single(inner, entry[2], depth)
    return key, _single(inner, 0 if inner in ("int32", "int64", "bool") else b"", depth)


def _single(inner: str, value: Value, depth: int) -> Any:
    scalar = _SCALARS.get(inner)
    if scalar is not None:
        return scalar(value)
    special = _SPECIAL.get(inner)
    if special is not None:
        return special(_as_bytes(value), depth)
    container, element = fields.container_of(inner)
    if container == "items":
        return [_single(element, item, depth) for number, item in _records(_as_bytes(value)) if number == 1]
    schema = fields.type_named(inner)
    return _message(schema, _as_bytes(value), depth - 1) if schema else None


def _base64(value: Value) -> str:
    return base64.b64encode(_as_bytes(value)).decode()


# ---------------------------------------------------------------- types with a JSON form of their own


def _instant(data: bytes) -> datetime | None:
    parts = dict(_records(data))
    seconds, nanos = _as_number(parts.get(1, 0)), _as_number(parts.get(2, 0), 32)
    if seconds == 0 and nanos == 0:
        return None
    try:
        return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    except OverflowError:
        raise _Malformed("a time is outside the years 1 to 9999") from None


def _time(data: bytes, _: int) -> str | None:
    instant = _instant(data)
    return rfc3339(instant) if instant else None


def _micro_time(data: bytes, _: int) -> str | None:
    instant = _instant(data)
    return rfc3339_micro(instant) if instant else None


def _quantity(data: bytes, _: int) -> str:
    return _text(dict(_records(data)).get(1, b"0")) or "0"


def _int_or_string(data: bytes, _: int) -> int | str:
    parts = dict(_records(data))
    if _as_number(parts.get(1, 0)) == 1:
        return _text(parts.get(3, b""))
    return _as_number(parts.get(2, 0), 32)


def _embedded(data: bytes, depth: int) -> Any:
    """RawExtension: JSON in most cases, an envelope of its own in the others."""
    raw = _as_bytes(dict(_records(data)).get(1, b""))
    if raw.startswith(MAGIC):
        return _decode_envelope(raw[len(MAGIC) :], depth - 1)[2]
    return _json(raw)


def _fields_v1(data: bytes, _: int) -> Any:
    return _json(_as_bytes(dict(_records(data)).get(1, b"")))


def _json(raw: bytes) -> Any:
    if not raw:
        return None
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        raise _Malformed("an embedded document is not JSON") from None


def _duration(data: bytes, _: int) -> str:
    return go_duration(_as_number(dict(_records(data)).get(1, 0)))


def go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: `1h0m0s`, `1.5s`, `300ms`."""
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if rest < size * 1000:
            return f"{sign}{_decimal(rest, size)}{unit}"
    minutes, rest = divmod(rest, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{head}{_decimal(rest, 1_000_000_000)}s"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}" if part else str(whole)


_SCALARS: Final[dict[str, Any]] = {
    "string": _text,
    "bytes": _base64,
    "bool": lambda value: _as_number(value) != 0,
    "int32": lambda value: _as_number(value, 32),
    "int64": _as_number,
}
_SPECIAL: Final[dict[str, Any]] = {
    fields.TIME: _time,
    fields.MICRO_TIME: _micro_time,
    fields.QUANTITY: _quantity,
    fields.INT_OR_STRING: _int_or_string,
    fields.RAW_EXTENSION: _embedded,
    fields.FIELDS_V1: _fields_v1,
    fields.DURATION: _duration,
}
