"""Flows that a half of ours has no module for yet: carried and left alone, and nothing else suffers.

A stock cloudcore sends node jobs to our edge, and our cloudcore hears of devices and applications from a stock edge.
"""

import json
from collections.abc import Iterator

import pytest
from pairings import Manifest, Pairing, pod

from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]

EVERY_MODULE = {
    "deviceTwin": {"enable": True},
    "serviceBus": {"enable": True},
    "metaManager": {"metaServer": {"enable": True}},
    "taskManager": {"enable": True},
}


def prepull(*nodes: str) -> Manifest:
    return {
        "apiVersion": "operations.kubeedge.io/v1alpha2",
        "kind": "ImagePrePullJob",
        "metadata": {"name": "ahead"},
        "spec": {"imagePrePullTemplate": {"nodeNames": list(nodes), "images": ["localhost/never-there:1"]}},
    }


@pytest.fixture(scope="module")
def whole(pairing: Pairing) -> Iterator[Pairing]:
    """Both halves with every module that needs no broker."""
    pairing.hosts.end_edgecore()
    pairing.hosts.end_cloudcore()
    pairing.hosts.cloud_modules, pairing.hosts.edge_modules = {"taskManager": {"enable": True}}, EVERY_MODULE
    pairing.hosts.start_cloudcore()
    pairing.hosts.start_edgecore()
    yield pairing
    pairing.hosts.end_edgecore()
    pairing.hosts.end_cloudcore()
    pairing.hosts.cloud_modules, pairing.hosts.edge_modules = {}, {}
    pairing.hosts.start_cloudcore()
    pairing.hosts.start_edgecore()


def test_a_node_job_is_carried(whole: Pairing) -> None:
    """[72, 73] Whatever becomes of the job, pods come and go while it waits."""
    if not whole.cast.stock_control_plane:
        pytest.skip("a site does not define node jobs yet")
    whole.apply(prepull(NODE))
    # What KubeEdge's controller-manager writes, which does not run here.
    begun = {"status": {"phase": "Init", "nodeStatus": [{"nodeName": NODE, "phase": "Pending"}]}}
    whole.kubectl("patch", "imageprepulljob", "ahead", "--type=merge", "--subresource=status", "-p", json.dumps(begun))

    def arrived() -> bool:
        node = whole.get("imageprepulljob", "ahead")["status"]["nodeStatus"][0]
        return bool(node["phase"] != "Pending" or dropped(whole))

    if whole.cast.stock_cloudcore:
        whole.until("the job to arrive", arrived)
    for name in ("beside-1", "beside-2"):
        whole.apply(pod(name))
        whole.until_running(name, seconds=40)
        whole.delete_pods(name)
    whole.kubectl("delete", "imageprepulljob", "ahead")
    assert len(dropped(whole)) <= 1, "what is dropped is said once"


def dropped(pairing: Pairing) -> list[str]:
    """What our edge says of a job it has no module for."""
    lines = (pairing.hosts.data / "edgecore.log").read_text(errors="replace").splitlines()
    return [line for line in lines if "dropped" in line and "imageprepulljob/ahead" in line]


def test_modules_that_speak_to_nobody_disturb_nothing(whole: Pairing) -> None:
    """[74] DeviceTwin asks for its devices, MetaServer for lists: an application on the edge asks it for one."""
    whole.apply(pod("asker"))
    whole.until_running("asker")
    if whole.cast.stock_edgecore:
        url = "http://127.0.0.1:10550/apis/apps/v1/namespaces/default/deployments"
        fetch = f"import urllib.request as r; print(r.urlopen('{url}', timeout=50).status)"
        whole.until("an answer of the MetaServer", lambda: answered(whole, fetch))
    whole.delete_pods("asker")


def answered(pairing: Pairing, fetch: str) -> bool:
    """Any answer will do: without dynamiccontroller the MetaServer says what it has itself, or that it has nothing."""
    last = pairing.hosts.edge.run("bash", "-c", '"$0" -c "$1" 2>&1 | tail -1', "python3", fetch).strip()
    return last == "200" or "HTTP Error" in last
