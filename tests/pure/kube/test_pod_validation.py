"""What is refused in pods, in the words of a Kubernetes API server."""

from typing import Any

import pytest

from edgehive.api.registry import CONFIG_MAPS, PODS, SERVICES
from edgehive.kube.server.defaults import apply_defaults
from edgehive.kube.server.validation import validate_create, validate_update

ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def pod(**spec: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "c", "image": "i"}]} | spec
    built = {"metadata": {"name": "p"}, "spec": spec}
    apply_defaults(PODS, built)
    return built


def container(**fields: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "i"} | fields]}


C = "spec.containers[0]"
CASES: tuple[tuple[dict[str, Any], list[str]], ...] = (
    ({"hostAliases": [{"ip": "abc", "hostnames": ["a"]}]},
     [f'spec.hostAliases[0].ip: Invalid value: "abc": {ADDRESS}']),
    ({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}}}},
     [f"spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms: Required value: "
      "must have at least one node selector term"]),
    ({"hostNetwork": True} | container(ports=[{"containerPort": 80, "hostPort": 81}]),
     [f"{C}.ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"]),
    ({"initContainers": [{"name": "i", "image": "i", "readinessProbe": {"exec": {"command": ["a"]}}}]},
     ["spec.initContainers[0].readinessProbe: Forbidden: "
      "may not be set for init containers without restartPolicy=Always"]),
    ({"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always",
                          "readinessProbe": {"exec": {"command": ["a"]}}}]}, []),
    (container(envFrom=[{}]), [f'{C}.envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`']),
    (container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "odd.x"}}}]),
     [f'{C}.env[0].valueFrom.fieldRef.fieldPath: Invalid value: "odd.x": '
      "error converting fieldPath: field label not supported: odd.x"]),
    (container(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a/b']"}}}]), []),
    (container(ports=[{"containerPort": 80, "name": "a b"}]),
     [f'{C}.ports[0].name: Invalid value: "a b": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)'
      ]),
    (container(livenessProbe={"tcpSocket": {"port": "80"}}),
     [f'{C}.livenessProbe.tcpSocket.port: Invalid value: "80": must contain at least one letter (a-z)']),
    (container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
     [f'{C}.securityContext: Invalid value: {{"privileged":true,"allowPrivilegeEscalation":false}}: '
      "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"]),
    ({"terminationGracePeriodSeconds": -1}, []),
)  # fmt: skip


@pytest.mark.parametrize(("spec", "wanted"), CASES)
def test_a_pod_makes_sense(spec: dict[str, Any], wanted: list[str]) -> None:
    assert [f"{cause.field}: {cause.message}" for cause in validate_create(PODS, pod(**spec))] == wanted


def test_containers_come_and_go_with_their_pod() -> None:
    more = {"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}
    (cause,) = validate_update(PODS, pod(), pod(**more))
    assert (cause.field, cause.message) == (
        "spec.containers", "Forbidden: pod updates may not add or remove containers"
    )  # fmt: skip


def test_one_owner_rules_and_finalizers_are_of_someone() -> None:
    owners = [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name, "controller": True} for name in "ab"]
    metadata = {"name": "x", "ownerReferences": owners, "finalizers": ["odd", "orphan", "a.b/c"]}
    causes = validate_create(CONFIG_MAPS, {"metadata": metadata})
    assert [(cause.field, cause.message.rpartition(": ")[2]) for cause in causes] == [
        ("metadata.finalizers[0]", "name is neither a standard finalizer name nor is it fully qualified"),
        ("metadata.ownerReferences", 'Only one reference can have Controller set to true. Found "true" in references '
                                     "for Pod/a and Pod/b"),
    ]  # fmt: skip


def test_a_services_addresses_are_some() -> None:
    spec = {"type": "ClusterIP", "sessionAffinity": "None", "clusterIPs": ["abc"],
            "ports": [{"port": 80, "protocol": "TCP", "name": "A"}]}  # fmt: skip
    causes = validate_create(SERVICES, {"metadata": {"name": "s"}, "spec": spec})
    assert [cause.field for cause in causes] == ["spec.clusterIPs[0]", "spec.ports[0].name"]
