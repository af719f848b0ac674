"""Devices under each cloud with our edge: down to twin, MQTT and mapper, and up into DeviceStatus.

The edge runs eventbus with its own broker and devicetwin; the application is a process on the edge host, the mapper
serves a socket there. The wire.md items it shows stand in brackets.
"""

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pairings import Manifest, Pairing

from edgehive.protos import dmi_pb2 as dmi
from edgehive.testing.mapper import Manager, Mapper
from edgehive.testing.two_hosts import NODE

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(420)]

BROKER = "1884"

#: Subscribe, say so by a file, publish (if told to) until there is an answer, print the first one.
_SPEAK = """
import asyncio, pathlib, sys
import gmqtt
from gmqtt.mqtt.constants import MQTTv311
port, topic, mark, to, payload = sys.argv[1:]
async def main():
    heard = asyncio.get_running_loop().create_future()
    granted = asyncio.Event()
    client = gmqtt.Client("application")
    client.on_message = lambda c, t, body, q, p: heard.done() or heard.set_result(body) and 0 or 0
    client.on_subscribe = lambda *_: granted.set()
    await client.connect("127.0.0.1", int(port), version=MQTTv311)
    client.subscribe(topic, qos=1)
    await granted.wait()
    pathlib.Path(mark).touch()
    for _ in range(30):
        if to:
            client.publish(to, payload, qos=1)
        if (await asyncio.wait({heard}, timeout=2))[0]:
            break
    print(bytes(heard.result()).decode())
    await client.disconnect()
asyncio.run(main())
"""


class Application:
    """A process on the edge host that speaks MQTT."""

    def __init__(self, pairing: Pairing) -> None:
        self._pairing = pairing
        self._count = 0

    async def hear(self, topic: str, publish: str = "", payload: object = None) -> Any:
        """The next publication on a topic; what is to be published for it is, once the topic is subscribed."""
        return await (await self.listening(topic, publish, payload))

    async def listening(self, topic: str, publish: str = "", payload: object = None) -> "asyncio.Future[Any]":
        self._count += 1
        mark = self._pairing.hosts.data / f"mark-{self._count}"
        words = (sys.executable, "-c", _SPEAK, BROKER, topic, str(mark), publish, json.dumps(payload))
        run = asyncio.ensure_future(asyncio.to_thread(self._pairing.hosts.edge.run, *words, timeout=90))
        while not mark.exists() and not run.done():
            await asyncio.sleep(0.05)

        async def heard() -> Any:
            return json.loads(await run)

        return asyncio.ensure_future(heard())


@pytest.fixture(scope="module")
def sockets(pairing: Pairing) -> Iterator[Path]:
    """Our edge with devices and MQTT, and where its mappers register."""
    if pairing.cast.stock_edgecore:
        pytest.skip("these are about our edge")
    hosts = pairing.hosts
    folder = hosts.data / "dmi"
    folder.mkdir()
    before = dict(hosts.edge_modules)
    hosts.edge_modules |= {
        "eventBus": {"enable": True, "mqttMode": 0},
        "deviceTwin": {"enable": True, "dmiSockPath": str(folder)},
    }
    hosts.end_edgecore()
    hosts.start_edgecore()
    yield folder
    hosts.edge_modules = before
    hosts.end_edgecore()
    hosts.start_edgecore()


def model() -> Manifest:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "thermo", "namespace": "default"},
        "spec": {
            "protocol": "virtual",
            "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"}],
        },
    }


def device(name: str, desired: str) -> Manifest:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "thermo"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {"id": 7}},
            "properties": [
                {
                    "name": "t",
                    "desired": {"value": desired},
                    "reportToCloud": True,
                    "visitors": {"protocolName": "virtual", "configData": {"register": 1}},
                }
            ],
        },
    }


def reported(pairing: Pairing, name: str, side: str = "reported") -> str:
    twins = (pairing.get("devicestatuses.devices.kubeedge.io", name).get("status") or {}).get("twins") or []
    return next((str((twin.get(side) or {}).get("value", "")) for twin in twins if twin["propertyName"] == "t"), "")


async def until(pairing: Pairing, what: str, condition: Any) -> None:
    await asyncio.to_thread(pairing.until, what, condition, 90.0)


