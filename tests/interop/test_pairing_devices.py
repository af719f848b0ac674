"""Devices with either half replaced: a CRD in the cloud, twins and topics at the edge, values back in DeviceStatus.

An application speaks MQTT on the edge host, as the mappers of 2019 do. The wire.md items shown stand in brackets.
"""

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pairings import Manifest, Pairing

from edgehive.testing.hosts import Program
from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(300)]

GROUP = "devices.kubeedge.io/v1beta1"

#: An MQTT client on the edge host: `listen FILE` writes down what is published, `publish TOPIC TEXT` says something.
_CLIENT = """
import asyncio, json, logging, sys
import gmqtt
from gmqtt.mqtt.constants import MQTTv311
logging.disable(logging.CRITICAL)

async def main(verb, first, text=""):
    client = gmqtt.Client(f"{verb}er")
    if verb == "listen":
        out = open(first, "a", buffering=1)
        client.on_message = lambda c, topic, body, qos, more: out.write(json.dumps([topic, body.decode()]) + "\\n")
    await client.connect("127.0.0.1", 1883, version=MQTTv311)
    if verb == "listen":
        client.subscribe("$hw/#")
        await asyncio.Event().wait()
    client.publish(first, text, qos=1)
    await asyncio.sleep(0.2)
    await client.disconnect()

asyncio.run(main(*sys.argv[1:]))
"""


class Devices:
    """A pairing whose edge has a broker, and the words of an application there."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self._heard = pairing.hosts.data / "heard.jsonl"
        self._heard.touch()

    def publish(self, topic: str, content: Any) -> None:
        self.pairing.hosts.edge.run(
            sys.executable, "-c", _CLIENT, "publish", f"$hw/events/{topic}", json.dumps(content)
        )

    def heard(self, topic: str) -> list[Any]:
        """Everything published there so far."""
        lines = [json.loads(line) for line in self._heard.read_text().splitlines()]
        return [json.loads(text) for heard, text in lines if heard == f"$hw/events/{topic}"]

    def until_heard(self, topic: str, wanted: Any = lambda _: True, seconds: float = 60.0) -> Any:
        self.pairing.until(f"{topic} to be published", lambda: any(map(wanted, self.heard(topic))), seconds)
        return next(filter(wanted, reversed(self.heard(topic))))

    def members(self) -> set[str]:
        """Whom the edge calls its devices; asked again while it does not hear, as when it is starting."""
        topic = f"node/{NODE}/membership/get"
        before = len(self.heard(f"{topic}/result"))

        def answered() -> bool:
            self.publish(topic, {"event_id": "m"})
            return len(self.heard(f"{topic}/result")) > before

        self.pairing.until("the members", answered)
        return {device["id"] for device in self.heard(f"{topic}/result")[-1].get("devices") or ()}

    def reported(self, name: str, kind: str = "reported") -> str:
        """A device's temperature as its DeviceStatus has it."""
        twins = self.pairing.get("devicestatus", name).get("status", {}).get("twins") or [{}]
        return str(twins[0].get(kind, {}).get("value", ""))

    def report(self, name: str, **values: str) -> None:
        """Say temperatures; `actual` or `expected`, as the topic calls them."""
        twin = {kind: {"value": value} for kind, value in values.items()} | {"metadata": {"type": "int"}}
        self.publish(f"device/default/{name}/twin/update", {"event_id": "r", "twin": {"temperature": twin}})

    def until_reported(self, name: str, value: str, seconds: float = 60.0) -> None:
        self.pairing.until(f"{value} in the status of {name}", lambda: self.reported(name) == value, seconds)

    def create(self, name: str, *, model: str = "", **labels: str) -> None:
        model = model or name
        self.pairing.apply(model_of(model), device_of(name, model, **labels))

    def remove(self, *names: str) -> None:
        self.pairing.kubectl("delete", "device,devicemodel", *names, "--ignore-not-found")
        for name in names:
            self.pairing.until_gone("device", name)


