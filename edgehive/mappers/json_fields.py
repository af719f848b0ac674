"""A value out of a JSON document, and one put into a text: what the HTTP and MQTT drivers have in common. Pure."""

from typing import Any

import msgspec

from edgehive.mapper import Value


def value_in(body: bytes, field: str) -> Value:
    """The field `a.b.0` of a JSON document, or the whole text without a field; raises ValueError."""
    if not field:
        return body.decode("utf-8", "replace").strip()
    try:
        found: Any = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ValueError(f"the answer is no JSON: {error}") from None
    for name in field.split("."):
        found = _step(found, name, field)
    if not isinstance(found, bool | int | float | str):
        raise ValueError(f"field {field!r} is {type(found).__name__}, not a single value")
    return found


def filled(template: str, value: Value) -> bytes:
    """The text with `{value}` in it replaced, as JSON writes the value; without a template the value as plain text."""
    if not template:
        text = value if isinstance(value, str) else value.hex() if isinstance(value, bytes) else _json(value)
        return text.encode()
    return template.replace("{value}", _json(value.hex() if isinstance(value, bytes) else value)).encode()


def _json(value: Value) -> str:
    return msgspec.json.encode(value).decode()


def _step(found: Any, name: str, field: str) -> Any:
    if isinstance(found, dict) and name in found:
        return found[name]
    if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
        return found[int(name)]
    raise ValueError(f"the answer has no field {field!r}: {name!r} is not there")
