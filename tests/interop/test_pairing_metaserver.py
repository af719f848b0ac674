"""MetaServer on the edge host, with the link to either cloud cut: an unmodified kubectl there steers a device at once,
and what it wrote is in the cloud afterwards, as far as that cloud takes it (decision record 0023)."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pairings import Manifest, Pairing, pod

from edgehive.testing.hosts import DemonstrationFailed, Program
from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(420)]

GROUP = "devices.kubeedge.io/v1beta1"
SERVER = "http://127.0.0.1:10550"
_COMMAND = "from edgehive.mapper.app import main; main()"


@pytest.fixture(scope="module")
def site(pairing: Pairing) -> Iterator[Pairing]:
    """Our edge with MetaServer, its twin and a virtual mapper; afterwards it is as it was."""
    if pairing.cast.stock_edgecore:
        pytest.skip("a stock edge takes no writes while the cloud is away")
    hosts = pairing.hosts
    folder = hosts.data / "meta"
    folder.mkdir()
    before = hosts.edge_modules
    hosts.edge_modules = before | {
        "deviceTwin": {"enable": True, "dmiSockPath": str(folder)},
        "metaManager": {"metaServer": {"enable": True}},
    }
    hosts.end_edgecore()
    hosts.start_edgecore()
    words = ["run", "virtual", "--edge-socket", str(folder / "dmi.sock")]
    mapper = Program(hosts.edge, hosts.data / "meta-mapper.log", sys.executable, "-c", _COMMAND, *words)
    try:
        pairing.apply(MODEL, device("meta-1"))
        pairing.until("the device at the edge", lambda: at_edge(pairing, "get", "device", "meta-1"), 120)
        yield pairing
    finally:
        hosts.restore()
        mapper.stop()
        hosts.edge_modules = before
        hosts.end_edgecore()
        hosts.start_edgecore()


MODEL: Manifest = {
    "apiVersion": GROUP,
    "kind": "DeviceModel",
    "metadata": {"name": "meta-room", "namespace": "default"},
    "spec": {
        "protocol": "virtual",
        "properties": [{"name": "target", "type": "FLOAT", "accessMode": "ReadWrite", "maximum": "100"}],
    },
}


def device(name: str, desired: str = "20") -> Manifest:
    visitors = {"protocolName": "virtual", "configData": {"initial": 1}}
    cycles = {"reportToCloud": True, "collectCycle": 500, "reportCycle": 500}
    return {
        "apiVersion": GROUP,
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "meta-room"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {"memory": name}},
            "properties": [{"name": "target", "desired": {"value": desired}, "visitors": visitors, **cycles}],
        },
    }


def at_edge(pairing: Pairing, *words: str) -> str:
    """kubectl on the edge host; "" when it fails."""
    try:
        return pairing.hosts.edge.run("kubectl", f"--server={SERVER}", f"--cache-dir={pairing.hosts.data}/kc", *words)
    except DemonstrationFailed as error:
        print(error)
        return ""


def seen_at_edge(pairing: Pairing, name: str) -> Manifest:
    text = at_edge(pairing, "get", "device", name, "-o", "json")
    found: Manifest = json.loads(text) if text else {}
    return found


def reported(pairing: Pairing, name: str) -> str:
    twins = (pairing.get("devicestatuses.devices.kubeedge.io", name).get("status") or {}).get("twins") or []
    values: dict[str, Any] = {twin["propertyName"]: (twin.get("reported") or {}).get("value", "") for twin in twins}
    return str(values.get("target", ""))


def set_target(pairing: Pairing, name: str, value: str) -> str:
    patch = [{"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}]
    return at_edge(pairing, "patch", "device", name, "--type=json", "-p", json.dumps(patch))


def port(found: Manifest) -> Any:
    return found["spec"]["protocol"]["configData"].get("port") if found else None


def test_kubectl_on_the_node_sees_what_the_node_has(site: Pairing) -> None:
    assert NODE in at_edge(site, "get", "nodes")
    assert "meta-1" in at_edge(site, "get", "devices", "-A")
    assert "meta-room" in at_edge(site, "get", "devicemodels")
    site.until("the value of the device", lambda: reported(site, "meta-1") == "20.0", 120)


def test_a_device_is_steered_while_the_cloud_is_away(site: Pairing) -> None:
    site.hosts.cut()
    assert "patched" in set_target(site, "meta-1", "35")
    definition = json.dumps({"spec": {"protocol": {"configData": {"port": 2}}}})
    assert "patched" in at_edge(site, "patch", "device", "meta-1", "--type=merge", "-p", definition)
    body = site.hosts.data / "made.json"
    body.write_text(json.dumps(device("meta-2", "50")))
    assert "created" in at_edge(site, "create", "-f", str(body))
    log = site.hosts.data / "meta-mapper.log"
    site.until("the new device at its mapper", lambda: "meta-2" in log.read_text(), 60)
    site.hosts.end_edgecore()
    site.hosts.start_edgecore()
    site.until("MetaServer after a restart", lambda: port(seen_at_edge(site, "meta-1")) == 2, 60)
    site.hosts.restore()
    site.until("what the device has", lambda: reported(site, "meta-1") == "35.0", 180)


def test_a_pod_is_looked_into_while_the_cloud_is_away(site: Pairing) -> None:
    site.apply(pod("meta-pod", "echo hello; trap 'exit 0' TERM; while true; do sleep 0.1; done"))
    site.until_running("meta-pod")
    site.until("its status at the edge", lambda: "Running" in at_edge(site, "get", "pods"), 30)
    site.hosts.cut()
    assert at_edge(site, "logs", "meta-pod") == "hello\n"
    assert at_edge(site, "exec", "meta-pod", "--", "echo", "inside") == "inside\n"
    site.hosts.restore()
    site.delete_pods("meta-pod")
    assert at_edge(site, "get", "pod", "meta-pod") == ""


def test_the_cloud_has_what_was_written(site: Pairing) -> None:
    if site.cast.stock_cloudcore:
        # A Go cloud takes no definitions from edges: they stay in force there, and that is said.
        condition = seen_at_edge(site, "meta-2")["status"]["conditions"][0]
        assert (condition["type"], condition["reason"]) == ("DefinitionAgreed", "Pending")
        assert not site.get("device", "meta-2")
        return
    site.until("the definition", lambda: port(site.get("device", "meta-1")) == 2, 120)
    desired = lambda: site.get("device", "meta-1")["spec"]["properties"][0]["desired"]["value"]  # noqa: E731
    site.until("the desired value", lambda: desired() == "35", 60)
    site.until("the new device", lambda: site.get("device", "meta-2"), 60)
    site.until("its value", lambda: reported(site, "meta-2") == "50.0", 120)
    site.kubectl("delete", "device", "meta-2")
    site.until("its end at the edge", lambda: not at_edge(site, "get", "device", "meta-2"), 60)


def test_a_device_is_taken_away_at_the_edge(site: Pairing) -> None:
    name = "meta-2" if site.cast.stock_cloudcore else "meta-1"
    assert "deleted" in at_edge(site, "delete", "device", name)
    log = site.hosts.data / "meta-mapper.log"
    site.until("its end at the mapper", lambda: f"{name} is gone" in log.read_text(), 60)
    site.until_gone("device", name)
    for kind, left in (("device", "meta-1"), ("devicemodel", "meta-room")):
        site.kubectl("delete", kind, left, "--ignore-not-found")
