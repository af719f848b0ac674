"""A model goes to every node that has a device of it, and so does a change of the model alone.

Go: cloud/pkg/devicecontroller/controller/downstream.go
"""

from collections.abc import Iterator

from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS
from edgehive.cloudcore.devicecontroller.context import DeviceContext
from edgehive.cloudcore.devicecontroller.devices import tell
from edgehive.cloudcore.flows import Down, Result, Unchanged, downstream
from edgehive.cloudcore.placement import node_of
from edgehive.kube.informer import Change
from edgehive.wire.names import Operation


@downstream(DEVICE_MODELS)
def models_down(change: Change, context: DeviceContext) -> Iterator[Result]:
    """Tell the nodes of the model's devices; with a model that was missing go the devices that waited for it."""
    old, new = change.old, change.new
    if new is None:
        model = change.document
        for node in _nodes_that_have(model, context):
            context.records.ending(node, model)
            yield Down(node, Operation.DELETE, DEVICE_MODELS, model)
        context.judge_all(context.devices_of(model))
        return
    devices = context.devices_of(new)
    nodes = {node for device in devices if context.is_edge(node := node_of(device))}
    if old is not None and old.to_dict().get("spec") == new.to_dict().get("spec"):
        for node in nodes:
            yield Unchanged(node, old, new)
        return
    for node in sorted(nodes):
        yield Down(node, context.operation(node, new), DEVICE_MODELS, new)
    for device in devices:
        if (node := node_of(device)) in nodes and context.is_new_to(node, device):
            yield from tell(device, node, context)
    context.judge_all(devices)


def _nodes_that_have(model: Document, context: DeviceContext) -> list[str]:
    return [node for node in context.records.nodes() if not context.is_new_to(node, model)]
