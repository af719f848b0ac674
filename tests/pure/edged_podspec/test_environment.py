"""The environment a container sees, and the words a user reads when it cannot be made."""

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api.core import ConfigMap, Pod, Secret
from edgehive.edgecore.edged.environment import (
    ContainerConfigError,
    PodFacts,
    environment,
    expand,
    expand_all,
    references,
)


def pod(container: dict[str, Any], **meta: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", **meta},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", "containers": [{"name": "c", **container}]},
    }
    return msgspec.convert(body, Pod)


def config_map(**data: str) -> ConfigMap:
    return msgspec.convert({"data": data}, ConfigMap)


def secret(**data: str) -> Secret:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return msgspec.convert({"data": encoded}, Secret)


FACTS = PodFacts(
    host_ips=("192.0.2.1",),
    pod_ips=("10.0.0.7", "fd00::7"),
    node_allocatable={"cpu": "2", "memory": "1Gi"},
    config_maps={"settings": config_map(color="blue", **{"a=b": "no"})},
    secrets={"keys": secret(token="s3cret")},
)


def env_of(container: dict[str, Any], facts: PodFacts = FACTS, **meta: Any) -> dict[str, str]:
    made = pod(container, **meta)
    return environment(made, made.spec.containers[0], facts)


def from_field(path: str) -> dict[str, Any]:
    return {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": path}}}


def test_values_expand_what_was_set_before_them() -> None:
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(C)-$$(A)"}, {"name": "C", "value": "3"}]
    assert env_of({"env": env}) == {"A": "1", "B": "1-$(C)-$(A)", "C": "3"}


def test_empty_and_missing_values_are_kept_and_order_holds() -> None:
    env = [{"name": "Z", "value": ""}, {"name": "A"}, {"name": "M", "value": "x"}]
    assert list(env_of({"env": env}).items()) == [("Z", ""), ("A", ""), ("M", "x")]


@pytest.mark.parametrize(("path", "value"), [
    ("metadata.name", "p"), ("metadata.namespace", "ns"), ("metadata.uid", "u1"), ("spec.nodeName", "n1"),
    ("spec.serviceAccountName", "sa"), ("status.hostIP", "192.0.2.1"), ("status.podIP", "10.0.0.7"),
    ("status.podIPs", "10.0.0.7,fd00::7"), ("metadata.labels['app.io/x']", "L"), ("metadata.annotations['none']", ""),
    ("metadata.labels", 'a="1\\n"\napp.io/x="L"'),
])  # fmt: skip
def test_fields(path: str, value: str) -> None:
    assert env_of({"env": [from_field(path)]}, labels={"app.io/x": "L", "a": "1\n"}) == {"X": value}


@pytest.mark.parametrize(("resource", "divisor", "value"), [
    ("limits.cpu", None, "1"), ("limits.cpu", "1m", "500"), ("requests.cpu", "1m", "0"),
    ("limits.memory", None, "67108864"), ("limits.memory", "1Mi", "64"), ("limits.memory", "60Mi", "2"),
])  # fmt: skip
def test_resources_are_rounded_up_in_their_divisor(resource: str, divisor: str | None, value: str) -> None:
    ref = {"resource": resource} | ({"divisor": divisor} if divisor else {})
    env = [{"name": "X", "valueFrom": {"resourceFieldRef": ref}}]
    assert env_of({"env": env, "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}) == {"X": value}


def test_limits_that_are_not_set_are_the_nodes() -> None:
    env = [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}}]
    assert env_of({"env": env}) == {"X": str(1024**3)}


def test_keys_of_config_maps_and_secrets() -> None:
    env = [
        {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "B", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "token"}}},
        {"name": "C", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
        {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "none", "optional": True}}},
    ]
    assert env_of({"env": env}) == {"A": "blue", "B": "s3cret"}


@pytest.mark.parametrize(("source", "message"), [
    ({"configMapKeyRef": {"name": "x", "key": "k"}}, 'configmap "x" not found'),
    ({"secretKeyRef": {"name": "x", "key": "k"}}, 'secret "x" not found'),
    ({"configMapKeyRef": {"name": "settings", "key": "k"}}, "couldn't find key k in ConfigMap ns/settings"),
    ({"secretKeyRef": {"name": "keys", "key": "k"}}, "couldn't find key k in Secret ns/keys"),
    ({"fieldRef": {"fieldPath": "spec.nonsense"}}, "unsupported fieldPath: spec.nonsense"),
])  # fmt: skip
def test_what_is_missing_is_named(source: dict[str, Any], message: str) -> None:
    with pytest.raises(ContainerConfigError) as refused:
        env_of({"env": [{"name": "X", "valueFrom": source}]})
    assert (refused.value.reason, refused.value.message) == ("CreateContainerConfigError", message)


def test_env_from_prefixes_and_env_wins() -> None:
    container = {
        "envFrom": [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"secretRef": {"name": "keys"}}],
        "env": [{"name": "token", "value": "own"}, {"name": "Y", "value": "$(P_color)"}],
    }
    assert env_of(container) == {"P_color": "blue", "token": "own", "Y": "blue"}


def test_env_from_something_missing() -> None:
    assert env_of({"envFrom": [{"secretRef": {"name": "x", "optional": True}}]}) == {}
    with pytest.raises(ContainerConfigError, match=r'^secret "x" not found$'):
        env_of({"envFrom": [{"secretRef": {"name": "x"}}]})


def test_service_variables_are_seen_and_overridden() -> None:
    facts = PodFacts(service_env={"DB_HOST": "10.1.1.1", "DB_PORT": "5432"})
    env = [{"name": "DB_PORT", "value": "1"}, {"name": "URL", "value": "$(DB_HOST):$(DB_PORT)"}]
    assert env_of({"env": env}, facts) == {"DB_HOST": "10.1.1.1", "DB_PORT": "1", "URL": "10.1.1.1:1"}


def test_references_name_all_that_must_be_fetched() -> None:
    found = references(
        pod({
            "envFrom": [{"configMapRef": {"name": "a", "optional": True}}, {"secretRef": {"name": "b"}}],
            "env": [
                {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
                {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "d", "key": "k"}}},
            ],
        }).spec.containers[0]
    )  # fmt: skip
    assert (found.config_maps, found.secrets) == ({"a", "c"}, {"b", "d"})


@pytest.mark.parametrize(("text", "value"), [
    ("$(A)", "1"), ("x$(A)y$(A)", "x1y1"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$(NONE)", "$(NONE)"),
    ("$A", "$A"), ("$", "$"), ("$(A", "$(A"), ("$$", "$"), ("", ""), ("$()", "$()"),
])  # fmt: skip
def test_expansion(text: str, value: str) -> None:
    assert expand(text, {"A": "1"}.get) == value


@given(st.text())
def test_text_without_dollars_is_untouched(text: str) -> None:
    plain = text.replace("$", "")
    assert list(expand_all([plain], {"A": "1"})) == [plain]
