"""Objects a real API server refuses are refused, field by field, in its words."""

import copy
from typing import Any

import pytest

from edgehive.api import registry
from edgehive.api.registry import ApiResource
from edgehive.kube.server.defaults import apply_defaults
from edgehive.kube.server.validation import validate_create, validate_update


def made(resource: ApiResource, **body: Any) -> dict[str, Any]:
    obj = {"metadata": {"name": "x", "namespace": "default", "uid": "u"}, **copy.deepcopy(body)}
    apply_defaults(resource, obj)
    return obj


def texts(resource: ApiResource, **body: Any) -> list[str]:
    return [f"{cause.field}: {cause.message}" for cause in validate_create(resource, made(resource, **body))]


def pod(**changes: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "image": "i", **changes}]}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({"containers": []}, "spec.containers: Required value"),
        ({"containers": [{"name": "c"}]}, "spec.containers[0].image: Required value"),
        ({"containers": [{"image": "i"}]}, "spec.containers[0].name: Required value"),
        ({"containers": [{"name": "c", "image": "i"}] * 2}, 'spec.containers[1].name: Duplicate value: "c"'),
        (pod(imagePullPolicy="Sometimes"),
         'spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": '
         'supported values: "Always", "IfNotPresent", "Never"'),
        (pod(volumeMounts=[{"name": "v", "mountPath": "/v"}]),
         'spec.containers[0].volumeMounts[0].name: Not found: "v"'),
        (pod(ports=[{"containerPort": 70000}]),
         "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"),
        (pod(livenessProbe={}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (pod(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
         'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'),
        ({**pod(), "restartPolicy": "Maybe"},
         'spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "Never", "OnFailure"'),
        ({**pod(), "volumes": [{"name": "v", "secret": {}}]}, "spec.volumes[0].secret.secretName: Required value"),
    ],
)  # fmt: skip
def test_pods(spec: dict[str, Any], wanted: str) -> None:
    assert texts(registry.PODS, spec=spec) == [wanted]


def test_names_and_labels() -> None:
    bad = texts(registry.CONFIG_MAPS, metadata={"name": "Bad_Name", "labels": {"a b": "c d"}})
    assert bad[0].startswith('metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of')
    assert bad[1].startswith('metadata.labels: Invalid value: "a b": name part must consist of alphanumeric')
    assert bad[2].startswith('metadata.labels: Invalid value: "c d": a valid label must be an empty string or')
    assert texts(registry.CLUSTER_ROLES, metadata={"name": "system:x"}, rules=[]) == []
    assert "DNS-1035" in texts(registry.SERVICES, metadata={"name": "1x"}, spec={"ports": [{"port": 1}]})[0]


TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": pod()}


def test_workloads() -> None:
    spec = {"selector": {"matchLabels": {"app": "b"}}, "template": TEMPLATE}
    assert texts(registry.DEPLOYMENTS, spec=spec) == [
        'spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`'
    ]
    assert texts(registry.DEPLOYMENTS, spec={"template": TEMPLATE}) == ["spec.selector: Required value"]
    assert texts(registry.JOBS, spec={"template": TEMPLATE}) == [
        'spec.template.spec.restartPolicy: Unsupported value: "Always": supported values: "Never", "OnFailure"'
    ]


def changed(resource: ApiResource, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    causes = validate_update(resource, made(resource, **old), made(resource, **new))
    return [f"{cause.field}: {cause.message}" for cause in causes]


def test_fixed_fields() -> None:
    old = {"spec": {"selector": {"matchLabels": {"app": "a"}}, "template": TEMPLATE}}
    other = {"metadata": {"labels": {"app": "b"}}, "spec": pod()}
    new = {"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": other}}
    assert changed(registry.DEPLOYMENTS, old, new) == [
        'spec.selector: Invalid value: {"matchLabels":{"app":"b"}}: field is immutable'
    ]
    assert changed(registry.SECRETS, {"type": "a"}, {"type": "b"}) == ['type: Invalid value: "b": field is immutable']
    frozen = {"immutable": True, "data": {"a": "1"}}
    assert changed(registry.CONFIG_MAPS, frozen, {**frozen, "data": {"a": "2"}}) == [
        "data: Forbidden: field is immutable when `immutable` is set"
    ]
    assert changed(registry.CONFIG_MAPS, {"data": {"a": "1"}}, {"data": {"a": "2"}}) == []


def test_a_pod_may_change_its_image_and_little_else() -> None:
    assert changed(registry.PODS, {"spec": pod()}, {"spec": pod(image="i:2", imagePullPolicy="Always")}) == []
    causes = changed(registry.PODS, {"spec": pod()}, {"spec": pod(command=["x"])})
    assert causes[0].startswith("spec: Forbidden: pod updates may not change fields other than")
