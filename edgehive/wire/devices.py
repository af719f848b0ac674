"""What the two halves tell each other about devices: membership, twins, states, and who confirms them. Pure.

devicecontroller and devicetwin build and read these messages here and nowhere else; the MQTT bodies share the
structures. A device is called `<namespace>/<name>`. Objects (Device, DeviceModel) travel like all others.

    cloud -> edge   update    membership                               who came, who went
    edge  -> cloud  get       membership/detail                        who are mine? (a Go cloud does not answer)
    cloud -> edge   update    membership/detail                        these, and no others
    edge  -> cloud  update    device/<ns>/<name>/twin/edge_updated     values
    edge  -> cloud  update    device/<ns>/<name>/state/update          online, offline...
    cloud -> edge   response  twin                                     "OK": stored, do not repeat it

What decision 0021 adds to a report a Go cloud does not read.

Go: cloud/pkg/devicecontroller/types/device.go, edge/pkg/devicetwin/dttype/types.go
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from edgehive.beehive.message import Message, raw
from edgehive.wire import names, resource
from edgehive.wire.names import Group, Operation, Path, Source

C = TypeVar("C")

#: The label of a Device that membership tells as its description.
DESCRIPTION_LABEL = "description"
#: The annotation of a Device that names the properties whose desired values are the edge's (decision 0021).
EDGE_OWNED_ANNOTATION = "edgehive.io/edge-owned-desired"


class DeviceId(NamedTuple):
    """A device as both sides name it: `str` gives `<namespace>/<name>`."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "DeviceId":
        """Read `<namespace>/<name>`; raises ValueError."""
        namespace, _, name = text.partition("/")
        if not namespace or not name or "/" in name:
            raise ValueError(f"device {text!r} is not <namespace>/<name>")
        return cls(namespace, name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ReportKind(StrEnum):
    """The end of a report's path."""

    TWIN = "twin/edge_updated"
    STATE = "state/update"


class ReportPath(NamedTuple):
    """A report's path; `node` is "" on the edge and on the wire."""

    device: DeviceId
    kind: ReportKind
    node: str = ""

    @classmethod
    def parse(cls, path: str) -> "ReportPath":
        """Read a path with or without the cloud's `node/<node>/`; raises ValueError."""
        node, rest = resource.strip_node(path)
        parts = rest.split("/", 3)
        if len(parts) < 4 or parts[0] != "device" or not all(parts) or parts[3] not in tuple(ReportKind):
            raise ValueError(f"resource {path[:300]!r} is not a report of a device")
        return cls(DeviceId(parts[1], parts[2]), ReportKind(parts[3]), node)

    def __str__(self) -> str:
        path = f"device/{self.device}/{self.kind}"
        return resource.add_node(self.node, path) if self.node else path


# Structures


class ValueMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    timestamp: int = 0


class TypeMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    type: str = ""


#: The type of a twin that was deleted; its values are null and its versions stay.
DELETED = "deleted"


class TwinVersion(msgspec.Struct, frozen=True):
    cloud: int = 0
    edge: int = 0


class TwinValue(msgspec.Struct, frozen=True, omit_defaults=True):
    """`value` None: nothing is said, or it was deleted."""

    value: str | None = None
    metadata: ValueMetadata | None = None


class Conflict(msgspec.Struct, frozen=True, omit_defaults=True):
    """A desired value that lost against the other side's; `winner` is `edge` or `cloud`."""

    value: str | None = None
    winner: str = ""
    timestamp: int = 0


class Local(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ours (decision 0021): `expected` was set at the edge when the cloud's value was `base` (None: it had none)."""

    base: str | None = None
    conflict: Conflict | None = None


class Twin(msgspec.Struct, frozen=True, omit_defaults=True):
    """One property: `expected` is what is desired, `actual` what is reported."""

    expected: TwinValue | None = None
    actual: TwinValue | None = None
    optional: bool | None = None
    metadata: TypeMetadata | None = None
    expected_version: TwinVersion | None = None
    actual_version: TwinVersion | None = None
    local: Local | None = None


class Attribute(msgspec.Struct, frozen=True, omit_defaults=True):
    value: str = ""
    optional: bool | None = None
    metadata: TypeMetadata | None = None


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """A device of a node, as membership tells it."""

    id: str = ""
    name: str = ""
    description: str = ""
    state: str = ""
    last_online: str = ""
    attributes: dict[str, Attribute | None] | None = None
    twin: dict[str, Twin | None] | None = None


class MembershipUpdate(msgspec.Struct, frozen=True):
    event_id: str = ""
    timestamp: int = 0
    added_devices: list[Member] | None = None
    removed_devices: list[Member] | None = None


class MembershipDetail(msgspec.Struct, frozen=True):
    """All devices of a node: whichever it has besides are to go."""

    event_id: str = ""
    timestamp: int = 0
    devices: list[Member] | None = None


class MembershipQuestion(msgspec.Struct, frozen=True):
    event_type: str = "group_membership_event"
    event_id: str = ""
    group_id: str = ""
    operation: str = "detail"
    timestamp: int = 0


class TwinUpdate(msgspec.Struct, frozen=True):
    """Values of some properties; None for one that is to be deleted. `uid` (ours) is the life they belong to."""

    event_id: str = ""
    timestamp: int = 0
    twin: dict[str, Twin | None] | None = None
    uid: str | msgspec.UnsetType = msgspec.UNSET


class DeviceState(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    name: str = ""
    state: str = ""
    last_online_time: str = ""


class StateUpdate(msgspec.Struct, frozen=True):
    event_id: str = ""
    timestamp: int = 0
    device: DeviceState = DeviceState()


# From the cloud


def member(device: DeviceId, description: str = "") -> Member:
    return Member(id=str(device), name=device.name, description=description)


def membership_update(
    *, event_id: str, timestamp: int, added: Iterable[Member] = (), removed: Iterable[Member] = ()
) -> Message:
    """Tell a node of devices that came or went."""
    content = MembershipUpdate(event_id, timestamp, list(added) or None, list(removed) or None)
    return _from_cloud(Operation.UPDATE, Path.MEMBERSHIP, raw(content), timestamp)


def membership_detail(members: Iterable[Member], *, event_id: str, timestamp: int) -> Message:
    """Tell a node all its devices.

    wire: it has no parent, or a Go edge would take it for a confirmation; and a Go edge that knows a device already
    complains on MQTT about a missing `twin`, so each entry has an empty one. tests/pure/wire/test_devices.py
    """
    listed = [{**msgspec.to_builtins(entry), "twin": {}} for entry in members]
    content = raw({"event_id": event_id, "timestamp": timestamp, "devices": listed})
    return _from_cloud(Operation.UPDATE, Path.MEMBERSHIP_DETAIL, content, timestamp)


def confirmation(report: Message, *, timestamp: int, resource_version: str = "") -> Message:
    """Answer a report or a question: it need not be repeated. `resource_version`: of the Device it was held against."""
    return report.reply(
        names.OK,
        timestamp=timestamp,
        operation=Operation.RESPONSE,
        source=Source.DEVICE_CONTROLLER,
        group=Group.TWIN,
        resource=Path.TWIN,
        resource_version=resource_version,
    )


def _from_cloud(operation: str, path: str, content: msgspec.Raw, timestamp: int) -> Message:
    return Message.of(
        source=Source.DEVICE_CONTROLLER,
        group=Group.TWIN,
        operation=operation,
        resource=path,
        content=content,
        timestamp=timestamp,
    )


# From the edge


def twin_report(
    device: DeviceId, twins: Mapping[str, Twin | None], *, event_id: str, timestamp: int, uid: str = ""
) -> Message:
    """Values of a device for the cloud; it is repeated until it is confirmed."""
    content = raw(TwinUpdate(event_id, timestamp, dict(twins), uid or msgspec.UNSET))
    return _from_twin(Operation.UPDATE, str(ReportPath(device, ReportKind.TWIN)), content, timestamp)


def state_report(device: DeviceId, state: DeviceState, *, event_id: str, timestamp: int) -> Message:
    """A device's state for the cloud. wire: the content is text that holds JSON."""
    text = msgspec.json.encode(StateUpdate(event_id, timestamp, state)).decode()
    return _from_twin(Operation.UPDATE, str(ReportPath(device, ReportKind.STATE)), raw(text), timestamp)


def membership_question(node: str, *, event_id: str, timestamp: int) -> Message:
    """Ask the cloud for all devices of this node; sent at every connection. wire: text that holds JSON."""
    question = MembershipQuestion(event_id=event_id, group_id=node, timestamp=timestamp)
    text = msgspec.json.encode(question).decode()
    return _from_twin(Operation.GET, Path.MEMBERSHIP_DETAIL, raw(text), timestamp)


def _from_twin(operation: str, path: str, content: msgspec.Raw, timestamp: int) -> Message:
    return Message.of(
        source=Source.TWIN,
        group=Group.RESOURCE,
        operation=operation,
        resource=path,
        content=content,
        timestamp=timestamp,
    )


# Reading, on either side


def read(message: Message, type: type[C]) -> C:
    """The content, whether it came as an object or as text that holds one; raises msgspec.MsgspecError."""
    return msgspec.json.decode(message.content_bytes(), type=type)


def read_state(message: Message) -> StateUpdate:
    """A state report; raises msgspec.MsgspecError. wire: Go's own encoder writes `Device`, its edge `device`."""
    content = message.content_bytes()
    update = msgspec.json.decode(content, type=StateUpdate)
    if update.device != DeviceState():
        return update
    return msgspec.json.decode(content, type=_CapitalState).update()


class _CapitalState(msgspec.Struct, frozen=True):
    event_id: str = ""
    timestamp: int = 0
    device: DeviceState = msgspec.field(default=DeviceState(), name="Device")

    def update(self) -> StateUpdate:
        return StateUpdate(self.event_id, self.timestamp, self.device)
