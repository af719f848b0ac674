"""MQTT topics of devices and nodes: the only file that splits or joins one. Pure.

    $hw/events/device/<namespace>/<name>/<what>    today
    $hw/events/device/<id>/<what>                  2019, when a device had no namespace
    $hw/events/node/<node>/membership/<what>
    $hw/events/upload/#, SYS/dis/upload_records, +/user/#, topics of rules: straight to the cloud

eventbus subscribes by it and devicetwin answers by it. A device that is spoken to in the form of 2019 is answered
in that form.

Go: edge/pkg/eventbus/common/util, edge/pkg/devicetwin/dtcommon/common.go
"""

from enum import StrEnum
from typing import NamedTuple

_DEVICE = "$hw/events/device/"
_NODE = "$hw/events/node/"
#: A topic the standard allows at most, in bytes.
MAX_LENGTH = 65535


class DeviceTopic(StrEnum):
    """What follows the device."""

    TWIN_UPDATE = "twin/update"
    TWIN_UPDATE_RESULT = "twin/update/result"
    TWIN_DELTA = "twin/update/delta"
    TWIN_DOCUMENT = "twin/update/document"
    TWIN_GET = "twin/get"
    TWIN_GET_RESULT = "twin/get/result"
    CLOUD_UPDATED = "twin/cloud_updated"
    STATE_UPDATE = "state/update"
    STATE_RESULT = "state/update/result"
    #: Attributes, in both directions.
    UPDATED = "updated"


class NodeTopic(StrEnum):
    """What follows the node."""

    MEMBERSHIP_GET = "membership/get"
    MEMBERSHIP_RESULT = "membership/get/result"
    MEMBERSHIP_UPDATED = "membership/updated"
    AUTH_RESULT = "authInfo/get/result"


#: What eventbus hears whatever rules there are. Attributes come only by a rule, as the edge publishes there itself.
SUBSCRIPTIONS = (
    "$hw/events/upload/#",
    "$hw/events/device/+/state/update",
    "$hw/events/device/+/+/state/update",
    "$hw/events/device/+/twin/+",
    "$hw/events/device/+/+/twin/+",
    "$hw/events/node/+/membership/get",
    "SYS/dis/upload_records",
    "+/user/#",
)


class DeviceName(NamedTuple):
    """A device as a topic names it; `namespace` is "" in the form of 2019."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Spoken(NamedTuple):
    """A topic of a device, read."""

    device: DeviceName
    what: DeviceTopic


_ENDINGS: dict[tuple[str, ...], DeviceTopic] = {tuple(what.value.split("/")): what for what in DeviceTopic}


def read_device(topic: str) -> Spoken | None:
    """The device and what is said of it; None for any other topic."""
    if not topic.startswith(_DEVICE):
        return None
    parts = tuple(topic[len(_DEVICE) :].split("/"))
    for names in (1, 2):
        what = _ENDINGS.get(parts[names:])
        if what is not None and all(parts[:names]):
            return Spoken(DeviceName("" if names == 1 else parts[0], parts[names - 1]), what)
    return None


def device(name: DeviceName | str, what: DeviceTopic) -> str:
    """The topic of a device, in the form its name has."""
    return f"{_DEVICE}{name}/{what}"


def read_node(topic: str) -> tuple[str, NodeTopic] | None:
    """The node and what is said of it; None for any other topic."""
    if not topic.startswith(_NODE):
        return None
    node, _, rest = topic[len(_NODE) :].partition("/")
    return (node, NodeTopic(rest)) if node and rest in NodeTopic.__members__.values() else None


def node(name: str, what: NodeTopic) -> str:
    return f"{_NODE}{name}/{what}"


def is_for_twin(topic: str) -> bool:
    """Whether devicetwin hears a publication; all others go to the cloud."""
    return topic.startswith((_DEVICE, _NODE))


def fault_of_filter(topic: str) -> str:
    """Why no broker would take this as a subscription; "" when it would."""
    return _fault(topic) or (
        "" if all(map(_level_may_stand, _levels(topic))) else "a wildcard stands in a level's text"
    )


def fault_of_topic(topic: str) -> str:
    """Why nobody can publish there; "" when one can."""
    return _fault(topic) or ("it holds a wildcard" if "+" in topic or "#" in topic else "")


def _fault(topic: str) -> str:
    if not topic:
        return "it is empty"
    if "\0" in topic:
        return "it holds a zero character"
    return "it is too long" if len(topic.encode(errors="replace")) > MAX_LENGTH else ""


def _levels(topic: str) -> list[tuple[str, bool]]:
    parts = topic.split("/")
    return [(part, index == len(parts) - 1) for index, part in enumerate(parts)]


def _level_may_stand(level: tuple[str, bool]) -> bool:
    text, last = level
    if text == "#":
        return last
    return text == "+" or not ("+" in text or "#" in text)


def matches(filter: str, topic: str) -> bool:
    """Whether a subscription covers a topic (or another subscription, level by level)."""
    wanted, levels = filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or levels[index] == "#" or (level != "+" and level != levels[index]):
            return False
    return len(wanted) == len(levels)
