"""What a write may change: metadata the server owns, the split of spec and status, generation. Pure.

Go: k8s.io/apiserver/pkg/registry/rest/{create,update}.go and pkg/registry/*/strategy.go
"""

import secrets
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edgehive.api.meta import StatusCause
from edgehive.kit.clock import rfc3339
from edgehive.kube.errors import BadRequest, conflict, invalid
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.conform import empty_status
from edgehive.kube.server.options import Call

Json = dict[str, Any]

_NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_NAME_BASE = 58
#: Metadata only the server writes; an update keeps the old values.
_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace",
          "name", "resourceVersion")  # fmt: skip
#: Groups whose status strategy also keeps labels.
_STATUS_KEEPS_LABELS = ("apps", "batch")


def adopt_type(served: Served, body: Json) -> None:
    """Fill in kind and apiVersion, or refuse a body of another kind; raises BadRequest."""
    row = served.resource
    kind, version = body.get("kind") or row.kind, body.get("apiVersion") or row.api_version
    if kind != row.kind:
        raise BadRequest(
            f'{kind} in version "{version}" cannot be handled as a {row.kind}: '
            f"converting ({_go_type(version, kind)}) to ({_internal(row.group)}.{row.kind}): unknown conversion"
        )
    if version != row.api_version:
        raise BadRequest(
            f"the API version in the data ({version}) does not match the expected API version ({row.api_version})"
        )
    body["kind"], body["apiVersion"] = kind, version
    if not isinstance(body.get("metadata") or {}, dict):
        raise BadRequest("metadata must be an object")
    body["metadata"] = _without_nulls(body.get("metadata") or {})


def _go_type(version: str, kind: str) -> str:
    return f"{version.rpartition('/')[2]}.{kind}"


def _internal(group: str) -> str:
    return group.partition(".")[0] or "core"


def _without_nulls(metadata: Mapping[str, Any]) -> Json:
    return {
        key: value for key, value in metadata.items() if value is not None and key not in ("managedFields", "selfLink")
    }


def check_place(call: Call, body: Json) -> None:
    """The body's name and namespace against the URL's; raises BadRequest."""
    metadata = body["metadata"]
    namespace = call.namespace if call.served.resource.namespaced else ""
    if metadata.get("namespace") and metadata["namespace"] != namespace:
        raise BadRequest("the namespace of the provided object does not match the namespace sent on the request")
    if namespace:
        metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    if call.name and metadata.get("name") and metadata["name"] != call.name:
        raise BadRequest(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({call.name})"
        )
    if call.name:
        metadata["name"] = call.name


def begin(served: Served, obj: Json, now: datetime) -> None:
    """A new object's metadata and empty status; raises BadRequest."""
    metadata = obj["metadata"]
    if metadata.pop("resourceVersion", ""):
        raise BadRequest("resourceVersion should not be set on objects to be created")
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = rfc3339(now)
    if served.tracks_generation:
        metadata["generation"] = 1
    if served.has_status and served.storage != "nodes":
        obj.pop("status", None)
        status = empty_status(served.resource.api_version, served.resource.kind) if served.custom is None else None
        if status is not None:
            obj["status"] = status
    if served.storage == "pods" and not isinstance(obj.get("spec"), dict):
        obj["spec"] = {}


def generated_name(base: str) -> str:
    """`generateName` and five letters that make no words."""
    return base[:_NAME_BASE] + "".join(secrets.choice(_NAME_LETTERS) for _ in range(5))


def require_name(served: Served, obj: Json) -> None:
    if not obj["metadata"].get("name"):
        row = served.resource
        text = "Required value: name or generateName is required"
        raise invalid(row.kind, row.group, "", [StatusCause("FieldValueRequired", text, "metadata.name")])


