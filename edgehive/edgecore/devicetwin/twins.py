"""What becomes of one property's desired and reported value when somebody sets them: decision record 0021. Pure.

A `Record` is a property as this node knows it and never changes: every function gives a new one. devicetwin applies
them, `rows.py` keeps them. Reported values are the edge's; desired ones both sides may set, and the rule that decides
between them is `desired_by_cloud`.

Go: edge/pkg/devicetwin/dtmanager/twin.go, edge/pkg/devicetwin/dtcommon/util.go
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from edgehive.wire.devices import (
    DELETED,
    Conflict,
    Local,
    Twin,
    TwinValue,
    TwinVersion,
    TypeMetadata,
    ValueMetadata,
)

#: Names are everywhere Go's; so are values that come over MQTT, so that an application finds either edge alike.
NAME = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}")
VALUE = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,512}")
#: Values of mappers and of the cloud may be any text of this many characters without control characters.
TEXT_LIMIT = 4096
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
#: Properties one device may have.
TWIN_LIMIT = 512

_INTEGER = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?|\.[0-9]+(?:e[+-]?[0-9]+)?|inf(?:inity)?|nan)", re.I)
_INT64 = range(-(2**63), 2**63)

STRING = "string"
#: What a DeviceModel calls a type, and what a twin does.
MODEL_TYPES = {
    "INT": "int", "FLOAT": "float", "DOUBLE": "float", "STRING": STRING, "BOOLEAN": "boolean", "BYTES": STRING,
    "STREAM": STRING,
}  # fmt: skip


class Refused(Exception):
    """An update that is not applied; `code` and the text go into its result."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Value(msgspec.Struct, frozen=True, gc=False):
    """One side of a property. `cloud` and `edge` count the writes that led to it."""

    value: str | None = None
    timestamp: int = 0
    cloud: int = 0
    edge: int = 0


