"""Actions, schedules and the watcher of the 2019 Bluetooth mapper, and its runtime topics."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mapper_rig import CLOCK, FakeEdge, define

from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper.definition import Definition
from edgehive.mapper.device import Device
from edgehive.mapper.polling import State
from edgehive.mappers.bluetooth import Bluetooth
from edgehive.mappers.bluetooth.automation import Automation
from edgehive.mappers.bluetooth.rules import broker_of, rules_of, with_file
from edgehive.mappers.bluetooth.topics import MESSAGE_LIMIT, require_id
from edgehive.testing.bluetooth import Air, Cell, VirtualDevice
from edgehive.testing.mqtt import Application, application, free_port, mosquitto

PREFIX = "$ke/device/bluetooth-mapper/tag/"
TEMPERATURE, IO_CONFIG, IO_DATA = (f"f000aa{n}-0451-4000-b000-000000000000" for n in ("01", "66", "65"))
MULTIPLY = [{"operationType": "Multiply", "operationValue": 0.03125}]
ACTIONS = [
    {"name": "IRTemperatureData", "device-property-name": "temperature"},
    {"name": "IOConfiguration", "device-property-name": "io-config"},
    {"name": "IOData", "device-property-name": "io-data"},
]


@dataclass
class Diary:
    """What was written to the device, and when."""

    entries: list[tuple[float, str, bytes]] = field(default_factory=list)

    @property
    def written(self) -> list[tuple[str, bytes]]:
        return [(name, data) for _, name, data in self.entries]

    @property
    def times(self) -> list[float]:
        return [at for at, _, _ in self.entries]


@dataclass
class Noted(Cell):
    diary: Diary = field(default_factory=Diary)
    name: str = ""

    def write(self, connection: Any, value: bytes) -> None:
        super().write(connection, value)
        self.diary.entries.append((asyncio.get_running_loop().time(), self.name, bytes(value)))


class Rig:
    """A sensor tag, and the mapper's device for it."""

    def __init__(self) -> None:
        self.air = Air()
        self.diary = Diary()
        self.edge = FakeEdge()
        self.driver = type("Driver", (Bluetooth,), {"radio": self.air.radio})
        self.tag: VirtualDevice

    async def start(self) -> None:
        self.tag = await self.air.device(
            "Sensor Tag",
            "BC:6A:29:AE:CC:96",
            Cell(TEMPERATURE, value=bytes.fromhex("3010")),
            Noted(IO_CONFIG, "read write", b"\0", diary=self.diary, name="io-config"),
            Noted(IO_DATA, "read write", b"\0", diary=self.diary, name="io-data"),
        )

    def definition(self, desired: str = "", **config: Any) -> Definition:
        colours = {"Off": [0], "Red": [1], "Green": [2]}
        converter = {"startIndex": 1, "endIndex": 0, "shiftRight": 2, "orderOfOperations": MULTIPLY}
        wish = {"desired": {"value": desired}} if desired else {}
        return define(
            ({"name": "temperature", "accessMode": "ReadOnly"}, _at(TEMPERATURE, dataConverter=converter)),
            ({"name": "io-config", "type": "INT"}, _at(IO_CONFIG, defaultValue=1)),
            ({"name": "io-data", "type": "STRING"}, _at(IO_DATA, dataWrite=colours) | wish),
            config={"localName": "Sensor Tag", "action-manager": {"actions": ACTIONS}, **config},
        )

    @asynccontextmanager
    async def at_work(self, definition: Definition) -> AsyncIterator[Device]:
        await self.start()
        device = Device(definition, self.driver, self.edge, CLOCK)
        running = spawn(device.run(), name="device")
        try:
            yield device
        finally:
            if running.done():
                running.result()
            await cancel_and_join(running)
            for automation in list(Automation.kept.values()):
                await automation.close()


def _at(uuid: str, **config: Any) -> dict[str, Any]:
    return {"visitors": {"protocolName": "bluetooth", "configData": {"characteristicUUID": uuid, **config}}}


