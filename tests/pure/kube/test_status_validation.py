"""What a status may say, in the words of a Kubernetes API server; and what is told of objects beside their status."""

from typing import Any

import pytest

from edgehive.api import registry
from edgehive.api.registry import ApiResource
from edgehive.kube.server.validation import validate_create, validate_status, validate_update

LEAST = "Invalid value: -1: must be greater than or equal to 0"
ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def told(causes: list[Any]) -> list[str]:
    return [f"{cause.field}: {cause.message}" for cause in causes]


STATUSES: tuple[tuple[ApiResource, dict[str, Any], list[str]], ...] = (
    (registry.DEPLOYMENTS, {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 1, "availableReplicas": 1}, []),
    (registry.DEPLOYMENTS, {"unavailableReplicas": -1}, [f"status.unavailableReplicas: {LEAST}"]),
    (registry.DEPLOYMENTS, {"replicas": 1, "readyReplicas": 2, "availableReplicas": 1},
     ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]),
    (registry.REPLICA_SETS, {"replicas": 2, "availableReplicas": 1},
     ["status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"]),
    (registry.STATEFUL_SETS, {"replicas": -1}, [
        f"status.replicas: {LEAST}",
        *(f"status.{name}: Invalid value: 0: cannot be greater than status.replicas"
          for name in ("readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas")),
    ]),
    (registry.DAEMON_SETS, {"numberReady": -1}, [f"status.numberReady: {LEAST}"]),
    (registry.JOBS, {"active": -1}, [f"status.active: {LEAST}"]),
    (registry.POD_DISRUPTION_BUDGETS, {"disruptionsAllowed": -1}, [f"status.disruptionsAllowed: {LEAST}"]),
    (registry.NODES, {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}] * 2},
     ['status.addresses[1]: Duplicate value: {"type":"InternalIP","address":"1.2.3.4"}']),
    (registry.NODES, {"capacity": {"cpu": "-1"}},
     ['status.capacity.cpu: Invalid value: "-1": must be greater than or equal to 0']),
    (registry.SERVICES, {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}},
     ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]),
    (registry.PODS, {"podIPs": [{"ip": "abc"}]}, [f'status.podIPs[0]: Invalid value: "abc": {ADDRESS}']),
    (registry.RESOURCE_QUOTAS, {"used": {"pods": "-1"}},
     ['status.used[pods]: Invalid value: "-1": must be greater than or equal to 0']),
)  # fmt: skip


@pytest.mark.parametrize(("resource", "status", "wanted"), STATUSES)
def test_a_status_adds_up(resource: ApiResource, status: dict[str, Any], wanted: list[str]) -> None:
    old = {"metadata": {"name": "a"}, "spec": {}}
    assert told(validate_status(resource, old, old | {"status": status})) == wanted


def test_the_quality_of_a_pod_stays_and_an_address_that_was_there_may_too() -> None:
    old = {"metadata": {"name": "a"}, "status": {"qosClass": "BestEffort", "podIPs": [{"ip": "odd"}]}}
    new = {"metadata": {"name": "a"}, "status": {"qosClass": "Guaranteed", "podIPs": [{"ip": "odd"}]}}
    assert told(validate_status(registry.PODS, old, new)) == [
        'status.qosClass: Invalid value: "Guaranteed": field is immutable'
    ]


def ingress(**path: Any) -> dict[str, Any]:
    backend = {"service": {"name": "s", "port": {"number": 80}}}
    item = {"path": "/", "pathType": "Prefix", "backend": backend} | path
    return {"spec": {"rules": [{"host": "a.b", "http": {"paths": [item]}}]}}


