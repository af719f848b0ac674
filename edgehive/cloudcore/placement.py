"""Which node a pod is bound to: one lens and one index, shared by the controllers that ask for a node's pods."""

from edgehive.api.core import Lens
from edgehive.api.document import Document

#: Name of the index of pods by node, for `Informer.by_index`.
BY_NODE = "node"


class _Spec(Lens, frozen=True):
    node_name: str = ""


class _Pod(Lens, frozen=True):
    spec: _Spec = _Spec()


def node_of(pod: Document) -> str:
    """The node a pod is bound to, "" for none."""
    return pod.read(_Pod).spec.node_name


def by_node(pod: Document) -> list[str]:
    """The indexer."""
    node = node_of(pod)
    return [node] if node else []
