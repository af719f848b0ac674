"""The pieces structural schemas are made of, for whoever writes a CustomResourceDefinition. Pure."""

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
NUMBER: Final[Json] = {"type": "integer"}
INT32: Final[Json] = {"type": "integer", "format": "int32"}
INT64: Final[Json] = {"type": "integer", "format": "int64"}
REAL: Final[Json] = {"type": "number"}
FLAG: Final[Json] = {"type": "boolean"}
TEXTS: Final[Json] = {"type": "object", "additionalProperties": TEXT}
#: What belongs to somebody else: kept as it was written.
OPEN: Final[Json] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
#: A reference to an object of the same namespace.
REFERENCE: Final[Json] = {
    "type": "object",
    "properties": {"name": TEXT | {"default": ""}},
    "x-kubernetes-map-type": "atomic",
}


def struct(required: tuple[str, ...] = (), **properties: Mapping[str, Any]) -> Json:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def array(items: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": items}


def one_of(*values: str | int) -> Json:
    """An enumeration of texts or of 64-bit numbers."""
    return (TEXT if isinstance(values[0], str) else INT64) | {"enum": list(values)}


def column(name: str, path: str, type: str = "string", *, wide: bool = False, description: str = "") -> Json:
    """A column of `kubectl get`."""
    return (
        {"name": name, "type": type, "jsonPath": path}
        | ({"priority": 1} if wide else {})
        | ({"description": description} if description else {})
    )
