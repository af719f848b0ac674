"""Subresources that are not a part of the object itself: scale, binding, eviction, token.

Each handler turns the subresource's body into an ordinary write on the parent, through the same `Writer`.

Go: pkg/registry/core/pod/storage/{storage,eviction}.go, pkg/registry/apps/deployment/storage
"""

from collections.abc import Mapping
from typing import Any

from edgehive.api.meta import StatusCause, StatusDetails
from edgehive.kube.errors import BadRequest, Conflict, TooManyRequests, conflict, invalid, not_found
from edgehive.kube.selectors import labels_from_object
from edgehive.kube.server.options import Call, DeleteOptions
from edgehive.kube.server.writes import Writer
from edgehive.kube.store import Key, Store

Json = dict[str, Any]

_SUCCESS = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def scale_paths(call: Call) -> Mapping[str, str]:
    """Where replicas and selector are; a CRD says so itself."""
    if call.served.custom is not None and call.served.custom.scale is not None:
        return call.served.custom.scale
    return {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".spec.selector",
    }


def read_path(obj: Mapping[str, Any], path: str) -> Any:
    """A simple dotted path; None where it ends early."""
    value: Any = obj
    for part in path.strip(".").split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _write_path(obj: Json, path: str, value: Any) -> None:
    *parents, leaf = path.strip(".").split(".")
    for part in parents:
        obj = obj.setdefault(part, {})
    obj[leaf] = value


def scale_of(call: Call, obj: Mapping[str, Any]) -> Json:
    """The autoscaling/v1 view of a workload."""
    paths, metadata = scale_paths(call), obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Json = {"replicas": read_path(obj, paths["statusReplicasPath"]) or 0}
    selector = read_path(obj, paths["labelSelectorPath"]) if paths.get("labelSelectorPath") else None
    if selector:
        status["selector"] = selector if isinstance(selector, str) else _selector_text(selector)
    replicas = read_path(obj, paths["specReplicasPath"])
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {"replicas": replicas} if replicas else {},
        "status": status,
    }


def _selector_text(selector: Mapping[str, Any]) -> str:
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        selector = {"matchLabels": selector}
    found = labels_from_object(selector)
    texts = []
    for requirement in found.requirements if found else ():
        values = ",".join(sorted(requirement.values))
        if requirement.operator == "in":
            plain = len(requirement.values) == 1
            texts.append(f"{requirement.key}={values}" if plain else f"{requirement.key} in ({values})")
        elif requirement.operator == "notin":
            texts.append(f"{requirement.key} notin ({values})")
        else:
            texts.append(("!" if requirement.operator == "absent" else "") + requirement.key)
    return ",".join(sorted(texts))


def with_scale(call: Call, obj: Json, scale: Mapping[str, Any]) -> Json:
    """The workload with the replicas a Scale asks for; raises Invalid or Conflict."""
    replicas = (scale.get("spec") or {}).get("replicas") or 0
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        text = f"Invalid value: {replicas}: must be greater than or equal to 0"
        raise invalid("Scale", "autoscaling", call.name, [StatusCause("FieldValueInvalid", text, "spec.replicas")])
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        obj["metadata"]["resourceVersion"] = version
    _write_path(obj, scale_paths(call)["specReplicasPath"], replicas)
    return obj


async def bind(writer: Writer, call: Call, body: Json) -> Json:
    """Assign a pod to a node, once."""
    target = (body.get("target") or {}).get("name")
    if not target:
        raise invalid("Binding", "", call.name, [StatusCause("FieldValueRequired", "Required value", "target.name")])
    metadata, key = body.get("metadata") or {}, Key("pods", call.namespace, call.name)

    def change(pod: Json) -> Json:
        _check_bindable(call, pod, metadata.get("uid"))
        pod["spec"]["nodeName"] = target
        annotations = {**(pod["metadata"].get("annotations") or {}), **(metadata.get("annotations") or {})}
        if annotations:
            pod["metadata"]["annotations"] = annotations
        conditions = [c for c in (pod.get("status") or {}).get("conditions") or () if c["type"] != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastProbeTime": None,
                           "lastTransitionTime": writer.now()})  # fmt: skip
        pod["status"] = {**(pod.get("status") or {}), "conditions": conditions}
        return pod

    if await writer.adjust(key, change, dry_run=call.dry_run) is None:
        raise not_found("pods", "", call.name)
    return dict(_SUCCESS)


