"""Patches: what is made from two objects turns one into the other, and hostile ones are refused by name."""

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgehive.kube import patch
from edgehive.kube.errors import BadRequest, Invalid, RequestTooLarge, UnsupportedMediaType

unhurried = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
names = st.sampled_from(["a", "b", "c", "web", "log"])
scalars = st.one_of(st.integers(-5, 5), st.text(max_size=4), st.just("x"))
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)
documents = st.dictionaries(names, json_values, max_size=5)


@unhurried
@given(documents, documents)
def test_a_merge_patch_turns_old_into_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    untouched = copy.deepcopy(old)
    assert patch.apply_merge(old, patch.create_merge_patch(old, new)) == new
    assert old == untouched


def _unique_by(key: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({item[key]: item for item in items}.values())


env = st.builds(lambda n, v: {"name": n, "value": v}, names, st.text(max_size=3))
ports = st.builds(lambda p, t: {"containerPort": p, "protocol": t}, st.integers(1, 3), st.sampled_from(["TCP", "UDP"]))
containers = st.builds(
    lambda name, image, envs, port: {
        "name": name,
        "image": image,
        "env": _unique_by("name", envs),
        "ports": port,
        "args": ["x"],
    },
    names, st.sampled_from(["i:1", "i:2"]), st.lists(env, max_size=3), st.lists(ports, max_size=3),
)  # fmt: skip
volumes = st.builds(
    lambda name, source: {"name": name, **source},
    names,
    st.sampled_from([{"emptyDir": {}}, {"hostPath": {"path": "/x"}}, {"configMap": {"name": "c"}}]),
)
pods = st.builds(
    lambda found, vols, labels, finalizers, tolerations: {
        "metadata": {"labels": labels, "finalizers": finalizers},
        "spec": {
            "containers": _unique_by("name", found),
            "volumes": _unique_by("name", vols),
            "tolerations": tolerations,
        },
    },
    st.lists(containers, max_size=4),
    st.lists(volumes, max_size=3),
    st.dictionaries(names, st.text(max_size=2), max_size=3),
    st.lists(names, unique=True, max_size=3),
    st.lists(st.builds(lambda k: {"key": k}, names), max_size=3),
)


@unhurried
@given(pods, pods)
def test_a_strategic_patch_turns_old_into_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    untouched = copy.deepcopy(old)
    made = patch.create_strategic_patch(old, new, "v1", "Pod")
    assert patch.apply_strategic(old, made, "v1", "Pod") == new
    assert old == untouched


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": list(containers), **spec}}


def strategic(original: dict[str, Any], change: dict[str, Any], kind: str = "Pod", api: str = "v1") -> dict[str, Any]:
    return patch.apply_strategic(original, change, api, kind)


def test_lists_merge_by_key_and_new_items_come_first_as_in_kubernetes() -> None:
    original = pod({"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "b:1"})
    change = pod({"name": "c", "image": "c:1"}, {"name": "a", "image": "a:2"})
    got = strategic(original, change)["spec"]["containers"]
    assert [item["name"] for item in got] == ["c", "a", "b"]
    assert got[1] == {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}]}


def test_directives_delete_replace_and_retain() -> None:
    original = pod({"name": "a"}, {"name": "b"}, volumes=[{"name": "v", "emptyDir": {}}])
    assert strategic(original, pod({"$patch": "delete", "name": "a"}))["spec"]["containers"] == [{"name": "b"}]
    assert strategic(original, pod({"name": "z"}, {"$patch": "replace"}))["spec"]["containers"] == [{"name": "z"}]
    change = {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/p"}}]}}
    assert strategic(original, change)["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/p"}}]
    assert strategic(original, {"spec": {"$patch": "replace", "nodeName": "n"}}) == {"spec": {"nodeName": "n"}}
    assert strategic(original, {"spec": None}) == {}