def schedule(name: str, *actions: str, interval: int = 0, limit: int = 0) -> dict[str, Any]:
    return {"name": name, "interval": interval, "occurrence-limit": limit, "actions": list(actions)}


def scheduler(*schedules: dict[str, Any]) -> dict[str, Any]:
    return {"schedules": list(schedules)}


# Without a broker, in virtual time


@pytest.mark.looptime
async def test_a_schedule_runs_as_often_as_it_says_and_at_its_interval() -> None:
    rig = Rig()
    rules = scheduler(schedule("s", "IOConfiguration", interval=3000, limit=10))
    async with rig.at_work(rig.definition(scheduler=rules)):
        await asyncio.sleep(1000)
    assert rig.diary.written == [("io-config", b"\1")] * 10
    gaps = [later - earlier for earlier, later in zip(rig.diary.times, rig.diary.times[1:], strict=False)]
    assert all(gap == pytest.approx(3, abs=0.1) for gap in gaps)


@pytest.mark.looptime
async def test_a_schedule_without_a_limit_goes_on_every_five_seconds() -> None:
    rig = Rig()
    async with rig.at_work(rig.definition(scheduler=scheduler(schedule("s", "ioconfiguration")))):
        await asyncio.sleep(499)
    assert len(rig.diary.entries) == 100


@pytest.mark.looptime
async def test_a_schedule_that_was_interrupted_goes_on_with_what_is_left_of_it() -> None:
    rig = Rig()
    rules = scheduler(schedule("s", "IOConfiguration", interval=1000, limit=20))
    async with rig.at_work(rig.definition(scheduler=rules)) as device:
        await asyncio.sleep(5.5)
        before = len(rig.diary.entries)
        assert 5 <= before <= 6
        await rig.tag.switch_off()
        await asyncio.sleep(60)
        assert (device.state, len(rig.diary.entries)) == (State.OFFLINE, before)
        await rig.tag.switch_on()
        await asyncio.sleep(300)
        assert device.state is State.ONLINE
    assert len(rig.diary.entries) == 20


@pytest.mark.looptime
async def test_a_device_that_is_away_for_long_keeps_what_is_left_of_its_schedules() -> None:
    rig = Rig()
    rules = scheduler(schedule("s", "IOConfiguration", interval=1000, limit=20))
    async with rig.at_work(rig.definition(scheduler=rules)):
        await asyncio.sleep(5.5)
        await rig.tag.switch_off()
        await asyncio.sleep(900)
        await rig.tag.switch_on()
        await asyncio.sleep(100)
    assert len(rig.diary.entries) == 20


@pytest.mark.looptime
async def test_a_device_that_is_no_longer_opened_loses_its_schedules() -> None:
    rig = Rig()
    async with rig.at_work(rig.definition(scheduler=scheduler(schedule("s", "IOConfiguration")))) as device:
        driver = rig.driver()
        await driver.prepare("default/short-lived", [])
        await driver.open(device.definition.config)
        await driver.close()
        await asyncio.sleep(60)
        assert set(Automation.kept) == {"default/d", "default/short-lived"}
        await asyncio.sleep(120)
        assert list(Automation.kept) == ["default/d"]


@pytest.mark.looptime
async def test_the_actions_of_a_round_are_performed_in_order() -> None:
    rig = Rig()
    light = {"name": "Light", "operation": {"action": "write", "characteristic-uuid": IO_DATA, "value": [7]}}
    rules = scheduler(schedule("s", "Light", "IOConfiguration", "Light", limit=2))
    async with rig.at_work(rig.definition(scheduler=rules, **{"action-manager": {"actions": [*ACTIONS, light]}})):
        await asyncio.sleep(60)
    assert rig.diary.written == [("io-data", b"\7"), ("io-config", b"\1"), ("io-data", b"\7")] * 2


@pytest.mark.looptime
async def test_an_action_without_a_default_writes_what_is_desired() -> None:
    rig = Rig()
    rules = scheduler(schedule("s", "IOData", limit=4))
    async with rig.at_work(rig.definition("Green", scheduler=rules)):
        await asyncio.sleep(60)
    assert 4 <= len(rig.diary.entries) <= 5, "the first round may come before anything is desired"
    assert set(rig.diary.written) == {("io-data", b"\2")}


