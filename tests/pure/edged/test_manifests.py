"""Manifests of static pods: what they become, and what is said of those that become nothing."""

from typing import Any

import pytest

from edgehive.edgecore.edged.manifests import ManifestError, is_mirror, is_static, mirror_of, static_pod

TEXT = b"""\
kind: Pod
apiVersion: v1
metadata:
  name: web
  annotations: {built: 2026-01-02}
spec:
  containers:
  - {name: c, image: "localhost/busybox:1", resources: {limits: {memory: 64Mi}}}
"""


def read(text: bytes = TEXT, source: str = "/m/web.yaml", node: str = "Edge-1", seen: str = "now") -> dict[str, Any]:
    return static_pod(text, source, node, seen).to_dict()


def test_it_is_named_after_its_node_and_completed_as_an_api_server_would() -> None:
    made = read()
    meta, spec = made["metadata"], made["spec"]
    assert (meta["name"], meta["namespace"]) == ("web-edge-1", "default")
    assert meta["annotations"] == {
        "built": "2026-01-02",
        "kubernetes.io/config.hash": meta["uid"],
        "kubernetes.io/config.seen": "now",
        "kubernetes.io/config.source": "file",
    }
    assert (spec["nodeName"], spec["restartPolicy"], spec["terminationGracePeriodSeconds"]) == ("Edge-1", "Always", 30)
    assert spec["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert spec["containers"][0]["resources"]["requests"] == {"memory": "64Mi"}
    assert spec["tolerations"] == [{"operator": "Exists", "effect": "NoExecute"}]


def test_the_uid_goes_with_content_file_and_node_and_nothing_else() -> None:
    uid = read()["metadata"]["uid"]
    assert len(uid) == 32
    assert read(seen="later")["metadata"]["uid"] == uid
    assert read(TEXT + b"# a comment\n")["metadata"]["uid"] == uid
    others = (read(TEXT.replace(b"64Mi", b"65Mi")), read(source="/m/other.yaml"), read(node="edge-2"))
    assert len({uid, *(item["metadata"]["uid"] for item in others)}) == 4


def test_json_is_yaml_and_an_own_uid_is_kept() -> None:
    meta = '{"name":"a","namespace":"n","uid":"u-1"}'
    text = f'{{"kind":"Pod","apiVersion":"v1","metadata":{meta},"spec":{{"containers":[{{}}]}}}}'.encode()
    made = read(text)["metadata"]
    assert (made["name"], made["namespace"], made["uid"]) == ("a-edge-1", "n", "u-1")


def test_its_mirror_belongs_to_the_node_and_has_no_uid_of_its_own() -> None:
    pod = static_pod(TEXT, "/m/web.yaml", "edge-1", "now")
    body = mirror_of(pod, "edge-1", "node-uid")
    assert "uid" not in body["metadata"]
    assert "status" not in body
    assert body["metadata"]["annotations"]["kubernetes.io/config.mirror"] == pod.meta.uid
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "edge-1", "uid": "node-uid", "controller": True}
    ]
    mirror = type(pod).of(body)
    assert (is_static(pod), is_mirror(pod)) == (True, False)
    assert (is_static(mirror), is_mirror(mirror)) == (False, True)


@pytest.mark.parametrize(("text", "words"), [
    (b"", "kind: Pod and apiVersion: v1"),
    (b"a: b: c", "mapping values are not allowed"),
    (b"\xff\xfe\x00", "m.yaml: "),
    (b"!!python/object:os.system {}", "could not determine a constructor"),
    (b"kind: Pod\napiVersion: v1\nspec: {containers: [{}]}", "metadata.name is missing"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {}", "spec.containers is missing"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: ../../x}\nspec: {containers: [{}]}", "must be of lower case"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x, namespace: A/b}\nspec: {containers: [{}]}", "must be of lower"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x, namespace: 3}\nspec: {containers: [{}]}", "`str`"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x, annotations: [a]}\nspec: {containers: [{}]}", "annotations"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: abc}", "containers"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{}], volumes: {a: b}}", "volumes"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {containers: [{livenessProbe: 3}]}", "livenessProbe"),
])  # fmt: skip
def test_what_is_no_manifest_is_said_in_one_sentence(text: bytes, words: str) -> None:
    with pytest.raises(ManifestError) as refused:
        read(text, "m.yaml")
    assert words in str(refused.value)
    assert str(refused.value).startswith("m.yaml: ")
    assert "\n" not in str(refused.value)