def test_primitive_lists_merge_as_sets_and_delete_by_value() -> None:
    original = {"metadata": {"finalizers": ["a", "b"]}}
    assert strategic(original, {"metadata": {"finalizers": ["b", "c"]}})["metadata"]["finalizers"] == ["a", "b", "c"]
    change = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}
    assert strategic(original, change)["metadata"]["finalizers"] == ["b"]


def test_set_element_order_reorders_without_touching_items() -> None:
    original = pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"})
    change = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert [item["name"] for item in strategic(original, change)["spec"]["containers"]] == ["b", "a"]


def test_the_edit_patch_of_kubectl() -> None:
    original = pod({"name": "a", "image": "1"}, {"name": "b", "image": "2"})
    change = {
        "spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "b", "$patch": "delete"}]}
    }
    assert strategic(original, change) == pod({"name": "a", "image": "1"})


def test_deployment_strategy_retains_keys() -> None:
    original = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    change = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic(original, change, "Deployment", "apps/v1") == {"spec": {"strategy": {"type": "Recreate"}}}


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"$patch": "explode"}},
        {"spec": {"$setElementOrder/nothing": "x"}},
        {"spec": {"$retainKeys": "x"}},
    ],
)
def test_malformed_strategic_patches_are_bad_requests(change: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        strategic(pod({"name": "a"}), change)


def test_custom_resources_have_no_strategic_patch() -> None:
    with pytest.raises(UnsupportedMediaType, match="merge-patch"):
        patch.apply_strategic({}, {}, "devices.kubeedge.io/v1beta1", "Device")


@unhurried
@given(pods, st.dictionaries(st.sampled_from(["spec", "metadata", "$patch", "$retainKeys", "$setElementOrder/x"]),
                             st.recursive(scalars | st.none(), lambda inner: st.lists(inner) | st.dictionaries(
                                 st.sampled_from(["containers", "name", "$patch", "$setElementOrder/containers",
                                                  "volumes", "$retainKeys", "finalizers",
                                                  "$deleteFromPrimitiveList/finalizers"]), inner))))  # fmt: skip
def test_no_strategic_patch_crashes(original: dict[str, Any], change: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequest):
        strategic(original, change)


def test_json_patch_applies_in_order_and_leaves_the_original_alone() -> None:
    original = {"data": {"a": "1"}, "list": [1]}
    ops = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "add", "path": "/data/b", "value": "2"},
        {"op": "add", "path": "/list/-", "value": 2},
        {"op": "remove", "path": "/data/a"},
    ]
    assert patch.apply_json(original, ops) == {"data": {"b": "2"}, "list": [1, 2]}
    assert original == {"data": {"a": "1"}, "list": [1]}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/a", "value": "no"},
        {"op": "remove", "path": "/data/zzz"},
        {"op": "add", "path": "/none/below", "value": 1},
        {"op": "replace", "path": "data", "value": 1},
        {"op": "dance", "path": "/data"},
        {"op": "copy", "path": "/x"},
        {"path": "/x"},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "replace", "path": "", "value": 3},
        {"op": "add", "path": 7, "value": 3},
        {"op": "copy", "from": 7, "path": "/x"},
    ],
)
def test_a_json_patch_that_does_not_fit_is_invalid(operation: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as caught:
        patch.apply_json({"data": {"a": "1"}, "list": []}, [operation])
    assert caught.value.to_dict()["details"] == {}


def test_json_patches_are_bounded() -> None:
    with pytest.raises(RequestTooLarge, match="10000, got 10001"):
        patch.apply_json({}, [{"op": "add", "path": "/a", "value": 1}] * 10_001)
    bomb = [{"op": "copy", "from": "/a", "path": f"/a/{n}"} for n in range(40)]
    with pytest.raises(RequestTooLarge, match="copy"):
        patch.apply_json({"a": {"x": "y"}}, bomb)
    with pytest.raises(BadRequest, match="list of operations"):
        patch.apply_json({}, {"op": "add"})  # type: ignore[arg-type]
