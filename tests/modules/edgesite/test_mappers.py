"""Mappers beside a site's node: added and removed by the command, kept running by the site."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from site_rig import eventually

from edgehive.api.config.edgesite import EdgeSite
from edgehive.edgesite import app
from edgehive.edgesite.layout import Layout
from edgehive.edgesite.mappers import Mappers
from edgehive.kit.tasks import cancel_and_join, spawn

THERMOMETER = Path(__file__).parents[3] / "examples" / "thermometer" / "thermometer.py"


def run(layout: Layout, verb: str, *words: str) -> Result:
    return CliRunner().invoke(app.main, ["mapper", verb, "--data", str(layout.data), *words])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "site")


def test_a_mapper_is_remembered_by_its_protocol(layout: Layout, tmp_path: Path) -> None:
    result = run(layout, "add", str(THERMOMETER))
    assert (result.exit_code, result.output) == (
        0,
        "The site runs thermometer.py for devices that speak 'thermometer', once it is up.\n",
    )
    assert run(layout, "add", "virtual").exit_code == 0
    assert layout.read_config().mappers == {"thermometer": str(THERMOMETER), "virtual": "virtual"}
    newer = tmp_path / "newer.py"
    newer.write_text(THERMOMETER.read_text())
    run(layout, "add", str(newer))
    assert layout.read_config().mappers["thermometer"] == str(newer)
    removed = run(layout, "remove", "thermometer")
    assert (removed.exit_code, removed.output) == (
        0,
        "The site keeps no mapper for 'thermometer' running any more.\n",
    )
    assert layout.read_config().mappers == {"virtual": "virtual"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "nowhere.py"), "there is no file nowhere.py"),
        (("add", "teapot"), "teapot is no Python file, and the installed drivers are"),
        (("remove", "teapot"), "has no mapper for 'teapot'; it has none"),
    ],
)
def test_what_is_no_mapper_is_one_sentence(layout: Layout, words: tuple[str, ...], said: str) -> None:
    result = run(layout, *words)
    assert result.exit_code == 1
    assert said in result.output
    assert not layout.config.exists()


def test_a_site_without_a_node_has_no_mappers(layout: Layout) -> None:
    layout.data.mkdir()
    layout.write_config(EdgeSite(node=False))
    assert "has no node" in run(layout, "add", "virtual").output


@pytest.fixture
async def keeper(layout: Layout) -> AsyncIterator[Mappers]:
    layout.edge.mkdir(parents=True)
    keeper = Mappers(layout)
    task = spawn(keeper.run(), name="mappers")
    yield keeper
    await cancel_and_join(task)


@pytest.mark.usefixtures("keeper")
async def test_mappers_come_and_go_while_the_site_runs(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    socket = layout.edge / "thermometer-mapper.sock"
    run(layout, "add", str(THERMOMETER))
    await eventually(socket.exists)
    broken = layout.data / "broken"
    broken.write_text("mappers: 7\n")
    broken.replace(layout.config)
    await eventually(lambda: "mappers stay as they are" in caplog.text)
    assert socket.exists()
    layout.write_config(EdgeSite())
    await eventually(lambda: not socket.exists())


@pytest.mark.usefixtures("keeper")
async def test_a_mapper_that_ends_is_started_again(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    broken = layout.data / "broken.py"
    layout.write_config(EdgeSite(mappers={"thermometer": str(broken)}))
    await eventually(lambda: "the mapper for thermometer ended (1); it is started again" in caplog.text)
    broken.write_text(THERMOMETER.read_text())
    await eventually((layout.edge / "thermometer-mapper.sock").exists)
