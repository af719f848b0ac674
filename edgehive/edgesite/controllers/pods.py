"""What every workload controller asks of a pod and how it makes one from a template. Pure.

Go: pkg/api/v1/pod/util.go, pkg/controller/controller_utils.go
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.kit.clock import parse_rfc3339


def is_ready(pod: Pod) -> bool:
    condition = pod.status.condition("Ready")
    return condition is not None and condition.status == "True"


def ready_since(pod: Pod) -> datetime | None:
    """When the pod became ready; None while it is not."""
    condition = pod.status.condition("Ready")
    if condition is None or condition.status != "True" or not condition.last_transition_time:
        return None
    return parse_rfc3339(condition.last_transition_time)


def is_available(pod: Pod, min_ready_seconds: int, now: datetime) -> bool:
    """Ready for at least `min_ready_seconds`."""
    if min_ready_seconds == 0:
        return is_ready(pod)
    since = ready_since(pod)
    return since is not None and since + timedelta(seconds=min_ready_seconds) <= now


def is_finished(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def is_active(pod: Pod) -> bool:
    """Counts for its owner: not finished and not on its way out."""
    return not is_finished(pod) and pod.metadata.deletion_timestamp is None


def seconds_until_available(pods: Iterable[Pod], min_ready_seconds: int, now: datetime) -> float | None:
    """When the next ready pod becomes available; None when no pod is waiting for that."""
    starts = [since for pod in pods if (since := ready_since(pod)) and not is_available(pod, min_ready_seconds, now)]
    if not starts:
        return None
    return max(0.0, (min(starts) + timedelta(seconds=min_ready_seconds) - now).total_seconds()) + 0.05


def owner_reference(owner: Document, api_version: str, kind: str) -> dict[str, Any]:
    """The reference that makes `owner` the controller of something."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": owner.meta.name,
        "uid": owner.meta.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def from_template(template: Mapping[str, Any], owner: Mapping[str, Any], namespace: str) -> dict[str, Any]:
    """A pod of this template, owned by `owner` and named after it by the server."""
    metadata = template.get("metadata") or {}
    kept: dict[str, Any] = {name: dict(metadata[name]) for name in ("labels", "annotations") if metadata.get(name)}
    if metadata.get("finalizers"):
        kept["finalizers"] = list(metadata["finalizers"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{owner['name']}-",
            "namespace": namespace,
            **kept,
            "ownerReferences": [dict(owner)],
        },
        "spec": deepcopy(dict(template.get("spec") or {})),
    }


@dataclass(frozen=True)
class PodItem:
    """A pod's document beside its lens, so both are at hand and it is parsed once."""

    document: Document
    pod: Pod

    @classmethod
    def of(cls, document: Document) -> "PodItem":
        return cls(document, document.read(Pod))

    @property
    def name(self) -> str:
        return self.document.meta.name


def deletion_cost(pod: Pod) -> int:
    text = (pod.metadata.annotations or {}).get("controller.kubernetes.io/pod-deletion-cost", "0")
    try:
        return int(text)
    except ValueError:
        return 0


def deletion_order(items: Iterable[PodItem]) -> list[PodItem]:
    """Pods in the order in which they may go: those missed least come first.

    Unassigned before assigned, Pending before Unknown before Running, not ready before ready, cheaper before
    dearer, on fuller nodes before emptier ones, ready for a shorter time first, more restarts first, younger first.
    """
    items = list(items)
    per_node: dict[str, int] = {}
    for item in items:
        node = item.pod.spec.node_name
        per_node[node] = per_node.get(node, 0) + 1

    def rank(item: PodItem) -> tuple[Any, ...]:
        pod = item.pod
        since = ready_since(pod)
        restarts = max((status.restart_count for status in pod.status.container_statuses or ()), default=0)
        return (
            bool(pod.spec.node_name),
            {"Pending": 0, "Unknown": 1, "Running": 2}.get(pod.status.phase, 0),
            is_ready(pod),
            deletion_cost(pod),
            -per_node[pod.spec.node_name],
            -(since.timestamp() if since else 0),
            -restarts,
            _younger_first(pod.metadata.creation_timestamp),
        )

    return sorted(items, key=rank)


def _younger_first(created: str | None) -> float:
    return -parse_rfc3339(created).timestamp() if created else float("-inf")
