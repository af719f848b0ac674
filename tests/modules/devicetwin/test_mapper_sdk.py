"""Our mappers at our edge: a virtual device behind the SDK, devicetwin before it, with real sockets between them."""

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from edgehive.edgecore.devicetwin import mappers
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper.http_door import HttpDoor
from edgehive.mapper.service import Mapper
from edgehive.mappers.virtual import Virtual


@pytest.fixture
def sockets() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="dmi-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mappers, "PATIENT", Backoff(first=0.05, factor=1.0, limit=0.05))


@pytest.fixture
async def mapper(sockets: Path) -> Any:
    found = Mapper(Virtual, protocol="virtual", edge_socket=sockets / "dmi.sock")
    task = spawn(found.run(), name="mapper")
    yield found
    await cancel_and_join(task)


def tell(edge: Any, name: str = "d") -> None:
    """All properties are for the cloud, quickly."""
    spec = edge.rows[f"default/device/{name}"]["spec"]
    for item in spec["properties"]:
        item |= {"collectCycle": 20, "reportCycle": 20, "reportToCloud": True}
    spec["stateReport"] = {"reportToCloud": True, "reportCycle": 60000}


async def until(met: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not met():
            await asyncio.sleep(0.02)


async def value_reported(edge: Any, value: str) -> dict[str, Any]:
    """The first report to the cloud in which property t has a value."""
    async with asyncio.timeout(10):
        while True:
            twin = json.loads((await edge.reported()).content_bytes())["twin"]
            if "t" in twin and (twin["t"].get("actual") or {}).get("value") == value:
                return twin["t"]


async def test_a_desired_value_goes_down_to_the_device_and_its_reading_up(start, sockets, mapper) -> None:
    async with start(dmi=str(sockets)) as edge:
        await edge.link(True)
        await edge.put_model("m", t="FLOAT")
        await edge.put("d", protocol="virtual", t="21.5")
        tell(edge)
        await edge.put("d2", protocol="modbus", t="1")
        twin = await value_reported(edge, "21.5")
        assert twin["metadata"]["type"] == "float"
        assert [str(item.definition.id) for item in mapper.devices] == ["default/d"]


async def test_a_change_in_the_cloud_is_written_and_a_removal_ends_the_device(start, sockets, mapper) -> None:
    async with start(dmi=str(sockets)) as edge:
        await edge.link(True)
        await edge.put_model("m", t="FLOAT")
        await edge.put("d", protocol="virtual", t="21.5")
        await until(lambda: list(mapper.devices))
        tell(edge)
        changed = json.loads(json.dumps(edge.rows["default/device/d"]))
        changed["spec"]["properties"][0]["desired"]["value"] = "22.5"
        await edge._hand_on("default/device/d", changed, "update")
        await value_reported(edge, "22.5")
        await edge.delete("d")
        await edge.remove("default/d")
        await until(lambda: not list(mapper.devices))


async def test_a_value_the_device_cannot_have_shows_as_an_event(start, sockets, mapper) -> None:
    async with start(dmi=str(sockets)) as edge:
        await edge.put_model("m", t="INT")
        await edge.put("d", protocol="virtual", t="5")
        await until(lambda: list(mapper.devices))
        changed = json.loads(json.dumps(edge.rows["default/device/d"]))
        changed["spec"]["protocol"]["configData"] = {"latency": 1}
        changed["spec"]["properties"].append({"name": "bogus"})
        await edge._hand_on("default/device/d", changed, "update")
        event = await edge.event()
        assert event["reason"] == "MapperRefused"
        assert "property 'bogus' is not in model 'm'; it has: t" in event["message"]


async def test_a_restarted_edge_has_its_mapper_back(start, sockets, mapper) -> None:
    async with start(dmi=str(sockets)) as edge:
        await edge.put_model("m", t="FLOAT")
        await edge.put("d", protocol="virtual", t="21.5")
        await until(lambda: list(mapper.devices))
        rows = edge.rows
    rows["default/device/d"]["spec"]["properties"][0]["desired"]["value"] = "23.5"
    async with start(dmi=str(sockets), rows=rows) as edge:
        await edge.link(True)
        tell(edge)
        await value_reported(edge, "23.5")


async def test_a_method_of_a_device_in_the_cloud_is_called_at_its_mapper(start, sockets) -> None:
    mapper = Mapper(Virtual, protocol="virtual", edge_socket=sockets / "dmi.sock", http=HttpDoor("127.0.0.1", 0))
    task = spawn(mapper.run(), name="mapper")
    async with start(dmi=str(sockets)) as edge, ClientSession() as session:
        await edge.link(True)
        await edge.put_model("m", t="FLOAT")
        await edge.put("d", protocol="virtual", t="21.5")
        tell(edge)
        edge.rows["default/device/d"]["spec"]["methods"] = [{"name": "boost", "propertyNames": ["t"]}]
        assert await value_reported(edge, "21.5")
        assert mapper.http is not None
        assert mapper.http.bound is not None
        url = f"http://127.0.0.1:{mapper.http.bound[1]}/api/v1/devicemethod/default/d/boost/t/25"
        async with session.get(url) as answer:
            assert (answer.status, (await answer.json())["Message"]) == (
                200,
                "Write data 25 to device default/d successfully.",
            )
        assert await value_reported(edge, "25.0")
    await cancel_and_join(task)
