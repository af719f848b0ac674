"""Where a pod may run and where it runs best. Pure: nodes and pods in, a name or the reasons out.

Only the scheduler uses it. It knows unschedulable nodes, node names, selectors, node affinity, taints, resources,
host ports, pod anti-affinity and affinity; it knows no volumes topology and never preempts.

Go: pkg/scheduler/framework/plugins
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgehive.api.core import Node, Pod, Taint, Toleration
from edgehive.kube import quantity
from edgehive.kube.selectors import labels_from_object

#: What a container without requests counts for when nodes are compared (not when they are filtered).
NOMINAL = {"cpu": 100, "memory": 200 * 1024 * 1024 * 1000}

HostPort = tuple[str, str, int]


@dataclass(frozen=True)
class Demand:
    """What a pod takes from a node: resources in thousandths, host ports."""

    requests: Mapping[str, int]
    ports: frozenset[HostPort]

    @classmethod
    def of(cls, pod: Pod) -> "Demand":
        ports = frozenset(
            (port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port)  # noqa: S104
            for container in pod.spec.containers
            for port in container.ports or ()
            if port.host_port
        )
        return cls(_requests(pod), ports)


def _requests(pod: Pod) -> dict[str, int]:
    """Containers and sidecars together, or the largest init step where that is more; plus overhead."""
    running: Counter[str] = Counter()
    for container in pod.spec.containers:
        running.update(_milli(container.resources.requests))
    sidecars: Counter[str] = Counter()
    peak: Counter[str] = Counter()
    for container in pod.spec.init_containers or ():
        step = Counter(_milli(container.resources.requests))
        if container.restart_policy == "Always":
            sidecars.update(step)
            step = Counter(sidecars)
        else:
            step.update(sidecars)
        peak |= step
    running.update(sidecars)
    total = running | peak
    total.update(_milli(pod.spec.overhead))
    return dict(total)


def _milli(quantities: Mapping[str, str | int | float] | None) -> dict[str, int]:
    return {name: math.ceil(quantity.parse(value) * 1000) for name, value in (quantities or {}).items()}


@dataclass
class NodeState:
    """A node and the pods that are, or are assumed to be, on it."""

    node: Node
    allocatable: dict[str, int] = field(default_factory=dict)
    pods: dict[str, tuple[Pod, Demand]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.node.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        return self.node.metadata.labels or {}

    def set_node(self, node: Node) -> None:
        self.node = node
        self.allocatable = _milli(node.status.allocatable or node.status.capacity)

    def used(self, resource: str) -> int:
        return sum(demand.requests.get(resource, 0) for _, demand in self.pods.values())


class Unschedulable(Exception):
    """No node fits; the message counts the reasons as kubectl users know them."""


def choose(pod: Pod, nodes: Sequence[NodeState]) -> str:
    """The best node for the pod; raises Unschedulable."""
    demand = Demand.of(pod)
    reasons: Counter[str] = Counter()
    fitting: list[NodeState] = []
    for state in nodes:
        found = obstacles(pod, demand, state, nodes)
        if found:
            reasons.update(found)
        else:
            fitting.append(state)
    if not fitting:
        raise Unschedulable(explain(reasons, len(nodes)))
    return max(fitting, key=lambda state: (score(pod, demand, state), state.name)).name


def explain(reasons: Mapping[str, int], total: int) -> str:
    if total == 0:
        return "no nodes available to schedule pods"
    texts = sorted(f"{count} {reason}" for reason, count in reasons.items())
    return f"0/{total} nodes are available: {', '.join(texts)}."


def obstacles(pod: Pod, demand: Demand, state: NodeState, nodes: Sequence[NodeState]) -> list[str]:
    """Why the pod may not run there; empty when it may. One family of reasons at a time, as Kubernetes reports."""
    checks = (
        _unschedulable(pod, state),
        _untolerated(pod, state),
        _affinity(pod, state),
        _host_ports(demand, state),
        _resources(demand, state),
        _pod_affinity(pod, state, nodes),
    )
    return next((found for found in checks if found), [])


def _unschedulable(pod: Pod, state: NodeState) -> list[str]:
    taint = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
    if state.node.spec.unschedulable and not tolerates(pod.spec.tolerations, taint):
        return ["node(s) were unschedulable"]
    return []


def _untolerated(pod: Pod, state: NodeState) -> list[str]:
    taints = untolerated(pod.spec.tolerations or (), state.node.spec.taints or ())
    return [f"node(s) had untolerated taint {{{taints[0].key}: {taints[0].value}}}"] if taints else []


def untolerated(tolerations: Sequence[Toleration], taints: Iterable[Taint]) -> list[Taint]:
    """The taints that keep a pod with these tolerations away."""
    hard = (taint for taint in taints if taint.effect in ("NoSchedule", "NoExecute"))
    return [taint for taint in hard if not tolerates(tolerations, taint)]


def tolerates(tolerations: Iterable[Toleration] | None, taint: Taint) -> bool:
    return any(tolerates_one(item, taint) for item in tolerations or ())


def tolerates_one(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.value == taint.value


def _affinity(pod: Pod, state: NodeState) -> list[str]:
    return [] if matches_affinity(pod, state) else ["node(s) didn't match Pod's node affinity/selector"]


def matches_affinity(pod: Pod, state: NodeState) -> bool:
    """Whether the node has what `nodeSelector` and required node affinity ask for."""
    labels = state.labels
    required = _node_affinity(pod).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    terms = required.get("nodeSelectorTerms") or []
    selected = all(labels.get(key) == value for key, value in (pod.spec.node_selector or {}).items())
    return selected and (not required or any(_term(term, state) for term in terms))


def _node_affinity(pod: Pod) -> dict[str, Any]:
    return (pod.spec.affinity or {}).get("nodeAffinity") or {}


def _term(term: Mapping[str, Any], state: NodeState) -> bool:
    """All expressions of one term; a term without any matches nothing."""
    by_label = term.get("matchExpressions") or []
    by_field = term.get("matchFields") or []
    if not by_label and not by_field:
        return False
    return all(_expression(item, state.labels) for item in by_label) and all(
        _expression(item, {"metadata.name": state.name}) for item in by_field
    )


def _expression(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, values = labels.get(item.get("key", "")), item.get("values") or []
    match item.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                return int(value or "") > int(values[0]) if operator == "Gt" else int(value or "") < int(values[0])
            except (ValueError, IndexError):
                return False
    return False


def _host_ports(demand: Demand, state: NodeState) -> list[str]:
    if not demand.ports:
        return []
    taken = [port for _, other in state.pods.values() for port in other.ports]
    if any(_clash(port, other) for port in demand.ports for other in taken):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return []


def _clash(one: HostPort, other: HostPort) -> bool:
    wildcard = "0.0.0.0"  # noqa: S104
    return one[1:] == other[1:] and (one[0] == other[0] or wildcard in (one[0], other[0]))


def _resources(demand: Demand, state: NodeState) -> list[str]:
    found = []
    if "pods" in state.allocatable and (len(state.pods) + 1) * 1000 > state.allocatable["pods"]:
        found.append("Too many pods")
    for resource, amount in demand.requests.items():
        if amount and state.used(resource) + amount > state.allocatable.get(resource, 0):
            found.append(f"Insufficient {resource}")
    return found


def _pod_affinity(pod: Pod, state: NodeState, nodes: Sequence[NodeState]) -> list[str]:
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = pod.spec.affinity or {}
    for term in (affinity.get("podAntiAffinity") or {}).get(required) or ():
        if any(_selects(term, pod, other) for other in _neighbours(term, state, nodes)):
            return ["node(s) didn't match pod anti-affinity rules"]
    for other in (other for item in nodes for other, _ in item.pods.values()):
        for term in ((other.spec.affinity or {}).get("podAntiAffinity") or {}).get(required) or ():
            if _selects(term, other, pod) and any(other is near for near in _neighbours(term, state, nodes)):
                return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    for term in (affinity.get("podAffinity") or {}).get(required) or ():
        if any(_selects(term, pod, other) for other in _neighbours(term, state, nodes)):
            continue
        everyone = (other for item in nodes for other, _ in item.pods.values())
        # The first of a group that wants to be together may start anywhere.
        if not _selects(term, pod, pod) or any(_selects(term, pod, other) for other in everyone):
            return ["node(s) didn't match pod affinity rules"]
    return []


def _neighbours(term: Mapping[str, Any], state: NodeState, nodes: Sequence[NodeState]) -> list[Pod]:
    key = term.get("topologyKey", "")
    place = state.labels.get(key)
    if place is None:
        return []
    return [pod for item in nodes if item.labels.get(key) == place for pod, _ in item.pods.values()]


def _selects(term: Mapping[str, Any], owner: Pod, other: Pod) -> bool:
    namespaces = term.get("namespaces") or [owner.metadata.namespace]
    selector = labels_from_object(term.get("labelSelector"))
    return other.metadata.namespace in namespaces and selector is not None and selector.matches(other.metadata.labels)


def score(pod: Pod, demand: Demand, state: NodeState) -> float:
    """Higher is better: the emptier node, the preferred one, one with fewer of the pod's siblings."""
    return _emptiness(demand, state) + _preference(pod, state) - _siblings(pod, state) - _soft_taints(pod, state)


def _emptiness(demand: Demand, state: NodeState) -> float:
    shares = []
    for resource, nominal in NOMINAL.items():
        room = state.allocatable.get(resource, 0)
        used = sum(item.requests.get(resource) or nominal for _, item in state.pods.values())
        taken = used + (demand.requests.get(resource) or nominal)
        shares.append(max(0.0, 1 - taken / room) if room else 0.0)
    return 100 * sum(shares) / len(shares)


def _preference(pod: Pod, state: NodeState) -> float:
    preferred = _node_affinity(pod).get("preferredDuringSchedulingIgnoredDuringExecution") or ()
    return float(sum(item.get("weight", 0) for item in preferred if _term(item.get("preference") or {}, state)))


def _siblings(pod: Pod, state: NodeState) -> float:
    ref = pod.metadata.controller_ref
    if ref is None:
        return 0.0
    refs = (other.metadata.controller_ref for other, _ in state.pods.values())
    return 10.0 * sum(other is not None and other.uid == ref.uid for other in refs)


def _soft_taints(pod: Pod, state: NodeState) -> float:
    soft = [item for item in state.node.spec.taints or () if item.effect == "PreferNoSchedule"]
    return 100.0 * sum(not tolerates(pod.spec.tolerations, item) for item in soft)
