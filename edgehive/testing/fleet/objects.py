"""What a hollow node says of itself and its pods, and what the fleet puts into the cluster. Pure.

Nodes, leases and statuses are as a stock edge sends them; the shapes were read off recorded traffic.

Go: pkg/kubelet (kubelet_node_status.go, status_manager.go)
"""

import json
from datetime import datetime
from typing import Any

from edgehive.kit.clock import rfc3339, rfc3339_micro

#: Everything a fleet creates through the API carries it.
LABEL = "fleet.edgehive.io/run"
NAMESPACE = "default"
LEASE_NAMESPACE = "kube-node-lease"
LEASE_SECONDS = 40
ADDRESS = "192.0.2.1"
IMAGE = "localhost/pause:1"
_CONDITIONS = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "EdgeReady", "edge is posting ready status"),
)
_POD_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def node(name: str, now: datetime) -> dict[str, Any]:
    labels = {
        "beta.kubernetes.io/arch": "amd64",
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node-role.kubernetes.io/agent": "",
        "node-role.kubernetes.io/edge": "",
    }
    annotations = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    metadata = {"name": name, "creationTimestamp": None, "labels": labels, "annotations": annotations}
    return {"metadata": metadata, "spec": {}, "status": _node_status(name, now)}


def _node_status(name: str, now: datetime) -> dict[str, Any]:
    resources = {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "64Gi", "pods": "1000"}
    machine = "f1ee7000000000000000000000000000"
    return {
        "capacity": resources,
        "allocatable": resources,
        "conditions": _node_conditions(now),
        "addresses": [{"type": "InternalIP", "address": ADDRESS}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}},
        "nodeInfo": {
            "machineID": machine,
            "systemUUID": machine,
            "bootID": machine,
            "kernelVersion": "6.1.0",
            "osImage": "hollow",
            "containerRuntimeVersion": "hollow://1.0",
            "kubeletVersion": "v1.32.10-kubeedge-v1.22.0",
            "kubeProxyVersion": "v1.22.0",
            "operatingSystem": "linux",
            "architecture": "amd64",
        },
    }


def _node_conditions(now: datetime) -> list[dict[str, Any]]:
    stamps = {"lastHeartbeatTime": rfc3339(now), "lastTransitionTime": rfc3339(now)}
    return [
        {"type": type, "status": status, **stamps, "reason": reason, "message": message}
        for type, status, reason, message in _CONDITIONS
    ]


def node_patch(now: datetime) -> str:
    """The strategic-merge patch of a heartbeat."""
    order = [{"type": type} for type, *_ in _CONDITIONS]
    beats = [{"type": type, "lastHeartbeatTime": rfc3339(now)} for type, *_ in _CONDITIONS]
    return json.dumps({"status": {"$setElementOrder/conditions": order, "conditions": beats}})


def lease(name: str, node_uid: str, now: datetime) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": LEASE_NAMESPACE, "creationTimestamp": None}
    if node_uid:
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid}
        metadata["ownerReferences"] = [owner]
    spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": rfc3339_micro(now)}
    return {"metadata": metadata, "spec": spec}


def pod_status(uid: str, now: datetime, restarts: int = 0) -> str:
    """The strategic-merge patch that says: it runs and is ready."""
    stamp = rfc3339(now)
    container = {
        "containerID": f"hollow://{uid}",
        "image": IMAGE,
        "imageID": "",
        "lastState": {},
        "name": "main",
        "ready": True,
        "restartCount": restarts,
        "started": True,
        "state": {"running": {"startedAt": stamp}},
    }
    status = {
        "$setElementOrder/conditions": [{"type": type} for type in _POD_CONDITIONS],
        "conditions": [{"lastTransitionTime": stamp, "status": "True", "type": type} for type in _POD_CONDITIONS],
        "containerStatuses": [container],
        "hostIP": ADDRESS,
        "hostIPs": [{"ip": ADDRESS}],
        "phase": "Running",
        "podIP": "192.0.2.10",
        "podIPs": [{"ip": "192.0.2.10"}],
        "startTime": stamp,
    }
    return json.dumps({"metadata": {"uid": uid}, "status": status})


def delete_options(uid: str) -> dict[str, Any]:
    """How an edge confirms that a pod has ended."""
    return {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}


def pod(name: str, node_name: str, run: str, config_map: str = "") -> dict[str, Any]:
    """A pod bound to its node, so that no scheduler is measured."""
    container: dict[str, Any] = {"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}
    spec: dict[str, Any] = {
        "nodeName": node_name,
        "containers": [container],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"operator": "Exists"}],
    }
    if config_map:
        spec["volumes"] = [{"name": "settings", "configMap": {"name": config_map}}]
        container["volumeMounts"] = [{"name": "settings", "mountPath": "/settings"}]
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {LABEL: run}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def config_map(name: str, run: str, revision: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": {LABEL: run}}
    data = {"revision": str(revision), "settings": "x" * 1024}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}
