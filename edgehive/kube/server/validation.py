"""What a Kubernetes API server refuses: names, labels, required and fixed fields, in its own words. Pure.

Runs after `conform` and `defaults`; custom resources are judged by their schema.

Go: pkg/apis/*/validation/validation.go
"""

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from edgehive.api.meta import StatusCause
from edgehive.api.registry import ApiResource
from edgehive.kube.errors import qualified
from edgehive.kube.server import event_views, network_validation, policy_validation, storage_validation
from edgehive.kube.server import field_errors as names
from edgehive.kube.server.field_errors import FieldErrors
from edgehive.kube.server.pod_validation import check_labels, check_pod_spec, check_pod_update
from edgehive.kube.server.status_validation import STATUSES

Json = Mapping[str, Any]

_ANNOTATIONS_LIMIT: Final = 256 * 1024
_DATA_LIMIT: Final = 1024 * 1024
_RBAC: Final = "rbac.authorization.k8s.io"
_FINALIZERS: Final = ("kubernetes", "orphan", "foregroundDeletion")
_NAME_RULES: Final = {
    "namespaces": names.label,
    "services": names.dns_1035,
    **dict.fromkeys((f"{kind}.{_RBAC}" for kind in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")),
                    names.path_segment),
}  # fmt: skip


def validate_create(resource: ApiResource, obj: Json) -> list[StatusCause]:
    """Every reason not to store this new object; none means it may be stored."""
    errors, name = FieldErrors(), qualified(resource.plural, resource.group)
    _check_state(errors, name, obj)
    check = _CREATIONS.get(name)
    if check is not None:
        check(errors, obj)
    return errors.causes


def validate_update(resource: ApiResource, old: Json, new: Json) -> list[StatusCause]:
    """Every reason not to put `new` in the place of `old`."""
    errors, name = FieldErrors(), qualified(resource.plural, resource.group)
    _check_state(errors, name, new)
    check = _UPDATES.get(name)
    if check is not None:
        check(errors, old, new)
    return errors.causes


def validate_status(resource: ApiResource, old: Json, new: Json) -> list[StatusCause]:
    """Every reason not to write this status."""
    errors, name = FieldErrors(), qualified(resource.plural, resource.group)
    _check_metadata(errors, name, new.get("metadata") or {})
    check = STATUSES.get(name)
    if check is not None:
        check(errors, old, new)
    return errors.causes


def _check_state(errors: FieldErrors, name: str, obj: Json) -> None:
    """What holds for every state of an object."""
    _check_metadata(errors, name, obj.get("metadata") or {})
    check = _OBJECTS.get(name)
    if check is not None:
        check(errors, obj)


def _check_metadata(errors: FieldErrors, storage: str, metadata: Json) -> None:
    name = metadata.get("name", "")
    rule = _NAME_RULES.get(storage, names.subdomain)
    errors.each_invalid("metadata.name", name, rule(name) if name else ())
    check_labels(errors, "metadata.labels", metadata.get("labels") or {})
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        errors.each_invalid("metadata.annotations", key, names.qualified_name(key.lower()))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _ANNOTATIONS_LIMIT:
        errors.too_long("metadata.annotations", _ANNOTATIONS_LIMIT)
    for index, finalizer in enumerate(metadata.get("finalizers") or ()):
        errors.each_invalid("metadata.finalizers", finalizer, names.qualified_name(finalizer))
        if "/" not in finalizer and finalizer not in _FINALIZERS and storage in _OBJECTS:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            errors.invalid(f"metadata.finalizers[{index}]", finalizer, text)
    owners = metadata.get("ownerReferences") or ()
    for index, owner in enumerate(owners):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                errors.invalid(f"metadata.ownerReferences[{index}].{field}", "", f"{field} must not be empty")
    rulers = [f"{owner['kind']}/{owner['name']}" for owner in owners if owner.get("controller")]
    if len(rulers) > 1:
        text = ('Only one reference can have Controller set to true. Found "true" in references for '
                f"{rulers[0]} and {rulers[1]}")  # fmt: skip
        errors.invalid("metadata.ownerReferences", owners, text)


# ---------------------------------------------------------------- core


def _pod(errors: FieldErrors, pod: Json) -> None:
    check_pod_spec(errors, "spec", pod.get("spec") or {})


def _data(errors: FieldErrors, obj: Json) -> None:
    size = 0
    for field in ("data", "binaryData"):
        for key, value in (obj.get(field) or {}).items():
            errors.each_invalid(f"{field}[{key}]", key, names.config_key(key))
            size += len(value)
    for key in set(obj.get("data") or ()) & set(obj.get("binaryData") or ()):
        errors.invalid(f"data[{key}]", key, "duplicate of key present in binaryData")
    if size > (_DATA_LIMIT if obj.get("kind") != "Secret" else _DATA_LIMIT * 4 // 3 + 4):
        errors.too_long("", _DATA_LIMIT)


#: What secrets of a type must hold; one of several keys is enough where they stand together.
_SECRET_KEYS: Final = {
    "kubernetes.io/tls": (("tls.crt",), ("tls.key",)),
    "kubernetes.io/dockerconfigjson": ((".dockerconfigjson",),),
    "kubernetes.io/dockercfg": ((".dockercfg",),),
    "kubernetes.io/basic-auth": (("username", "password"),),
    "kubernetes.io/ssh-auth": (("ssh-privatekey",),),
}
_ACCOUNT_NAME: Final = "kubernetes.io/service-account.name"


def _secret(errors: FieldErrors, secret: Json) -> None:
    _data(errors, secret)
    data, kind = secret.get("data") or {}, secret.get("type")
    for keys in _SECRET_KEYS.get(kind or "", ()):
        if not any(key in data for key in keys):
            for key in keys:
                errors.required(f"data[{key}]")
        elif keys[0].startswith(".docker"):
            _check_json(errors, f"data[{keys[0]}]", data[keys[0]])
    account = (secret["metadata"].get("annotations") or {}).get(_ACCOUNT_NAME)
    if kind == "kubernetes.io/service-account-token" and not account:
        errors.required(f"metadata.annotations[{_ACCOUNT_NAME}]")


def _check_json(errors: FieldErrors, path: str, text: str) -> None:
    try:
        msgspec.json.decode(base64.b64decode(text), type=dict[str, Any])
    except ValueError as error:
        errors.invalid(path, "<secret contents redacted>", str(error))


_SERVICE_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")


def _service(errors: FieldErrors, service: Json) -> None:
    spec = service.get("spec") or {}
    errors.one_of("spec.type", spec.get("type"), _SERVICE_TYPES)
    errors.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    ports = spec.get("ports") or ()
    if spec.get("type") == "ExternalName":
        if not spec.get("externalName"):
            errors.required("spec.externalName")
    elif not ports and spec.get("clusterIP") != "None":
        errors.required("spec.ports")
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        if address not in ("", "None"):
            errors.each_invalid(f"spec.clusterIPs[{index}]", address, names.ip_address(address))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        errors.each_invalid(f"spec.externalIPs[{index}]", address, names.ip_address(address))
    seen: set[Any] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        errors.port(f"{at}.port", port.get("port") or 0)
        errors.one_of(f"{at}.protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))
        if len(ports) > 1 and not port.get("name"):
            errors.required(f"{at}.name")
        elif port.get("name"):
            errors.each_invalid(f"{at}.name", port["name"], names.label(port["name"]))
        identity = (port.get("port"), port.get("protocol"), port.get("name"))
        if identity in seen:
            errors.duplicate(at, {"port": port.get("port"), "protocol": port.get("protocol")})
        seen.add(identity)
    check_labels(errors, "spec.selector", spec.get("selector") or {})


def _node(errors: FieldErrors, node: Json) -> None:
    seen = set()
    for index, taint in enumerate((node.get("spec") or {}).get("taints") or ()):
        key, at = taint.get("key", ""), f"metadata.taints[{index}]"
        errors.each_invalid(f"{at}.key", key, names.qualified_name(key))
        errors.one_of(f"{at}.effect", taint.get("effect"), ("NoExecute", "NoSchedule", "PreferNoSchedule"))
        if (key, taint.get("effect")) in seen:
            errors.duplicate(at, taint)
        seen.add((key, taint.get("effect")))


# ---------------------------------------------------------------- workloads


def _template(errors: FieldErrors, spec: Json, restart: tuple[str, ...] = ("Always",), path: str = "spec") -> None:
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    check_labels(errors, f"{path}.template.labels", labels)
    check_pod_spec(errors, f"{path}.template.spec", template.get("spec") or {}, restart=restart)


def _workload(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    errors.not_negative("spec.replicas", spec.get("replicas"))
    errors.not_negative("spec.minReadySeconds", spec.get("minReadySeconds"))
    errors.not_negative("spec.revisionHistoryLimit", spec.get("revisionHistoryLimit"))
    selector = spec.get("selector")
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if selector is None:
        errors.required("spec.selector")
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        errors.invalid("spec.selector", selector, "empty selector is invalid for deployment")
    elif not _selects(selector, labels):
        errors.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    _template(errors, spec)


def _selects(selector: Json, labels: Json) -> bool:
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_meets(item, labels) for item in selector.get("matchExpressions") or ())


def _meets(item: Json, labels: Json) -> bool:
    key, values = item.get("key"), item.get("values") or ()
    return {
        "In": labels.get(str(key)) in values,
        "NotIn": labels.get(str(key)) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }.get(str(item.get("operator")), False)


def _deployment(errors: FieldErrors, obj: Json) -> None:
    strategy = (obj.get("spec") or {}).get("strategy") or {}
    errors.one_of("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
    if strategy.get("type") == "Recreate" and strategy.get("rollingUpdate") is not None:
        errors.forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    rolling = strategy.get("rollingUpdate") or {}
    if rolling and all(rolling.get(name) in (0, "0%") for name in ("maxUnavailable", "maxSurge")):
        errors.invalid("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"],
                       "may not be 0 when `maxSurge` is 0")  # fmt: skip
    _workload(errors, obj)


def _daemon_set(errors: FieldErrors, obj: Json) -> None:
    kind = ((obj.get("spec") or {}).get("updateStrategy") or {}).get("type")
    errors.one_of("spec.updateStrategy.type", kind, ("OnDelete", "RollingUpdate"))
    _workload(errors, obj)


def _stateful_set(errors: FieldErrors, obj: Json) -> None:
    policy = (obj.get("spec") or {}).get("podManagementPolicy")
    errors.one_of("spec.podManagementPolicy", policy, ("OrderedReady", "Parallel"))
    _daemon_set(errors, obj)


def _replication_controller(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    errors.not_negative("spec.replicas", spec.get("replicas"))
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    if not spec.get("selector"):
        errors.required("spec.selector")
    elif any(labels.get(key) != value for key, value in spec["selector"].items()):
        errors.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    _template(errors, spec)


def _job_spec(errors: FieldErrors, spec: Json, path: str) -> None:
    for field in ("parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        errors.not_negative(f"{path}.{field}", spec.get(field))
    _template(errors, spec, ("Never", "OnFailure"), path)


def _job(errors: FieldErrors, obj: Json) -> None:
    _job_spec(errors, obj.get("spec") or {}, "spec")


def _cron_job(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    if not spec.get("schedule"):
        errors.required("spec.schedule")
    elif not spec["schedule"].startswith("@") and len(spec["schedule"].split()) != 5:
        found = len(spec["schedule"].split())
        errors.invalid(
            "spec.schedule", spec["schedule"], f"expected exactly 5 fields, found {found}: [{spec['schedule']}]"
        )
    errors.one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), ("Allow", "Forbid", "Replace"))
    _job_spec(errors, (spec.get("jobTemplate") or {}).get("spec") or {}, "spec.jobTemplate.spec")
    if len((obj.get("metadata") or {}).get("name", "")) > 52:
        errors.invalid("metadata.name", obj["metadata"]["name"], "must be no more than 52 characters")


# ---------------------------------------------------------------- the other groups


def _binding(errors: FieldErrors, obj: Json) -> None:
    role = obj.get("roleRef") or {}
    errors.one_of("roleRef.kind", role.get("kind"), ("ClusterRole", "Role"))
    if not role.get("name"):
        errors.required("roleRef.name")
    for index, subject in enumerate(obj.get("subjects") or ()):
        errors.one_of(f"subjects[{index}].kind", subject.get("kind"), ("Group", "ServiceAccount", "User"))
        if not subject.get("name"):
            errors.required(f"subjects[{index}].name")


def _role(errors: FieldErrors, obj: Json) -> None:
    for index, rule in enumerate(obj.get("rules") or ()):
        if not rule.get("verbs"):
            errors.required(f"rules[{index}].verbs", "verbs must contain at least one value")
        if not rule.get("nonResourceURLs"):
            if not rule.get("apiGroups"):
                errors.required(f"rules[{index}].apiGroups", "resource rules must supply at least one api group")
            if not rule.get("resources"):
                errors.required(f"rules[{index}].resources", "resource rules must supply at least one resource")


def _signing_request(errors: FieldErrors, obj: Json) -> None:
    spec = obj.get("spec") or {}
    for field in ("request", "signerName", "usages"):
        if not spec.get(field):
            errors.required(f"spec.{field}")


def _revision(errors: FieldErrors, obj: Json) -> None:
    errors.not_negative("revision", obj.get("revision"))


_OBJECTS: Final[dict[str, Callable[[FieldErrors, Json], None]]] = {
    "pods": _pod,
    "configmaps": _data,
    "secrets": _secret,
    "services": _service,
    "nodes": _node,
    "persistentvolumeclaims": storage_validation.claim,
    "deployments.apps": _deployment,
    "replicasets.apps": _workload,
    "daemonsets.apps": _daemon_set,
    "statefulsets.apps": _stateful_set,
    "replicationcontrollers": _replication_controller,
    "jobs.batch": _job,
    "cronjobs.batch": _cron_job,
    f"rolebindings.{_RBAC}": _binding,
    f"clusterrolebindings.{_RBAC}": _binding,
    f"roles.{_RBAC}": _role,
    f"clusterroles.{_RBAC}": _role,
    "certificatesigningrequests.certificates.k8s.io": _signing_request,
    "storageclasses.storage.k8s.io": storage_validation.storage_class,
    "persistentvolumes": storage_validation.volume,
    "controllerrevisions.apps": _revision,
    "ingresses.networking.k8s.io": network_validation.ingress,
    "endpoints": network_validation.endpoints,
    "endpointslices.discovery.k8s.io": network_validation.endpoint_slice,
    "horizontalpodautoscalers.autoscaling": policy_validation.autoscaler,
    "poddisruptionbudgets.policy": policy_validation.budget,
    "resourcequotas": policy_validation.quota,
    "limitranges": policy_validation.limit_range,
    "leases.coordination.k8s.io": policy_validation.lease,
    "events": event_views.check_core,
    "events.events.k8s.io": event_views.check_new,
}
_CREATIONS: Final[dict[str, Callable[[FieldErrors, Json], None]]] = {
    "events.events.k8s.io": event_views.check_new_creation,
}


# ---------------------------------------------------------------- updates


def _fixed(*paths: str) -> Callable[[FieldErrors, Json, Json], None]:
    """A check that these fields stay what they were."""

    def check(errors: FieldErrors, old: Json, new: Json) -> None:
        for path in paths:
            errors.immutable(path, _at(old, path), _at(new, path))

    return check


def _at(obj: Any, path: str) -> Any:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, Mapping) else None
    return obj


def _fixed_data(errors: FieldErrors, old: Json, new: Json) -> None:
    if not old.get("immutable"):
        return
    if not new.get("immutable"):
        errors.forbidden("immutable", "field is immutable when `immutable` is set")
    for field in ("data", "binaryData"):
        if (old.get(field) or {}) != (new.get(field) or {}):
            errors.forbidden(field, "field is immutable when `immutable` is set")


def _secret_update(errors: FieldErrors, old: Json, new: Json) -> None:
    errors.immutable("type", old.get("type"), new.get("type"))
    _fixed_data(errors, old, new)


_STATEFUL_FREE: Final = ("replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
                         "persistentVolumeClaimRetentionPolicy", "minReadySeconds")  # fmt: skip


def _stateful_update(errors: FieldErrors, old: Json, new: Json) -> None:
    fixed = [{key: value for key, value in (obj.get("spec") or {}).items() if key not in _STATEFUL_FREE}
             for obj in (old, new)]  # fmt: skip
    if fixed[0] != fixed[1]:
        errors.forbidden("spec", "updates to statefulset spec for fields other than 'replicas', 'ordinals', "
                         "'template', 'updateStrategy', 'revisionHistoryLimit', "
                         "'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")  # fmt: skip


def _service_update(errors: FieldErrors, old: Json, new: Json) -> None:
    before, after = _at(old, "spec") or {}, _at(new, "spec") or {}
    if "ExternalName" not in (before.get("type"), after.get("type")) and before.get("clusterIP"):
        errors.immutable("spec.clusterIP", before.get("clusterIP"), after.get("clusterIP"))


def _node_update(errors: FieldErrors, old: Json, new: Json) -> None:
    for field in ("podCIDR", "podCIDRs", "providerID"):
        before, after = _at(old, f"spec.{field}"), _at(new, f"spec.{field}")
        if before and before != after:
            errors.forbidden(f"spec.{field}", "node updates may not change it once it is set")


def _binding_update(errors: FieldErrors, old: Json, new: Json) -> None:
    if old.get("roleRef") != new.get("roleRef"):
        errors.invalid("roleRef", new.get("roleRef"), "cannot change roleRef")


def _priority_update(errors: FieldErrors, old: Json, new: Json) -> None:
    for field in ("value", "preemptionPolicy"):
        if old.get(field) != new.get(field):
            errors.forbidden(field, "may not be changed in an update.")


def _job_update(errors: FieldErrors, old: Json, new: Json) -> None:
    _JOB_FIXED(errors, old, new)
    if _at(new, "spec.completionMode") != "Indexed":
        errors.immutable("spec.completions", _at(old, "spec.completions"), _at(new, "spec.completions"))


_JOB_FIXED: Final = _fixed("spec.selector", "spec.completionMode", "spec.backoffLimitPerIndex",
                           "spec.podFailurePolicy", "spec.successPolicy", "spec.managedBy")  # fmt: skip

_UPDATES: Final[dict[str, Callable[[FieldErrors, Json, Json], None]]] = {
    "pods": check_pod_update,
    "configmaps": _fixed_data,
    "secrets": _secret_update,
    "services": _service_update,
    "nodes": _node_update,
    "deployments.apps": _fixed("spec.selector"),
    "replicasets.apps": _fixed("spec.selector"),
    "daemonsets.apps": _fixed("spec.selector"),
    "statefulsets.apps": _stateful_update,
    "jobs.batch": _job_update,
    "persistentvolumes": storage_validation.volume_update,
    "persistentvolumeclaims": storage_validation.claim_update,
    "priorityclasses.scheduling.k8s.io": _priority_update,
    "runtimeclasses.node.k8s.io": _fixed("handler"),
    "endpointslices.discovery.k8s.io": _fixed("addressType"),
    "controllerrevisions.apps": _fixed("data"),
    "ingressclasses.networking.k8s.io": _fixed("spec.controller"),
    f"rolebindings.{_RBAC}": _binding_update,
    f"clusterrolebindings.{_RBAC}": _binding_update,
    "certificatesigningrequests.certificates.k8s.io": _fixed("spec"),
    "events.events.k8s.io": event_views.check_new_update,
    "storageclasses.storage.k8s.io": _fixed("provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"),
}  # fmt: skip
