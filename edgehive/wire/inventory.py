"""What a node's store holds, told to a cloud that asks: how a lost or restored database is found out. Pure.

An extension between our own halves (decision 0013). The edge offers it in the content of its first keepalive,
which a Go cloud never reads; a cloud that understands the offer asks once per connection, and a Go edge, which
offers nothing, is never asked.

    edge  -> cloud   keepalive  node              {"offers": ["inventory"]}
    cloud -> edge    query      null/inventory    null
    edge  -> cloud   response   null/inventory    [[namespace, type, name, uid, version], ...]
"""

from collections.abc import Iterable

import msgspec

from edgehive.beehive.message import Message, raw
from edgehive.wire.names import Group, Operation, Path, Source

#: The word by which an edge offers it.
OFFER = "inventory"


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One stored object; `namespace` and `type` as in its path, `version` 0 where it has no number."""

    namespace: str
    type: str
    name: str
    uid: str
    version: int


def question(*, timestamp: int) -> Message:
    """Ask a node what it holds."""
    return Message.of(
        source=Source.SYNC_CONTROLLER,
        group=Group.RESOURCE,
        operation=Operation.QUERY,
        resource=Path.INVENTORY,
        timestamp=timestamp,
    )


def content(held: Iterable[Held]) -> msgspec.Raw:
    """The content of the answer."""
    return raw(list(held))


def read(answer: Message) -> list[Held]:
    """What the node holds; raises msgspec.MsgspecError for an answer that is no inventory."""
    return answer.read(list[Held])
