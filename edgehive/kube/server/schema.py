"""Structural schemas of custom resources: prune what they do not name, fill in defaults, judge the rest. Pure.

The three walks run in that order on every write. apiVersion, kind and metadata belong to the server and are
never pruned. CEL rules are not evaluated here.

Go: apiextensions-apiserver/pkg/apiserver/schema/{pruning,defaulting,listtype}, kube-openapi/pkg/validation
"""

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from edgehive.api.meta import StatusCause
from edgehive.kube.server import formats
from edgehive.kube.server.field_errors import FieldErrors, shown

Json = Mapping[str, Any]

PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
_EMBEDDED: Final = "x-kubernetes-embedded-resource"
INT_OR_STRING: Final = "x-kubernetes-int-or-string"
#: Where Kubernetes puts what is wrong with a combination of schemas.
_NOWHERE: Final = "<nil>"
_ENVELOPE: Final = frozenset({"apiVersion", "kind", "metadata"})
TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")


# ---------------------------------------------------------------- pruning and defaulting


def prune(schema: Json, obj: dict[str, Any]) -> list[str]:
    """Take out in place what the schema does not name; answers the paths of what went."""
    gone: list[str] = []
    _prune(schema, obj, "", gone, is_resource=True)
    return gone


def _prune(schema: Json, value: Any, path: str, gone: list[str], *, is_resource: bool = False) -> None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            _prune(schema.get("items") or {}, item, f"{path}[{index}]", gone)
    elif isinstance(value, dict):
        kept = _ENVELOPE if is_resource or schema.get(_EMBEDDED) else frozenset()
        for name in list(value):
            at = f"{path}.{name}" if path else name
            below = _below(schema, name)
            if name in kept:
                continue
            if below is not None:
                _prune(below, value[name], at, gone)
            elif not schema.get(PRESERVE):
                del value[name]
                gone.append(at)


def _below(schema: Json, name: str) -> Json | None:
    """The schema of a property; an empty one where anything goes, None where it has no place."""
    properties = schema.get("properties") or {}
    if name in properties:
        found: Json = properties[name]
        return found
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        return extra
    return {PRESERVE: True} if extra is True else None


def default(schema: Json, value: Any) -> None:
    """Fill in defaults in place, at every level that is there."""
    if isinstance(value, list):
        for item in value:
            default(schema.get("items") or {}, item)
    if not isinstance(value, dict):
        return
    for name, below in (schema.get("properties") or {}).items():
        if "default" in below and (name not in value or (value[name] is None and not below.get("nullable"))):
            value[name] = copy.deepcopy(below["default"])
        if name in value:
            default(below, value[name])
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        for name in value.keys() - (schema.get("properties") or {}).keys():
            default(extra, value[name])


# ---------------------------------------------------------------- validation


def validate(schema: Json, obj: Json) -> list[StatusCause]:
    """Every way the object breaks its schema."""
    errors = FieldErrors()
    _validate(errors, schema, obj, "")
    return errors.causes


def _validate(errors: FieldErrors, schema: Json, value: Any, path: str) -> None:
    if value is None and (schema.get("nullable") or "type" not in schema):
        return
    if not _check_type(errors, schema, value, path):
        return
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        errors.not_supported(path, value, allowed)
    if isinstance(value, str):
        _check_string(errors, schema, value, path)
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int | float):
        _check_number(errors, schema, value, path)
    elif isinstance(value, list):
        _check_list(errors, schema, value, path)
    elif isinstance(value, Mapping):
        _check_object(errors, schema, value, path)
    _check_logic(errors, schema, value, path)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    return {float: "number", str: "string", list: "array", dict: "object"}.get(type(value), "null")


def _check_type(errors: FieldErrors, schema: Json, value: Any, path: str) -> bool:
    kind = _kind(value)
    if schema.get(INT_OR_STRING):
        wanted: tuple[str, ...] = ("integer", "string")
    else:
        wanted = (schema["type"],) if schema.get("type") else TYPES
    if kind in wanted or (kind == "integer" and "number" in wanted):
        return True
    if kind == "number" and "integer" in wanted and float(value).is_integer():
        return True
    errors.invalid(path, kind, f'{_place(path)} must be of type {",".join(wanted)}: "{kind}"')
    return False


def _place(path: str) -> str:
    return f"{path} in body"