@pytest.mark.looptime
async def test_immediate_actions_are_performed_at_each_connection() -> None:
    rig = Rig()
    immediate = [{**item, "perform-immediately": item["name"] == "IOConfiguration"} for item in ACTIONS]
    async with rig.at_work(rig.definition(**{"action-manager": {"actions": immediate}})):
        await asyncio.sleep(30)
        assert rig.diary.written == [("io-config", b"\1")]
        await rig.tag.switch_off()
        await asyncio.sleep(30)
        await rig.tag.switch_on()
        await asyncio.sleep(60)
    assert rig.diary.written == [("io-config", b"\1")] * 2


@pytest.mark.looptime
async def test_a_watched_property_is_set_by_its_actions() -> None:
    rig = Rig()
    watcher = {
        "device-twin-attributes": [{"device-property-name": "IO-Data", "actions": ["IOConfiguration", "IOData"]}]
    }
    async with rig.at_work(rig.definition(watcher=watcher)) as device:
        await asyncio.sleep(5)
        assert rig.diary.written == []
        device.follow(rig.definition("Red", watcher=watcher))
        await asyncio.sleep(5)
        assert rig.diary.written == [("io-config", b"\1"), ("io-data", b"\1")]
        device.follow(rig.definition("Green", watcher=watcher))
        await asyncio.sleep(5)
        assert rig.diary.written[2:] == [("io-config", b"\1"), ("io-data", b"\2")]
    assert rig.edge.values("io-data") == ["Off", "Red", "Green"]


@pytest.mark.looptime
async def test_what_is_desired_at_the_start_is_set_by_the_actions_too_and_after_immediate_ones() -> None:
    rig = Rig()
    watched = {"device-property-name": "io-data", "actions": ["IOConfiguration", "IOData"]}
    reset = {"name": "Reset", "perform-immediately": True}
    reset["operation"] = {"action": "write", "characteristic-uuid": IO_DATA, "value": [0]}
    rules = {"watcher": {"device-twin-attributes": [watched]}, "action-manager": {"actions": [*ACTIONS, reset]}}
    async with rig.at_work(rig.definition("Red", **rules)) as device:
        await asyncio.sleep(0.5)
        assert rig.diary.written == [("io-data", b"\0"), ("io-config", b"\1"), ("io-data", b"\1")]
        assert device.faults == {}


@pytest.mark.looptime
async def test_another_configuration_takes_the_place_of_the_old_one() -> None:
    rig = Rig()
    async with rig.at_work(rig.definition(scheduler=scheduler(schedule("s", "IOConfiguration")))) as device:
        await asyncio.sleep(20)
        assert rig.diary.entries
        device.follow(rig.definition(scheduler=scheduler()))
        await asyncio.sleep(1)
        count = len(rig.diary.entries)
        await asyncio.sleep(100)
        assert len(rig.diary.entries) == count


@pytest.mark.looptime
async def test_devices_of_one_name_are_two_and_have_topics_of_their_own() -> None:
    rig = Rig()
    rules = {"scheduler": scheduler(schedule("s", "IOConfiguration", limit=1))}
    async with rig.at_work(rig.definition(**rules)) as device:
        await asyncio.sleep(5)
        driver = rig.driver()
        await driver.prepare("other/d", [])
        await driver.open(device.definition.config)
        assert set(Automation.kept) == {"default/d", "other/d"}
        await driver.close()


async def test_two_devices_with_the_same_topics_are_told() -> None:
    config = {"localName": "x", "timeout": 10, "mqtt": "tcp://127.0.0.1:1", "deviceID": "tag"}
    drivers = [Rig().driver() for _ in range(2)]
    for number, driver in enumerate(drivers):
        await driver.prepare(f"default/{number}", [])
    with pytest.raises(ConnectionError, match="'x' was not heard"):
        await drivers[0].open(config)
    with pytest.raises(ValueError, match=r"its topics .*/tag/... are those of default/0, too; give it another"):
        await drivers[1].open(config)
    for driver in drivers:
        await driver.close()
    for automation in list(Automation.kept.values()):
        await automation.close()


