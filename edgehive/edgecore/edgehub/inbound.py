"""Who hears a message of the cloud: one decision by its parent and its group. Pure.

Go: edge/pkg/edgehub/process.go (dispatch), edge/pkg/edgehub/common/msghandler
"""

from dataclasses import dataclass

from edgehive.beehive.message import Message
from edgehive.wire.names import EdgeModule, Group, Source


@dataclass(frozen=True, slots=True)
class Destination:
    """`group` or `module` hears it; `waiter` is whoever waits for this answer; none of them: it is dropped."""

    group: str = ""
    module: str = ""
    waiter: bool = False


_GROUPS: dict[str, Destination] = {
    Group.RESOURCE: Destination(group=Group.META),
    Group.FUNCTION: Destination(group=Group.META),
    Group.TWIN: Destination(group=Group.TWIN),
    Group.TASK_MANAGER: Destination(group=Group.TASK_MANAGER),
}
_USERS: dict[str, Destination] = {
    Source.ROUTER_EVENT_BUS: Destination(module=EdgeModule.EVENT_BUS),
    Source.ROUTER_SERVICE_BUS: Destination(module=EdgeModule.SERVICE_BUS),
}


def destination(message: Message, awaited: bool) -> Destination:
    """`awaited`: somebody here waits for an answer to the message's parent.

    A late answer of group `resource` goes to metamanager: its object is good, and it must be acknowledged.
    """
    if awaited:
        return Destination(waiter=True)
    if message.route.group == Group.USER:
        return Destination() if message.header.parent_id else _USERS.get(message.route.source, Destination())
    return _GROUPS.get(message.route.group, Destination())
