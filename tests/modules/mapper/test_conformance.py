"""The conformance kit: our own mapper passes it, and a mapper that does nothing is found out."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import device_file
from edgehive.mapper.conformance import bench as benches
from edgehive.mapper.conformance.bench import Bench, Command
from edgehive.mapper.conformance.kit import Outcome, all_checks, run_checks
from edgehive.mapper.service import Mapper
from edgehive.mappers.virtual import Virtual
from edgehive.testing.mapper import Mapper as Silent

ROOT = Path(__file__).parents[3]
DEVICE = device_file.read(ROOT / "examples" / "virtual" / "device.yaml")[0]
GROUPS = list(dict.fromkeys(item.group for item in all_checks()))


def test_there_are_checks_enough_and_no_two_have_one_title() -> None:
    titles = [item.title for item in all_checks()]
    assert len(titles) >= 60
    assert len(set(titles)) == len(titles)


@pytest.fixture
async def ours(tmp_path: Path) -> AsyncIterator[Bench]:
    mapper = Mapper(Virtual, protocol="virtual", edge_socket=tmp_path / "dmi.sock")
    task = spawn(mapper.run(), name="mapper")
    yield Bench(tmp_path / "dmi.sock", DEVICE)
    await cancel_and_join(task)


def _ignore(_: Outcome) -> None:
    pass


@pytest.mark.parametrize("group", [group for group in GROUPS if group != "its process"])
async def test_our_mapper_passes(group: str, ours: Bench) -> None:
    outcomes = await run_checks(ours, [item for item in all_checks() if item.group == group], tell=_ignore)
    assert [(item.check.title, item.why) for item in outcomes if item.outcome != "passed"] == []


async def test_our_mapper_passes_as_a_process_that_is_ended_and_killed(tmp_path: Path) -> None:
    socket = tmp_path / "dmi.sock"
    code = "from edgehive.mapper.app import main; main()"
    words = [sys.executable, "-c", code, "run", str(ROOT / "edgehive/mappers/virtual.py"), "--edge-socket", str(socket)]
    bench = Bench(socket, DEVICE, Command(shlex.join(words)))
    outcomes = await run_checks(bench, [item for item in all_checks() if item.group == "its process"], tell=_ignore)
    assert [(item.check.title, item.why) for item in outcomes if item.outcome != "passed"] == []


async def test_a_mapper_that_ends_is_started_again_and_fails_that_check_alone(tmp_path: Path) -> None:
    """As Go's mappers end at GetDevice."""
    socket, driver = tmp_path / "dmi.sock", tmp_path / "fragile.py"
    driver.write_text(
        "import os\n"
        "from edgehive.mapper.dmi import MapperService\n"
        "from edgehive.mappers.virtual import Virtual\n"
        "async def dies(self, request): os._exit(2)\n"
        "MapperService._get = dies\n"
        "class Fragile(Virtual):\n    pass\n"
    )
    code = "from edgehive.mapper.app import main; main()"
    words = [sys.executable, "-c", code, "run", str(driver), "--edge-socket", str(socket)]
    bench = Bench(socket, DEVICE, Command(shlex.join(words)))
    titles = ["a registered device is reported", "GetDevice of a device it does not have is refused",
              "fifty calls at once are answered"]  # fmt: skip
    outcomes = await run_checks(bench, [item for item in all_checks() if item.title in titles], tell=_ignore)
    assert [item.outcome for item in outcomes] == ["passed", "failed", "passed"]
    assert outcomes[1].why.endswith("; the mapper ended (exit code 2) and was started again")


async def test_without_a_command_checks_that_need_one_say_so(ours: Bench) -> None:
    checks = [item for item in all_checks() if item.group == "its process"][:1]
    (outcome,) = await run_checks(ours, checks, tell=_ignore)
    assert (outcome.outcome, outcome.why) == ("not tried", "needs --command, to end and start the mapper")


async def test_a_mapper_that_reports_nothing_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "PATIENCE", 0.2)
    bench = Bench(tmp_path / "dmi.sock", DEVICE)
    titles = {
        "its version is told": "passed",
        "its protocol is that of the device": "failed",
        "a registered device is reported": "failed",
        "RegisterDevice answers with the device's name": "passed",
        "GetDevice of a device it does not have is refused": "failed",
    }
    async with Silent(tmp_path / "m.sock") as silent:

        async def register() -> None:
            while not (tmp_path / "dmi.sock").exists():
                await asyncio.sleep(0)
            await silent.register(tmp_path / "dmi.sock")

        task = spawn(register(), name="register")
        checks = [item for item in all_checks() if item.title in titles]
        outcomes = await run_checks(bench, checks, tell=_ignore)
        await task
    assert {item.check.title: item.outcome for item in outcomes} == titles
    why = {item.check.title: item.why for item in outcomes}
    assert why["its protocol is that of the device"] == "the mapper speaks 'modbus', the device 'virtual'"
    assert "nothing was reported" in why["a registered device is reported"]