# What is wrong is told


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"action-manager": 5}, "action-manager is 5, not an object"),
        ({"scheduler": "{"}, "scheduler is no JSON"),
        ({"action-manager": {"actions": {}}}, ""),
        ({"action-manager": {"actions": [{}]}}, "actions: Object missing required field `name`"),
        ({"action-manager": {"actions": [{"name": "a"}]}}, "action 'a' needs device-property-name, or an operation"),
        ({"action-manager": {"actions": [ACTIONS[0], ACTIONS[0]]}}, "actions: 'IRTemperatureData' is there twice"),
        ({"scheduler": scheduler(schedule("s", "x"))}, "schedule 's': there is no action 'x'; there are: none"),
        ({"scheduler": scheduler(schedule("s"))}, "schedules: Expected `array` of length >= 1"),
        ({"scheduler": scheduler(schedule("s", "x", interval=-1))}, r"Expected `int` >= 0 - at `\$\[0\].interval`"),
        ({"scheduler": scheduler(schedule("s", "x", limit=True))}, "Expected `int`, got `bool`"),
        ({"watcher": {"device-twin-attributes": [{"device-property-name": "p", "actions": ["x"]}]}}, "no action 'x'"),
        ({"action-manager": json.dumps({"actions": []})}, ""),
        ({"watcher": [1]}, r"watcher is \[1\], not an object"),
    ],
)
def test_wrong_rules_are_told(config: dict[str, Any], sentence: str) -> None:
    if not sentence:
        assert rules_of(config).actions == {}
        return
    with pytest.raises(ValueError, match=sentence):
        rules_of(config)


