"""What a status may say: counts that add up, addresses that are some. Pure.

Judged when a status is written; the rest of the object was judged when it was.

Go: pkg/apis/{apps,batch,core,policy}/validation (the ...Status... functions)
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from edgehive.kube.server import field_errors as names
from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]
Check = Callable[[FieldErrors, Json, Json], None]

_OF_REPLICAS: Final = "cannot be greater than status.replicas"


def _status(obj: Json) -> Json:
    return obj.get("status") or {}


def _counts(*fields: str) -> Check:
    """None of these is negative."""

    def check(errors: FieldErrors, old: Json, new: Json) -> None:  # noqa: ARG001 - the seam of all checks
        for field in fields:
            errors.not_negative(f"status.{field}", _status(new).get(field))

    return check


def _replicas(parts: tuple[str, ...], others: tuple[str, ...], above_ready: str) -> Check:
    """Counts of which `parts` are no more than all replicas, and the available no more than the ready."""
    counts = _counts("replicas", *parts, *others)

    def check(errors: FieldErrors, old: Json, new: Json) -> None:
        counts(errors, old, new)
        status = _status(new)
        for field in parts:
            if (status.get(field) or 0) > (status.get("replicas") or 0):
                errors.invalid(f"status.{field}", status.get(field) or 0, _OF_REPLICAS)
        if (status.get("availableReplicas") or 0) > (status.get("readyReplicas") or 0):
            errors.invalid("status.availableReplicas", status["availableReplicas"], above_ready)

    return check


def _pod(errors: FieldErrors, old: Json, new: Json) -> None:
    before, status = _status(old), _status(new)
    nominated = status.get("nominatedNodeName") or ""
    if nominated and nominated != before.get("nominatedNodeName"):
        errors.each_invalid("status.nominatedNodeName", nominated, names.subdomain(nominated))
    if before.get("qosClass"):
        errors.immutable("status.qosClass", before["qosClass"], status.get("qosClass"))
    for field in ("podIPs", "hostIPs"):
        kept = {item.get("ip") for item in before.get(field) or ()}
        addresses = [item.get("ip") or "" for item in status.get(field) or ()]
        for index, address in enumerate(addresses):
            if address not in kept:
                errors.each_invalid(f"status.{field}[{index}]", address, names.ip_address(address))


def _node(errors: FieldErrors, old: Json, new: Json) -> None:  # noqa: ARG001 - the seam of all checks
    status, seen = _status(new), []
    for index, address in enumerate(status.get("addresses") or ()):
        if address in seen:
            errors.duplicate(f"status.addresses[{index}]", address)
        seen.append(address)
    for field in ("capacity", "allocatable"):
        errors.amounts(f"status.{field}", status.get(field) or {}, ".{}")


def _service(errors: FieldErrors, old: Json, new: Json) -> None:  # noqa: ARG001 - the seam of all checks
    at, ingress = "status.loadBalancer.ingress", (_status(new).get("loadBalancer") or {}).get("ingress") or ()
    if ingress and (new.get("spec") or {}).get("type") != "LoadBalancer":
        errors.forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, item in enumerate(ingress):
        if item.get("ip"):
            errors.each_invalid(f"{at}[{index}].ip", item["ip"], names.ip_address(item["ip"]))
        if item.get("hostname"):
            errors.each_invalid(f"{at}[{index}].hostname", item["hostname"], names.subdomain(item["hostname"]))


def _quota(errors: FieldErrors, old: Json, new: Json) -> None:  # noqa: ARG001 - the seam of all checks
    for field in ("hard", "used"):
        errors.amounts(f"status.{field}", _status(new).get(field) or {}, "[{}]")


#: By `plural.group`.
STATUSES: Final[dict[str, Check]] = {
    "pods": _pod,
    "nodes": _node,
    "services": _service,
    "resourcequotas": _quota,
    "deployments.apps": _replicas(
        ("updatedReplicas", "readyReplicas", "availableReplicas"),
        ("unavailableReplicas", "observedGeneration", "collisionCount"), "cannot be greater than readyReplicas",
    ),
    "replicasets.apps": _replicas(
        ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"), ("observedGeneration",),
        "cannot be greater than readyReplicas",
    ),
    "replicationcontrollers": _replicas(
        ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"), ("observedGeneration",),
        "cannot be greater than readyReplicas",
    ),
    "statefulsets.apps": _replicas(
        ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"),
        ("observedGeneration", "collisionCount"), "cannot be greater than status.readyReplicas",
    ),
    "daemonsets.apps": _counts(
        "currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady", "observedGeneration",
        "updatedNumberScheduled", "numberAvailable", "numberUnavailable", "collisionCount",
    ),
    "jobs.batch": _counts("active", "succeeded", "failed", "terminating"),
    "poddisruptionbudgets.policy": _counts("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"),
    "horizontalpodautoscalers.autoscaling": _counts("currentReplicas", "desiredReplicas"),
}  # fmt: skip
