"""What a Kubernetes API server fills into objects it is given, one function a kind. Pure.

Runs on every write after decoding and admission, so it must change nothing it filled in before. Custom
resources have their defaults in their schema; cluster addresses and ports are allocated elsewhere.

Go: pkg/apis/{core,apps,batch,...}/v1/defaults.go, pkg/registry/*/strategy.go
"""

import base64
from collections.abc import Callable
from typing import Any, Final

from edgehive.api.registry import ApiResource
from edgehive.kube.server.pod_defaults import default_host_path, default_pod, default_template, each, fill

Json = dict[str, Any]

_RBAC: Final = "rbac.authorization.k8s.io"


def apply_defaults(resource: ApiResource, obj: Json) -> None:
    """Complete `obj` in place; a kind without rules is left as it is."""
    complete = _BY_KIND.get((resource.group, resource.kind))
    if complete is not None:
        complete(obj)


def _spec(obj: Json) -> Json:
    if obj.get("spec") is None:
        obj["spec"] = {}
    spec: Json = obj["spec"]
    return spec


def _status(obj: Json) -> Json:
    if obj.get("status") is None:
        obj["status"] = {}
    status: Json = obj["status"]
    return status


# ---------------------------------------------------------------- core


def _namespace(obj: Json) -> None:
    name = obj["metadata"].get("name", "")
    if name:
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": name}
    fill(_status(obj), phase="Active")
    if obj["metadata"].get("deletionTimestamp") is None and not _spec(obj).get("finalizers"):
        obj["spec"]["finalizers"] = ["kubernetes"]


def _secret(obj: Json) -> None:
    obj["type"] = obj.get("type") or "Opaque"
    texts = obj.pop("stringData", None)
    if texts:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in texts.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}


