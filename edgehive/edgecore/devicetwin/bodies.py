"""What devicetwin publishes on MQTT besides the structures both halves share (`wire/devices.py`). Pure.

Go: edge/pkg/devicetwin/dttype/types_helper.go
"""

from collections.abc import Mapping

import msgspec

from edgehive.edgecore.devicetwin import twins
from edgehive.edgecore.devicetwin.twins import Record
from edgehive.wire.devices import Attribute, Twin

_encode = msgspec.json.Encoder().encode

#: wire: the reasons a Go edge gives; applications match on them. tests/interop/test_devices_golden.py
UNREADABLE = "Unmarshal update request body failed, please check the request"
NO_TWIN = "Update twin error, key:twin does not exist"
NO_DEVICE = "update rejected due to the device is not existed"


class Asked(msgspec.Struct, frozen=True):
    """A request that is nothing but itself."""

    event_id: str = ""
    timestamp: int = 0


class StateAsked(msgspec.Struct, frozen=True):
    event_id: str = ""
    timestamp: int = 0
    state: str = ""


class AttributesSaid(msgspec.Struct, frozen=True):
    event_id: str = ""
    timestamp: int = 0
    attributes: dict[str, Attribute | None] | None = None


class _Failure(msgspec.Struct, frozen=True):
    event_id: str
    timestamp: int
    code: int
    reason: str


class _Twins(msgspec.Struct, frozen=True):
    event_id: str
    timestamp: int
    twin: dict[str, Twin | None]


class _Delta(msgspec.Struct, frozen=True):
    event_id: str
    timestamp: int
    twin: dict[str, Twin | None]
    delta: dict[str, str]


class Change(msgspec.Struct, frozen=True):
    last: Twin | None
    current: Twin | None


class _Document(msgspec.Struct, frozen=True):
    event_id: str
    timestamp: int
    twin: dict[str, Change]


def failure(event_id: str, now: int, code: int, reason: str) -> bytes:
    return _encode(_Failure(event_id, now, code, reason))


def result(event_id: str, now: int, shown: dict[str, Twin | None]) -> bytes:
    return _encode(_Twins(event_id, now, shown))


def everything(event_id: str, now: int, records: Mapping[str, Record]) -> bytes:
    """The answer to `twin/get`."""
    return _encode(_Twins(event_id, now, {n: twins.shown(r) for n, r in records.items() if not r.deleted}))


def document(event_id: str, now: int, changes: dict[str, Change]) -> bytes:
    return _encode(_Document(event_id, now, changes))


def delta(event_id: str, now: int, records: Mapping[str, Record]) -> bytes | None:
    """What is desired and not so, with all that is desired; None when all is as desired."""
    differing = twins.delta(records)
    if not differing:
        return None
    desired = {name: twins.shown(record) for name, record in records.items() if record.desired}
    return _encode(_Delta(event_id, now, desired, differing))


def attributes(event_id: str, now: int, changed: dict[str, Attribute | None]) -> bytes:
    return _encode(AttributesSaid(event_id, now, changed))
