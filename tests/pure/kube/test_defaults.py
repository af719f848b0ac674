"""What the server fills in is what a real API server was seen to fill in, and filling twice changes nothing."""

import copy
from typing import Any

import pytest

from edgehive.api import registry
from edgehive.api.registry import ApiResource
from edgehive.kube.server.defaults import apply_defaults
from edgehive.kube.server.pod_defaults import pull_policy, qos_class


def completed(resource: ApiResource, body: dict[str, Any]) -> dict[str, Any]:
    body = {"metadata": {"name": "x"}, **copy.deepcopy(body)}
    apply_defaults(resource, body)
    again = copy.deepcopy(body)
    apply_defaults(resource, again)
    assert again == body
    return body


CONTAINER = {
    "name": "c",
    "image": "i:1",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "IfNotPresent",
}
POD_SPEC = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "schedulerName": "default-scheduler",
}


def test_a_pod() -> None:
    pod = completed(registry.PODS, {"spec": {"containers": [{"name": "c", "image": "i:1"}]}})
    assert pod["spec"] == {"containers": [CONTAINER], "enableServiceLinks": True, **POD_SPEC}
    assert pod["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


def test_probes_ports_references_and_requests() -> None:
    container = {
        "name": "c",
        "image": "i",
        "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 5},
        "env": [{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "resources": {"limits": {"cpu": "1"}},
    }
    pod = completed(registry.PODS, {"spec": {"hostNetwork": True, "containers": [container]}})
    got = pod["spec"]["containers"][0]
    assert got["imagePullPolicy"] == "Always"
    assert got["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert got["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 5, "successThreshold": 1, "failureThreshold": 3,
    }  # fmt: skip
    assert got["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert got["resources"]["requests"] == {"cpu": "1"}
    assert pod["status"]["qosClass"] == "Burstable"


def test_volumes() -> None:
    volumes = [{"name": "none"}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/"}}]
    got = completed(registry.PODS, {"spec": {"containers": [], "volumes": volumes}})["spec"]["volumes"]
    assert got[0] == {"name": "none", "emptyDir": {}}
    assert got[1]["secret"]["defaultMode"] == 420
    assert got[2]["hostPath"] == {"path": "/", "type": ""}


def test_a_deployment_as_a_real_server_completed_it() -> None:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    body = {"spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template, "strategy": {}}}
    assert completed(registry.DEPLOYMENTS, body)["spec"] == {
        "replicas": 2,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [CONTAINER], **POD_SPEC}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }


def test_a_job_selects_its_pods_by_its_uid() -> None:
    spec = {"template": {"spec": {"containers": [], "restartPolicy": "Never"}}}
    job = completed(registry.JOBS, {"metadata": {"name": "j1", "uid": "u-1"}, "spec": spec})
    assert job["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"]
    assert job["metadata"]["labels"]["job-name"] == "j1"
    assert {key: job["spec"][key] for key in ("parallelism", "completions", "backoffLimit", "completionMode")} == {
        "parallelism": 1, "completions": 1, "backoffLimit": 6, "completionMode": "NonIndexed",
    }  # fmt: skip


def test_a_service_a_namespace_a_secret_and_a_binding() -> None:
    service = completed(registry.SERVICES, {"spec": {"ports": [{"port": 80}]}})
    assert service["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    assert service["spec"]["ipFamilyPolicy"] == "SingleStack"
    namespace = completed(registry.NAMESPACES, {})
    assert namespace["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    assert namespace["spec"] == {"finalizers": ["kubernetes"]}
    secret = completed(registry.SECRETS, {"stringData": {"p": "q"}, "data": {"a": "Yg=="}})
    assert (secret["type"], secret["data"]) == ("Opaque", {"a": "Yg==", "p": "cQ=="})
    binding = completed(registry.ROLE_BINDINGS, {"roleRef": {"kind": "Role", "name": "r"}})
    assert binding["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"


@pytest.mark.parametrize(
    ("image", "policy"),
    [("a", "Always"), ("a:latest", "Always"), ("h:5000/a", "Always"), ("h:5000/a:1", "IfNotPresent"),
     ("a@sha256:00", "IfNotPresent")],
)  # fmt: skip
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_quality_of_service() -> None:
    full = {"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}}
    assert qos_class({"containers": [full]}) == "Guaranteed"
    assert qos_class({"containers": [full, {}]}) == "Burstable"
    assert qos_class({"containers": [{}]}) == "BestEffort"


def test_every_builtin_kind_survives_an_empty_object() -> None:
    for resource in registry.BUILTIN:
        completed(resource, {})
