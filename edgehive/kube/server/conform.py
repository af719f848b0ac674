"""Bring a decoded object into the shape its built-in kind has: the typed round trip a Go server does. Pure.

Unknown fields drop out and are named, nulls and empty optional fields drop out, wrong JSON types are
refused in the words of Go's decoder, quantities take their canonical spelling, embedded structs are there
even when empty. Custom resources have schemas instead.

Go: sigs.k8s.io/json, apimachinery/pkg/runtime/serializer/json
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from edgehive.kit.clock import parse_rfc3339
from edgehive.kube import fields, quantity
from edgehive.kube.errors import BadRequest
from edgehive.kube.fields import Field, TypeInfo

Json = dict[str, Any]

_RANGES: Final = {"int32": 2**31, "int64": 2**63}
_EMPTY: Final[tuple[Any, ...]] = ("", 0, False, [], {})


class _WrongType(Exception):
    """The text Go's decoder would give."""


def conform(api_version: str, kind: str, obj: Mapping[str, Any]) -> tuple[Json, list[str]]:
    """The object as its kind holds it, and a line for each unknown field; raises BadRequest for wrong types."""
    schema = fields.type_of(api_version, kind)
    if schema is None:
        return dict(obj), []
    walker = _Walker()
    try:
        return walker.struct(schema, obj, ""), walker.problems
    except (_WrongType, RecursionError) as error:
        version = api_version.rpartition("/")[2]
        raise BadRequest(f'{kind} in version "{version}" cannot be handled as a {kind}: {error}') from None


def empty_status(api_version: str, kind: str) -> Json | None:
    """The status of a built-in object nobody has looked after yet; None for kinds without one."""
    schema = fields.type_of(api_version, kind)
    field = schema.by_name.get("status") if schema is not None else None
    below = fields.type_named(field.type) if field is not None else None
    if below is None:
        return None
    status: Json = {}
    _add_embedded(below, status)
    return status


