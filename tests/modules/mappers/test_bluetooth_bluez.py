"""The Bluetooth driver with bleak's own backend for Linux, at a bluetoothd that exists in memory."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from bluez_rig import Bluez, BluezDevice, bluez_at
from mapper_rig import CLOCK, FakeEdge, define

from edgehive.api.devices import PropertyType
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Visitor
from edgehive.mapper.device import Device
from edgehive.mapper.polling import State
from edgehive.mappers.bluetooth import Bluetooth

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is needed")
TEMPERATURE, LED, NOTIFIED = (f"f000aa{n:02x}-0451-4000-b000-000000000000" for n in range(3))


@pytest.fixture
async def bluez(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bluez]:
    async with bluez_at(tmp_path) as (found, address):
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
        yield found


@pytest.fixture
def tag(bluez: Bluez) -> BluezDevice:
    cells = {
        TEMPERATURE: (["read"], bytes.fromhex("3010")),
        LED: (["read", "write"], b"\0"),
        NOTIFIED: (["read", "notify"], b"\1"),
    }
    return bluez.add(BluezDevice("BC:6A:29:AE:CC:96", "Sensor Tag", cells))


def at(uuid: str, **config: Any) -> Visitor:
    return Visitor("p", PropertyType.INT, {"characteristicUUID": uuid, **config}, writable=True)


@pytest.mark.parametrize("config", [{"localName": "sensor tag"}, {"macAddress": "bc:6a:29:ae:cc:96"}])
async def test_a_device_is_found_read_written_and_heard(bluez: Bluez, tag: BluezDevice, config: dict[str, str]) -> None:
    driver = Bluetooth()
    await driver.open(config)
    assert not bluez.discovering
    assert await driver.read(at(TEMPERATURE)) == 0x1030
    await driver.write(at(LED), 5)
    assert await driver.read(at(LED)) == 5
    assert await driver.read(at(NOTIFIED, notify=True)) == 1
    bluez.notify(tag, NOTIFIED, b"\x2a")
    async with asyncio.timeout(10):
        while await driver.read(at(NOTIFIED, notify=True)) != 42:
            await asyncio.sleep(0.01)
    await driver.close()
    assert not tag.connected


async def test_devices_that_are_not_there_and_several_at_once_share_one_scan(bluez: Bluez, tag: BluezDevice) -> None:
    bluez.add(BluezDevice("BC:6A:29:AE:CC:97", "Other", {TEMPERATURE: (["read"], b"\7")}))
    addresses = ("00:00:00:00:00:01", tag.address, "00:00:00:00:00:02", "BC:6A:29:AE:CC:97")
    drivers = [Bluetooth() for _ in addresses]
    opening = [
        driver.open({"macAddress": item, "timeout": 500}) for driver, item in zip(drivers, addresses, strict=True)
    ]
    found = await asyncio.gather(*opening, return_exceptions=True)
    assert [type(item) for item in found] == [ConnectionError, type(None), ConnectionError, type(None)]
    assert [await driver.read(at(TEMPERATURE)) for driver in drivers[1::2]] == [0x1030, 7]
    for driver in drivers:
        await driver.close()
    assert not bluez.discovering


async def test_a_device_that_a_killed_mapper_left_connected_is_found(bluez: Bluez, tag: BluezDevice) -> None:
    killed, driver = Bluetooth(), Bluetooth()
    await killed.open({"macAddress": tag.address})
    await driver.open({"macAddress": tag.address})
    assert await driver.read(at(TEMPERATURE)) == 0x1030
    await driver.close()
    with pytest.raises(ConnectionError, match="the device is gone"):
        await killed.read(at(TEMPERATURE))
    await killed.close()


async def test_a_lost_device_is_back_by_itself(bluez: Bluez, tag: BluezDevice) -> None:
    own = {"collectCycle": 20, "visitors": {"protocolName": "bluetooth", "configData": {"characteristicUUID": LED}}}
    definition = define(({"name": "led", "type": "INT"}, own), config={"macAddress": tag.address, "timeout": 300})
    device = Device(definition, Bluetooth, FakeEdge(), CLOCK)
    running = spawn(device.run(), name="device")

    async def until(state: State) -> None:
        async with asyncio.timeout(20):
            while device.state is not state:
                await asyncio.sleep(0.01)

    await until(State.ONLINE)
    bluez.lose(tag)
    tag.advertising = False
    await until(State.OFFLINE)
    tag.advertising = True
    await until(State.ONLINE)
    await cancel_and_join(running)
    assert (tag.connected, bluez.discovering) == (False, False)


async def test_an_adapter_that_is_not_there_is_told(bluez: Bluez, tag: BluezDevice) -> None:
    with pytest.raises(ConnectionError, match="Bluetooth cannot be used: adapter 'hci7' not found"):
        await Bluetooth().open({"macAddress": tag.address, "adapter": "hci7"})
