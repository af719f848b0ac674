"""A device goes to its node: membership first, its model when that is new there, then the device.

Go: cloud/pkg/devicecontroller/controller/downstream.go
"""

import uuid
from collections.abc import Iterator

from edgehive.api.devices import Device
from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS, DEVICES, NODES
from edgehive.beehive.message import Message
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR
from edgehive.cloudcore.devicecontroller.context import DeviceContext
from edgehive.cloudcore.flows import Down, Result, Unchanged, downstream
from edgehive.cloudcore.placement import model_key, node_of
from edgehive.kube.informer import Change
from edgehive.wire import devices as wire
from edgehive.wire import resource as paths
from edgehive.wire.devices import DESCRIPTION_LABEL, EDGE_OWNED_ANNOTATION, DeviceId, Member
from edgehive.wire.names import Operation


def member_of(device: Document) -> Member:
    """The device as membership names it."""
    meta = device.meta
    return wire.member(DeviceId(meta.namespace, meta.name), (meta.labels or {}).get(DESCRIPTION_LABEL, ""))


@downstream(DEVICES)
def devices_down(change: Change, context: DeviceContext) -> Iterator[Result]:
    """Tell the node a device is bound to, and the one it was bound to before."""
    old, new = change.old, change.new
    before = node_of(old) if old is not None else ""
    if new is None:
        yield from _leave(change.document, node_of(change.document), context)
        context.statuses.forget(DeviceId(*change.key))
        context.desired.forget(change.document)
        context.edits.forget(change.document)
        return
    device = new.read(Device)
    node = device.spec.node_name
    if old is None or before != node:
        if old is not None:
            yield from _leave(old, before, context)
        yield from _enter(new, node, context)
    elif _told(old) == _told(new):
        if node:
            yield Unchanged(node, old, new)
        return
    else:
        yield from _change(old, new, node, context)
        if context.standing.owns(node):
            context.desired.settle(new)
            context.edits.settle(old, new)
    context.judge(new, device)


@downstream(NODES, label_selector=EDGE_NODE_SELECTOR)
def nodes_down(change: Change, context: DeviceContext) -> Iterator[Result]:
    """A node that joins or goes decides whether its devices are told; synccontroller tells it what it missed."""
    if change.old is None or change.new is None:
        context.judge_all(context.devices_on(change.document.meta.name))
    return iter(())


def _told(device: Document) -> tuple[object, str, str]:
    """What a node learns of a device."""
    meta = device.meta
    return (
        device.to_dict().get("spec"),
        (meta.labels or {}).get(DESCRIPTION_LABEL, ""),
        (meta.annotations or {}).get(EDGE_OWNED_ANNOTATION, ""),
    )


def _enter(device: Document, node: str, context: DeviceContext) -> Iterator[Result]:
    context.ensure_status(device)
    if not context.is_edge(node):
        return
    yield _membership(node, context, added=[member_of(device)])
    yield from tell(device, node, context)


def tell(device: Document, node: str, context: DeviceContext) -> Iterator[Result]:
    """The model and the device; what the node has acknowledged already is not sent again.

    A device waits for its model: an edge that has none for it hands the device to no mapper, and is not asked again.
    Where the node has yet to lose one of the two, both wait for that: a deletion is never overtaken.
    """
    model = context.model_of(device)
    if context.is_ending(node, device) or (model is not None and context.is_ending(node, model)):
        context.held_back.add(DeviceId(device.meta.namespace, device.meta.name))
        return
    if model is not None:
        yield Down(node, context.operation(node, model), DEVICE_MODELS, model)
    if model is not None or not model_key(device):
        yield Down(node, context.operation(node, device), DEVICES, device)


def _change(old: Document, new: Document, node: str, context: DeviceContext) -> Iterator[Result]:
    if not context.is_edge(node):
        return
    if member_of(old) != member_of(new):
        # wire: a Go edge that knows the device complains on MQTT when there are no twins, so there are none in it
        changed = Member(id=member_of(new).id, name=new.meta.name, description=member_of(new).description, twin={})
        yield _membership(node, context, added=[changed])
    yield from tell(new, node, context)
    if model_key(old) != model_key(new):
        yield from _drop_model(old, node, context)


def _leave(device: Document, node: str, context: DeviceContext) -> Iterator[Result]:
    if not context.is_edge(node):
        return
    yield _membership(node, context, removed=[member_of(device)])
    yield from _drop_model(device, node, context)
    context.records.ending(node, device)
    yield Down(node, Operation.DELETE, DEVICES, device)


def tell_held_back(context: DeviceContext) -> Iterator[Result]:
    """The devices that can be told by now."""
    for id in sorted(context.held_back):
        context.held_back.discard(id)
        device = context.devices.get(id.name, id.namespace)
        if device is not None and context.is_edge(node := node_of(device)):
            yield from tell(device, node, context)


def _drop_model(device: Document, node: str, context: DeviceContext) -> Iterator[Result]:
    """The model of a device goes with the last device on the node that has it."""
    model = context.model_of(device)
    if model is not None and not context.is_used(model_key(device), node, apart_from=device):
        context.records.ending(node, model)
        yield Down(node, Operation.DELETE, DEVICE_MODELS, model)


def _membership(
    node: str, context: DeviceContext, *, added: list[Member] | None = None, removed: list[Member] | None = None
) -> Message:
    message = wire.membership_update(
        event_id=str(uuid.uuid4()), timestamp=context.now(), added=added or (), removed=removed or ()
    )
    return message.with_route(resource=paths.add_node(node, message.route.resource))