async def test_a_device_goes_down_and_its_values_up(pairing: Pairing, sockets: Path) -> None:
    """[61, 62, 64, 65, 66] The whole way, over MQTT and over DMI."""
    app, door = Application(pairing), sockets / "dmi.sock"
    async with Mapper(sockets / "m.sock", name="virtual", protocol="virtual") as mapper:
        await until(pairing, "the mappers' socket", door.exists)
        await mapper.register(door)
        await asyncio.to_thread(pairing.apply, model(), device("d1", "20"))
        calls = [await asyncio.wait_for(mapper.calls.get(), 90) for _ in range(2)]
        assert [name for name, _ in calls] == ["CreateDeviceModel", "RegisterDevice"]
        assert calls[1][1].device.spec.properties[0].desired.value == "20"

        # Up, over MQTT. A Go cloud shows a property's values from the second report on (wire.md B14).
        topic = "$hw/events/device/default/d1/twin/update"
        for value in ("25", "26"):
            said = {"event_id": value, "timestamp": 0, "twin": {"t": {"actual": {"value": value}}}}
            assert (await app.hear(f"{topic}/result", topic, said))["twin"]["t"]["actual"]["value"] == value
            await asyncio.sleep(1)
        await until(pairing, "the reported value in DeviceStatus", lambda: reported(pairing, "d1") == "26")
        assert reported(pairing, "d1", "observedDesired") == "20"

        # Down: the delta is published and the mapper is told.
        delta = await app.listening(f"{topic}/delta")
        patch = json.dumps([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "30"}])
        await asyncio.to_thread(pairing.kubectl, "patch", "device", "d1", "--type=json", "-p", patch)
        assert (await delta)["delta"] == {"t": "30"}
        name, request = await asyncio.wait_for(mapper.calls.get(), 90)
        assert (name, request.device.spec.properties[0].desired.value) == ("UpdateDevice", "30")

        # Up, over DMI, with the state.
        manager = Manager(door)
        twin = dmi.Twin(
            propertyName="t", observedDesired=dmi.TwinProperty(value="30"), reported=dmi.TwinProperty(value="30")
        )
        await manager.report_twins("d1", twin)
        await manager.report_state("d1", "online")
        manager.close()
        await until(pairing, "what the mapper reported", lambda: reported(pairing, "d1") == "30")

        def state() -> bool:
            found = pairing.get("devicestatuses.devices.kubeedge.io", "d1").get("status") or {}
            return bool(found.get("state") == "online" and found.get("lastOnlineTime"))

        await until(pairing, "the state", state)

        await asyncio.to_thread(pairing.kubectl, "delete", "device", "d1")
        assert (await asyncio.wait_for(mapper.calls.get(), 90))[0] in ("RemoveDevice", "RemoveDeviceModel")


async def test_what_happens_during_a_cut_is_told_afterwards_on_both_sides(pairing: Pairing, sockets: Path) -> None:
    """[80] Where a Go edge loses both: values written offline, and devices changed meanwhile (wire.md §6.3, B5)."""
    app, topic = Application(pairing), "$hw/events/device/default/d2/twin/update"
    async with Mapper(sockets / "m.sock", name="virtual", protocol="virtual") as mapper:
        await asyncio.to_thread(pairing.apply, model(), device("d2", "20"))
        await mapper.register(sockets / "dmi.sock")

        async def update(value: str) -> None:
            said = {"event_id": value, "timestamp": 0, "twin": {"t": {"actual": {"value": value}}}}
            await app.hear(f"{topic}/result", topic, said)

        for value in ("1", "2"):
            await update(value)
            await asyncio.sleep(1)
        await until(pairing, "a reported value", lambda: reported(pairing, "d2") == "2")
        pairing.hosts.cut()
        try:
            for value in ("3", "4", "5"):
                await update(value)
            patch = json.dumps([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "40"}])
            await asyncio.to_thread(pairing.kubectl, "patch", "device", "d2", "--type=json", "-p", patch)
        finally:
            pairing.hosts.restore()
        await until(pairing, "the value of the outage", lambda: reported(pairing, "d2") == "5")

        def desired() -> bool:
            found = mapper.devices.get("d2")
            return found is not None and found.spec.properties[0].desired.value == "40"

        await until(pairing, "the desired value at the mapper", desired)
        await until(pairing, "it observed", lambda: reported(pairing, "d2", "observedDesired") == "40")
    await asyncio.to_thread(pairing.kubectl, "delete", "device", "d2")
    await asyncio.to_thread(pairing.kubectl, "delete", "devicemodel", "thermo")
