"""What follows from a batch of messages: rows to be written first, and then whom to tell.

Everything devicetwin hears changes devices in memory and leaves its consequences here; the module commits the rows and
only then publishes, reports, orders and answers. Where the disk refuses, nobody is told but those who asked.
"""

from dataclasses import dataclass, field

from edgehive.beehive.message import Message
from edgehive.edgecore.devicetwin.mappers import Order
from edgehive.edgecore.devicetwin.membership import Device
from edgehive.edgecore.devicetwin.reports import Topic
from edgehive.edgecore.devicetwin.rows import Batch
from edgehive.wire import topics
from edgehive.wire.devices import Conflict
from edgehive.wire.topics import DeviceName, DeviceTopic


@dataclass(slots=True)
class Publication:
    """`instead` is published where the rows could not be written; None: nothing."""

    topic: str
    payload: bytes
    instead: bytes | None = None


@dataclass(slots=True)
class Happening:
    """An Event on a Device."""

    device: Device
    reason: str
    text: str


@dataclass(slots=True)
class Turn:
    """One batch; `now` in milliseconds, `date` as RFC3339."""

    now: int
    date: str
    batch: Batch = field(default_factory=Batch)
    publications: list[Publication] = field(default_factory=list)
    touched: dict[Topic, None] = field(default_factory=dict)
    forgotten: list[str] = field(default_factory=list)
    #: By protocol.
    orders: list[tuple[str, Order]] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    #: Devices of which a desired value is another now: their mappers and the node's own API are told.
    desired: dict[str, None] = field(default_factory=dict)
    #: Requests over the bus that are answered when the rows are written.
    requests: list[Message] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, instead: bytes | None = None) -> None:
        self.publications.append(Publication(topic, payload, instead))

    def tell(
        self, device: Device, what: DeviceTopic, payload: bytes, *, asked: DeviceName | None = None,
        instead: bytes | None = None,
    ) -> None:  # fmt: skip
        """To whom asked, in the form they asked in; without, to all who listen to the device."""
        for name in (asked,) if asked is not None else device.topic_names:
            self.publish(topics.device(name, what), payload, instead)

    def conflict(self, device: Device, name: str, lost: Conflict, kept: str | None) -> None:
        """A desired value was set on both sides and one of them is gone: nobody is to wonder where it went."""
        loser, winner = ("edge", "cloud") if lost.winner == "cloud" else ("cloud", "edge")
        self.happenings.append(
            Happening(
                device,
                "DesiredValueConflict",
                f"property {name} was set to {lost.value!r} at the {loser} and to {kept!r} at the {winner}, neither "
                f"knowing of the other; {kept!r} stands",
            )
        )
