"""What a DELETE does to an object: grace, finalizers, propagation. Pure.

The garbage collector and the namespace controller that act on the finalizers live in edgesite.

Go: k8s.io/apiserver/pkg/registry/generic/registry/store.go, .../rest/delete.go
"""

from datetime import datetime, timedelta
from enum import Enum
from typing import Any

from edgehive.kit.clock import parse_rfc3339, rfc3339
from edgehive.kube.errors import BadRequest, conflict
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.options import DeleteOptions

Json = dict[str, Any]

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
#: A definition stays until its objects are gone.
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_HELD = {"customresourcedefinitions.apiextensions.k8s.io": CLEANUP}
_ORPHANS_BY_DEFAULT = ("replicationcontrollers", "jobs.batch")
_POLICIES = {"Orphan": ORPHAN, "Foreground": FOREGROUND, "Background": ""}


class Verdict(Enum):
    GONE = "gone"
    KEPT = "kept"
    UNCHANGED = "unchanged"


def check_preconditions(served: Served, obj: Json, options: DeleteOptions) -> None:
    """The caller's uid and resourceVersion against the object's; raises Conflict."""
    row, metadata = served.resource, obj["metadata"]
    for name, word, asked, what in (
        ("uid", "UID", options.uid, "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", options.resource_version, "modified"),
    ):
        if asked and asked != metadata[name]:
            why = (f"the {word} in the precondition ({asked}) does not match the {word} in record "
                   f"({metadata[name]}). The object might have been {what}")  # fmt: skip
            raise conflict(row.kind, row.group, metadata["name"], why)


def decide(served: Served, obj: Json, options: DeleteOptions, now: datetime) -> Verdict:
    """Change `obj` to what it must be after the request, and say whether it stays."""
    metadata, before = obj["metadata"], _state(obj)
    if "deletionTimestamp" not in metadata:
        grace = _grace(served, obj, options)
        if served.storage in _HELD:
            metadata["finalizers"] = list(dict.fromkeys([*(metadata.get("finalizers") or ()), _HELD[served.storage]]))
        _set_finalizers(served, metadata, options)
        if not metadata.get("finalizers") and not grace and not _namespace_lingers(served.storage, obj):
            return Verdict.GONE
        _mark(metadata, now + timedelta(seconds=grace), grace)
    else:
        _shorten(metadata, options)
        _set_finalizers(served, metadata, options)
        if may_go(served.storage, obj):
            return Verdict.GONE
    if served.storage == "namespaces":
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    return Verdict.UNCHANGED if _state(obj) == before else Verdict.KEPT


def _state(obj: Json) -> tuple[Any, ...]:
    metadata = obj["metadata"]
    return metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"), tuple(
        metadata.get("finalizers") or ()
    )  # fmt: skip


def _grace(served: Served, obj: Json, options: DeleteOptions) -> int:
    """Only pods linger by time, and only those a node may be running."""
    if served.storage != "pods":
        return 0
    spec = obj.get("spec") or {}
    if not spec.get("nodeName") or (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    asked = options.grace_period_seconds
    grace = spec.get("terminationGracePeriodSeconds", 30) if asked is None else asked
    return 1 if grace < 0 else int(grace)


def _mark(metadata: Json, instant: datetime, grace: int) -> None:
    metadata["deletionTimestamp"] = rfc3339(instant)
    metadata["deletionGracePeriodSeconds"] = grace
    if metadata.get("generation"):
        metadata["generation"] += 1


def _shorten(metadata: Json, options: DeleteOptions) -> None:
    """A second request may only bring the end nearer."""
    asked, current = options.grace_period_seconds, metadata.get("deletionGracePeriodSeconds") or 0
    if asked is None or asked >= current:
        return
    asked = max(asked, 0)
    requested = parse_rfc3339(metadata["deletionTimestamp"]) - timedelta(seconds=current)
    metadata["deletionTimestamp"] = rfc3339(requested + timedelta(seconds=asked))
    metadata["deletionGracePeriodSeconds"] = asked


def _set_finalizers(served: Served, metadata: Json, options: DeleteOptions) -> None:
    """Turn the propagation policy into the finalizers the garbage collector works by; raises BadRequest."""
    present = list(metadata.get("finalizers") or ())
    if options.propagation:
        if options.propagation not in _POLICIES:
            raise BadRequest(f'"{options.propagation}" is no propagation policy: use Orphan, Background or Foreground')
        wanted = _POLICIES[options.propagation]
    elif ORPHAN in present or FOREGROUND in present:
        return
    else:
        wanted = ORPHAN if served.storage in _ORPHANS_BY_DEFAULT else ""
    kept = [name for name in present if name not in (ORPHAN, FOREGROUND)]
    finalizers = [*kept, wanted] if wanted else kept
    metadata.pop("finalizers", None)
    if finalizers:
        metadata["finalizers"] = finalizers


def _namespace_lingers(storage: str, obj: Json) -> bool:
    return storage == "namespaces" and bool((obj.get("spec") or {}).get("finalizers"))


def may_go(storage: str, obj: Json) -> bool:
    """An object marked for deletion that nothing holds any more."""
    metadata = obj["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not _namespace_lingers(storage, obj)
    )
