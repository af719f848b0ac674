"""Objects take the shape of their kind; what does not fit is named the way a Go server names it."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehive.kube.errors import BadRequest
from edgehive.kube.server.conform import conform, duplicate_fields, strict_error


def test_unknown_fields_drop_out_and_are_named() -> None:
    pod = {"metadata": {"name": "p"}, "dta": {}, "spec": {"containers": [{"name": "c", "imge": "x"}]}}
    got, problems = conform("v1", "Pod", pod)
    assert problems == ['unknown field "dta"', 'unknown field "spec.containers[0].imge"']
    assert got == {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}}
    assert str(strict_error("v1", "ConfigMap", ['unknown field "dta"'])) == (
        'ConfigMap in version "v1" cannot be handled as a ConfigMap: strict decoding error: unknown field "dta"'
    )


def test_nulls_and_empty_optionals_drop_out_and_pointers_stay() -> None:
    body = {
        "metadata": {"creationTimestamp": None, "labels": {}, "name": "x"},
        "spec": {"replicas": 0, "paused": False},
    }
    got, _ = conform("apps/v1", "Deployment", body)
    assert got["metadata"] == {"name": "x"}
    assert got["spec"]["replicas"] == 0
    assert "paused" not in got["spec"]
    assert got["spec"]["strategy"] == {}


def test_quantities_are_canonical() -> None:
    container = {"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}
    got, _ = conform("v1", "Pod", {"spec": {"containers": [container]}})
    assert got["spec"]["containers"][0]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("apps/v1 Deployment", {"spec": {"replicas": "two"}},
         "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"),
        ("v1 ConfigMap", {"data": {"a": 1}}, "number into Go struct field ConfigMap.data of type string"),
        ("v1 ConfigMap", {"data": []}, "array into Go struct field ConfigMap.data of type map[string]string"),
        ("v1 Pod", {"spec": {"containers": {}}}, "field PodSpec.spec.containers of type []v1.Container"),
        ("v1 Pod", {"spec": {"restartPolicy": 1}}, "of type v1.RestartPolicy"),
        ("v1 Pod", {"spec": "x"}, "string into Go struct field Pod.spec of type v1.PodSpec"),
        ("v1 Secret", {"data": {"a": "!"}}, "illegal base64 data at input byte 0"),
        ("v1 Pod", {"spec": {"containers": [{"resources": {"limits": {"cpu": "x"}}}]}}, "quantities must match"),
        ("v1 Pod", {"metadata": {"deletionTimestamp": "yesterday"}}, "parsing time"),
    ],
)  # fmt: skip
def test_wrong_types_are_refused_in_the_words_of_go(kind: str, body: dict[str, Any], words: str) -> None:
    api_version, _, name = kind.partition(" ")
    with pytest.raises(BadRequest) as caught:
        conform(api_version, name, body)
    assert words in str(caught.value)


def test_duplicates() -> None:
    assert duplicate_fields(b'{"a":1,"spec":{"b":[{"c":1,"c":2}],"b":[]},"a":2}') == [
        'duplicate field "spec.b[0].c"', 'duplicate field "spec.b"', 'duplicate field "a"',
    ]  # fmt: skip
    assert duplicate_fields(b"{bad") == []


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["spec", "containers", "name", "ports", "env", "metadata"]),
                                         inner, max_size=4), max_leaves=10)  # fmt: skip


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["spec", "metadata", "status", "kind"]), anything))
def test_whatever_comes_is_shaped_or_refused(body: dict[str, Any]) -> None:
    try:
        got, _ = conform("v1", "Pod", body)
    except BadRequest:
        return
    assert conform("v1", "Pod", got) == (got, [])
