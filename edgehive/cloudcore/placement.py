"""Which node a pod or a device is bound to, and of which model a device is: lenses and indexes for the controllers."""

from edgehive.api.core import Lens
from edgehive.api.document import Document

#: Name of the index of pods by node, for `Informer.by_index`.
BY_NODE = "node"


#: Name of the index of devices by model.
BY_MODEL = "model"


class _Reference(Lens, frozen=True):
    name: str = ""


class _Spec(Lens, frozen=True):
    node_name: str = ""
    device_model_ref: _Reference | None = None


class _Bound(Lens, frozen=True):
    spec: _Spec = _Spec()


def node_of(bound: Document) -> str:
    """The node a pod or a device is bound to, "" for none."""
    return bound.read(_Bound).spec.node_name


def by_node(bound: Document) -> list[str]:
    """The indexer."""
    node = node_of(bound)
    return [node] if node else []


def model_key(device: Document) -> str:
    """The model a device names, as `<namespace>/<name>`; "" for none."""
    reference = device.read(_Bound).spec.device_model_ref
    return f"{device.meta.namespace}/{reference.name}" if reference is not None and reference.name else ""


def by_model(device: Document) -> list[str]:
    """The indexer."""
    model = model_key(device)
    return [model] if model else []
