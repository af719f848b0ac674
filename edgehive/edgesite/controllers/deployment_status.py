"""A Deployment's status from its ReplicaSets: counts, Available, Progressing and its deadline. Pure.

Go: pkg/controller/deployment/sync.go (calculateStatus), progress.go
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from edgehive.api.apps import Deployment, ReplicaSet
from edgehive.kit.clock import parse_rfc3339, rfc3339


@dataclass(frozen=True)
class Totals:
    """What all ReplicaSets of a Deployment report together."""

    replicas: int
    updated: int
    ready: int
    available: int
    wanted_now: int
    new_name: str
    failure: dict[str, Any] | None

    @classmethod
    def of(cls, all: Sequence[ReplicaSet], new: ReplicaSet | None, wanted_now: int, new_name: str) -> "Totals":
        failures = [c for item in all for c in item.status.conditions or () if c.type == "ReplicaFailure"]
        failure = None
        if failures and failures[0].status == "True":
            failure = {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": failures[0].reason,
                "message": failures[0].message,
            }
        return cls(
            sum(item.status.replicas for item in all),
            new.status.replicas if new else 0,
            sum(item.status.ready_replicas for item in all),
            sum(item.status.available_replicas for item in all),
            wanted_now,
            new_name,
            failure,
        )


def compute(
    lens: Deployment, old: dict[str, Any], generation: int | None, totals: Totals, may_miss: int, now: datetime
) -> tuple[dict[str, Any], float | None]:
    """The new status, and seconds until the progress deadline has to be judged again."""
    wanted = 1 if lens.spec.replicas is None else lens.spec.replicas
    counts = {
        "replicas": totals.replicas,
        "updatedReplicas": totals.updated,
        "readyReplicas": totals.ready,
        "availableReplicas": totals.available,
        "unavailableReplicas": max(0, totals.wanted_now - totals.available),
    }
    status: dict[str, Any] = {name: count for name, count in counts.items() if count}
    if generation:
        status["observedGeneration"] = generation
    if lens.status.collision_count is not None:
        status["collisionCount"] = lens.status.collision_count
    conditions = {item["type"]: item for item in old.get("conditions") or ()}
    _put(conditions, _available(totals.available >= wanted - may_miss), now)
    again = _progress(conditions, lens, old, status, totals, now)
    conditions.pop("ReplicaFailure", None)
    if totals.failure is not None:
        _put(conditions, totals.failure, now)
    status["conditions"] = list(conditions.values())
    return status, again


def _available(enough: bool) -> dict[str, Any]:
    if enough:
        return _condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    return _condition(
        "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
    )


def _progress(
    conditions: dict[str, dict[str, Any]],
    lens: Deployment,
    old: dict[str, Any],
    status: dict[str, Any],
    totals: Totals,
    now: datetime,
) -> float | None:
    deadline = lens.spec.progress_deadline_seconds
    if deadline is None or deadline >= 2**31 - 1:
        conditions.pop("Progressing", None)
        return None
    current = conditions.get("Progressing")
    if lens.spec.paused:
        _put(conditions, _condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused"), now)
        return None
    if current is not None and current["reason"] == "DeploymentPaused":
        current = _condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed")
        current = _put(conditions, current, now)
    if not totals.new_name:
        return None
    set_text = f'ReplicaSet "{totals.new_name}"'
    if _finished(lens, totals):
        text = f"{set_text} has successfully progressed."
        _put(conditions, _condition("Progressing", "True", "NewReplicaSetAvailable", text), now)
        return None
    if _moved(old, status) or current is None:
        reason, text = "ReplicaSetUpdated", f"{set_text} is progressing."
        if current is None:
            reason, text = "NewReplicaSetCreated", f'Created new replica set "{totals.new_name}"'
        _put(conditions, _condition("Progressing", "True", reason, text), now, refresh=True)
        return float(deadline) + 1
    if current["reason"] in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded"):
        # After completion only a new template starts the clock again, and a missed deadline stays missed.
        return None
    left = (parse_rfc3339(current["lastUpdateTime"]) + timedelta(seconds=deadline) - now).total_seconds()
    if left > 0:
        return left + 1
    text = f"{set_text} has timed out progressing."
    _put(conditions, _condition("Progressing", "False", "ProgressDeadlineExceeded", text), now)
    return None


def _finished(lens: Deployment, totals: Totals) -> bool:
    wanted = 1 if lens.spec.replicas is None else lens.spec.replicas
    return totals.updated == totals.replicas == totals.available == wanted == totals.wanted_now


def _moved(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Progress: more of the new, less of the old, more ready or more available than before."""

    def of(status: dict[str, Any], name: str) -> int:
        return int(status.get(name) or 0)

    def stale(status: dict[str, Any]) -> int:
        return of(status, "replicas") - of(status, "updatedReplicas")

    return (
        of(new, "updatedReplicas") > of(old, "updatedReplicas")
        or stale(new) < stale(old)
        or of(new, "readyReplicas") > of(old, "readyReplicas")
        or of(new, "availableReplicas") > of(old, "availableReplicas")
    )


def _condition(type: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": type, "status": status, "reason": reason, "message": message}


def _put(
    conditions: dict[str, dict[str, Any]], new: dict[str, Any], now: datetime, *, refresh: bool = False
) -> dict[str, Any]:
    """Put a condition in; its times move only when something in it changed (or `refresh` says it progressed)."""
    old = conditions.get(new["type"])
    text = rfc3339(now)
    same_status = old is not None and old["status"] == new["status"]
    if old is not None and same_status and old["reason"] == new["reason"] and not refresh:
        return old
    transition = old["lastTransitionTime"] if old is not None and same_status else text
    entry = {
        "type": new["type"],
        "status": new["status"],
        "lastUpdateTime": text,
        "lastTransitionTime": transition,
        "reason": new["reason"],
        "message": new["message"],
    }
    conditions[new["type"]] = entry
    return entry
