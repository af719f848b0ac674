"""CPU and memory of nodes and pods: from a kubelet's statistics to metrics.k8s.io objects. Pure.

CPU is what was spent between two readings; whoever is in the second alone counts from its start, or not yet. Kubelets
may keep counters for a while (cAdvisor's are up to 15 s old): where they tell when they counted, that is the time that
went by, and where they did not count anew, their own word on the rate is taken.

Go: sigs.k8s.io/metrics-server/pkg/storage, k8s.io/metrics/pkg/apis/metrics/v1beta1
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec

from edgehive.api.registry import ApiResource
from edgehive.kit.clock import parse_rfc3339, rfc3339

Json = dict[str, Any]

GROUP: Final = "metrics.k8s.io"
_VERBS: Final = ("get", "list")
NODE_METRICS: Final = ApiResource(GROUP, "v1beta1", "NodeMetrics", "nodes", False, verbs=_VERBS)
POD_METRICS: Final = ApiResource(GROUP, "v1beta1", "PodMetrics", "pods", True, verbs=_VERBS)
#: A container this young has no rate yet: its start is told in whole seconds.
_FRESH_SECONDS: Final = 10.0


#: Kubelets tell the time of counting in whole seconds.
_SLACK_SECONDS: Final = 2.0


class _Cpu(msgspec.Struct, rename="camel", frozen=True):
    time: str | None = None
    usage_core_nano_seconds: int | None = None
    usage_nano_cores: int | None = None


class _Memory(msgspec.Struct, rename="camel", frozen=True):
    working_set_bytes: int | None = None


class _Counters(msgspec.Struct, rename="camel", frozen=True):
    """A node or a container."""

    cpu: _Cpu | None = None
    memory: _Memory | None = None
    name: str = ""
    start_time: str | None = None


class _Reference(msgspec.Struct, rename="camel", frozen=True):
    name: str
    namespace: str
    uid: str = ""


class _Pod(msgspec.Struct, rename="camel", frozen=True):
    pod_ref: _Reference
    containers: list[_Counters] | None = None


class _Summary(msgspec.Struct, rename="camel", frozen=True):
    node: _Counters
    pods: list[_Pod] | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """Total CPU time in nanoseconds, memory in bytes, and as far as known since when they count, and when they did.

    `nanocores` is the kubelet's own word on the rate.
    """

    cpu: int
    memory: int
    since: datetime | None = None
    counted_at: datetime | None = None
    nanocores: int | None = None


#: Namespace, pod, uid and container.
Place = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """One node's counters at one instant."""

    at: datetime
    node: Used | None
    containers: Mapping[Place, Used]


@dataclass(frozen=True, slots=True)
class Rate:
    """CPU in billionths of a core and memory in bytes."""

    nanocores: int
    memory: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What one node and its pods used over a window that ended at `at`; containers by (namespace, pod)."""

    at: datetime
    seconds: float
    node: Rate | None
    pods: Mapping[tuple[str, str], Mapping[str, Rate]]


_decode = msgspec.json.Decoder(_Summary).decode


def read(body: bytes, at: datetime) -> Reading:
    """A kubelet's /stats/summary; raises ValueError."""
    summary = _decode(body)
    containers = {
        (pod.pod_ref.namespace, pod.pod_ref.name, pod.pod_ref.uid, item.name): used
        for pod in summary.pods or ()
        for item in pod.containers or ()
        if (used := _used(item)) is not None
    }
    return Reading(at, _used(summary.node), containers)


def _used(item: _Counters) -> Used | None:
    """None while a counter is missing."""
    cpu = item.cpu.usage_core_nano_seconds if item.cpu else None
    memory = item.memory.working_set_bytes if item.memory else None
    if cpu is None or memory is None:
        return None
    assert item.cpu is not None
    return Used(cpu, memory, _instant(item.start_time), _instant(item.cpu.time), item.cpu.usage_nano_cores)


def _instant(text: str | None) -> datetime | None:
    return parse_rfc3339(text) if text else None


def between(before: Reading, after: Reading) -> Usage:
    """What was used from one reading to the next; a pod is told of when all its containers are known."""
    seconds = (after.at - before.at).total_seconds()
    pods: dict[tuple[str, str], dict[str, Rate]] = {}
    incomplete = set()
    for place, used in after.containers.items():
        namespace, name, _, container = place
        rate = _rate(before.containers.get(place), used, seconds) or _rate_since_start(used, after.at)
        if rate is None:
            incomplete.add((namespace, name))
        else:
            pods.setdefault((namespace, name), {})[container] = rate
    node = _rate(before.node, after.node, seconds) if after.node is not None else None
    return Usage(after.at, seconds, node, {key: rates for key, rates in pods.items() if key not in incomplete})


def _rate(before: Used | None, after: Used, seconds: float) -> Rate | None:
    """None for what was not there, or has begun anew."""
    if before is None or after.cpu < before.cpu:
        return None
    spent, seconds = after.cpu - before.cpu, _seconds_between(before, after, seconds)
    if seconds <= 0 or (not spent and after.counted_at == before.counted_at and after.nanocores is not None):
        return Rate(after.nanocores, after.memory) if after.nanocores is not None else None
    return Rate(round(spent / seconds), after.memory)


def _seconds_between(before: Used, after: Used, seconds: float) -> float:
    """What the kubelet's clock says went by, where that is another time than between the readings."""
    if before.counted_at is None or after.counted_at is None:
        return seconds
    counted = (after.counted_at - before.counted_at).total_seconds()
    return counted if abs(counted - seconds) > _SLACK_SECONDS else seconds


def _rate_since_start(used: Used, now: datetime) -> Rate | None:
    seconds = (now - used.since).total_seconds() if used.since else 0.0
    return Rate(round(used.cpu / seconds), used.memory) if seconds >= _FRESH_SECONDS else None


# ---------------------------------------------------------------- objects


def node_metrics(name: str, labels: Mapping[str, str], usage: Usage) -> Json | None:
    """The NodeMetrics of a node; None while there is nothing to tell."""
    if usage.node is None:
        return None
    return _object(NODE_METRICS, {"name": name}, labels, usage) | {"usage": _amounts(usage.node)}


def pod_metrics(namespace: str, name: str, labels: Mapping[str, str], usage: Usage) -> Json | None:
    """The PodMetrics of a pod; None while there is nothing to tell."""
    rates = usage.pods.get((namespace, name))
    if not rates:
        return None
    containers = [{"name": container, "usage": _amounts(rate)} for container, rate in rates.items()]
    return _object(POD_METRICS, {"name": name, "namespace": namespace}, labels, usage) | {"containers": containers}


def _object(resource: ApiResource, metadata: Json, labels: Mapping[str, str], usage: Usage) -> Json:
    at = rfc3339(usage.at)
    metadata["creationTimestamp"] = at
    if labels:
        metadata["labels"] = dict(labels)
    return {
        "kind": resource.kind,
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "timestamp": at,
        "window": _duration(usage.seconds),
    }


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:.6g}s" if minutes else f"{rest:.6g}s"


def _amounts(rate: Rate) -> Json:
    return {"cpu": f"{rate.nanocores}n" if rate.nanocores else "0", "memory": f"{rate.memory // 1024}Ki"}