def strict_error(api_version: str, kind: str, problems: list[str]) -> BadRequest:
    """What fieldValidation=Strict answers."""
    version = api_version.rpartition("/")[2]
    listed = ", ".join(problems)
    return BadRequest(f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {listed}')


def duplicate_fields(raw: bytes) -> list[str]:
    """`duplicate field "spec.a"` for every key that stands twice in a JSON document; none for broken JSON."""
    try:
        value = json.loads(raw, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return []
    return list(dict.fromkeys(_duplicates(value, "")))


class _Pairs(list[tuple[str, Any]]):
    """An object that still knows what stood twice."""


def _duplicates(value: Any, path: str) -> list[str]:
    found: list[str] = []
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, below in value:
            at = f"{path}.{key}" if path else key
            found += [f'duplicate field "{at}"'] if key in seen else []
            seen.add(key)
            found += _duplicates(below, at)
    elif isinstance(value, list):
        for index, below in enumerate(value):
            found += _duplicates(below, f"{path}[{index}]")
    return found


class _Walker:
    def __init__(self) -> None:
        self.problems: list[str] = []

    def struct(self, schema: TypeInfo, obj: Mapping[str, Any], path: str, stack: str = "") -> Json:
        result: Json = {}
        known = schema.by_name
        for key, item in obj.items():
            field = known.get(key)
            at = f"{path}.{key}" if path else key
            if field is None:
                self.problems.append(f'unknown field "{at}"')
            elif item is not None:
                where = f"{stack}.{key}" if stack else key
                value = self._value(field.type, item, at, _Place(schema, field, where))
                if not (field.omit_empty and not field.is_pointer and _is_empty(value, field)):
                    result[key] = value
        _add_embedded(schema, result)
        return result

    def _value(self, type_name: str, item: Any, path: str, place: "_Place") -> Any:
        container, inner = fields.container_of(type_name)
        if container in ("list", "items"):
            if not isinstance(item, list):
                raise place.wrong(item, type_name)
            return [self._value(inner, below, f"{path}[{index}]", place) for index, below in enumerate(item)]
        if container == "map":
            if not isinstance(item, Mapping):
                raise place.wrong(item, type_name)
            return {key: self._value(inner, below, f"{path}.{key}", place) for key, below in item.items()}
        if inner in _CHECKS:
            return _CHECKS[inner](item, place)
        schema = fields.type_named(inner)
        if schema is None:
            return item
        if not isinstance(item, Mapping):
            if item is None:
                return {}
            raise place.wrong(item, type_name)
        return self.struct(schema, item, path, place.stack)


class _Place:
    """Where a value stands, for Go's message."""

    __slots__ = ("field", "schema", "stack")

    def __init__(self, schema: TypeInfo, field: Field, stack: str) -> None:
        self.schema, self.field, self.stack = schema, field, stack

    def wrong(self, item: Any, type_name: str = "") -> _WrongType:
        struct = self.schema.name.rpartition(".")[2]
        target = _go_type(type_name or self.field.type, self.field)
        return _WrongType(
            f"json: cannot unmarshal {_json_kind(item)} into Go struct field {struct}.{self.stack} of type {target}"
        )


def _json_kind(item: Any) -> str:
    if isinstance(item, bool):
        return "bool"
    if isinstance(item, int | float):
        return "number" if isinstance(item, int) else f"number {item}"
    return "string" if isinstance(item, str) else "array" if isinstance(item, list) else "object"


def _go_type(type_name: str, field: Field) -> str:
    container, inner = fields.container_of(type_name)
    if container == "map":
        return f"map[string]{_go_type(inner, field)}"
    if container:
        return f"[]{_go_type(inner, field)}"
    cast = next((part[9:] for part in field.tag.split(",") if part.startswith("casttype=")), "")
    if inner == "string" and cast:
        return cast.rpartition("/")[2] if "/" in cast else f"v1.{cast}"
    if inner == "bytes":
        return "[]uint8"
    return inner.rpartition("/")[2]


def _is_empty(value: Any, field: Field) -> bool:
    container, inner = fields.container_of(field.type)
    is_struct = not container and inner not in _CHECKS and inner not in fields.SPECIAL
    return not is_struct and value in _EMPTY and type(value) in (str, int, bool, list, dict)


def _add_embedded(schema: TypeInfo, result: Json) -> None:
    """Go writes structs that are not pointers even when they are empty, and plain required scalars as zero."""
    for name, field in schema.by_name.items():
        if name in result or field.is_pointer or name in ("kind", "apiVersion"):
            continue
        container, inner = fields.container_of(field.type)
        if container or inner in fields.SPECIAL:
            continue
        if inner in _ZERO:
            if not field.omit_empty:
                result[name] = _ZERO[inner]
        elif (below := fields.type_named(inner)) is not None:
            embedded: Json = {}
            _add_embedded(below, embedded)
            result[name] = embedded


_ZERO: Final[dict[str, Any]] = {"string": "", "int32": 0, "int64": 0, "bool": False}


def _text(item: Any, place: _Place) -> str:
    if not isinstance(item, str):
        raise place.wrong(item, "string")
    return item


def _bytes(item: Any, place: _Place) -> str:
    text = _text(item, place)
    stray = next((index for index, letter in enumerate(text) if not (letter.isalnum() or letter in "+/=\r\n")), None)
    if stray is not None or len(text.replace("\n", "").replace("\r", "")) % 4:
        at = stray if stray is not None else len(text)
        raise _WrongType(f"illegal base64 data at input byte {at}")
    return text


def _boolean(item: Any, place: _Place) -> bool:
    if not isinstance(item, bool):
        raise place.wrong(item, "bool")
    return item


def _integer(bits: str) -> Any:
    limit = _RANGES[bits]

    def check(item: Any, place: _Place) -> int:
        if isinstance(item, float) and item.is_integer() and abs(item) < 2**53:
            item = int(item)
        if isinstance(item, bool) or not isinstance(item, int):
            raise place.wrong(item, bits)
        if not -limit <= item < limit:
            raise place.wrong(float(item), bits)
        return item

    return check


def _quantity(item: Any, _: _Place) -> str:
    if isinstance(item, bool) or not isinstance(item, str | int | float):
        raise _WrongType(quantity.FORMAT_TEXT)
    try:
        return quantity.canonical(item)
    except ValueError as error:
        raise _WrongType(str(error)) from None


def _int_or_string(item: Any, place: _Place) -> int | str:
    if isinstance(item, str):
        return item
    if isinstance(item, bool) or not isinstance(item, int):
        raise place.wrong(item, "int32")
    return item


def _time(item: Any, place: _Place) -> str:
    text = _text(item, place)
    try:
        parse_rfc3339(text)
    except ValueError:
        layout = "2006-01-02T15:04:05Z07:00"
        raise _WrongType(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"') from None
    return text


def _anything(item: Any, _: _Place) -> Any:
    return item


_CHECKS: Final[dict[str, Any]] = {
    "string": _text,
    "bytes": _bytes,
    "bool": _boolean,
    "int32": _integer("int32"),
    "int64": _integer("int64"),
    "interface": _anything,
    fields.TIME: _time,
    fields.MICRO_TIME: _time,
    fields.QUANTITY: _quantity,
    fields.INT_OR_STRING: _int_or_string,
    fields.RAW_EXTENSION: _anything,
    fields.FIELDS_V1: _anything,
    fields.DURATION: _text,
}