def model_of(name: str) -> Manifest:
    one = {"name": "temperature", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"}
    meta = {"name": name, "namespace": "default"}
    spec = {"protocol": "virtual", "properties": [one]}
    return {"apiVersion": GROUP, "kind": "DeviceModel", "metadata": meta, "spec": spec}


def device_of(name: str, model: str, desired: str = "20", **labels: str) -> Manifest:
    visitors = {"protocolName": "virtual", "configData": {}}
    one = {"name": "temperature", "desired": {"value": desired}, "visitors": visitors, "reportToCloud": True}
    spec = {
        "deviceModelRef": {"name": model},
        "nodeName": NODE,
        "protocol": {"protocolName": "virtual", "configData": {}},
        "properties": [one],
    }
    meta = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": GROUP, "kind": "Device", "metadata": meta, "spec": spec}


@pytest.fixture(scope="module")
def devices(pairing: Pairing) -> Iterator[Devices]:
    """The edge with its twin, its bus and a broker; afterwards it is as it was."""
    hosts, program = pairing.hosts, shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is needed")
    broker = Program(hosts.edge, hosts.data / "mosquitto.log", program, "-p", "1883")
    bus = {"enable": True, "mqttMode": 2, "mqttServerExternal": "tcp://127.0.0.1:1883"}
    before, socket = hosts.edge_modules, str(hosts.data)
    hosts.edge_modules = before | {"eventBus": bus, "deviceTwin": {"enable": True, "dmiSockPath": socket}}
    hosts.end_edgecore()
    found = Devices(pairing)
    heard = str(hosts.data / "heard.jsonl")
    listener = Program(hosts.edge, hosts.data / "listener.log", sys.executable, "-c", _CLIENT, "listen", heard)
    try:
        hosts.start_edgecore()
        yield found
    finally:
        hosts.edge_modules = before
        if hosts.edgecore is None or not hosts.edgecore.alive():
            hosts.edgecore = None
        hosts.end_edgecore()
        listener.stop()
        broker.stop()
        hosts.start_edgecore()


def test_a_device_goes_down_and_its_values_come_up(devices: Devices) -> None:
    """[61, 62, 64, 66; B14]"""
    pairing = devices.pairing
    devices.create("thermo", description="hall")
    updated = f"node/{NODE}/membership/updated"
    news = devices.until_heard(updated, lambda said: (said["added_devices"] or [{}])[0].get("id") == "default/thermo")
    assert news["added_devices"][0]["description"] == "hall"
    devices.report("thermo", actual="21", expected="20")
    devices.until_heard("device/default/thermo/twin/update/result", lambda said: "twin" in said)
    if pairing.cast.stock_cloudcore:
        # wire: the first report leaves the name of the property alone (B14)
        pairing.until("an entry", lambda: pairing.get("devicestatus", "thermo").get("status", {}).get("twins"))
        devices.report("thermo", actual="21", expected="20")
    devices.until_reported("thermo", "21")
    assert devices.reported("thermo", "observedDesired") == "20"
    status = pairing.get("devicestatus", "thermo")
    assert status["metadata"]["ownerReferences"][0]["kind"] == "Device"
    assert status["status"]["twins"][0]["reported"]["metadata"]["type"] == "int"
    devices.publish("device/default/thermo/state/update", {"event_id": "s", "state": "online"})
    pairing.until("its state", lambda: pairing.get("devicestatus", "thermo")["status"].get("state") == "online")


def test_a_desired_value_that_differs_is_told_on_the_delta_topic(devices: Devices) -> None:
    """[64]"""
    devices.report("thermo", actual="21", expected="25")
    said = devices.until_heard("device/default/thermo/twin/update/delta", lambda said: said.get("delta"))
    assert said["delta"] == {"temperature": "25"}
    devices.pairing.until("25 in the cloud", lambda: devices.reported("thermo", "observedDesired") == "25")


def test_a_desired_value_set_in_the_cloud_reaches_the_edge(devices: Devices) -> None:
    """[61] Inside the Device; a stock edge hands it to mappers alone, ours to applications on MQTT too."""
    pairing = devices.pairing
    pairing.apply(device_of("thermo", "thermo", desired="30", description="hall"))
    pairing.until("the device to be acknowledged", lambda: _recorded(pairing, "device", "thermo"))
    if not pairing.cast.stock_edgecore:
        devices.until_heard(
            "device/default/thermo/twin/update/delta", lambda said: said["delta"].get("temperature") == "30"
        )


def test_many_reports_end_with_the_newest_in_the_cloud(devices: Devices) -> None:
    """[62]"""
    for number in range(1, 11):
        devices.report("thermo", actual=str(number))
    devices.until_reported("thermo", "10")


def test_a_changed_model_reaches_the_edge_in_the_name_of_devicecontroller(devices: Devices) -> None:
    """[B5] The record says that the edge has it; where it came from, a stock edge's twin decides by."""
    pairing = devices.pairing
    model = model_of("thermo")
    model["spec"]["properties"][0]["maximum"] = "90"
    pairing.apply(model)
    pairing.until("the model to be acknowledged", lambda: _recorded(pairing, "devicemodel", "thermo"))


def test_a_deleted_device_leaves_the_edge(devices: Devices) -> None:
    """[61]"""
    devices.remove("thermo")
    devices.until_heard(
        f"node/{NODE}/membership/updated", lambda said: "default/thermo" in str(said["removed_devices"])
    )
    assert "default/thermo" not in devices.members()
    devices.pairing.until_gone("devicestatus", "thermo")


def test_what_was_created_and_deleted_while_the_edge_was_away_is_made_good(devices: Devices) -> None:
    """[B5] A stock cloud never tells the twin of either."""
    pairing = devices.pairing
    devices.create("old")
    devices.create("kept")
    pairing.until("the first devices", lambda: {"default/old", "default/kept"} <= devices.members())
    pairing.until("the devices to be acknowledged", lambda: _recorded(pairing, "device", "old"))
    devices.report("kept", actual="3")
    devices.until_heard("device/default/kept/twin/update/result")
    said = len(devices.heard("device/default/kept/twin/update/result"))
    pairing.hosts.end_edgecore(kill=True)
    devices.create("new", description="made-in-the-dark")
    devices.remove("old")
    pairing.hosts.start_edgecore()
    if pairing.cast.stock_cloudcore:
        pairing.until("the new device to be acknowledged", lambda: _recorded(pairing, "device", "new"), 90)
        devices.remove("new", "kept")
        return
    pairing.until("the devices it has now", lambda: devices.members() == {"default/kept", "default/new"}, 90)
    # The device that stayed has its values, and nobody was told of an error.
    devices.publish("device/default/kept/twin/get", {"event_id": "g"})
    twins = devices.until_heard("device/default/kept/twin/get/result", lambda told: told.get("event_id") == "g")
    assert twins["twin"]["temperature"]["actual"]["value"] == "3"
    assert not [told for told in devices.heard("device/default/kept/twin/update/result")[said:] if "code" in told]
    said = devices.until_heard(f"node/{NODE}/membership/updated", lambda said: "default/new" in str(said))
    assert said["added_devices"][0]["description"] == "made-in-the-dark"
    devices.report("new", actual="7")
    devices.until_reported("new", "7")
    devices.until_reported("kept", "3")
    devices.remove("new", "kept")


def test_a_device_that_makes_no_sense_is_said_and_the_rest_goes_on(devices: Devices) -> None:
    pairing = devices.pairing
    if pairing.cast.stock_cloudcore:
        pytest.skip("a stock cloud says nothing")
    pairing.apply(device_of("orphan", "nosuch"))
    devices.create("sane")

    def accepted(name: str) -> str:
        conditions = pairing.get("device", name).get("status", {}).get("conditions") or ()
        return next((one["reason"] for one in conditions if one["type"] == "Accepted"), "")

    pairing.until("the condition of the orphan", lambda: accepted("orphan") == "ModelNotFound")
    pairing.until("the condition of the other", lambda: accepted("sane") == "Told")
    assert "ModelNotFound" in pairing.kubectl("get", "events", "--field-selector", "involvedObject.name=orphan")
    pairing.until("the members", lambda: "default/sane" in devices.members())
    devices.remove("orphan", "sane")


def _recorded(pairing: Pairing, kind: str, name: str) -> bool:
    """Whether the cloud has the edge's word for the present version of an object."""
    meta = pairing.get(kind, name)["metadata"]
    record = pairing.get("objectsync", f"{NODE}.{meta['uid']}")
    acknowledged = record.get("status", {}).get("objectResourceVersion", "0")
    return int(acknowledged) >= int(meta["resourceVersion"])
