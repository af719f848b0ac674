"""Expectations of Kubernetes' conformance that the Go project's runner leaves out of its runs, asked of our edgecore.

In our words; the docstrings quote the names on its list. What is not here is told in compatibility.md.
"""

import json
from typing import Any

import pytest
from pairings import Manifest, Pairing, pod

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def our_edge(pairing: Pairing) -> None:
    if pairing.cast.stock_edgecore:
        pytest.skip("the Go project does not ask these of its edgecore")


def config_map(name: str, **data: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


def with_volumes(sources: dict[str, Manifest], **container: Any) -> dict[str, Any]:
    mounts = [{"name": name, "mountPath": f"/{name}"} for name in sources]
    return {
        "container": {"volumeMounts": mounts, **container},
        "volumes": [{"name": name, **source} for name, source in sources.items()],
    }


def test_hooks_run_after_the_start_and_before_the_end(pairing: Pairing) -> None:
    """ "should execute poststart exec hook properly", "should execute prestop exec hook properly", "should call prestop
    when killing a pod"
    """
    notes = str(pairing.hosts.data / "notes")
    hooks = {
        "postStart": {"exec": {"command": ["sh", "-c", "echo began >> /notes/hooks"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo ends >> /notes/hooks"]}},
    }
    shared = {"notes": {"hostPath": {"path": notes, "type": "DirectoryOrCreate"}}}
    pairing.apply(pod("hooked", **with_volumes(shared, lifecycle=hooks)))
    pairing.until_running("hooked")
    assert pairing.hosts.edge.run("cat", f"{notes}/hooks") == "began\n"
    pairing.delete_pods("hooked")
    assert pairing.hosts.edge.run("cat", f"{notes}/hooks") == "began\nends\n"


def test_what_is_optional_appears_in_the_volume_and_goes_from_it(pairing: Pairing) -> None:
    """ "optional updates should be reflected in volume" """
    pairing.apply(config_map("goes", word="there"))
    sources = {name: {"configMap": {"name": name, "optional": True}} for name in ("goes", "comes")}
    pairing.apply(pod("watching", **with_volumes(sources)))
    found = pairing.until_running("watching")
    assert pairing.inside(found, "ls", "/goes", "/comes").split() == ["/comes:", "/goes:", "word"]
    pairing.apply(config_map("comes", word="new"))
    pairing.kubectl("delete", "configmap", "goes")
    pairing.until(
        "both changes",
        lambda: pairing.inside(found, "ls", "/goes", "/comes").split() == ["/comes:", "word", "/goes:"],
        seconds=150,
    )
    pairing.delete_pods("watching")
    pairing.kubectl("delete", "configmap", "comes")


def test_one_secret_in_several_volumes(pairing: Pairing) -> None:
    """ "should be consumable in multiple volumes in a pod" """
    meta = {"name": "twice", "namespace": "default"}
    pairing.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": {"key": "open"}})
    source = {"secret": {"secretName": "twice"}}
    pairing.apply(pod("double", **with_volumes({"first": source, "second": source})))
    found = pairing.until_running("double")
    assert pairing.inside(found, "cat", "/first/key", "/second/key") == "openopen"
    pairing.delete_pods("double")


def test_many_config_maps_in_one_pod(pairing: Pairing) -> None:
    """ "should not cause race condition when used for configmaps" """
    names = [f"many-{number}" for number in range(25)]
    pairing.apply(*(config_map(name, word=name) for name in names))
    sources = {name: {"configMap": {"name": name}} for name in names}
    pods = [f"crowd-{number}" for number in range(3)]
    pairing.apply(*(pod(name, **with_volumes(sources)) for name in pods))
    for name in pods:
        found = pairing.until_running(name)
        words = pairing.inside(found, "sh", "-c", " ".join(["cat", *(f"/{it}/word" for it in names)]))
        assert words == "".join(names)
    pairing.delete_pods(*pods)
    pairing.kubectl("delete", "configmap", *names)


def test_a_pod_is_reached_from_its_node(pairing: Pairing) -> None:
    """ "should function for node-pod communication" """
    pairing.apply(pod("page", "mkdir -p /tmp/w; echo served > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"))
    found = pairing.until_running("page")
    pairing.until("the page", lambda: reads(pairing, found["status"]["podIP"]))
    pairing.delete_pods("page")


def reads(pairing: Pairing, address: str) -> bool:
    return pairing.hosts.page(address).strip() == "served"


def test_a_stateful_set_rolls_over_and_back(pairing: Pairing) -> None:
    """ "should perform rolling updates and roll backs of template modifications" """
    if not pairing.cast.stock_control_plane:
        pytest.skip("a site has no controller of StatefulSets")

    def stateful(colour: str) -> Manifest:
        made = pod("any")["spec"]
        node = made.pop("nodeName")
        made["containers"][0]["env"] = [{"name": "COLOUR", "value": colour}]
        template = {
            "metadata": {"labels": {"app": "set"}},
            "spec": {**made, "nodeSelector": {"kubernetes.io/hostname": node}},
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "set", "namespace": "default"},
            "spec": {
                "replicas": 2,
                "serviceName": "set",
                "selector": {"matchLabels": {"app": "set"}},
                "template": template,
            },
        }

    def colours() -> set[str]:
        items = json.loads(pairing.kubectl("get", "pods", "-l", "app=set", "-o", "json"))["items"]
        return {item["spec"]["containers"][0]["env"][0]["value"] for item in items}

    for colour in ("red", "blue"):
        pairing.apply(stateful(colour))
        pairing.kubectl("rollout", "status", "statefulset/set", "--timeout=50s")
        assert colours() == {colour}
    pairing.kubectl("rollout", "undo", "statefulset/set")
    pairing.kubectl("rollout", "status", "statefulset/set", "--timeout=50s")
    assert colours() == {"red"}
    pairing.kubectl("delete", "statefulset", "set", "--wait=false")
    pairing.until("its pods to be gone", lambda: not pairing.kubectl("get", "pods", "-l", "app=set", "-o", "name"))
