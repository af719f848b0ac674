"""The `mapper` command as users type it, and the examples with it."""

import asyncio
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgehive.mapper.app import main

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
COMMAND = [sys.executable, "-c", "from edgehive.mapper.app import main; main()"]


class Terminal:
    """A `mapper` process behind pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, *words: str | Path, command: Sequence[str | Path] = COMMAND) -> "Terminal":
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return cls(
            await asyncio.create_subprocess_exec(
                *command, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment
            )
        )

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    async def until(self, pattern: str) -> str:
        """The next line that matches."""
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            while line := (await self.process.stdout.readline()).decode().strip():
                if re.search(pattern, line):
                    return line
        raise AssertionError(f"no line with {pattern}")

    async def leave(self) -> int:
        self.type("q")
        async with asyncio.timeout(20):
            await self.process.communicate()
        return self.process.returncode or 0


async def test_the_thermometer_is_tried_with_no_cluster() -> None:
    folder = EXAMPLES / "thermometer"
    terminal = await Terminal.start("dev", folder / "thermometer.py", "--device", folder / "device.yaml")
    await terminal.until(r"kitchen temperature = 18\.\d °C")
    terminal.type("target=25")
    assert await terminal.until("shall be") == "kitchen: target shall be 25"
    await terminal.until(r"kitchen target = 25\.0 °C")
    terminal.type("target=99")
    await terminal.until("desired value '99' is above the maximum 30")
    terminal.type("kitchen.bogus=1")
    await terminal.until("no property 'kitchen.bogus'; known are target, temperature")
    terminal.type("temperature=1")
    await terminal.until("temperature is ReadOnly")
    assert await terminal.leave() == 0


async def test_the_sensor_tag_is_read_and_set_over_a_virtual_radio() -> None:
    folder = EXAMPLES / "bluetooth"
    terminal = await Terminal.start("dev", folder / "simulated.py", "--device", folder / "device.yaml")
    await terminal.until(r"sensor-tag-1 temperature = 2\d\.\d+ °C")
    terminal.type("io-data=Red")
    await terminal.until("sensor-tag-1 io-data = Red")
    assert await terminal.leave() == 0


async def test_the_boiler_is_read_and_set_over_modbus(tmp_path: Path) -> None:
    folder = EXAMPLES / "modbus"
    port = 5920 + os.getpid() % 1000
    boiler = await Terminal.start(str(port), command=[sys.executable, folder / "simulator.py"])
    await boiler.until("a boiler at")
    device = tmp_path / "device.yaml"
    device.write_text((folder / "device.yaml").read_text().replace("5020", str(port)))
    terminal = await Terminal.start("dev", "modbus", "--device", device)
    await terminal.until(r"boiler-1 target = 60\.0 °C")
    terminal.type("target=70")
    await terminal.until(r"boiler-1 target = 70\.0 °C")
    await terminal.until(r"boiler-1 temperature = 4\d\.\d °C")
    assert await terminal.leave() == 0
    boiler.process.kill()
    await boiler.process.communicate()


async def test_the_five_minutes_of_the_manual_work(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reference" / "mappers.md").read_text()
    for name, language in (("fan.py", "python"), ("device.yaml", "yaml")):
        found = re.search(rf"```{language}\n(.*?)```", text, re.S)
        assert found is not None
        (tmp_path / name).write_text(found[1])
    terminal = await Terminal.start("dev", tmp_path / "fan.py", "--device", tmp_path / "device.yaml")
    await terminal.until("attic speed = 1")
    terminal.type("speed=3")
    await terminal.until("attic speed = 3")
    terminal.type("speed=4")
    await terminal.until("above the maximum 3")
    assert await terminal.leave() == 0


async def test_a_method_is_called_from_the_workbench(tmp_path: Path) -> None:
    manual = (ROOT / "docs/reference/mappers.md").read_text()
    driver, device = re.findall(r"```(?:python|yaml)\n(.*?)```", manual, re.DOTALL)[:2]
    (tmp_path / "fan.py").write_text(driver)
    (tmp_path / "device.yaml").write_text(f"{device}  methods: [{{name: boost, propertyNames: [speed]}}]\n")
    terminal = await Terminal.start("dev", tmp_path / "fan.py", "--device", tmp_path / "device.yaml")
    await terminal.until("attic speed = 1")
    terminal.type("boost speed=3")
    assert await terminal.until("called") == "attic: boost was called; speed is 3"
    terminal.type("boost speed=4")
    assert "property 'speed': value '4' is above the maximum 3" in await terminal.until("above")
    terminal.type("bost speed=1")
    assert "has no method 'bost'; it has: boost" in await terminal.until("bost")
    assert await terminal.leave() == 0


async def test_a_new_project_shows_a_value_and_its_tests_pass(tmp_path: Path) -> None:
    main_exit(["new", "heat-pump", "--into", str(tmp_path)], 0)
    folder = tmp_path / "heat-pump"
    terminal = await Terminal.start("dev", folder / "driver.py", "--device", folder / "device.yaml")
    await terminal.until(r"heat-pump-1 temperature = 2\d\.\d °C")
    assert await terminal.leave() == 0
    tests = await Terminal.start(
        "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder, command=[sys.executable, "-m", "pytest"]
    )
    output, errors = await tests.process.communicate()
    assert tests.process.returncode == 0, (output + errors).decode()


def main_exit(words: Sequence[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert (ended.value.code or 0) == code


@pytest.mark.parametrize("name", ["Boiler", "1st", "a b", "-x", "x" * 41, "../up"])
def test_a_project_needs_a_name_that_can_be_one(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main_exit(["new", "--into", str(tmp_path), "--", name], 1)
    assert "cannot be a project's name" in capsys.readouterr().err


GOOD = """
class Box:
    protocol = "thermometer"
    async def open(self, config): ...
    async def read(self, visitor): return 1
    async def write(self, visitor, value): ...
    async def close(self): ...
