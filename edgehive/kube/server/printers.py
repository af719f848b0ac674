"""The columns and cells kubectl shows for each built-in kind: one row function a kind. Pure.

Cells come in column order, the wide ones (priority 1) included. Pods have a file of their own.

Go: pkg/printers/internalversion/printers.go
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from edgehive.kube.server import versions
from edgehive.kube.server.cells import (
    NONE,
    UNKNOWN,
    UNSET,
    Json,
    age,
    at_most_three,
    conditions,
    containers,
    human_duration,
    instant_of,
    joined,
    label_selector,
    labels,
    part,
    since,
)  # fmt: skip
from edgehive.kube.server.pod_cells import pod_row

Row = Callable[[Json, datetime], list[Any]]

_ACCESS: Final = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}
_ROLE_PREFIX: Final = "node-role.kubernetes.io/"
_DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"


@dataclass(frozen=True, slots=True)
class Printer:
    """Columns as text: `Name` is a string; `Desired:integer` has a type; a trailing `*` makes it wide."""

    columns: tuple[str, ...]
    row: Row


def _name(obj: Json) -> str:
    return str(part(obj, "metadata").get("name", ""))


def _spec(obj: Json) -> Json:
    return part(obj, "spec")


def _status(obj: Json) -> Json:
    return part(obj, "status")


def _number(source: Json, name: str) -> int:
    value = source.get(name)
    return value if isinstance(value, int) else 0


# ---------------------------------------------------------------- workloads


def _wide(obj: Json) -> list[Any]:
    return [*containers(part(obj, "spec", "template", "spec")), label_selector(_spec(obj).get("selector"))]


def _deployment(obj: Json, now: datetime) -> list[Any]:
    status = _status(obj)
    ready = f"{_number(status, 'readyReplicas')}/{_number(_spec(obj), 'replicas')}"
    counts = [_number(status, "updatedReplicas"), _number(status, "availableReplicas")]
    return [_name(obj), ready, *counts, age(obj, now), *_wide(obj)]


def _replicas(obj: Json) -> list[Any]:
    status = _status(obj)
    return [_number(_spec(obj), "replicas"), _number(status, "replicas"), _number(status, "readyReplicas")]


def _replica_set(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), *_replicas(obj), age(obj, now), *_wide(obj)]


def _replication_controller(obj: Json, now: datetime) -> list[Any]:
    images = containers(part(obj, "spec", "template", "spec"))
    return [_name(obj), *_replicas(obj), age(obj, now), *images, labels(_spec(obj).get("selector"))]


def _daemon_set(obj: Json, now: datetime) -> list[Any]:
    status = _status(obj)
    names = ("desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled",
             "numberAvailable")  # fmt: skip
    selector = labels(part(obj, "spec", "template", "spec").get("nodeSelector"))
    return [_name(obj), *(_number(status, name) for name in names), selector, age(obj, now), *_wide(obj)]


def _stateful_set(obj: Json, now: datetime) -> list[Any]:
    ready = f"{_number(_status(obj), 'readyReplicas')}/{_number(_spec(obj), 'replicas')}"
    return [_name(obj), ready, age(obj, now), *containers(part(obj, "spec", "template", "spec"))]


def _job(obj: Json, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    done, parallelism = _number(status, "succeeded"), _number(spec, "parallelism")
    if spec.get("completions") is not None:
        completions = f"{done}/{spec['completions']}"
    else:
        completions = f"{done}/1 of {parallelism}" if parallelism > 1 else f"{done}/1"
    start, end = instant_of(status.get("startTime")), instant_of(status.get("completionTime"))
    duration = human_duration((end or now) - start) if start else ""
    return [_name(obj), _job_state(obj), completions, duration, age(obj, now), *_wide(obj)]


def _job_state(job: Json) -> str:
    found = {name for name, item in conditions(job).items() if item.get("status") == "True"}
    if part(job, "metadata").get("deletionTimestamp") and not found & {"Complete", "Failed"}:
        return "Terminating"
    order = ("Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet")
    return next((name for name in order if name in found), "Running")


def _cron_job(obj: Json, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    last = since(status["lastScheduleTime"], now) if status.get("lastScheduleTime") else NONE
    job = part(obj, "spec", "jobTemplate", "spec")
    cells = [_name(obj), spec.get("schedule", ""), spec.get("timeZone") or NONE, str(bool(spec.get("suspend")))]
    wide = [*containers(part(job, "template", "spec")), label_selector(job.get("selector"))]
    return [*cells, len(status.get("active") or ()), last, age(obj, now), *wide]


def _autoscaler(obj: Json, now: datetime) -> list[Any]:
    obj = versions.converted("horizontalpodautoscalers.autoscaling", obj, "autoscaling/v2")
    spec, target = _spec(obj), part(obj, "spec", "scaleTargetRef")
    current = {part(item, "resource").get("name"): part(item, "resource", "current")
               for item in _status(obj).get("currentMetrics") or ()}  # fmt: skip
    targets = [_metric(part(item, "resource"), current) for item in spec.get("metrics") or () if item.get("resource")]
    minimum = str(spec["minReplicas"]) if spec.get("minReplicas") is not None else UNSET
    reference = f"{target.get('kind', '')}/{target.get('name', '')}"
    counts = [minimum, _number(spec, "maxReplicas"), _number(_status(obj), "currentReplicas")]
    return [_name(obj), reference, ", ".join(targets) or UNKNOWN, *counts, age(obj, now)]


def _metric(resource: Json, current: dict[Any, Json]) -> str:
    name, target = resource.get("name", ""), part(resource, "target")
    now = current.get(name, {})
    if target.get("averageUtilization") is not None:
        seen = now.get("averageUtilization")
        return f"{name}: {f'{seen}%' if seen is not None else UNKNOWN}/{target['averageUtilization']}%"
    return f"{name}: {now.get('averageValue', UNKNOWN)}/{target.get('averageValue', '')}"


def _budget(obj: Json, now: datetime) -> list[Any]:
    spec = _spec(obj)
    limits = [str(spec[name]) if spec.get(name) is not None else "N/A" for name in ("minAvailable", "maxUnavailable")]
    return [_name(obj), *limits, _number(_status(obj), "disruptionsAllowed"), age(obj, now)]


# ---------------------------------------------------------------- cluster and network


def _node(obj: Json, now: datetime) -> list[Any]:
    status, info = _status(obj), part(obj, "status", "nodeInfo")
    ready = conditions(obj).get("Ready")
    state = "Unknown" if ready is None else "Ready" if ready.get("status") == "True" else "NotReady"
    state += ",SchedulingDisabled" if _spec(obj).get("unschedulable") else ""
    addresses = {item.get("type"): item.get("address") for item in reversed(status.get("addresses") or ())}
    kernel, architecture = info.get("kernelVersion"), info.get("architecture")
    kernel = (f"{kernel} ({architecture})" if architecture else kernel) if kernel else UNKNOWN
    return [
        _name(obj), state, _roles(part(obj, "metadata", "labels")), age(obj, now), info.get("kubeletVersion", ""),
        addresses.get("InternalIP") or NONE, addresses.get("ExternalIP") or NONE, info.get("osImage") or UNKNOWN,
        kernel, info.get("containerRuntimeVersion") or UNKNOWN,
    ]  # fmt: skip


def _roles(found: Json) -> str:
    names = {key.removeprefix(_ROLE_PREFIX) for key in found if key.startswith(_ROLE_PREFIX)}
    names.add(found.get("kubernetes.io/role", ""))
    return joined(sorted(names - {""}))


def _service(obj: Json, now: datetime) -> list[Any]:
    spec = _spec(obj)
    address = next(iter(spec.get("clusterIPs") or ()), spec.get("clusterIP")) or NONE
    cells = [_name(obj), spec.get("type", ""), address, _external(obj), _ports(spec), age(obj, now)]
    return [*cells, labels(spec.get("selector"))]


def _external(service: Json) -> str:
    spec = _spec(service)
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    given = list(spec.get("externalIPs") or ())
    if spec.get("type") == "LoadBalancer":
        ingress = part(service, "status", "loadBalancer").get("ingress") or ()
        found = [item.get("ip") or item.get("hostname", "") for item in ingress]
        return joined([*found, *given], "<pending>")
    return joined(given)


def _ports(spec: Json) -> str:
    return joined(
        f"{port.get('port')}:{port['nodePort']}/{port.get('protocol')}"
        if port.get("nodePort")
        else f"{port.get('port')}/{port.get('protocol')}"
        for port in spec.get("ports") or ()
    )


def _endpoints(obj: Json, now: datetime) -> list[Any]:
    found: list[str] = []
    for subset in obj.get("subsets") or ():
        for port in subset.get("ports") or (None,):
            suffix = f":{port.get('port')}" if port else ""
            found += [f"{item.get('ip', '')}{suffix}" for item in subset.get("addresses") or ()]
    return [_name(obj), at_most_three(found, NONE), age(obj, now)]


def _endpoint_slice(obj: Json, now: datetime) -> list[Any]:
    ports = [str(item["port"]) if item.get("port") is not None else "*" for item in obj.get("ports") or ()]
    addresses = [address for item in obj.get("endpoints") or () for address in item.get("addresses") or ()]
    kind = obj.get("addressType", "")
    return [_name(obj), kind, at_most_three(ports, UNSET), at_most_three(addresses, UNSET), age(obj, now)]


def _ingress(obj: Json, now: datetime) -> list[Any]:
    spec = _spec(obj)
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    ingress = part(obj, "status", "loadBalancer").get("ingress") or ()
    address = ",".join(item.get("ip") or item.get("hostname", "") for item in ingress)
    ports = "80, 443" if spec.get("tls") else "80"
    return [_name(obj), spec.get("ingressClassName") or NONE, at_most_three(hosts, "*"), address, ports, age(obj, now)]


def _ingress_class(obj: Json, now: datetime) -> list[Any]:
    spec, found = _spec(obj), part(obj, "spec", "parameters")
    kind = f"{found['kind']}.{found['apiGroup']}" if found.get("apiGroup") else found.get("kind", "")
    return [_name(obj), spec.get("controller", ""), f"{kind}/{found.get('name')}" if found else NONE, age(obj, now)]


def _network_policy(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), label_selector(_spec(obj).get("podSelector") or {}), age(obj, now)]


def _event(obj: Json, now: datetime) -> list[Any]:
    target, source = part(obj, "involvedObject"), part(obj, "source")
    first = since(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else first
    count = obj.get("count") or 1
    if obj.get("series"):
        last, count = since(obj["series"].get("lastObservedTime"), now), obj["series"].get("count", 0)
    kind = str(target.get("kind", "")).lower()
    where = source.get("component") or obj.get("reportingComponent") or ""
    host = source.get("host") or obj.get("reportingInstance")
    return [
        last, obj.get("type", ""), obj.get("reason", ""), f"{kind}/{target['name']}" if target.get("name") else kind,
        target.get("fieldPath", ""), f"{where}, {host}" if host else where, str(obj.get("message", "")).strip(),
        first, count, _name(obj),
    ]  # fmt: skip


# ---------------------------------------------------------------- configuration, storage, access


def _count_of(*names: str) -> Row:
    def row(obj: Json, now: datetime) -> list[Any]:
        return [_name(obj), sum(len(obj.get(name) or ()) for name in names), age(obj, now)]

    return row


def _secret(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("type", ""), len(obj.get("data") or ()), age(obj, now)]


def _plain(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), age(obj, now)]


def _created(obj: Json, _: datetime) -> list[Any]:
    return [_name(obj), part(obj, "metadata").get("creationTimestamp") or ""]


def _namespace(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), _status(obj).get("phase", ""), age(obj, now)]


def _phase(obj: Json) -> str:
    return "Terminating" if part(obj, "metadata").get("deletionTimestamp") else str(_status(obj).get("phase", ""))


def _modes(found: Json) -> str:
    return ",".join(_ACCESS.get(mode, mode) for mode in found.get("accessModes") or ())


def _claim(obj: Json, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    bound = bool(spec.get("volumeName"))
    capacity = part(status, "capacity").get("storage", "") if bound else ""
    modes = _modes(status) if bound else ""
    classes = [spec.get("storageClassName") or "", spec.get("volumeAttributesClassName") or UNSET]
    cells = [_name(obj), _phase(obj), spec.get("volumeName") or "", capacity, modes]
    return [*cells, *classes, age(obj, now), spec.get("volumeMode") or UNSET]


def _volume(obj: Json, now: datetime) -> list[Any]:
    spec, status, claim = _spec(obj), _status(obj), part(obj, "spec", "claimRef")
    user = f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""
    return [
        _name(obj), part(spec, "capacity").get("storage", ""), _modes(spec),
        spec.get("persistentVolumeReclaimPolicy", ""), _phase(obj), user, spec.get("storageClassName") or "",
        spec.get("volumeAttributesClassName") or UNSET, status.get("reason") or "", age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]  # fmt: skip


def _storage_class(obj: Json, now: datetime) -> list[Any]:
    is_default = part(obj, "metadata", "annotations").get(_DEFAULT_CLASS) == "true"
    name = f"{_name(obj)} (default)" if is_default else _name(obj)
    cells = [
        name,
        obj.get("provisioner", ""),
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or UNSET,
    ]
    return [*cells, bool(obj.get("allowVolumeExpansion")), age(obj, now)]


def _attachment(obj: Json, now: datetime) -> list[Any]:
    spec = _spec(obj)
    volume = part(spec, "source").get("persistentVolumeName") or ""
    attached = bool(_status(obj).get("attached"))
    return [_name(obj), spec.get("attacher", ""), volume, spec.get("nodeName", ""), attached, age(obj, now)]


def _csi_node(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), len(_spec(obj).get("drivers") or ()), age(obj, now)]


def _csi_driver(obj: Json, now: datetime) -> list[Any]:
    spec = _spec(obj)
    tokens = joined((item.get("audience", "") for item in spec.get("tokenRequests") or ()), UNSET)
    flags = [bool(spec.get(name)) for name in ("attachRequired", "podInfoOnMount", "storageCapacity")]
    modes = joined(spec.get("volumeLifecycleModes") or ())
    return [_name(obj), *flags, tokens, bool(spec.get("requiresRepublish")), modes, age(obj, now)]


def _lease(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), _spec(obj).get("holderIdentity") or "", age(obj, now)]


def _signing_request(obj: Json, now: datetime) -> list[Any]:
    spec, status = _spec(obj), _status(obj)
    seconds = spec.get("expirationSeconds")
    duration = human_duration(timedelta(seconds=seconds)) if seconds is not None else NONE
    found = conditions(obj)
    state = next((name for name in ("Denied", "Approved") if name in found), "Pending")
    state += ",Failed" if "Failed" in found else ""
    state += ",Issued" if status.get("certificate") else ""
    return [_name(obj), age(obj, now), spec.get("signerName") or NONE, spec.get("username", ""), duration, state]


def _binding(obj: Json, now: datetime) -> list[Any]:
    role, subjects = part(obj, "roleRef"), obj.get("subjects") or ()

    def named(kind: str) -> str:
        return ", ".join(
            f"{item.get('namespace')}/{item.get('name')}" if kind == "ServiceAccount" else str(item.get("name"))
            for item in subjects
            if item.get("kind") == kind
        )

    reference = f"{role.get('kind', '')}/{role.get('name', '')}"
    return [_name(obj), reference, age(obj, now), named("User"), named("Group"), named("ServiceAccount")]


def _priority_class(obj: Json, now: datetime) -> list[Any]:
    policy = obj.get("preemptionPolicy") or ""
    return [_name(obj), _number(obj, "value"), bool(obj.get("globalDefault")), age(obj, now), policy]


def _runtime_class(obj: Json, now: datetime) -> list[Any]:
    return [_name(obj), obj.get("handler", ""), age(obj, now)]


def _quota(obj: Json, now: datetime) -> list[Any]:
    hard, used = part(obj, "status", "hard"), part(obj, "status", "used")
    uses = {name: f"{name}: {used.get(name, '0')}/{hard[name]}" for name in sorted(hard)}
    limits = [text for name, text in uses.items() if name.startswith("limits.")]
    requests = [text for name, text in uses.items() if not name.startswith("limits.")]
    return [_name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _revision(obj: Json, now: datetime) -> list[Any]:
    owner: Json = next((ref for ref in part(obj, "metadata").get("ownerReferences") or () if ref.get("controller")), {})
    group = str(owner.get("apiVersion", "")).rpartition("/")[0]
    kind = str(owner.get("kind", "")).lower() + (f".{group}" if group else "")
    reference = f"{kind}/{owner.get('name')}" if owner else NONE
    return [_name(obj), reference, _number(obj, "revision"), age(obj, now)]


def _pod_template(obj: Json, _: datetime) -> list[Any]:
    template = part(obj, "template")
    return [_name(obj), *containers(part(template, "spec")), labels(part(template, "metadata").get("labels"))]


def _node_usage(obj: Json, _: datetime) -> list[Any]:
    used = part(obj, "usage")
    return [_name(obj), used.get("cpu", ""), used.get("memory", ""), obj.get("window", "")]


def _pod_usage(obj: Json, _: datetime) -> list[Any]:
    used = [part(item, "usage") for item in obj.get("containers") or ()]
    cpu = sum(int(str(item.get("cpu", "0")).removesuffix("n")) for item in used)
    memory = sum(int(str(item.get("memory", "0Ki")).removesuffix("Ki")) for item in used)
    return [_name(obj), f"{cpu}n" if cpu else "0", f"{memory}Ki", obj.get("window", "")]


_WIDE: Final = ("Containers*", "Images*", "Selector*")
_REPLICAS: Final = ("Name", "Desired:integer", "Current:integer", "Ready:integer", "Age", *_WIDE)
_CREATED: Final = Printer(("Name", "Created At"), _created)
_USAGE: Final = ("Name", "cpu", "memory", "Window")
_EVENTS: Final = Printer(
    ("Last Seen", "Type", "Reason", "Object", "Subobject*", "Source*", "Message", "First Seen*", "Count*", "Name*"),
    _event,
)
_BINDINGS: Final = Printer(("Name", "Role", "Age", "Users*", "Groups*", "ServiceAccounts*"), _binding)

#: By `plural.group`.
PRINTERS: Final[dict[str, Printer]] = {
    "pods": Printer(
        ("Name", "Ready", "Status", "Restarts", "Age", "IP*", "Node*", "Nominated Node*", "Readiness Gates*"), pod_row
    ),
    "nodes": Printer(
        ("Name", "Status", "Roles", "Age", "Version", "Internal-IP*", "External-IP*", "OS-Image*", "Kernel-Version*",
         "Container-Runtime*"), _node,
    ),
    "deployments.apps": Printer(("Name", "Ready", "Up-to-date", "Available", "Age", *_WIDE), _deployment),
    "replicasets.apps": Printer(_REPLICAS, _replica_set),
    "replicationcontrollers": Printer(_REPLICAS, _replication_controller),
    "daemonsets.apps": Printer(
        ("Name", "Desired:integer", "Current:integer", "Ready:integer", "Up-to-date:integer", "Available:integer",
         "Node Selector", "Age", *_WIDE), _daemon_set,
    ),
    "statefulsets.apps": Printer(("Name", "Ready", "Age", "Containers*", "Images*"), _stateful_set),
    "controllerrevisions.apps": Printer(("Name", "Controller", "Revision", "Age"), _revision),
    "jobs.batch": Printer(("Name", "Status", "Completions", "Duration", "Age", *_WIDE), _job),
    "cronjobs.batch": Printer(
        ("Name", "Schedule", "Timezone", "Suspend:boolean", "Active:integer", "Last Schedule", "Age", *_WIDE), _cron_job
    ),
    "horizontalpodautoscalers.autoscaling": Printer(
        ("Name", "Reference", "Targets", "MinPods", "MaxPods", "Replicas", "Age"), _autoscaler
    ),
    "poddisruptionbudgets.policy": Printer(
        ("Name", "Min Available", "Max Unavailable", "Allowed Disruptions:integer", "Age"), _budget
    ),
    "services": Printer(("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "Selector*"), _service),
    "endpoints": Printer(("Name", "Endpoints", "Age"), _endpoints),
    "endpointslices.discovery.k8s.io": Printer(("Name", "AddressType", "Ports", "Endpoints", "Age"), _endpoint_slice),
    "ingresses.networking.k8s.io": Printer(("Name", "Class", "Hosts", "Address", "Ports", "Age"), _ingress),
    "ingressclasses.networking.k8s.io": Printer(("Name", "Controller", "Parameters", "Age"), _ingress_class),
    "networkpolicies.networking.k8s.io": Printer(("Name", "Pod-Selector", "Age"), _network_policy),
    "events": _EVENTS,
    "events.events.k8s.io": Printer(
        _EVENTS.columns, lambda obj, now: _event(versions.converted("events", obj, "v1"), now)
    ),
    "configmaps": Printer(("Name", "Data", "Age"), _count_of("data", "binaryData")),
    "secrets": Printer(("Name", "Type", "Data", "Age"), _secret),
    "serviceaccounts": Printer(("Name", "Age"), _plain),
    "namespaces": Printer(("Name", "Status", "Age"), _namespace),
    "persistentvolumeclaims": Printer(
        ("Name", "Status", "Volume", "Capacity", "Access Modes", "StorageClass", "VolumeAttributesClass", "Age",
         "VolumeMode*"), _claim,
    ),
    "persistentvolumes": Printer(
        ("Name", "Capacity", "Access Modes", "Reclaim Policy", "Status", "Claim", "StorageClass",
         "VolumeAttributesClass", "Reason", "Age", "VolumeMode*"), _volume,
    ),
    "storageclasses.storage.k8s.io": Printer(
        ("Name", "Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), _storage_class
    ),
    "volumeattachments.storage.k8s.io": Printer(("Name", "Attacher", "PV", "Node", "Attached", "Age"), _attachment),
    "csinodes.storage.k8s.io": Printer(("Name", "Drivers:integer", "Age"), _csi_node),
    "csidrivers.storage.k8s.io": Printer(
        ("Name", "AttachRequired:boolean", "PodInfoOnMount:boolean", "StorageCapacity:boolean", "TokenRequests",
         "RequiresRepublish:boolean", "Modes", "Age"), _csi_driver,
    ),
    "leases.coordination.k8s.io": Printer(("Name", "Holder", "Age"), _lease),
    "certificatesigningrequests.certificates.k8s.io": Printer(
        ("Name", "Age", "SignerName", "Requestor", "RequestedDuration", "Condition"), _signing_request
    ),
    "customresourcedefinitions.apiextensions.k8s.io": Printer(("Name", "Created At:date"), _created),
    "roles.rbac.authorization.k8s.io": _CREATED,
    "clusterroles.rbac.authorization.k8s.io": _CREATED,
    "rolebindings.rbac.authorization.k8s.io": _BINDINGS,
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDINGS,
    "priorityclasses.scheduling.k8s.io": Printer(
        ("Name", "Value:integer", "Global-Default:boolean", "Age", "PreemptionPolicy"), _priority_class
    ),
    "runtimeclasses.node.k8s.io": Printer(("Name", "Handler", "Age"), _runtime_class),
    "resourcequotas": Printer(("Name", "Request", "Limit", "Age"), _quota),
    "limitranges": _CREATED,
    "nodes.metrics.k8s.io": Printer(_USAGE, _node_usage),
    "pods.metrics.k8s.io": Printer(_USAGE, _pod_usage),
    "podtemplates": Printer(("Name", "Containers", "Images", "Pod Labels"), _pod_template),
}  # fmt: skip
