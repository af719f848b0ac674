"""The devices attached to this node, in memory: who they are, in what state, with which twins.

`rows.py` keeps the same on disk. A device is known by its id, `<namespace>/<name>` (one word in the days of 2019);
`uid` tells one life from the next. Nothing here sends, stores or decides about values.

Go: edge/pkg/devicetwin/dtmanager/membership.go, edge/pkg/devicetwin/dttype/types.go
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from edgehive.edgecore.devicetwin.twins import Record
from edgehive.wire.devices import Attribute, Member
from edgehive.wire.topics import DeviceName

#: States a device may be in, whatever their case; others are ignored.
STATES = frozenset({"online", "offline", "ok", "unknown", "unhealthy"})
#: Those in which it can be reached.
REACHABLE = frozenset({"online", "ok"})
#: Where a name without a namespace is looked for.
DEFAULT_NAMESPACE = "default"


@dataclass(slots=True)
class Device:
    """One device; `unconfirmed` names the properties of which the cloud has not confirmed the newest."""

    id: str
    name: str
    description: str = ""
    state: str = ""
    last_online: str = ""
    uid: str = ""
    attributes: dict[str, Attribute] = field(default_factory=dict)
    twins: dict[str, Record] = field(default_factory=dict)
    unconfirmed: set[str] = field(default_factory=set)
    #: Properties a Go cloud has confirmed since the start: of a first report it keeps the name alone (wire.md B14).
    known_to_go_cloud: set[str] = field(default_factory=set)
    state_unconfirmed: bool = False
    #: A digest of what its mapper was last told.
    told: str = ""
    #: Somebody speaks to it in the form of 2019, so what happens is told in that form too.
    spoken_without_namespace: bool = False

    @property
    def desired_here(self) -> dict[str, str]:
        """Desired values that were set at the edge and that the cloud has not taken over."""
        local = {name: record.desired for name, record in self.twins.items() if record.merge.local}
        return {name: value for name, value in local.items() if value is not None}

    @property
    def topic_names(self) -> tuple[str, ...]:
        return (self.id, self.name) if self.spoken_without_namespace and self.name != self.id else (self.id,)

    def member(self, *, briefly: bool = False) -> Member:
        """As membership tells it; `briefly` as it comes and goes."""
        if briefly:
            return Member(self.id, self.name, self.description)
        return Member(self.id, self.name, self.description, self.state, self.last_online, dict(self.attributes) or None)


class Devices:
    """All of them, by id."""

    def __init__(self, devices: Iterable[Device] = ()) -> None:
        self._devices = {device.id: device for device in devices}

    def __iter__(self) -> Iterator[Device]:
        return iter(self._devices.values())

    def __len__(self) -> int:
        return len(self._devices)

    def get(self, id: str) -> Device | None:
        return self._devices.get(id)

    def find(self, spoken: DeviceName) -> Device | None:
        """The device a topic means; a bare name is one of 2019, else one of the default namespace."""
        device = self._devices.get(str(spoken))
        if device is None and not spoken.namespace:
            device = self._devices.get(f"{DEFAULT_NAMESPACE}/{spoken.name}")
            if device is not None:
                device.spoken_without_namespace = True
        return device

    def add(self, device: Device) -> None:
        self._devices[device.id] = device

    def remove(self, id: str) -> Device | None:
        return self._devices.pop(id, None)
