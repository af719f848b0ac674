"""What becomes of a message for the cloud: kept on disk until the cloud has it, held, or dropped. Pure.

Requests of metamanager are kept by metamanager itself, which reads their answers; here are the reports of all
other modules, and acknowledgements, which the cloud asks for again when they are lost.
"""

from enum import Enum

from edgehive.beehive.message import Message
from edgehive.wire.names import Operation, Path, ResourceType, Source


class Fate(Enum):
    """What the hub does with a message."""

    #: On disk before it is sent, and until the cloud has it; `report_key` tells which older one it replaces.
    REPORT = "report"
    #: Sent at once; while there is no link in memory, among the newest few.
    HOLD = "hold"
    #: Sent at once; later only if its sender still waits for the answer.
    IF_AWAITED = "if awaited"
    #: Sent at once or never.
    DROP = "drop"


class Lane(Enum):
    """How the edge learns that the cloud has a report."""

    #: The cloud answers each.
    ANSWER = "answer"
    #: Nothing answers it; an answer to a ping sent after it proves that the cloud has read it.
    PROOF = "proof"


_REPORTERS = frozenset({Source.TWIN, Source.BUS, Source.EVENT_BUS, Source.SERVICE_BUS, Source.META})
_STATES = frozenset({Operation.UPDATE, Operation.PATCH})
_NO_THING = frozenset({Path.TWIN, Path.MEMBERSHIP, ""})


def fate(message: Message) -> Fate:
    route = message.route
    if route.operation == Operation.KEEPALIVE:
        return Fate.DROP
    if route.operation in (Operation.RESPONSE, Operation.ERROR):
        return Fate.HOLD
    if route.operation in (Operation.UPLOAD, Operation.UPDATE_NODE_ACTION_STATUS):
        return Fate.REPORT
    if route.source in _REPORTERS and route.operation != Operation.GET:
        return Fate.REPORT
    return Fate.REPORT if f"/{ResourceType.EVENT}/" in route.resource else Fate.IF_AWAITED


def lane(message: Message) -> Lane:
    """wire: the cloud confirms every report of a device, and nothing else that is no request (wire.md §7.3)."""
    return Lane.ANSWER if message.route.source == Source.TWIN else Lane.PROOF


def report_key(message: Message) -> str:
    """A whole state replaces the older state of the same thing; everything else stands for itself.

    A report of twins carries everything about the device that the cloud has not confirmed (decision 0021), so it is
    such a state. The steps of a node job and the publications of a topic are a history, and each is told.
    """
    route = message.route
    if route.operation not in _STATES or route.resource in _NO_THING:
        return message.id
    return f"{route.source} {route.operation} {route.resource}"