def _check_string(errors: FieldErrors, schema: Json, value: str, path: str) -> None:
    if len(value) < (schema.get("minLength") or 0):
        errors.invalid(path, value, f"{_place(path)} should be at least {schema['minLength']} chars long")
    if schema.get("maxLength") is not None and len(value) > schema["maxLength"]:
        text = f"Too long: may not be more than {schema['maxLength']} bytes"
        errors.causes.append(StatusCause("FieldValueTooLong", text, path))
    pattern = schema.get("pattern")
    if pattern and not _compiled(pattern).search(value):
        errors.invalid(path, value, f"{_place(path)} should match '{pattern}'")
    form = schema.get("format")
    if form and schema.get("type", "string") == "string" and not formats.fits(form, value):
        errors.invalid(path, value, f"{_place(path)} must be of type {form}: {shown(value)}")


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error:
        return re.compile("")


def _check_number(errors: FieldErrors, schema: Json, value: float, path: str) -> None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low):
        words = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        errors.invalid(path, value, f"{_place(path)} should be {words} {low}")
    if high is not None and (value >= high if schema.get("exclusiveMaximum") else value > high):
        words = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        errors.invalid(path, value, f"{_place(path)} should be {words} {high}")
    if schema.get("multipleOf") and value % schema["multipleOf"]:
        errors.invalid(path, value, f"{_place(path)} should be a multiple of {schema['multipleOf']}")


def _check_list(errors: FieldErrors, schema: Json, value: list[Any], path: str) -> None:
    if len(value) < (schema.get("minItems") or 0):
        errors.invalid(path, len(value), f"{_place(path)} should have at least {schema['minItems']} items")
    if schema.get("maxItems") is not None and len(value) > schema["maxItems"]:
        _too_many(errors, path, len(value), schema["maxItems"])
    for index, item in enumerate(value):
        _validate(errors, schema.get("items") or {}, item, f"{path}[{index}]")
    _check_unique(errors, schema, value, path)


def _too_many(errors: FieldErrors, path: str, count: int, most: int) -> None:
    text = f"Too many: {count}: must have at most {most} item{'' if most == 1 else 's'}"
    errors.causes.append(StatusCause("FieldValueTooMany", text, path))


def _check_unique(errors: FieldErrors, schema: Json, value: list[Any], path: str) -> None:
    """`x-kubernetes-list-type` set and map."""
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    if kind not in ("set", "map"):
        return
    seen: set[str] = set()
    for index, item in enumerate(value):
        identity = {key: item.get(key) for key in keys} if kind == "map" and isinstance(item, Mapping) else item
        if shown(identity) in seen:
            errors.duplicate(f"{path}[{index}]", identity)
        seen.add(shown(identity))


def _check_object(errors: FieldErrors, schema: Json, value: Json, path: str) -> None:
    missing = {name for name in schema.get("required") or () if not _is_there(schema, value, name)}
    for name in schema.get("required") or ():
        if name in missing:
            errors.required(f"{path}.{name}" if path else name)
    if len(value) < (schema.get("minProperties") or 0):
        errors.invalid(path, len(value), f"{_place(path)} should have at least {schema['minProperties']} properties")
    if schema.get("maxProperties") is not None and len(value) > schema["maxProperties"]:
        _too_many(errors, path, len(value), schema["maxProperties"])
    for name, item in value.items():
        below = _below(schema, name)
        if below is not None and name not in missing and not (path == "" and name in _ENVELOPE):
            _validate(errors, below, item, f"{path}.{name}" if path else name)


def _is_there(schema: Json, value: Json, name: str) -> bool:
    """A null counts as nothing where the property may not be null."""
    return name in value and (value[name] is not None or bool((_below(schema, name) or {}).get("nullable")))


def _check_logic(errors: FieldErrors, schema: Json, value: Any, path: str) -> None:
    for part in schema.get("allOf") or ():
        _validate(errors, part, value, path)
    if schema.get("anyOf") and not schema.get(INT_OR_STRING) and not _fitting(schema["anyOf"], value):
        errors.invalid(_NOWHERE, "", f'"{path}" must validate at least one schema (anyOf)')
    if schema.get("oneOf"):
        fitting = _fitting(schema["oneOf"], value)
        if fitting != 1:
            found = "Found none valid" if fitting == 0 else f"Found {fitting} valid alternatives"
            errors.invalid(_NOWHERE, "", f'"{path}" must validate one and only one schema (oneOf). {found}')
    if schema.get("not") and _fitting([schema["not"]], value):
        errors.invalid(_NOWHERE, "", f'"{path}" must not validate the schema (not)')


def _fitting(alternatives: list[Json], value: Any) -> int:
    found = 0
    for part in alternatives:
        errors = FieldErrors()
        _validate(errors, part, value, "")
        found += not errors.causes
    return found
