"""What reports of a device's values amount to, and what its status says afterwards. Pure.

Reports are merged until they can be written: of each value the newest is kept. A report may come again, and late, so
every value carries a mark; one that is older by its counters and by its time has been overtaken and changes nothing.

Go: cloud/pkg/devicecontroller/controller/upstream.go
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from edgehive.wire.devices import Twin, TwinValue, TwinVersion

#: The two values of a property, as DeviceStatus calls them.
REPORTED, OBSERVED_DESIRED = "reported", "observedDesired"

#: Of which property, and which of its two values.
Slot = tuple[str, str]
Json = dict[str, Any]


class Mark(NamedTuple):
    """When and as which change the edge took a value; `version` None when only the time is known."""

    timestamp: int = 0
    version: TwinVersion | None = None


class Value(NamedTuple):
    """One value as DeviceStatus holds it, and its mark."""

    content: Json
    mark: Mark


def values_of(twins: Mapping[str, Twin | None], properties: Iterable[str]) -> dict[Slot, Value]:
    """The values a report holds for properties the device has. What was deleted at the edge says nothing."""
    found: dict[Slot, Value] = {}
    for name in properties:
        twin = twins.get(name)
        if twin is None:
            continue
        type = twin.metadata.type if twin.metadata is not None else None
        for kind, value, version in (
            (REPORTED, twin.actual, twin.actual_version),
            (OBSERVED_DESIRED, twin.expected, twin.expected_version),
        ):
            if value is not None and value.value is not None:
                found[name, kind] = _value(value, value.value, type, version)
    return found


def _value(value: TwinValue, text: str, type: str | None, version: TwinVersion | None) -> Value:
    metadata: dict[str, str] = {}
    timestamp = value.metadata.timestamp if value.metadata is not None else 0
    if value.metadata is not None:
        metadata["timestamp"] = str(timestamp)
    if type is not None:
        metadata["type"] = type
    return Value({"value": text, "metadata": metadata}, Mark(timestamp, version))


def overtaken(mark: Mark, last: Mark | None) -> bool:
    """Whether what carries `mark` is older than what carries `last`: by its time, and no newer by its counters."""
    if last is None or mark.timestamp >= last.timestamp:
        return False
    if last.version is None or mark.version is None:
        return True
    return mark.version.cloud <= last.version.cloud and mark.version.edge <= last.version.edge


def marks_of(twins: Iterable[Json]) -> dict[Slot, Mark]:
    """The marks of values that are in a status already."""
    marks: dict[Slot, Mark] = {}
    for twin in twins:
        for kind in (REPORTED, OBSERVED_DESIRED):
            timestamp = ((twin.get(kind) or {}).get("metadata") or {}).get("timestamp", "")
            if timestamp.isdecimal():
                marks[twin.get("propertyName", ""), kind] = Mark(int(timestamp))
    return marks


def with_values(twins: Iterable[Json], values: Mapping[Slot, Value], properties: Iterable[str]) -> list[Json]:
    """The twins of a status after these values, in the order of the device's properties and no others."""
    known = {str(twin.get("propertyName", "")): twin for twin in twins}
    after: list[Json] = []
    for name in dict.fromkeys(properties):
        news = {kind: values[name, kind].content for kind in (REPORTED, OBSERVED_DESIRED) if (name, kind) in values}
        if news or name in known:
            after.append(known.get(name, {"propertyName": name}) | news)
    return after


class _Status(msgspec.Struct):
    twins: list[Json] | None = None
    state: str = ""
    last_online_time: str = msgspec.field(default="", name="lastOnlineTime")


class StatusDocument(msgspec.Struct):
    """As much of a DeviceStatus as is written again."""

    status: _Status = msgspec.field(default_factory=_Status)