def _check_bindable(call: Call, pod: Json, wanted_uid: str | None) -> None:
    details = StatusDetails(name=call.name, kind="pods/binding")
    prefix = f'Operation cannot be fulfilled on pods/binding "{call.name}": '
    if wanted_uid and wanted_uid != pod["metadata"]["uid"]:
        raise Conflict(f"{prefix}Precondition failed: UID in precondition: {wanted_uid}, "
                       f"UID in object meta: {pod['metadata']['uid']}", details=details)  # fmt: skip
    if pod["metadata"].get("deletionTimestamp"):
        raise Conflict(f"{prefix}pod {call.name} is being deleted, cannot be assigned to a host", details=details)
    if pod["spec"].get("nodeName"):
        raise Conflict(
            f'{prefix}pod {call.name} is already assigned to node "{pod["spec"]["nodeName"]}"', details=details
        )
    if pod["spec"].get("schedulingGates"):
        raise Conflict(f"{prefix}pod {call.name} has non-empty .spec.schedulingGates", details=details)


async def evict(writer: Writer, store: Store, call: Call, body: Json) -> Json:
    """Delete a pod unless a disruption budget has none to spare."""
    key = Key("pods", call.namespace, call.name)
    stored = store.get(key)
    if stored is None:
        raise not_found("pods", "", call.name)
    await _spend_budget(writer, store, call, stored.to_dict())
    asked = body.get("deleteOptions") or {}
    options = DeleteOptions(
        asked.get("gracePeriodSeconds"),
        asked.get("propagationPolicy") or "",
        (asked.get("preconditions") or {}).get("uid") or stored.document.meta.uid,
    )
    plain = Call(call.user, call.served, call.namespace, call.name, dry_run=call.dry_run)
    await writer.delete(plain, options)
    return dict(_SUCCESS)


async def _spend_budget(writer: Writer, store: Store, call: Call, pod: Json) -> None:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed", "Pending"):
        return
    labels = pod["metadata"].get("labels") or {}
    for item in store.items("poddisruptionbudgets.policy", call.namespace):
        budget = item.to_dict()
        selector = labels_from_object((budget.get("spec") or {}).get("selector"))
        if selector is None or not selector.matches(labels):
            continue
        allowed = (budget.get("status") or {}).get("disruptionsAllowed", 0)
        if allowed < 1:
            raise _no_budget(item.key.name)
        if not call.dry_run:
            await writer.adjust(item.key, lambda new: _spent(new, call.name))


def _spent(budget: Json, pod: str) -> Json:
    status = budget.setdefault("status", {})
    status["disruptionsAllowed"] = status.get("disruptionsAllowed", 0) - 1
    if status["disruptionsAllowed"] < 0:
        raise _no_budget(budget["metadata"]["name"])
    status.setdefault("disruptedPods", {})[pod] = budget["metadata"]["creationTimestamp"]
    return budget


def _no_budget(name: str) -> TooManyRequests:
    cause = StatusCause("DisruptionBudget", f"The disruption budget {name} does not allow another disruption", "")
    return TooManyRequests(
        "Cannot evict pod as it would violate the pod's disruption budget.", details=StatusDetails(causes=[cause])
    )


def require_kind(body: Mapping[str, Any], kind: str) -> None:
    """A subresource's own kind; raises BadRequest."""
    if body.get("kind") not in (None, "", kind):
        raise BadRequest(f"the body must be a {kind}, not a {body.get('kind')}")


def stale_scale(call: Call) -> Conflict:
    """The Scale that was sent is of an older workload."""
    row = call.served.resource
    return conflict(row.plural, row.group, call.name)