@pytest.mark.parametrize(
    ("operation", "sentence"),
    [
        ({"action": "read"}, "missing required field `characteristic-uuid`"),
        ({"characteristic-uuid": "x"}, "action 'a': characteristic-uuid 'x' is no UUID"),
        ({"characteristic-uuid": "2a19", "action": "erase"}, "its operation 'erase' is neither read nor write"),
        ({"characteristic-uuid": "2a19", "action": "write"}, "action 'a': value is None, no list of numbers"),
    ],
)
def test_wrong_operations_are_told(operation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        rules_of({"action-manager": {"actions": [{"name": "a", "operation": operation}]}})


def test_a_configuration_file_of_2019_is_read(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        """
mqtt: {mode: 1, internal-server: "tcp://127.0.0.1:1884", server: "tcp://broker:1883"}
device-model-name: cc2650-sensortag
action-manager:
  actions:
    - {name: IRTemperatureData, perform-immediately: false, device-property-name: temperature}
scheduler:
  schedules:
    - {name: temperature, interval: 3000, occurrence-limit: 10, actions: [IRTemperatureData]}
"""
    )
    config = with_file({"configFile": str(file), "deviceID": "tag"})
    rules = rules_of(config)
    assert (config["localName"], broker_of(config)) == ("cc2650 sensortag", "tcp://broker:1883")
    assert (rules.schedules["temperature"].seconds, rules.schedules["temperature"].occurrence_limit) == (3, 10)
    assert with_file({"configFile": str(file), "macAddress": "x"}).get("localName") is None
    assert broker_of({"mqtt": {}}) == "tcp://127.0.0.1:1884"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "configFile .* cannot be read: No such file or directory"),
        ("a: [", "configFile .* cannot be read: while parsing"),
        ("just text", "is no document like the bluetooth mapper's config.yaml"),
        ("a: " + "x" * 1024 * 1024, "it is longer than 1048576 bytes"),
    ],
)
def test_a_wrong_configuration_file_is_told(tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ValueError, match=sentence) as caught:
        with_file({"configFile": str(file)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("id", ["", "a/#", "+", "x" * 300])
def test_an_id_that_cannot_be_in_a_topic_is_told(id: str) -> None:
    with pytest.raises(ValueError, match=r"deviceID .* cannot be part of the topics"):
        require_id(id)


@pytest.mark.parametrize(
    "mqtt", [{"mode": 7}, 5, "127.0.0.1", "tcp://", "tcp://x:99999", "http://x", {"server": 3, "mode": 1}]
)
def test_a_wrong_broker_is_told(mqtt: Any) -> None:
    with pytest.raises(ValueError, match=r"no address like tcp://127\.0\.0\.1:1883, and has no mode 0 or 1"):
        broker_of({"mqtt": mqtt})


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "tcp://" + "x" * 100, "tcp://nowhere.invalid", "tcp://a..b"])
async def test_a_broker_that_is_not_there_disturbs_nothing(address: str, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rules = scheduler(schedule("s", "IOConfiguration", interval=10, limit=3))
    async with rig.at_work(rig.definition(scheduler=rules, mqtt=address)) as device:
        async with asyncio.timeout(20):
            while len(rig.diary.entries) < 3 or "no connection to the broker" not in caplog.text:
                await asyncio.sleep(0.01)
        assert device.state is State.ONLINE


# With a broker


@dataclass
class Conversation:
    """An application that hears everything of the device's topics."""

    app: Application

    def tell(self, what: str, message: Any, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.app.publish(PREFIX + what, payload, retain=retain)

    async def hear(self, what: str) -> dict[str, Any]:
        """The next of that topic; commands, which are heard as well, are passed over."""
        while True:
            topic, payload, _, _ = await self.app.hear()
            if topic == PREFIX + what:
                found: dict[str, Any] = json.loads(payload)
                return found
            assert topic.endswith(("/create", "/delete")), (topic, payload)

    async def result(self) -> tuple[str, str]:
        told = await self.hear("scheduler/result")
        return told["EventName"], told.get("EventError") or told["EventResult"]

    async def error(self) -> str:
        return str((await self.hear("error"))["error"])


@asynccontextmanager
async def talking(tmp_path: Path) -> AsyncIterator[tuple[Conversation, int]]:
    if not (shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")):
        pytest.skip("mosquitto is needed")
    port = free_port()
    with mosquitto(tmp_path / "broker", port):
        async with application(port) as app:
            await app.subscribe(PREFIX + "#")
            yield Conversation(app), port


@asynccontextmanager
async def mapper_at(tmp_path: Path, **config: Any) -> AsyncIterator[tuple[Rig, Conversation, Device]]:
    rig = Rig()
    async with talking(tmp_path) as (conversation, port):
        definition = rig.definition(mqtt=f"tcp://127.0.0.1:{port}", deviceID="tag", **config)
        async with rig.at_work(definition) as device:
            yield rig, conversation, device


async def test_results_are_published_as_in_2019(tmp_path: Path) -> None:
    rules = scheduler(schedule("s", "IRTemperatureData", interval=10, limit=1))
    async with mapper_at(tmp_path, scheduler=rules) as (_, conversation, _):
        told = await conversation.hear("scheduler/result")
        assert told.keys() == {"EventName", "TimeStamp", "EventResult"}
        assert (told["EventName"], told["EventResult"]) == ("IRTemperatureData", "32.375000")
        assert told["TimeStamp"] > 1_700_000_000_000


async def test_schedules_are_created_updated_and_deleted(tmp_path: Path) -> None:
    async with mapper_at(tmp_path) as (_, conversation, _):
        # Retained: the mapper hears it as soon as it is there.
        conversation.tell("scheduler/create", [schedule("s", "IRTemperatureData", interval=10, limit=3)], retain=True)
        assert [await conversation.result() for _ in range(3)] == [("IRTemperatureData", "32.375000")] * 3
        written_by_go = {"name": "s", "interval": 10, "occurrence-limit": 0, "Actions": ["IOConfiguration"]}
        conversation.tell("scheduler/create", [written_by_go])
        assert [await conversation.result() for _ in range(5)] == [("IOConfiguration", "\1")] * 5
        conversation.tell("scheduler/delete", [{"name": "S"}])
        conversation.tell("scheduler/create", [schedule("last", "IRTemperatureData", limit=1)])
        while (await conversation.result())[0] != "IRTemperatureData":
            pass
        conversation.tell("scheduler/create", [schedule("very last", "IRTemperatureData", limit=1)])
        assert await conversation.result() == ("IRTemperatureData", "32.375000")
        conversation.tell("scheduler/delete", [{"name": "last"}, {"name": "s"}])
        assert await conversation.error() == "there is no schedule 's'; there are: last, very last"


async def test_actions_are_created_updated_and_deleted(tmp_path: Path) -> None:
    async with mapper_at(tmp_path) as (rig, conversation, _):

        def light(value: Any) -> dict[str, Any]:
            operation = {"action": "Write", "characteristic-uuid": IO_DATA.replace("-", ""), "value": value}
            return {"name": "Light", "operation": operation}

        conversation.tell("action-manager/create", [light([7])], retain=True)
        conversation.tell("scheduler/create", [schedule("s", "light", limit=1)], retain=True)
        assert await conversation.result() == ("light", "\7")
        conversation.tell("action-manager/create", [light(base64.b64encode(b"\5").decode())])
        conversation.tell("scheduler/create", [schedule("s", "Light", limit=1)])
        assert await conversation.result() == ("Light", "\5")
        assert rig.diary.written == [("io-data", b"\7"), ("io-data", b"\5")]
        conversation.tell("action-manager/create", [{**ACTIONS[1], "perform-immediately": True}])
        conversation.tell("scheduler/create", [schedule("s", "IRTemperatureData", limit=1)])
        await conversation.result()
        assert rig.diary.written[2:] == [("io-config", b"\1")]
        conversation.tell("action-manager/delete", [{"name": "LIGHT"}])
        conversation.tell("scheduler/create", [schedule("s", "Light", limit=1)])
        assert (await conversation.error()).startswith("schedule 's': there is no action 'Light'; there are: IRTemp")
        conversation.tell("action-manager/delete", [{"name": "IOData"}, {"name": "Light"}])
        assert "there is no action 'Light'" in await conversation.error()
        conversation.tell("scheduler/create", [schedule("s", "IOData", limit=1)])
        name, fault = await conversation.result()
        assert (name, fault) == (
            "IOData",
            "property 'io-data' has no defaultValue in its visitor that could be written",
        )


async def test_the_watcher_is_replaced(tmp_path: Path) -> None:
    async with mapper_at(tmp_path) as (rig, conversation, device):
        watched = {"device-property-name": "io-data", "actions": ["IOConfiguration", "IOData"]}
        conversation.tell("watcher/create", {"device-twin-attributes": [watched]}, retain=True)
        conversation.tell("scheduler/create", [schedule("s", "IRTemperatureData", limit=1)], retain=True)
        await conversation.result()
        config = dict(device.definition.config)
        device.follow(rig.definition("Red", **config))
        async with asyncio.timeout(10):
            while len(rig.diary.entries) < 2:
                await asyncio.sleep(0.01)
        assert rig.diary.written == [("io-config", b"\1"), ("io-data", b"\1")]
        conversation.tell("watcher/create", {"device-twin-attributes": []})
        conversation.tell("scheduler/create", [schedule("t", "IRTemperatureData", limit=1)])
        await conversation.result()
        device.follow(rig.definition("Green", **config))
        async with asyncio.timeout(10):
            while len(rig.diary.entries) < 3:
                await asyncio.sleep(0.01)
        assert rig.diary.written[2:] == [("io-data", b"\2")]


async def test_a_message_that_cannot_be_obeyed_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with mapper_at(tmp_path) as (_, conversation, _):
        conversation.tell("scheduler/create", b"no json", retain=True)
        assert "the message is no JSON" in await conversation.error()
        for what, message, why in (
            ("scheduler/create", {"name": "s"}, "schedules: Expected `array`, got `object`"),
            ("scheduler/delete", [{}], "names: Object missing required field `name`"),
            ("action-manager/create", [{"name": ""}], "actions: Expected `str` of length >= 1"),
            ("watcher/create", [1], "watcher: Expected `object`, got `array`"),
            ("watcher/create", b"[" * 100_000, "lists in lists without end"),
            ("scheduler/create", b" " * (MESSAGE_LIMIT + 1), f"the limit is {MESSAGE_LIMIT}"),
            ("scheduler/create", b'"' + b"x" * 10_000_000 + b'"', "the message has 10000002 bytes"),
            ("scheduler/create", [schedule(f"s{n}", "IOData") for n in range(300)], "300 of them are too many"),
        ):
            conversation.tell(what, message)
            told = await conversation.hear("error")
            assert why in told["error"]
            assert told["topic"] == PREFIX + what
            assert len(told["error"]) < 400
        conversation.tell("action-manager/create", [{"name": "a", "device-property-name": "nothing"}])
        conversation.tell("scheduler/create", [schedule("s", "a", limit=1)])
        name, why = await conversation.result()
        assert (name, why) == ("a", "the device has no property 'nothing'; it has: temperature, io-config, io-data")


async def test_what_messages_create_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehive.mappers.bluetooth.automation.KEPT_LIMIT", len(ACTIONS))
    async with mapper_at(tmp_path) as (_, conversation, _):
        conversation.tell("watcher/create", b"no json", retain=True)
        assert "no JSON" in await conversation.error()
        conversation.tell("action-manager/create", [{"name": "a", "device-property-name": "io-data"}])
        assert await conversation.error() == "there would be 4 actions, and the limit is 3; delete some first"
        conversation.tell("scheduler/create", [schedule(f"s{n}", "IOData", limit=1) for n in range(3)])
        conversation.tell("scheduler/create", [schedule(f"t{n}", "IOData", limit=1) for n in range(2)])
        assert await conversation.error() == "there would be 5 schedules, and the limit is 3; delete some first"
        conversation.tell("action-manager/create", [ACTIONS[0]])
        conversation.tell("scheduler/create", [schedule("s0", "IRTemperatureData", limit=1)])
        while await conversation.result() != ("IRTemperatureData", "32.375000"):
            pass


async def test_results_wait_while_the_broker_is_away(tmp_path: Path) -> None:
    rig = Rig()
    async with talking(tmp_path) as (conversation, port):
        door = free_port()
        rules = scheduler(schedule("s", "IOConfiguration", interval=10, limit=3))
        address = {"mqtt": f"tcp://127.0.0.1:{door}", "deviceID": "tag"}
        async with rig.at_work(rig.definition(scheduler=rules, **address)) as device:
            async with asyncio.timeout(10):
                while len(rig.diary.entries) < 3:
                    await asyncio.sleep(0.01)
            assert device.state is State.ONLINE
            async with _forwarded(door, port):
                assert [await conversation.result() for _ in range(3)] == [("IOConfiguration", "\1")] * 3


async def test_a_retained_message_is_obeyed_once_however_often_the_broker_repeats_it(tmp_path: Path) -> None:
    rig = Rig()
    async with talking(tmp_path) as (conversation, port):
        door = free_port()
        config = {"mqtt": f"tcp://127.0.0.1:{door}", "deviceID": "tag"}
        async with rig.at_work(rig.definition(**config)):
            async with _forwarded(door, port):
                conversation.tell("scheduler/create", [schedule("s", "IOConfiguration", limit=1)], retain=True)
                assert await conversation.result() == ("IOConfiguration", "\1")
            conversation.tell("watcher/create", b"back", retain=True)
            async with _forwarded(door, port):
                assert "no JSON" in await conversation.error()
                conversation.tell("scheduler/create", [schedule("t", "IRTemperatureData", interval=10, limit=3)])
                assert [await conversation.result() for _ in range(3)] == [("IRTemperatureData", "32.375000")] * 3
        assert len(rig.diary.entries) == 1


@asynccontextmanager
async def _forwarded(door: int, port: int) -> AsyncIterator[None]:
    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.close()

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        ends.extend((writer, inner_writer))
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    ends: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(enter, "127.0.0.1", door)
    try:
        yield
    finally:
        server.close()
        for end in ends:
            end.close()