class Merge(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What decides between desired values: the cloud's last one seen here, and how far a local one has come."""

    base: str | None = None
    local: bool = False
    #: The Device's version when the cloud confirmed the local value; 0 where it does not tell, None: not confirmed.
    confirmed: int | None = None
    conflict: Conflict | None = None
    #: Local values the cloud was told of since `base`: it may take them over one by one, later than others are set.
    told: tuple[str, ...] = ()
    #: For each of those, the Device's version when that report was confirmed; 0: not yet.
    answered: tuple[int, ...] = ()
    #: The newest version in which the Device came with `base` while a local value was on its way to the cloud.
    seen: int = 0


#: Of those; more are only on their way when somebody sets values faster than they are reported.
TOLD_LIMIT = 32
NO_MERGE = Merge()
NO_VALUE = Value()


class Record(msgspec.Struct, frozen=True, gc=False):
    """One property."""

    type: str = STRING
    optional: bool = True
    expected: Value | None = None
    actual: Value | None = None
    merge: Merge = NO_MERGE

    @property
    def deleted(self) -> bool:
        return self.type == DELETED

    @property
    def desired(self) -> str | None:
        return self.expected.value if self.expected is not None else None


EMPTY = Record()


class Changed(NamedTuple):
    """The property afterwards; `news` is false where only the time of a value is another."""

    record: Record
    news: bool


# Judging what is said


def check_name(name: str) -> None:
    """Raises Refused for a name no twin may have."""
    if not NAME.fullmatch(name):
        raise Refused(400, f"the name {name[:128]!r} is not 1 to 128 of letters, digits and - _ . , : / @ #")


def check_alphabet(value: str) -> None:
    """Raises Refused for a value that MQTT clients may not set."""
    if value and not VALUE.fullmatch(value):
        raise Refused(400, "the value holds something else than up to 512 letters, digits and - _ . , : / @ #")


def check_text(value: str) -> None:
    """Raises Refused for what is no text a DeviceStatus could show."""
    if len(value) > TEXT_LIMIT:
        raise Refused(400, f"the value has {len(value)} characters, the limit is {TEXT_LIMIT}")
    if _CONTROL.search(value):
        raise Refused(400, "the value holds control characters")


def check_type(type: str, value: str) -> None:
    """Raises Refused when a value is not of its type. wire: the reasons are Go's, applications match on them."""
    if type in ("int", "integer"):
        if not _INTEGER.fullmatch(value) or len(value) > 20 or int(value) not in _INT64:
            raise Refused(400, "the value is not int or integer")
    elif type == "float":
        if not _FLOAT.fullmatch(value):
            raise Refused(400, "the value is not float")
    elif type == "boolean":
        if value not in ("true", "false"):
            raise Refused(400, "the bool value must be true or false")
    elif type not in ("", STRING, DELETED):
        raise Refused(400, "the value type is not allowed")


# Set at the edge


def set_at_edge(record: Record | None, said: Twin | None, now: int) -> Changed | None:
    """An application or a 2019 mapper says it; None: nothing was asked for. Raises Refused."""
    if said is None:
        return _delete(record)
    type = _type_of(record, said)
    new = Record(optional=record.optional if record else True) if record is None or record.deleted else record
    if record is not None and record.deleted:
        new = msgspec.structs.replace(record, expected=None, actual=None, merge=record.merge)
    values = [side.value for side in (said.expected, said.actual) if side is not None and side.value is not None]
    for value in values:
        check_type(type, value)
    new = msgspec.structs.replace(new, type=type, optional=_optional(record, said))
    news = record is None or (record.type, record.optional) != (new.type, new.optional)
    if said.expected is not None and said.expected.value is not None:
        new, changed = _desire(record, new, said.expected.value, now)
        news = news or changed
    if said.actual is not None and said.actual.value is not None:
        new, changed = _report(record, new, said.actual.value, now)
        news = news or changed
    return Changed(new, news)


def observed(
    record: Record | None, desired: str | None, reported: str | None, type: str, now: int, *, sets: bool = False
) -> Changed:
    """A mapper reports. The desired value it has seen is no wish of its own, unless it says so (`sets`)."""
    old = EMPTY if record is None or record.deleted else record
    type = old.type if record is not None and not record.deleted else type
    new = msgspec.structs.replace(old, type=type)
    news = record is None or record.deleted
    for value in (desired if sets else None, reported):
        if value is not None:
            check_text(value)
            check_type(type, value)
    if sets and desired is not None:
        new, changed = _desire(record, new, desired, now)
        news = news or changed
    elif desired and new.desired is None and not new.merge.local and new.merge.base is None:
        # Nobody here knows a desired value: the one it works by is shown, and gives way to the first that is set.
        check_text(desired)
        new = msgspec.structs.replace(new, expected=Value(desired, now, *_versions(new.expected)))
        news = True
    if reported is not None:
        new, changed = _report(record, new, reported, now)
        news = news or changed
    return Changed(new, news)


def _desire(old: Record | None, new: Record, value: str, now: int) -> Changed:
    cloud, edge = _versions(old.expected if old else None)
    if old is not None and not old.deleted and old.desired == value:
        return Changed(msgspec.structs.replace(new, expected=Value(value, now, cloud, edge)), False)
    told = new.merge.told
    merge = Merge(new.merge.base, local=value != new.merge.base or bool(told), told=told, answered=new.merge.answered)
    return Changed(msgspec.structs.replace(new, expected=Value(value, now, cloud, edge + 1), merge=merge), True)


def _report(old: Record | None, new: Record, value: str, now: int) -> Changed:
    cloud, edge = _versions(old.actual if old else None)
    same = old is not None and not old.deleted and old.actual is not None and old.actual.value == value
    return Changed(msgspec.structs.replace(new, actual=Value(value, now, cloud, edge + (not same))), not same)


def _delete(record: Record | None) -> Changed | None:
    if record is None:
        raise Refused(400, "the request body is wrong")
    if record.deleted or not record.optional:
        return None
    return Changed(
        msgspec.structs.replace(
            record, type=DELETED, expected=_ended(record.expected), actual=_ended(record.actual),
            merge=msgspec.structs.replace(record.merge, local=False, confirmed=None),
        ),
        True,
    )  # fmt: skip


def _ended(value: Value | None) -> Value | None:
    """Nulled, but its versions stay: whatever is older stays older."""
    return None if value is None else Value(None, 0, value.cloud, value.edge + 1)


def _type_of(record: Record | None, said: Twin) -> str:
    if record is not None and not record.deleted:
        return record.type
    return (said.metadata.type if said.metadata is not None else "") or STRING


def _optional(record: Record | None, said: Twin) -> bool:
    """It only ever goes from true to false."""
    before = record.optional if record is not None else True
    return before and said.optional is not False


def _versions(value: Value | None) -> tuple[int, int]:
    return (value.cloud, value.edge) if value is not None else (0, 0)


# Set in the cloud


def desired_by_cloud(
    record: Record | None, value: str | None, version: int, now: int, *, type: str = "", edge_owns: bool = False
) -> Changed:
    """The cloud shows a desired value (None: it has none) as of `version`."""
    old = record or Record(type=type or STRING)
    if old.deleted:
        old = msgspec.structs.replace(old, type=type or STRING, optional=True)
    elif type and type != old.type and record is not None:
        old = msgspec.structs.replace(old, type=type)  # the model is the cloud's
    cloud, edge = _versions(old.expected)
    # What comes above the version in which the cloud has judged the newest local value is a word of its own.
    newer = old.merge.local and old.merge.confirmed is not None and version > old.merge.confirmed
    if version <= cloud and cloud:
        return Changed(old, record is not None and old.type != record.type)
    if value == old.merge.base and not (newer and old.merge.confirmed):
        if old.merge.local and version > old.merge.seen:
            old = msgspec.structs.replace(old, merge=msgspec.structs.replace(old.merge, seen=version))
        return Changed(old, record is not None and old.type != record.type)
    settled = Merge(base=value, conflict=old.merge.conflict)
    taken = Value(value, now, version, edge)
    later = None if newer or not old.merge.local else _told_after(old.merge, value, version)
    if later is not None and (later[0] or old.desired != value):
        return Changed(_taken_over(old, value, version, *later), True)
    if old.desired == value or not old.merge.local:
        return Changed(msgspec.structs.replace(old, expected=taken, merge=settled), True)
    if newer or not edge_owns:
        merge = Merge(base=value, conflict=Conflict(old.desired, "cloud", now))
        return Changed(msgspec.structs.replace(old, expected=taken, merge=merge), True)
    # What was set here has now seen the cloud's value, and is the newer of the two.
    merge = Merge(base=value, local=True, conflict=Conflict(value, "edge", now))
    kept = Value(old.desired, now, version, edge + 1)
    return Changed(msgspec.structs.replace(old, expected=kept, merge=merge), True)


def _told_after(merge: Merge, value: str | None, version: int) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """What the cloud was told after the value it shows in this version; None: it was not told that value."""
    found, answered = None, _answered(merge)
    for index, one in enumerate(merge.told):
        # A value was told after the one before it was answered, and can only be taken in a later version.
        if one == value and (index == 0 or answered[index - 1] < version):
            found = index + 1
    return None if found is None else (merge.told[found:], answered[found:])


def _answered(merge: Merge) -> tuple[int, ...]:
    """As many as there are told; rows of earlier versions have none."""
    return (*merge.answered, *(0 for _ in merge.told))[: len(merge.told)]


def _taken_over(
    old: Record, value: str | None, version: int, told: tuple[str, ...], answered: tuple[int, ...]
) -> Record:
    """The cloud has taken what was set here before: nobody else's word. What was set since is still to be told."""
    merge = msgspec.structs.replace(old.merge, base=value, told=told, answered=answered, seen=0)
    assert old.expected is not None  # a local write has a value
    return msgspec.structs.replace(old, expected=msgspec.structs.replace(old.expected, cloud=version), merge=merge)


def deleted_by_cloud(record: Record, version: int) -> Changed:
    """A cloud of 2019 takes a property away."""
    if record.deleted or version < _versions(record.expected)[0]:
        return Changed(record, False)
    expected = Value(None, 0, version, _versions(record.expected)[1])
    return Changed(msgspec.structs.replace(record, type=DELETED, expected=expected, actual=_ended(record.actual)), True)


def telling(record: Record) -> Record:
    """The record from the moment on that the cloud is told of it."""
    desired, told = record.desired, record.merge.told
    if not record.merge.local or desired is None or desired in told[-1:]:
        return record
    told, answered = (*told, desired)[-TOLD_LIMIT:], (*_answered(record.merge), 0)[-TOLD_LIMIT:]
    merge = msgspec.structs.replace(record.merge, told=told, answered=answered)
    return msgspec.structs.replace(record, merge=merge)


def confirmed(record: Record, sent: Record, version: int) -> Changed:
    """The cloud has what was `sent`; `news` tells whether something is still to be told."""
    merge = record.merge
    if merge.told and merge.told[-1:] == sent.merge.told[-1:]:
        merge = msgspec.structs.replace(merge, answered=(*_answered(merge)[:-1], version))
    if merge.local and _versions(record.expected) == _versions(sent.expected):
        merge = msgspec.structs.replace(merge, confirmed=version)
    if merge.conflict is not None and merge.conflict == sent.merge.conflict:
        merge = msgspec.structs.replace(merge, conflict=None)
    outdated = _essence(record) != _essence(sent)
    new = record if merge is record.merge else msgspec.structs.replace(record, merge=merge)
    return Changed(new, outdated or merge.conflict is not None)


def overruled(record: Record) -> bool:
    """Whether the cloud, after it had judged the newest local value, went back to its own, and that came here first."""
    return record.merge.local and 0 < (record.merge.confirmed or 0) < record.merge.seen


def _essence(record: Record) -> tuple[object, ...]:
    """All but the times of values, which are no news."""
    return (record.type, record.optional, record.desired, _versions(record.expected), _versions(record.actual))


# As others see it


def shown(record: Record, said: Twin | None = None) -> Twin | None:
    """For applications, without versions; with `said`, only the sides that were spoken of. None: deleted."""
    if record.deleted:
        return None
    expected = record.expected if said is None or said.expected is not None else None
    actual = record.actual if said is None or said.actual is not None else None
    return Twin(
        expected=_shown(expected), actual=_shown(actual), optional=record.optional, metadata=TypeMetadata(record.type)
    )


def _shown(value: Value | None) -> TwinValue | None:
    if value is None or value.value is None:
        return None
    return TwinValue(value.value, ValueMetadata(value.timestamp))


def reported(record: Record) -> Twin:
    """For the cloud, with versions."""
    expected, actual, merge = record.expected, record.actual, record.merge
    local = None
    if merge.local or merge.conflict is not None:
        local = Local(merge.base if merge.local else None, merge.conflict)
    return Twin(
        expected=_told(expected),
        actual=_told(actual),
        optional=record.optional,
        metadata=TypeMetadata(record.type),
        expected_version=_version(expected, record),
        actual_version=_version(actual, record),
        local=local,
    )


def _told(value: Value | None) -> TwinValue | None:
    if value is None:
        return None
    return TwinValue() if value.value is None else TwinValue(value.value, ValueMetadata(value.timestamp))


def _version(value: Value | None, record: Record) -> TwinVersion | None:
    if value is None:
        return TwinVersion() if record.deleted else None
    return TwinVersion(value.cloud, value.edge)


def delta(records: Mapping[str, Record]) -> dict[str, str]:
    """Desired values that are not what is reported, where any is desired."""
    found = {}
    for name, record in records.items():
        desired = record.desired
        if desired and desired != (record.actual.value if record.actual is not None else None):
            found[name] = desired
    return found
