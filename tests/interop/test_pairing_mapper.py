"""A mapper written with our SDK at either edge, under either cloud: desired values to the device, readings back.

The mapper is a process on the edge host, its device the virtual one. The Go project's edge and cloud know nothing of
whom they talk to.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pairings import Manifest, Pairing

from edgehive.testing.hosts import Program
from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(420)]

GROUP = "devices.kubeedge.io/v1beta1"
_COMMAND = "from edgehive.mapper.app import main; main()"


@pytest.fixture(scope="module")
def edge_with_mapper(pairing: Pairing) -> Iterator[Pairing]:
    """The edge with its twin, and our virtual mapper beside it; afterwards it is as it was."""
    hosts = pairing.hosts
    folder = hosts.data / "sdk"
    folder.mkdir()
    before = hosts.edge_modules
    bus = {"enable": True, "mqttMode": 0, "mqttServerInternal": "tcp://127.0.0.1:1886"}
    hosts.edge_modules = before | {"eventBus": bus, "deviceTwin": {"enable": True, "dmiSockPath": str(folder)}}
    hosts.end_edgecore()
    hosts.start_edgecore()
    words = ["run", "virtual", "--edge-socket", str(folder / "dmi.sock")]
    mapper = Program(hosts.edge, hosts.data / "mapper.log", sys.executable, "-c", _COMMAND, *words)
    try:
        yield pairing
    finally:
        mapper.stop()
        hosts.edge_modules = before
        hosts.end_edgecore()
        hosts.start_edgecore()


def model() -> Manifest:
    return {
        "apiVersion": GROUP,
        "kind": "DeviceModel",
        "metadata": {"name": "room", "namespace": "default"},
        "spec": {
            "protocol": "virtual",
            "properties": [
                {"name": "target", "type": "FLOAT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"},
                {"name": "level", "type": "INT", "accessMode": "ReadOnly"},
            ],
        },
    }


def device(name: str, desired: str) -> Manifest:
    def visited(**config: Any) -> Manifest:
        visitors = {"protocolName": "virtual", "configData": config}
        return {"visitors": visitors, "reportToCloud": True, "collectCycle": 500, "reportCycle": 500}

    return {
        "apiVersion": GROUP,
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "room"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {"latency": 1.5, "memory": name}},
            "stateReport": {"reportToCloud": True, "reportCycle": 2000},
            "properties": [
                {"name": "target", "desired": {"value": desired}, **visited(initial=1)},
                {"name": "level", **visited(initial=70000)},
            ],
        },
    }


def status(pairing: Pairing, name: str) -> Manifest:
    found: Manifest = pairing.get("devicestatuses.devices.kubeedge.io", name).get("status") or {}
    return found


def reported(pairing: Pairing, name: str, property: str) -> str:
    twins = status(pairing, name).get("twins") or []
    values = {twin["propertyName"]: (twin.get("reported") or {}).get("value", "") for twin in twins}
    return str(values.get(property, ""))


def set_target(pairing: Pairing, name: str, value: str) -> None:
    patch = [{"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}]
    pairing.kubectl("patch", "device", name, "--type=json", "-p", json.dumps(patch))


def test_values_go_down_to_the_device_and_up_again(edge_with_mapper: Pairing) -> None:
    pairing = edge_with_mapper
    pairing.apply(model(), device("sdk-1", "20"))
    pairing.until("what the device has", lambda: reported(pairing, "sdk-1", "target") == "20.0", 120)
    # A Go cloud shows a value from its second report on (wire.md B14).
    pairing.until("what it reads", lambda: reported(pairing, "sdk-1", "level") == "70000", 120)
    pairing.until("its state", lambda: status(pairing, "sdk-1").get("state") == "online", 60)
    set_target(pairing, "sdk-1", "30.5")
    pairing.until("the new value of the device", lambda: reported(pairing, "sdk-1", "target") == "30.5", 60)


def test_a_restarted_edge_finds_its_mapper_again(edge_with_mapper: Pairing) -> None:
    pairing = edge_with_mapper
    pairing.hosts.end_edgecore()
    pairing.hosts.start_edgecore()
    log = pairing.hosts.data / "mapper.log"
    pairing.until("a second registration", lambda: log.read_text().count("registered; the edge has") >= 2, 90)
    set_target(pairing, "sdk-1", "40")
    pairing.until("the new value of the device", lambda: reported(pairing, "sdk-1", "target") == "40.0", 90)


def test_a_removed_device_is_let_go(edge_with_mapper: Pairing) -> None:
    pairing = edge_with_mapper
    pairing.kubectl("delete", "device", "sdk-1")
    pairing.until("its end", lambda: "sdk-1 is gone" in (pairing.hosts.data / "mapper.log").read_text(), 60)
    pairing.kubectl("delete", "devicemodel", "room")
