"""A device as `edgehive devices` shows it: Device, DeviceModel and DeviceStatus laid side by side. Pure.

What cannot be read becomes a fault of its device and hides no other. Text of devices is cleaned for the terminal here
(`shown`), since whoever reports a value may not move the reader's cursor.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import msgspec

from edgehive.api import devices as api
from edgehive.api.document import Document
from edgehive.cloudcore.devicecontroller.conditions import ConditionType
from edgehive.cloudcore.devicecontroller.desired_values import CONFLICT_ANNOTATION
from edgehive.wire.devices import Conflict

T = TypeVar("T")

NUMBERS = frozenset({api.PropertyType.INT, api.PropertyType.FLOAT, api.PropertyType.DOUBLE})
#: States in which nobody reads a device.
AWAY = frozenset({"offline", "unknown"})
#: Characters of one text in a table.
TEXT_LIMIT = 60
#: Digits of milliseconds since 1970 that are still a date.
_MILLIS_DIGITS = 14
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_conflicts = msgspec.json.Decoder(dict[str, Conflict])


class Lookup(Protocol):
    """Objects of one kind; an informer is one."""

    def get(self, name: str, namespace: str = "") -> Document | None: ...

    def items(self, namespace: str = "") -> list[Document]: ...


@dataclass(frozen=True, slots=True)
class Kinds:
    """What there is."""

    devices: Lookup
    models: Lookup
    statuses: Lookup


@dataclass(frozen=True, slots=True)
class PropertyRow:
    """One property; None for a value nobody gave. `type` is "" without a model."""

    name: str
    type: str = ""
    unit: str = ""
    desired: str | None = None
    reported: str | None = None
    reported_at: datetime | None = None
    #: The desired value that lost against the other side's.
    conflict: Conflict | None = None

    @property
    def differs(self) -> bool:
        """Whether something is desired and something else, or nothing, is reported."""
        if self.desired is None or self.reported is None:
            return self.desired is not None
        return not _equal(self.desired, self.reported, self.type)

    def age(self, now: datetime) -> timedelta | None:
        """Since when the value is what it is; edges' clocks that are ahead count as now."""
        return max(now - self.reported_at, timedelta(0)) if self.reported_at is not None else None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """One device."""

    namespace: str
    name: str
    node: str = ""
    protocol: str = ""
    model: str = ""
    state: str = ""
    properties: tuple[PropertyRow, ...] = ()
    faults: tuple[str, ...] = ()

    def stale(self, row: PropertyRow, now: datetime, after: timedelta | None) -> bool:
        """Whether the value may be no longer so: its device is away, or it is older than was allowed.

        Age alone says nothing: edges report a value again only when it is another.
        """
        if row.reported is None:
            return False
        age = row.age(now)
        is_old = after is not None and (age is None or age > after)
        return is_old or self.state in AWAY


def views(kinds: Kinds, name: str = "") -> Iterator[DeviceView]:
    """All devices, or those of that name, in the order of their names; each is read only when it is its turn."""
    chosen = [document for document in kinds.devices.items() if name in ("", document.meta.name)]
    for document in sorted(chosen, key=lambda one: (one.meta.namespace, one.meta.name)):
        yield view_of(document, kinds)


def view_of(document: Document, kinds: Kinds) -> DeviceView:
    """One device with what its model and its status say."""
    meta, faults = document.meta, list[str]()
    device = _read(document, api.Device, faults) or api.Device()
    model_name = device.spec.model_name
    model = _read(kinds.models.get(model_name, meta.namespace), api.DeviceModel, faults) if model_name else None
    if model_name and model is None and not faults:
        faults.append(f"device model {shown(model_name)} is absent")
    status = _read(kinds.statuses.get(meta.name, meta.namespace), api.DeviceStatus, faults) or api.DeviceStatus()
    protocol = device.spec.protocol.protocol_name if device.spec.protocol else ""
    return DeviceView(
        namespace=meta.namespace,
        name=meta.name,
        node=device.spec.node_name,
        protocol=protocol or (model.spec.protocol if model is not None else ""),
        model=model_name,
        state=status.status.state,
        properties=tuple(_rows(device, model or api.DeviceModel(), status)),
        faults=tuple(faults),
    )


def shown(text: str, limit: int = TEXT_LIMIT) -> str:
    """Text of unknown origin for a terminal: no control characters, and not too long."""
    clean = "".join(letter if letter.isprintable() else "·" for letter in text[: limit + 1])
    return clean if len(text) <= limit else clean[: limit - 1] + "…"


def _rows(device: api.Device, model: api.DeviceModel, status: api.DeviceStatus) -> Iterator[PropertyRow]:
    described = {one.name: one for one in model.spec.properties or ()}
    wanted = {one.name: one.desired for one in reversed(device.spec.properties or ())}
    twins = {one.property_name: one.reported for one in status.status.twins or ()}
    conflicts = conflicts_of(device)
    names = [one.name for one in device.spec.properties or ()]
    for name in dict.fromkeys([*names, *twins]):
        known = described.get(name, api.ModelProperty())
        desired, reported = wanted.get(name), twins.get(name)
        has_reported = reported is not None and bool(reported.value or reported.metadata)
        yield PropertyRow(
            name=name,
            type=known.type,
            unit=known.unit,
            desired=(desired.value or None) if desired is not None else None,
            reported=reported.value if reported is not None and has_reported else None,
            reported_at=_reported_at(reported.metadata) if reported is not None else None,
            conflict=conflicts.get(name),
        )


def conflicts_of(device: api.Device) -> Mapping[str, Conflict]:
    """Desired values that lost; none once the Device says that it is settled."""
    settled = any(
        one.type == ConditionType.DESIRED_AGREED and one.status == "True" for one in device.status.conditions or ()
    )
    text = (device.metadata.annotations or {}).get(CONFLICT_ANNOTATION, "")
    if settled or not text:
        return {}
    try:
        return _conflicts.decode(text)
    except msgspec.DecodeError:
        return {}


def _reported_at(metadata: Mapping[str, str] | None) -> datetime | None:
    text = (metadata or {}).get("timestamp", "")
    if not text.isascii() or not text.isdecimal() or len(text) > _MILLIS_DIGITS or int(text) == 0:
        return None
    return _EPOCH + timedelta(milliseconds=int(text))


def number_of(text: str) -> float | None:
    """The finite number a text is."""
    try:
        number = float(text) if len(text) <= TEXT_LIMIT else float("nan")
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None


def _equal(one: str, other: str, type: str) -> bool:
    if one == other:
        return True
    if type in NUMBERS:
        number = number_of(one)
        return number is not None and number == number_of(other)
    return type == api.PropertyType.BOOLEAN and one.lower() == other.lower()


def _read(document: Document | None, lens: type[T], faults: list[str]) -> T | None:
    if document is None:
        return None
    try:
        return document.read(lens)
    except msgspec.DecodeError as error:
        faults.append(f"{document.kind or lens.__name__} cannot be read: {shown(str(error), 200)}")
        return None
