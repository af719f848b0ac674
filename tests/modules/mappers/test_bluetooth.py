"""The Bluetooth driver: bleak as users have it, over bumble's virtual controllers."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mapper_rig import CLOCK, FakeEdge, define

from edgehive.api.devices import PropertyType
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Value, Visitor, device_file
from edgehive.mapper.definition import Definition
from edgehive.mapper.device import Device
from edgehive.mapper.polling import State
from edgehive.mappers.bluetooth import Bluetooth
from edgehive.testing.bluetooth import Air, Cell, VirtualDevice

pytestmark = pytest.mark.looptime
EXAMPLE = Path(__file__).parents[3] / "examples" / "bluetooth" / "device.yaml"
ADDRESS = "BC:6A:29:AE:CC:96"
TEMPERATURE, LED, ONLY_WRITTEN, ONLY_NOTIFIED, BOTH, REFUSING, QUIET = (
    f"f000aa{n:02x}-0451-4000-b000-000000000000" for n in range(7)
)
TWICE = "00002a19-0000-1000-8000-00805f9b34fb"
ROOMS = ("0000aaa1-0000-1000-8000-00805f9b34fb", "0000aaa2-0000-1000-8000-00805f9b34fb")


@pytest.fixture
def air() -> Air:
    return Air()


async def sensor_tag(air: Air) -> VirtualDevice:
    """Made in the tests, as their time is not that of fixtures."""
    return await air.device(
        "Sensor Tag",
        ADDRESS,
        Cell(TEMPERATURE, value=bytes.fromhex("3010")),
        Cell(LED, "read write", b"\0"),
        Cell(ONLY_WRITTEN, "write-without-response"),
        Cell(ONLY_NOTIFIED, "notify"),
        Cell(BOTH, "read write notify", b"\x01"),
        Cell(REFUSING, refuses=0x05),
        Cell(QUIET, "indicate"),
        Cell(TWICE, value=b"\x01", service=ROOMS[0]),
        Cell(TWICE, value=b"\x02", service=ROOMS[1]),
    )


def driver_of(air: Air) -> Callable[[], Bluetooth]:
    return type("Driver", (Bluetooth,), {"radio": air.radio})


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Bluetooth, VirtualDevice]]:
    air = Air()
    tag, found = await sensor_tag(air), driver_of(air)()
    await found.open({"macAddress": ADDRESS})
    try:
        yield found, tag
    finally:
        await found.close()


def at(uuid: str, type: str = "INT", **config: Any) -> Visitor:
    return Visitor("p", PropertyType(type), {"characteristicUUID": uuid, **config}, writable=True)


CELSIUS = {
    "startIndex": 1,
    "endIndex": 0,
    "shiftRight": 2,
    "orderOfOperations": [{"operationType": "Multiply", "operationValue": 0.03125}],
}


async def test_the_sensor_has_the_right_degrees() -> None:
    async with connected() as (driver, tag):
        visitor = at(TEMPERATURE, "FLOAT", dataConverter=CELSIUS)
        assert await driver.read(visitor) == 32.375
        tag.cells[TEMPERATURE].value = bytes.fromhex("200b")
        assert await driver.read(visitor) == 22.25


async def test_what_is_written_is_read() -> None:
    async with connected() as (driver, tag):
        visitor = at(LED, "STRING", dataWrite={"Red": [1], "Green": [2, 0]})
        await driver.write(visitor, "Green")
        assert await driver.read(visitor) == "Green"
        assert tag.cells[LED].written == [b"\2\0"]


async def test_a_long_value_is_written_and_read_in_pieces() -> None:
    async with connected() as (driver, tag):
        tag.cells[LED].value = bytes(range(200))
        assert await driver.read(at(LED, "BYTES")) == bytes(range(200))


async def test_what_can_only_be_written_is_known_by_what_was_written() -> None:
    async with connected() as (driver, tag):
        visitor = at(ONLY_WRITTEN)
        with pytest.raises(ValueError, match="can only be written, and nothing was written to it yet"):
            await driver.read(visitor)
        await driver.write(visitor, 7)
        assert await driver.read(visitor) == 7
        await asyncio.sleep(1)
        assert tag.cells[ONLY_WRITTEN].written == [b"\7"]


async def test_what_a_device_notifies_is_its_newest_value() -> None:
    async with connected() as (driver, tag):
        visitor = at(BOTH, notify=True)
        assert await driver.read(visitor) == 1
        await tag.notify(BOTH, b"\x09")
        await asyncio.sleep(1)
        tag.cells[BOTH].value = b"\x63"
        assert await driver.read(visitor) == 9, "it is not asked again"
        await driver.write(visitor, 4)
        assert await driver.read(visitor) == 4


async def test_what_can_only_notify_is_waited_for() -> None:
    async with connected() as (driver, tag):
        visitor = at(ONLY_NOTIFIED)
        reading = spawn(driver.read(visitor), name="reading")
        await asyncio.sleep(1)
        await tag.notify(ONLY_NOTIFIED, b"\x05")
        assert await reading == 5
        with pytest.raises(ValueError, match="can only notify, and has notified nothing yet"):
            await driver.read(at(QUIET))
        with pytest.raises(ValueError, match="notifies nothing; it can only: read, write"):
            await driver.read(at(LED, notify=True))


async def test_one_of_two_services_is_named() -> None:
    async with connected() as (driver, _tag):
        assert await driver.read(at("2a19", serviceUUID="aaa2")) == 2
        with pytest.raises(
            ValueError, match=f"2 services have a characteristic .* add serviceUUID: {ROOMS[0]}, {ROOMS[1]}"
        ):
            await driver.read(at("2a19"))
        with pytest.raises(ValueError, match=r"no characteristic .* in service 0000aaa3"):
            await driver.read(at("2a19", serviceUUID="aaa3"))


@pytest.mark.parametrize(
    ("visitor", "sentence"),
    [
        (at("2a00ff"), "characteristicUUID '2a00ff' is no UUID like"),
        (at("f000aaff-0451-4000-b000-000000000000"), "has no characteristic f000aaff-.*; it has: .*f000aa00-"),
        (at(TEMPERATURE, dataConverter={"startIndex": 3, "endIndex": 2}), "takes bytes 3 to 2, and the device has 2"),
        (at(REFUSING), "the device answers: GATT Protocol Error: Insufficient Authentication"),
    ],
)
async def test_a_wrong_visitor_is_told_and_the_connection_goes_on(visitor: Visitor, sentence: str) -> None:
    async with connected() as (driver, _tag):
        with pytest.raises(ValueError, match=sentence) as caught:
            await driver.read(visitor)
        assert "\n" not in str(caught.value)
        assert await driver.read(at(TEMPERATURE)) == 0x1030


@pytest.mark.parametrize(
    ("visitor", "value", "sentence"),
    [
        (at(TEMPERATURE), 1, "cannot be written; it can only: read"),
        (at(LED, "STRING"), "x" * 10_000_000, "10000000 bytes do not fit into a characteristic"),
        (at(LED, "STRING", dataWrite={"Red": [1]}), "Blue", "'Blue' is none of dataWrite: Red"),
    ],
)
async def test_what_cannot_be_written_is_refused(visitor: Visitor, value: Value, sentence: str) -> None:
    async with connected() as (driver, tag):
        with pytest.raises(ValueError, match=sentence):
            await driver.write(visitor, value)
        assert not tag.cells[LED].written


@pytest.mark.parametrize(
    "config", [{"localName": "sensor tag"}, {"macAddress": ADDRESS.lower()}, {"macAddress": ADDRESS.replace(":", "-")}]
)
async def test_a_device_is_found_by_its_name_or_address(air: Air, config: dict[str, str]) -> None:
    await sensor_tag(air)
    await air.device("Other", "BC:6A:29:AE:CC:97", Cell(TEMPERATURE, value=b"\0\0"))
    driver = driver_of(air)()
    await driver.open(config)
    assert await driver.read(at(TEMPERATURE)) == 0x1030
    await driver.close()
    assert air.scanning == 0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "neither macAddress nor localName"),
        ({"macAddress": "BC:6A:29"}, "macAddress 'BC:6A:29' is none like BC:6A:29:AE:CC:96"),
        ({"localName": "x", "timeout": -1}, "timeout -1 is no number of milliseconds"),
    ],
)
async def test_a_device_without_an_address_is_refused(air: Air, config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        await driver_of(air)().open(config)
    assert air.scans == 0


async def test_devices_that_are_not_there_keep_nobody_from_finding_another(air: Air) -> None:
    await sensor_tag(air)
    make, now = driver_of(air), asyncio.get_running_loop().time
    dead = [make() for _ in range(5)]
    opening = [spawn(driver.open({"macAddress": f"00:00:00:00:00:0{n}"}), name="dead") for n, driver in enumerate(dead)]
    await asyncio.sleep(1)
    driver, began = make(), now()
    await driver.open({"macAddress": ADDRESS})
    assert now() - began < 0.5
    for error in await asyncio.gather(*opening, return_exceptions=True):
        assert "was not heard in 4 s; is it on, near, and advertising?" in str(error)
        assert isinstance(error, ConnectionError)
    assert (air.scans, air.scanning) == (1, 0), "they share one scan"
    assert await driver.read(at(TEMPERATURE)) == 0x1030
    for item in (driver, *dead):
        await item.close()


async def test_a_device_that_cannot_be_connected_is_told_and_the_next_has_its_turn(air: Air) -> None:
    await sensor_tag(air)
    stubborn = await air.device("Stubborn", "BC:6A:29:AE:CC:98", Cell(TEMPERATURE))
    air.deaf.add(stubborn.device.random_address)
    first, second, now = driver_of(air)(), driver_of(air)(), asyncio.get_running_loop().time
    opening = spawn(first.open({"localName": "Stubborn"}), name="stubborn")
    await asyncio.sleep(1)
    await second.open({"macAddress": ADDRESS})
    assert now() < 6
    with pytest.raises(ConnectionError, match="'Stubborn' is heard, but no connection was made in 5 s"):
        await opening
    await first.close()
    await second.close()


@pytest.mark.parametrize("config", [{"localName": "sensor tag"}, {"macAddress": ADDRESS}])
async def test_a_device_that_was_left_connected_is_found(air: Air, config: dict[str, str]) -> None:
    tag = await sensor_tag(air)
    await air.central.power_on()
    await air.central.connect(tag.device.random_address)
    driver = driver_of(air)()
    await driver.open(config)
    assert await driver.read(at(TEMPERATURE)) == 0x1030
    await driver.close()
    assert air.scans == 0


async def test_a_device_that_goes_away_is_told_as_lost() -> None:
    async with connected() as (driver, tag):
        assert await driver.read(at(BOTH, notify=True)) == 1
        await tag.switch_off()
        for visitor in (at(TEMPERATURE), at(BOTH, notify=True), at(ONLY_WRITTEN)):
            with pytest.raises(ConnectionError, match="the device is gone"):
                await driver.read(visitor)
        with pytest.raises(ConnectionError):
            await driver.write(at(LED), 1)


async def test_a_machine_without_bluetooth_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent/bus")
    driver = Bluetooth()
    with pytest.raises(ConnectionError, match=r"Bluetooth cannot be used: .*; does bluetoothd run\?"):
        await driver.open({"macAddress": ADDRESS})
    await driver.close()


# With the SDK around it


@asynccontextmanager
async def at_work(air: Air, definition: Definition, edge: FakeEdge) -> AsyncIterator[Device]:
    device = Device(definition, driver_of(air), edge, CLOCK)
    running = spawn(device.run(), name="device")
    try:
        yield device
    finally:
        await cancel_and_join(running)


def led(desired: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    visitor = {"characteristicUUID": LED, "dataWrite": {"Off": [0], "Red": [1], "Green": [2]}}
    own = {"visitors": {"protocolName": "bluetooth", "configData": visitor}}
    return {"name": "led", "type": "STRING"}, own | ({"desired": {"value": desired}} if desired else {})


async def test_a_lost_device_is_back_by_itself_with_what_is_desired(air: Air) -> None:
    tag = await sensor_tag(air)
    edge = FakeEdge()
    definition = define(led("Red"), config={"localName": "Sensor Tag"})
    async with at_work(air, definition, edge) as device:
        await asyncio.sleep(5)
        assert (device.state, tag.cells[LED].value) == (State.ONLINE, b"\1")
        await tag.switch_off()
        await asyncio.sleep(30)
        assert device.state is State.OFFLINE
        assert "was not heard" in device.faults[""]
        tag.cells[LED].value = b"\0"
        await tag.switch_on()
        await asyncio.sleep(60)
        assert (device.state, tag.cells[LED].value) == (State.ONLINE, b"\1")
    assert edge.values("led")[-1] == "Red"


async def test_attempts_to_find_a_lost_device_become_rare(air: Air) -> None:
    tag = await sensor_tag(air)
    await tag.switch_off()
    async with at_work(air, define(led(), config={"localName": "Sensor Tag"}), FakeEdge()):
        await asyncio.sleep(600)
    assert 15 <= air.scans <= 30


async def test_a_dead_device_slows_no_other(air: Air) -> None:
    await sensor_tag(air)
    edges = [FakeEdge(), FakeEdge()]
    dead = define(led("Red"), config={"macAddress": "00:00:00:00:00:01"})
    alive = define(led("Red"), config={"macAddress": ADDRESS})
    async with at_work(air, dead, edges[0]) as lost, at_work(air, alive, edges[1]) as found:
        await asyncio.sleep(100)
        assert (lost.state, found.state) == (State.OFFLINE, State.ONLINE)
        assert found.reads > 99


async def test_two_devices_of_the_cloud_may_be_one_in_the_field(air: Air) -> None:
    tag = await sensor_tag(air)
    definition = define(led(), config={"macAddress": ADDRESS})
    async with at_work(air, definition, FakeEdge()) as first:
        async with at_work(air, definition, FakeEdge()) as second:
            await asyncio.sleep(5)
            assert (first.state, second.state) == (State.ONLINE, State.ONLINE)
        await asyncio.sleep(5)
        assert first.state is State.ONLINE
    assert not tag.device.connections


async def test_the_example_works(air: Air) -> None:
    definition = device_file.read(EXAMPLE)[0]
    uuids = [f"f000aa{n}-0451-4000-b000-000000000000" for n in ("01", "02", "66", "65")]
    temperature, enable, config, data = (Cell(uuid, "read write", b"\0") for uuid in uuids)
    temperature.value = bytes.fromhex("3010")
    edge = FakeEdge()
    tag = await air.device("CC2650 SensorTag", ADDRESS, temperature, enable, config, data)
    async with at_work(air, definition, edge) as device:
        await asyncio.sleep(10)
        assert device.faults == {}
        assert edge.values("temperature") == ["32.375"]
        assert (enable.value, config.written, data.written) == (b"\1", [b"\1"], [])
    await tag.switch_off()