PATHS = "spec.rules[0].http.paths[0]"
OBJECTS: tuple[tuple[ApiResource, dict[str, Any], list[str]], ...] = (
    (registry.INGRESSES, ingress(), []),
    (registry.INGRESSES, ingress(path="x"), [f'{PATHS}.path: Invalid value: "x": must be an absolute path']),
    (registry.INGRESSES, ingress(path="/a/../b"),
     [f"{PATHS}.path: Invalid value: \"/a/../b\": must not contain '/../'"]),
    (registry.INGRESSES, ingress(pathType=None), [f"{PATHS}.pathType: Required value: pathType must be specified"]),
    (registry.INGRESSES, ingress(backend={}),
     [f'{PATHS}.backend: Invalid value: "": resource or service backend is required']),
    (registry.INGRESSES, {"spec": {}},
     ["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"]),
    (registry.ENDPOINTS, {"subsets": [{"addresses": [{"ip": "abc"}], "ports": [{"port": 80}]}]},
     [f'subsets[0].addresses[0].ip: Invalid value: "abc": {ADDRESS}']),
    (registry.ENDPOINT_SLICES, {"addressType": "IPv6", "endpoints": [{"addresses": ["1.2.3.4"]}]},
     ['endpoints[0].addresses[0]: Invalid value: "1.2.3.4": must be a valid IPv6 address']),
    (registry.HORIZONTAL_POD_AUTOSCALERS,
     {"spec": {"maxReplicas": 0, "minReplicas": 1, "scaleTargetRef": {"kind": "D", "name": "d"}}},
     ["spec.maxReplicas: Required value: must be set and greater than 0",
      "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"]),
    (registry.POD_DISRUPTION_BUDGETS, {"spec": {"minAvailable": "101%"}},
     ['spec.minAvailable: Invalid value: "101%": must not be greater than 100%']),
    (registry.RESOURCE_QUOTAS, {"spec": {"hard": {"pods": "-1"}}},
     ['spec.hard[pods]: Invalid value: "-1": must be greater than or equal to 0']),
    (registry.LIMIT_RANGES, {"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}},
     ['spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1']),
    (registry.LEASES, {"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}},
     ["spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0", f"spec.leaseTransitions: {LEAST}"]),
    (registry.SECRETS, {"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}, ["data[tls.key]: Required value"]),
    (registry.SECRETS, {"type": "kubernetes.io/basic-auth", "data": {"username": ""}}, []),
    (registry.SECRETS, {"type": "kubernetes.io/service-account-token"},
     ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
    (registry.NODES, {"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}] * 2}},
     ['metadata.taints[1]: Duplicate value: {"key":"a","effect":"NoSchedule"}']),
)  # fmt: skip


@pytest.mark.parametrize(("resource", "body", "wanted"), OBJECTS)
def test_an_object_makes_sense(resource: ApiResource, body: dict[str, Any], wanted: list[str]) -> None:
    assert told(validate_create(resource, {"metadata": {"name": "a"}} | body)) == wanted


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
CLAIM_FIXED = ("spec: Forbidden: spec is immutable after creation except resources.requests and "
               "volumeAttributesClassName for bound claims")  # fmt: skip
UPDATES: tuple[tuple[ApiResource, dict[str, Any], dict[str, Any], list[str]], ...] = (
    (registry.PRIORITY_CLASSES, {"value": 1}, {"value": 2}, ["value: Forbidden: may not be changed in an update."]),
    (registry.RUNTIME_CLASSES, {"handler": "a"}, {"handler": "b"}, ['handler: Invalid value: "b": field is immutable']),
    (registry.CONTROLLER_REVISIONS, {"data": {"a": 1}}, {"data": {"a": 2}},
     ['data: Invalid value: {"a":2}: field is immutable']),
    (registry.PERSISTENT_VOLUME_CLAIMS, {"spec": CLAIM}, {"spec": CLAIM | {"volumeName": "v"}}, []),
    (registry.PERSISTENT_VOLUME_CLAIMS, {"spec": CLAIM}, {"spec": CLAIM | {"accessModes": ["ReadOnlyMany"]}},
     [CLAIM_FIXED]),
    (registry.PERSISTENT_VOLUMES,
     {"spec": {"hostPath": {"path": "/a"}, "persistentVolumeReclaimPolicy": "Retain"}},
     {"spec": {"hostPath": {"path": "/b"}, "persistentVolumeReclaimPolicy": "Delete"}},
     ["spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"]),
)  # fmt: skip


@pytest.mark.parametrize(("resource", "old", "new", "wanted"), UPDATES)
def test_what_is_fixed_stays(
    resource: ApiResource, old: dict[str, Any], new: dict[str, Any], wanted: list[str]
) -> None:
    metadata = {"metadata": {"name": "a"}}
    assert told(validate_update(resource, metadata | old, metadata | new)) == wanted