def check_version(call: Call, old: Json, new: Json) -> None:
    """Optimistic concurrency and identity of an update; raises Conflict or Invalid."""
    row, before, after = call.served.resource, old["metadata"], new["metadata"]
    version = after.get("resourceVersion", "")
    if version in ("", "0") and not call.served.unconditional_update:
        text = "Invalid value: 0x0: must be specified for an update"
        raise invalid(
            row.kind, row.group, call.name, [StatusCause("FieldValueInvalid", text, "metadata.resourceVersion")]
        )
    uid = after.get("uid")
    if uid and uid != before["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['uid']}"
        raise conflict(row.plural, row.group, call.name, why)
    if version not in ("", "0", before["resourceVersion"]):
        raise conflict(row.plural, row.group, call.name)


def _main(served: Served, old: Json, new: Json) -> Json:
    merged = dict(new)
    if served.has_status:
        merged.pop("status", None)
        if "status" in old:
            merged["status"] = old["status"]
    if served.storage == "namespaces":
        merged["spec"] = {**(new.get("spec") or {}), "finalizers": (old.get("spec") or {}).get("finalizers", [])}
    return merged


def _status(served: Served, old: Json, new: Json) -> Json:
    merged = dict(old)
    merged.pop("status", None)
    if "status" in new:
        merged["status"] = new["status"]
    if served.custom is None:
        merged["metadata"] = dict(new["metadata"])
        _keep(merged["metadata"], old["metadata"], ("ownerReferences",))
        if served.resource.group in _STATUS_KEEPS_LABELS:
            _keep(merged["metadata"], old["metadata"], ("labels",))
    return merged


def _finalize(_: Served, old: Json, new: Json) -> Json:
    finalizers = (new.get("spec") or {}).get("finalizers") or []
    return {**old, "spec": {**(old.get("spec") or {}), "finalizers": finalizers}}


def _approval(_: Served, old: Json, new: Json) -> Json:
    """Conditions only; the certificate stays what the signer wrote."""
    conditions = (new.get("status") or {}).get("conditions") or []
    return {**old, "status": {**(old.get("status") or {}), "conditions": conditions}}


def _ephemeral(_: Served, old: Json, new: Json) -> Json:
    containers = (new.get("spec") or {}).get("ephemeralContainers") or []
    return {**old, "spec": {**old["spec"], "ephemeralContainers": containers}}


#: Which part of an object each subresource writes.
PARTS: Mapping[str, Callable[[Served, Json, Json], Json]] = {
    "": _main,
    "status": _status,
    "finalize": _finalize,
    "approval": _approval,
    "ephemeralcontainers": _ephemeral,
}


def replaced(served: Served, subresource: str, old: Json, new: Json) -> Json:
    """The object after a write of `new` through `subresource`, server-owned metadata kept."""
    merged = PARTS[subresource](served, old, new)
    merged["kind"], merged["apiVersion"] = new["kind"], new["apiVersion"]
    merged["metadata"] = dict(merged["metadata"])
    _keep(merged["metadata"], old["metadata"], _OWNED)
    return merged


def _keep(metadata: Json, before: Json, names: tuple[str, ...]) -> None:
    for name in names:
        metadata.pop(name, None)
        if name in before:
            metadata[name] = before[name]


def check_finalizers(served: Served, old: Json, new: Json) -> None:
    """No new finalizers on an object that is being deleted; raises Invalid."""
    if not old["metadata"].get("deletionTimestamp"):
        return
    added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
    if added:
        listed = ", ".join(f'"{name}"' for name in sorted(added))
        text = ("Forbidden: no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{listed}}}")  # fmt: skip
        raise invalid(served.resource.kind, served.resource.group, old["metadata"]["name"],
                      [StatusCause("FieldValueForbidden", text, "metadata.finalizers")])  # fmt: skip


def is_unchanged(old: Json, new: Json) -> bool:
    """A write that changes nothing costs no revision."""
    return old == new


def count_generation(served: Served, old: Json, new: Json) -> None:
    """Bump the generation when anything but metadata and status changed."""
    ignored = {"metadata", "kind", "apiVersion"} | ({"status"} if served.has_status else set())
    if served.tracks_generation and _outside(old, ignored) != _outside(new, ignored):
        new["metadata"]["generation"] = (old["metadata"].get("generation") or 0) + 1


def _outside(obj: Json, ignored: set[str]) -> Json:
    return {key: value for key, value in obj.items() if key not in ignored}