def _service(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {}).setdefault("timeoutSeconds", 10800)
    for port in each(spec, "ports"):
        fill(port, protocol="TCP")
        if not port.get("targetPort"):
            port["targetPort"] = port.get("port")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        fill(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        fill(spec, allocateLoadBalancerNodePorts=True)
    if spec["type"] != "ExternalName":
        fill(spec, internalTrafficPolicy="Cluster", ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
        if spec.get("clusterIP"):
            fill(spec, clusterIPs=[spec["clusterIP"]])
    fill(_status(obj), loadBalancer={})
    for ingress in each(_status(obj)["loadBalancer"], "ingress"):
        if ingress.get("ip"):
            fill(ingress, ipMode="VIP")


def _endpoints(obj: Json) -> None:
    for subset in each(obj, "subsets"):
        for port in each(subset, "ports"):
            fill(port, protocol="TCP")


def _node(obj: Json) -> None:
    status, spec = _status(obj), _spec(obj)
    if spec.get("podCIDR"):
        fill(spec, podCIDRs=[spec["podCIDR"]])
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


def _claim(obj: Json) -> None:
    fill(_spec(obj), volumeMode="Filesystem")
    fill(_status(obj), phase="Pending")


def _volume(obj: Json) -> None:
    fill(_spec(obj), persistentVolumeReclaimPolicy="Retain", volumeMode="Filesystem")
    default_host_path(obj["spec"])
    fill(_status(obj), phase="Pending")


def _limit_range(obj: Json) -> None:
    for item in each(_spec(obj), "limits"):
        if item.get("type") == "Container":
            limits = {**(item.get("max") or {}), **(item.get("default") or {})}
            requests = {**(item.get("min") or {}), **limits, **(item.get("defaultRequest") or {})}
            item |= {"default": limits} if limits else {}
            item |= {"defaultRequest": requests} if requests else {}


def _replication_controller(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, replicas=1)
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if labels:
        spec["selector"] = spec.get("selector") or dict(labels)
        obj["metadata"]["labels"] = obj["metadata"].get("labels") or dict(labels)
    _workload(spec)


def _pod_template(obj: Json) -> None:
    default_template(obj.setdefault("template", {}))


def _workload(spec: Json) -> None:
    if isinstance(spec.get("template"), dict):
        default_template(spec["template"])


# ---------------------------------------------------------------- apps, batch, autoscaling


def _deployment(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, replicas=1, strategy={}, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = spec["strategy"]
    strategy["type"] = strategy.get("type") or "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(strategy, rollingUpdate={})
        fill(strategy["rollingUpdate"], maxUnavailable="25%", maxSurge="25%")
    _workload(spec)


def _replica_set(obj: Json) -> None:
    fill(_spec(obj), replicas=1)
    _workload(obj["spec"])


def _daemon_set(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, updateStrategy={}, revisionHistoryLimit=10)
    strategy = spec["updateStrategy"]
    strategy["type"] = strategy.get("type") or "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(strategy, rollingUpdate={})
        fill(strategy["rollingUpdate"], maxUnavailable=1, maxSurge=0)
    _workload(spec)


def _stateful_set(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, replicas=1, updateStrategy={}, revisionHistoryLimit=10, persistentVolumeClaimRetentionPolicy={})
    spec["podManagementPolicy"] = spec.get("podManagementPolicy") or "OrderedReady"
    fill(spec["persistentVolumeClaimRetentionPolicy"], whenDeleted="Retain", whenScaled="Retain")
    strategy = spec["updateStrategy"]
    strategy["type"] = strategy.get("type") or "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        fill(strategy, rollingUpdate={})
        fill(strategy["rollingUpdate"], partition=0)
    for claim in each(spec, "volumeClaimTemplates"):
        fill(claim, apiVersion="v1", kind="PersistentVolumeClaim")
        _claim(claim)
    _workload(spec)


def _job(obj: Json) -> None:
    spec = _spec(obj)
    if spec.get("completions") is None and spec.get("parallelism") is None:
        spec["completions"] = 1
    fill(spec, parallelism=1, backoffLimit=6, completionMode="NonIndexed", suspend=False, manualSelector=False)
    if spec.get("backoffLimitPerIndex") is not None and spec["backoffLimit"] == 6:
        spec["backoffLimit"] = 2**31 - 1
    policy = "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed"
    fill(spec, podReplacementPolicy=policy)
    _workload(spec)
    if spec["manualSelector"] is not True:
        _own_pods(obj)
    template_labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels")
    if template_labels and not obj["metadata"].get("labels"):
        obj["metadata"]["labels"] = dict(template_labels)


def _own_pods(job: Json) -> None:
    """A job finds its pods by its own uid, so two jobs never count each other's."""
    spec, uid = job["spec"], job["metadata"].get("uid")
    if not uid or spec.get("selector") or not isinstance(spec.get("template"), dict):
        return
    metadata = spec["template"].setdefault("metadata", {})
    identity = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": job["metadata"].get("name", ""),
        "controller-uid": uid,
        "job-name": job["metadata"].get("name", ""),
    }
    metadata["labels"] = {**(metadata.get("labels") or {}), **identity}
    spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}


def _cron_job(obj: Json) -> None:
    spec = _spec(obj)
    spec["concurrencyPolicy"] = spec.get("concurrencyPolicy") or "Allow"
    fill(spec, suspend=False, successfulJobsHistoryLimit=3, failedJobsHistoryLimit=1)
    template = spec.get("jobTemplate")
    if isinstance(template, dict):
        template.setdefault("metadata", {})
        _workload(template.setdefault("spec", {}))


def _autoscaler(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, minReplicas=1)
    fill(_status(obj), desiredReplicas=0)
    if obj.get("apiVersion") == "autoscaling/v1":
        fill(_status(obj), currentReplicas=0)
        if not (obj["metadata"].get("annotations") or {}).get("autoscaling.alpha.kubernetes.io/metrics"):
            fill(spec, targetCPUUtilizationPercentage=80)
    elif not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]


def _budget(obj: Json) -> None:
    fill(_status(obj), disruptionsAllowed=0, currentHealthy=0, desiredHealthy=0, expectedPods=0)


