"""What the built-in kinds are made of: JSON names, protobuf numbers, types and strategic-merge keys.

A reader over the packaged facts table `kubernetes-fields-1.32.json.gz`, for the decoders, patches and
validators of the API server. Nothing is loaded until the first question, and a type's fields are decoded
only when that type is asked for; it never knows custom resources.
"""

import gzip
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Final

import msgspec

_TABLE: Final = "kubernetes-fields-1.32.json.gz"
_META: Final = "k8s.io/apimachinery/pkg/apis/meta/v1."

TIME: Final = _META + "Time"
MICRO_TIME: Final = _META + "MicroTime"
DURATION: Final = _META + "Duration"
FIELDS_V1: Final = _META + "FieldsV1"
QUANTITY: Final = "k8s.io/apimachinery/pkg/api/resource.Quantity"
INT_OR_STRING: Final = "k8s.io/apimachinery/pkg/util/intstr.IntOrString"
RAW_EXTENSION: Final = "k8s.io/apimachinery/pkg/runtime.RawExtension"
#: Types whose JSON form is not what their fields say.
SPECIAL: Final = frozenset({TIME, MICRO_TIME, DURATION, FIELDS_V1, QUANTITY, INT_OR_STRING, RAW_EXTENSION})
SCALARS: Final = frozenset({"string", "bytes", "bool", "int32", "int64", "float64", "float32"})


class Field(msgspec.Struct, frozen=True, rename={"name": "j", "type": "t", "tag": "n", "omit_empty": "o"}):
    """One field of a type, as the table writes it."""

    name: str
    type: str
    tag: str = ""
    omit_empty: bool = False
    strategies: str = msgspec.field(default="", name="s")
    merge_key: str = msgspec.field(default="", name="k")

    @property
    def number(self) -> int:
        """The protobuf field number; 0 for fields that are not on the wire."""
        parts = self.tag.split(",")
        return int(parts[1]) if len(parts) > 1 else 0

    @property
    def is_pointer(self) -> bool:
        return self.type.startswith("*")

    @property
    def merges(self) -> bool:
        """Whether strategic merge patch merges this list instead of replacing it."""
        return "merge" in self.strategies.split(",")

    @property
    def retains_keys(self) -> bool:
        return "retainKeys" in self.strategies.split(",")


def container_of(type_name: str) -> tuple[str, str]:
    """Split one layer off: `[]T` is ("list", T), `map:T` ("map", T), `items:T` ("items", T), else ("", T)."""
    type_name = type_name.lstrip("*")
    for prefix, container in (("[]", "list"), ("map:", "map"), ("items:", "items")):
        if type_name.startswith(prefix):
            return container, type_name[len(prefix) :].lstrip("*")
    return "", type_name


class TypeInfo:
    """The fields of one type."""

    def __init__(self, name: str, fields: tuple[Field, ...]) -> None:
        self.name = name
        self.fields = fields

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Fields by JSON name, those of inlined types included."""
        found: dict[str, Field] = {}
        for field in self.fields:
            if field.name == "":
                inlined = type_named(container_of(field.type)[1])
                found |= inlined.by_name if inlined else {}
            elif field.name != "-":
                found[field.name] = field
        return found

    @cached_property
    def by_number(self) -> dict[int, Field]:
        """Fields by protobuf number; an inlined type is a message of its own there."""
        return {field.number: field for field in self.fields if field.number}


class _Table(msgspec.Struct):
    gvk: dict[str, str]
    types: dict[str, msgspec.Raw]


_fields_decoder = msgspec.json.Decoder(list[Field] | None)


@lru_cache(maxsize=1)
def _table() -> _Table:
    packed = files("edgehive.kube").joinpath(_TABLE).read_bytes()
    return msgspec.json.decode(gzip.decompress(packed), type=_Table)


@lru_cache(maxsize=1024)
def type_named(name: str) -> TypeInfo | None:
    """The type of that name; None for scalars and unknown names."""
    raw = _table().types.get(name)
    if raw is None:
        return None
    return TypeInfo(name, tuple(_fields_decoder.decode(raw) or ()))


def type_of(api_version: str, kind: str) -> TypeInfo | None:
    """The type behind `apps/v1`, `Deployment`; None for kinds the table does not hold (custom resources)."""
    name = _table().gvk.get(f"{api_version}/{kind}")
    return type_named(name) if name else None
