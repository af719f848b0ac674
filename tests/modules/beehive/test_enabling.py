"""BH2: an edited file starts and stops exactly the changed modules while the others work on."""

import asyncio
from pathlib import Path

import pytest

from edgehive.beehive.bus import Bus
from edgehive.beehive.enabling import follow_file
from edgehive.beehive.hive import Hive
from edgehive.beehive.module import Ready
from edgehive.kit.tasks import cancel_and_join, spawn


class Quiet:
    group = "test"
    needs = ()

    def __init__(self, name: str, starts: list[str]) -> None:
        self.name, self.starts = name, starts

    async def run(self, ready: Ready) -> None:
        self.starts.append(self.name)
        ready()
        await asyncio.Event().wait()


def names_in(path: Path) -> list[str]:
    names = path.read_text().split()
    if "nonsense" in names:
        raise ValueError("not a list of modules")
    return names


@pytest.mark.looptime
async def test_an_edited_file_changes_what_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, starts = tmp_path / "modules", list[str]()
    path.write_text("a b")
    hive = Hive("test", {n: lambda n=n: Quiet(n, starts) for n in "abc"}, bus=Bus(), enabled=["a", "b"])  # type: ignore[misc]
    stop = asyncio.Event()
    running = spawn(hive.run(stop), name="hive")
    following = spawn(follow_file(hive, path, names_in), name="follow")
    await asyncio.sleep(1)
    path.write_text("c\na")
    await asyncio.sleep(2)
    assert hive.health().modules == {"a": "ready", "b": "disabled", "c": "ready"}
    assert starts == ["a", "b", "c"]
    for wrong in ("nonsense x", "a unheard-of"):
        path.write_text(wrong)
        await asyncio.sleep(2)
        assert hive.health().modules == {"a": "ready", "b": "disabled", "c": "ready"}
    assert "not a list of modules" in caplog.text
    assert "no module 'unheard-of'" in caplog.text
    path.unlink()
    await asyncio.sleep(2)
    assert hive.health().ready
    stop.set()
    await running
    await cancel_and_join(following)