# ---------------------------------------------------------------- the other groups


def _binding(obj: Json) -> None:
    reference = obj.get("roleRef")
    if isinstance(reference, dict):
        reference["apiGroup"] = reference.get("apiGroup") or _RBAC
    for subject in each(obj, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            subject["apiGroup"] = subject.get("apiGroup") or _RBAC


def _endpoint_slice(obj: Json) -> None:
    for port in each(obj, "ports"):
        fill(port, name="", protocol="TCP")


def _storage_class(obj: Json) -> None:
    fill(obj, reclaimPolicy="Delete", volumeBindingMode="Immediate")


def _csi_driver(obj: Json) -> None:
    fill(
        _spec(obj),
        attachRequired=True,
        podInfoOnMount=False,
        storageCapacity=False,
        fsGroupPolicy="ReadWriteOnceWithFSType",
        volumeLifecycleModes=["Persistent"],
        requiresRepublish=False,
        seLinuxMount=False,
    )


def _priority_class(obj: Json) -> None:
    fill(obj, preemptionPolicy="PreemptLowerPriority")


def _network_policy(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, podSelector={})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in each(spec, "ingress", "egress"):
        for port in each(rule, "ports"):
            fill(port, protocol="TCP")


def _custom_resource_definition(obj: Json) -> None:
    spec = _spec(obj)
    fill(spec, names={}, conversion={"strategy": "None"})
    names = spec["names"]
    if isinstance(names, dict) and isinstance(names.get("kind"), str):
        names["singular"] = names.get("singular") or names["kind"].lower()
        names["listKind"] = names.get("listKind") or names["kind"] + "List"
    stored = [version["name"] for version in each(spec, "versions") if version.get("storage") and version.get("name")]
    status = _status(obj)
    status["storedVersions"] = list(dict.fromkeys([*(status.get("storedVersions") or ()), *stored]))


def _webhooks(obj: Json) -> None:
    for hook in each(obj, "webhooks"):
        fill(
            hook,
            failurePolicy="Fail",
            matchPolicy="Equivalent",
            namespaceSelector={},
            objectSelector={},
            timeoutSeconds=10,
        )
        if obj.get("kind") == "MutatingWebhookConfiguration":
            fill(hook, reinvocationPolicy="Never")
        for rule in each(hook, "rules"):
            fill(rule, scope="*")
        service = (hook.get("clientConfig") or {}).get("service")
        if service:
            fill(service, port=443)


_BY_KIND: Final[dict[tuple[str, str], Callable[[Json], None]]] = {
    ("", "Pod"): default_pod,
    ("", "PodTemplate"): _pod_template,
    ("", "Namespace"): _namespace,
    ("", "Secret"): _secret,
    ("", "Service"): _service,
    ("", "Endpoints"): _endpoints,
    ("", "Node"): _node,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "PersistentVolume"): _volume,
    ("", "LimitRange"): _limit_range,
    ("", "ReplicationController"): _replication_controller,
    ("apps", "Deployment"): _deployment,
    ("apps", "ReplicaSet"): _replica_set,
    ("apps", "DaemonSet"): _daemon_set,
    ("apps", "StatefulSet"): _stateful_set,
    ("batch", "Job"): _job,
    ("batch", "CronJob"): _cron_job,
    ("autoscaling", "HorizontalPodAutoscaler"): _autoscaler,
    ("policy", "PodDisruptionBudget"): _budget,
    (_RBAC, "RoleBinding"): _binding,
    (_RBAC, "ClusterRoleBinding"): _binding,
    ("discovery.k8s.io", "EndpointSlice"): _endpoint_slice,
    ("storage.k8s.io", "StorageClass"): _storage_class,
    ("storage.k8s.io", "CSIDriver"): _csi_driver,
    ("scheduling.k8s.io", "PriorityClass"): _priority_class,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): _custom_resource_definition,
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"): _webhooks,
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"): _webhooks,
}
