"""Where a pod may run, as tables."""

from typing import Any

import pytest

from edgehive.api.core import Node, Pod
from edgehive.api.document import Document
from edgehive.edgesite.placement import Demand, NodeState, Unschedulable, choose, obstacles

Json = dict[str, Any]


def node(name: str = "one", labels: Json | None = None, taints: list[Json] | None = None, **extra: Any) -> NodeState:
    resources = {"cpu": "2", "memory": "4Gi", "pods": "10", **extra.pop("resources", {})}
    body = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": taints or [], **extra},
        "status": {"allocatable": resources},
    }
    state = NodeState(Node())
    state.set_node(Document.of(body).read(Node))
    return state


def pod(
    name: str = "a", cpu: str = "", ports: list[Json] | None = None, labels: Json | None = None, **spec: Any
) -> Pod:
    requests = {"requests": {"cpu": cpu}} if cpu else {}
    container = {"name": "main", "resources": requests, "ports": ports or []}
    body = {
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": labels or {}},
        "spec": {"containers": [container], **spec},
    }
    return Document.of(body).read(Pod)


def why(pod: Pod, state: NodeState, *others: NodeState) -> list[str]:
    return obstacles(pod, Demand.of(pod), state, [state, *others])


def put(state: NodeState, *pods: Pod) -> NodeState:
    for item in pods:
        state.pods[item.metadata.uid] = (item, Demand.of(item))
    return state


def affinity(*expressions: Json) -> Json:
    required = {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def expression(key: str, operator: str, *values: str) -> Json:
    return {"key": key, "operator": operator, "values": list(values)}


NO_MATCH = "node(s) didn't match Pod's node affinity/selector"
UNTOLERATED = "node(s) had untolerated taint {edge: yes}"
TAINT = {"key": "edge", "value": "yes", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("wanted", "state", "reasons"),
    [
        (pod(), node(), []),
        (pod(), node(unschedulable=True), ["node(s) were unschedulable"]),
        (pod(), node(taints=[TAINT]), [UNTOLERATED]),
        (pod(tolerations=[{"key": "edge", "value": "yes"}]), node(taints=[TAINT]), []),
        (pod(tolerations=[{"key": "edge", "value": "no"}]), node(taints=[TAINT]), [UNTOLERATED]),
        (pod(tolerations=[{"operator": "Exists"}]), node(taints=[TAINT]), []),
        (pod(), node(taints=[{**TAINT, "effect": "PreferNoSchedule"}]), []),
        (pod(nodeSelector={"disk": "ssd"}), node(), [NO_MATCH]),
        (pod(nodeSelector={"disk": "ssd"}), node(labels={"disk": "ssd"}), []),
        (pod(affinity=affinity(expression("n", "Gt", "3"))), node(labels={"n": "4"}), []),
        (pod(affinity=affinity(expression("n", "Gt", "3"))), node(labels={"n": "x"}), [NO_MATCH]),
        (pod(affinity=affinity(expression("n", "NotIn", "3"))), node(), []),
        (pod(affinity=affinity(expression("n", "DoesNotExist"))), node(labels={"n": ""}), [NO_MATCH]),
        (pod(cpu="1500m"), node(), []),
        (pod(cpu="2500m"), node(), ["Insufficient cpu"]),
        (pod(cpu="1500m"), put(node(), pod("b", cpu="600m")), ["Insufficient cpu"]),
        (pod(), put(node(resources={"pods": "1"}), pod("b")), ["Too many pods"]),
    ],
)  # fmt: skip
def test_obstacles(wanted: Pod, state: NodeState, reasons: list[str]) -> None:
    assert why(wanted, state) == reasons


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, True),
        ({"hostPort": 80}, {"hostPort": 81}, False),
        ({"hostPort": 80, "protocol": "UDP"}, {"hostPort": 80}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80}, True),
    ],
)
def test_host_ports(one: Json, other: Json, clash: bool) -> None:
    state = put(node(), pod("b", ports=[{"containerPort": 1, **other}]))
    assert bool(why(pod(ports=[{"containerPort": 1, **one}]), state)) == clash


def test_an_init_step_counts_when_it_is_larger_and_a_sidecar_is_added() -> None:
    def container(cpu: str, **extra: str) -> Json:
        return {"name": "x", "resources": {"requests": {"cpu": cpu}}, **extra}

    inits = [container("100m", restartPolicy="Always"), container("1")]
    demand = Demand.of(pod(cpu="200m", initContainers=inits, overhead={"cpu": "50m"}))
    assert demand.requests["cpu"] == 1150


def test_the_reasons_are_counted() -> None:
    nodes = [node("a", unschedulable=True), node("b", taints=[TAINT]), node("c", taints=[TAINT])]
    with pytest.raises(Unschedulable) as caught:
        choose(pod(), nodes)
    assert str(caught.value) == (
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) had untolerated taint {edge: yes}."
    )


def test_no_node_at_all() -> None:
    with pytest.raises(Unschedulable, match="no nodes available to schedule pods"):
        choose(pod(), [])


def test_the_emptier_node_wins_and_a_preference_beats_it() -> None:
    full, empty = put(node("full", labels={"disk": "ssd"}), pod("b", cpu="1")), node("empty")
    assert choose(pod(), [full, empty]) == "empty"
    preference = {"weight": 90, "preference": {"matchExpressions": [expression("disk", "In", "ssd")]}}
    preferred = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preference]}}
    assert choose(pod(affinity=preferred), [full, empty]) == "full"


def term(app: str) -> Json:
    return {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": app}}}


def test_pods_that_must_not_meet_are_kept_apart_in_both_directions() -> None:
    shy = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("web")]}}
    here, there = node("here", labels={"zone": "a"}), node("there", labels={"zone": "b"})
    put(here, pod("web", labels={"app": "web"}))
    assert choose(pod(affinity=shy), [here, there]) == "there"
    lonely = put(node("here", labels={"zone": "a"}), pod("shy", affinity=shy))
    assert choose(pod(labels={"app": "web"}), [lonely, there]) == "there"


def test_pods_that_belong_together_meet() -> None:
    close = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term("db")]}}
    here, there = node("here", labels={"zone": "a"}), node("there", labels={"zone": "b"})
    put(there, pod("db", labels={"app": "db"}))
    assert choose(pod(affinity=close), [here, there]) == "there"
    with pytest.raises(Unschedulable):
        choose(pod(affinity=close), [here])
