"""`Standing`: what this cloudcore is among those of its cluster, and for which nodes it may write to the API.

One object per process, asked by everything that writes. cloudhub tells it of sessions, the election who leads. A node
belongs to the replica that has its session, and after the session's end to the one its Node names, until another
claims it. What is left of a node that is no more belongs to the leader. It never waits and never asks the API.
"""

from edgehive.cloudcore.replicas.claims import claim_on
from edgehive.kube.informer import Informer


class Standing:
    """Without a name (and `nodes`, the edge nodes) it has no others: everything is its own, and nothing is claimed."""

    def __init__(self, nodes: Informer | None = None, name: str = "") -> None:
        self.name = name
        self.leads = not name
        self._nodes = nodes
        self._held: set[str] = set()
        self._contested: set[str] = set()

    @property
    def alone(self) -> bool:
        return not self.name

    def hold(self, node: str) -> None:
        """A session of the node began here, or proved to be the newest."""
        self._held.add(node)
        self._contested.discard(node)

    def contest(self, node: str) -> None:
        """Another replica claims the node whose session is here: nothing is written for it until that is settled."""
        self._contested.add(node)

    def release(self, node: str) -> None:
        """The session here has ended."""
        self._held.discard(node)
        self._contested.discard(node)

    def is_contested(self, node: str) -> bool:
        """Whether the node's session is here and another replica claims it: what waits may be ours again."""
        return node in self._held and node in self._contested

    def owns(self, node: str) -> bool:
        """Whether this replica speaks for the node."""
        if self._nodes is None:
            return True
        if node in self._held:
            return node not in self._contested
        return claim_on(self._nodes.get(node)).replica == self.name

    def may_end(self, node: str) -> bool:
        """Whether this replica may remove what is recorded of the node: the leader's task when it is no more."""
        if self._nodes is None:
            return True
        return self.leads if self._nodes.get(node) is None else self.owns(node)