"""


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "has no driver: no class in it has open, read, write, close"),
        (
            GOOD.replace("async def read", "def read"),
            "Box is not a driver: read is not async; write async",
        ),
        (GOOD.replace("    async def close(self): ...\n", ""), "it has no method close; add: async def close(self)"),
        (
            GOOD + "    async def call(self, value): ...\n",
            "call(self, value) cannot be called with method, visitor, value; "
            "write async def call(self, method, visitor, value)",
        ),
        (
            GOOD.replace("read(self, visitor)", "read(self)"),
            "read(self) cannot be called with visitor; write",
        ),
        (GOOD.replace("return 1", "yield 1"), "read has a yield in it; return the value instead"),
        (GOOD.replace('protocol = "thermometer"', "..."), 'names no protocol; write protocol = "box" in the class'),
        (
            GOOD.replace("    async def open", "    @staticmethod\n    async def open"),
            "open is static; write async",
        ),
        (
            GOOD + "    def __init__(self, port): ...\n",
            "its __init__ needs arguments; a driver gets what",
        ),
        (GOOD + GOOD.replace("Box", "Bin"), "has 2 drivers (Box, Bin); keep one a file"),
        ("class Box\n", "line 1: expected ':'"),
        ("import no_such_thing", "imports 'no_such_thing', which is not installed: pip install no_such_thing"),
        ("\n1 / 0", "line 2 fails when it is imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_wrong_driver_is_told_in_a_sentence(
    source: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "driver.py"
    file.write_text(source)
    main_exit(["dev", str(file), "--device", str(EXAMPLES / "thermometer" / "device.yaml")], 1)
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("reportCycle", "reportCylce", "stateReport has no field 'reportCylce'; did you mean 'reportCycle'?"),
        ("name: thermometer}", "name: barometer}", "refers to DeviceModel 'barometer', which is not in the file"),
        (
            "{name: temperature, coll",
            "{name: heat, coll",
            "property 'heat' is not in model 'thermometer'; it has",
        ),
        ("type: FLOAT", "type: REAL", "its type 'REAL' is none of INT, FLOAT"),
        ('maximum: "30"', "maximum: warm", "maximum 'warm' is no number"),
        ('value: "21"', "value: hot", "desired value 'hot' is no number, and the property's type is one"),
        ('value: "21"', 'value: "31"', "desired value '31' is above the maximum 30"),
        ('value: "21"', "value: 21", "Expected `str`, got `int`"),
        ("collectCycle: 1000", "collectCycle: soon", "Expected `int`, got `str`"),
        ("protocolName: thermometer", "protocolName: bus", "speaks 'bus' and the driver is for 'thermometer'"),
        ("kind: DeviceModel", "kind: DeviceModell", "holds kind 'DeviceModell'; known are Device and DeviceModel; did"),
        ("v1beta1", "v1", "has apiVersion 'devices.kubeedge.io/v1'; write devices.kubeedge.io/v1beta1"),
        ("kind: Device\n", "kind: Device: x\n", "is not YAML: mapping values are not allowed here"),
        ("  name: kitchen\n", "", "a Device has no metadata.name"),
    ],
)
def test_a_wrong_device_file_is_told_in_a_sentence(
    old: str, new: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = (EXAMPLES / "thermometer" / "device.yaml").read_text()
    assert old in written
    file = tmp_path / "device.yaml"
    file.write_text(written.replace(old, new))
    main_exit(["dev", str(EXAMPLES / "thermometer" / "thermometer.py"), "--device", str(file)], 1)
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1


def test_files_that_are_not_there_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    main_exit(["dev", "nowhere.py", "--device", "nowhere.yaml"], 1)
    assert "there is no file nowhere.py" in capsys.readouterr().err
    main_exit(["dev", "virtual", "--device", "nowhere.yaml"], 1)
    assert "nowhere.yaml cannot be read: No such file" in capsys.readouterr().err
    main_exit(["run", "modbos"], 1)
    said = capsys.readouterr().err
    assert "modbos is no Python file, and the installed drivers are " in said
    assert "http, modbus" in said
