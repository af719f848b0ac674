"""Where a message goes and what is kept of it: metamanager's whole routing as one table. Pure.

metamanager looks every message up here and does what the row says, in this order: store, tell, acknowledge.
The first matching row wins; `*` matches anything.

Go: edge/pkg/metamanager/process.go
"""

from dataclasses import dataclass
from enum import Enum

from edgehive.wire.names import Group, Operation, ResourceType, Source


class Keep(Enum):
    """What is written, and when."""

    NOTHING = "nothing"
    #: The object's row, before anyone is told and before the acknowledgement.
    ROW = "row"
    #: The row goes away, if it is the life (uid) the message means.
    REMOVE = "remove"
    #: The object in the cloud's answer, when that comes.
    ANSWER = "answer"
    #: The request itself, the newest per resource, until the cloud has answered it.
    UNTIL_ANSWERED = "until answered"


class Ask(Enum):
    """Who gives the answer the sender waits for."""

    NOBODY = "nobody"
    ROWS = "rows"
    #: Rows confirmed since the link came up, else the cloud, else any row.
    CLOUD_OR_ROWS = "cloud or rows"
    CLOUD = "cloud"
    #: All rows, as the cloud compares them with its records.
    INVENTORY = "inventory"


@dataclass(frozen=True, slots=True)
class Onward:
    """One decision. `tell` is the group that hears of it; `refuse` says why nobody does.

    `show`: the node's own API shows it, and nobody else is concerned.
    """

    keep: Keep = Keep.NOTHING
    tell: str = ""
    ask: Ask = Ask.NOBODY
    post: bool = False
    show: bool = False
    refuse: str = ""


#: Kinds the edge asks the cloud for by name.
QUERIED = frozenset(
    {
        ResourceType.CONFIG_MAP,
        ResourceType.SECRET,
        ResourceType.PERSISTENT_VOLUME,
        ResourceType.PERSISTENT_VOLUME_CLAIM,
        ResourceType.VOLUME_ATTACHMENT,
        ResourceType.SERVICE_ACCOUNT_TOKEN,
        ResourceType.LEASE,
        ResourceType.CERTIFICATE_SIGNING_REQUEST,
        ResourceType.NODE,
    }
)
#: Cloud modules whose objects are stored; all of them are acknowledged.
CLOUD_SOURCES = frozenset(
    {
        Source.EDGE_CONTROLLER,
        Source.SYNC_CONTROLLER,
        Source.DEVICE_CONTROLLER,
        Source.DYNAMIC_CONTROLLER,
        Source.POLICY_CONTROLLER,
    }
)
_DEVICES = frozenset({ResourceType.DEVICE, ResourceType.DEVICE_MODEL})
#: wire: they are deleted from a node that no longer needs them while they live on, and come back under the same uid.
COME_AND_GO = _DEVICES
_TOLD_TO_EDGED = frozenset({ResourceType.POD, ResourceType.CONFIG_MAP, ResourceType.SECRET})

_CALL = Onward(keep=Keep.ANSWER, ask=Ask.CLOUD)
_QUERY = Onward(keep=Keep.ANSWER, ask=Ask.CLOUD_OR_ROWS)
_PATCH = Onward(keep=Keep.UNTIL_ANSWERED, ask=Ask.CLOUD)
#: The hub keeps it until the cloud has it.
_POST = Onward(post=True)

#: (operation, type) of requests from modules of this node.
_FROM_EDGE: dict[tuple[str, str], Onward] = {
    (Operation.INSERT, ResourceType.EVENT): _POST,
    (Operation.UPDATE, ResourceType.EVENT): _POST,
    (Operation.PATCH, ResourceType.EVENT): _POST,
    (Operation.INSERT, "*"): _CALL,
    (Operation.UPDATE, ResourceType.LEASE): _CALL,
    (Operation.UPDATE, ResourceType.NODE): _CALL,
    #: Desired values of a device that were set here.
    (Operation.UPDATE, ResourceType.DEVICE): Onward(show=True),
    (Operation.PATCH, ResourceType.POD_PATCH): _PATCH,
    (Operation.PATCH, ResourceType.NODE_PATCH): _PATCH,
    (Operation.DELETE, ResourceType.POD): Onward(ask=Ask.CLOUD),
    (Operation.QUERY, "*"): Onward(ask=Ask.ROWS),
}


def from_edge(operation: str, type: str) -> Onward:
    """The decision for a message of a module of this node."""
    if operation == Operation.QUERY and type in QUERIED:
        return _QUERY
    row = _FROM_EDGE.get((operation, type)) or _FROM_EDGE.get((operation, "*"))
    return row or Onward(refuse=f"metamanager has no road for {operation} of {type or 'nothing'}")


def from_cloud(operation: str, source: str, type: str) -> Onward:
    """The decision for a message of the cloud that answers nobody here (any more)."""
    if source not in CLOUD_SOURCES:
        return Onward(refuse=f"objects of source {source!r} are not stored here")
    if (operation, type) == (Operation.QUERY, ResourceType.INVENTORY):
        return Onward(ask=Ask.INVENTORY)
    if operation in (Operation.INSERT, Operation.UPDATE):
        return Onward(keep=Keep.ROW, tell=_told(source, type))
    if operation == Operation.DELETE:
        return Onward(keep=Keep.REMOVE, tell=_told(source, type))
    if operation == Operation.RESPONSE:
        # A late answer: nobody waits, but the object is good, and the cloud repeats it until it is acknowledged.
        return Onward(keep=Keep.ROW, tell=_told(source, type))
    return Onward(refuse=f"operation {operation!r} means nothing for {type or 'nothing'}")


def _told(source: str, type: str) -> str:
    if type in _DEVICES:
        # wire: a resend of a device comes from edgecontroller (wire.md B5); the type decides, not the source.
        return Group.TWIN
    if type in _TOLD_TO_EDGED and source in (Source.EDGE_CONTROLLER, Source.SYNC_CONTROLLER):
        return Group.EDGED
    return ""
