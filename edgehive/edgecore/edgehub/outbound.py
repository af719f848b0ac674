"""What becomes of a message that cannot be sent now. Pure.

Requests of metamanager are kept by metamanager itself; here are the messages of all others, and
acknowledgements, which the cloud asks for again when they are lost.
"""

from enum import Enum

from edgehive.beehive.message import Message
from edgehive.wire.names import Operation, Path, ResourceType, Source


class Fate(Enum):
    """What the hub does with an unsent message."""

    #: On disk until it is sent; `spool_key` tells which older one it replaces.
    SPOOL = "spool"
    #: In memory, among the newest few.
    HOLD = "hold"
    #: Sent later only if its sender still waits for the answer.
    IF_AWAITED = "if awaited"
    #: Worth nothing later.
    DROP = "drop"


_SPOOLED_SOURCES = frozenset({Source.TWIN, Source.BUS, Source.EVENT_BUS, Source.SERVICE_BUS, Source.META})
_STATES = frozenset({Operation.UPDATE, Operation.PATCH, Operation.UPDATE_NODE_ACTION_STATUS})


def fate(message: Message) -> Fate:
    route = message.route
    if route.operation == Operation.KEEPALIVE:
        return Fate.DROP
    if route.operation in (Operation.RESPONSE, Operation.ERROR):
        return Fate.HOLD
    if route.operation in (Operation.UPLOAD, Operation.UPDATE_NODE_ACTION_STATUS):
        return Fate.SPOOL
    if route.source in _SPOOLED_SOURCES and route.operation != Operation.GET:
        return Fate.SPOOL
    if f"/{ResourceType.EVENT}/" in route.resource:
        return Fate.HOLD
    return Fate.IF_AWAITED


def spool_key(message: Message) -> str:
    """States replace the older state of the same thing; everything else stands for itself."""
    route = message.route
    if route.operation in _STATES and route.resource not in (Path.TWIN, Path.MEMBERSHIP, ""):
        return f"{route.source} {route.operation} {route.resource}"
    return message.id
