"""A mapper before an edge: real sockets, the virtual device behind it."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from grpclib.exceptions import GRPCError
from mapper_rig import CLOCK, FakeEdge

from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Value, Visitor, run
from edgehive.mapper.app import main
from edgehive.mapper.conformance.edge import Caller, Edge, unavailable, wrapped
from edgehive.mapper.devices import Devices
from edgehive.mapper.dmi_objects import device_of, model_of
from edgehive.mapper.service import Mapper
from edgehive.mappers.virtual import Virtual
from edgehive.protos import dmi_pb2 as dmi

MODEL = dmi.DeviceModel(
    name="m",
    namespace="default",
    spec=dmi.DeviceModelSpec(
        properties=[dmi.ModelProperty(name="t", type="FLOAT", accessMode="ReadWrite", maximum="100")]
    ),
)


def device(name: str = "d", desired: str = "", **config: Any) -> dmi.Device:
    visitors = dmi.VisitorConfig(protocolName="virtual")
    visitors.configData.data["initial"].CopyFrom(wrapped(21.3))
    item = dmi.DeviceProperty(
        name="t",
        desired=dmi.TwinProperty(value=desired),
        visitors=visitors,
        collectCycle=20,
        reportCycle=20,
        reportToCloud=True,
    )
    protocol = dmi.ProtocolConfig(protocolName="virtual")
    for key, value in config.items():
        protocol.configData.data[key].CopyFrom(wrapped(value))
    spec = dmi.DeviceSpec(deviceModelReference="m", protocol=protocol, properties=[item])
    status = dmi.DeviceStatus(reportToCloud=True, reportCycle=10_000)
    return dmi.Device(name=name, namespace="default", spec=spec, status=status)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    edge = Edge(tmp_path / "dmi.sock")
    edge.models, edge.devices = [MODEL], [device()]
    async with edge.serving():
        yield edge


@pytest.fixture
async def mapper(edge: Edge) -> AsyncIterator[Mapper]:
    mapper = Mapper(Virtual, protocol="virtual", edge_socket=edge.path)
    task = spawn(mapper.run(), name="mapper")
    yield mapper
    await cancel_and_join(task)
    assert not mapper.socket.exists()


@pytest.fixture
async def caller(edge: Edge, mapper: Mapper) -> AsyncIterator[Caller]:
    assert await edge.until(lambda: edge.registrations, 5)
    caller = Caller(edge.registrations[0][1].mapper.address)
    yield caller
    caller.close()


async def test_the_devices_of_the_registration_are_read_and_reported(edge: Edge, mapper: Mapper) -> None:
    assert await edge.until(lambda: edge.reports and edge.states, 5)
    _, request = edge.registrations[0]
    assert (request.withData, request.mapper.name, request.mapper.protocol) == (True, "virtual-mapper", "virtual")
    assert request.mapper.address == str(mapper.socket).encode()
    report = edge.reports[0]
    assert (report.namespace, report.device, report.twin.propertyName, report.value) == ("default", "d", "t", "21.3")
    assert report.twin.reported.metadata["type"] == "float"
    assert edge.states[0].state == "online"


async def test_a_desired_value_reaches_the_device(edge: Edge, caller: Caller) -> None:
    await caller.call("UpdateDevice", dmi.UpdateDeviceRequest(device=device(desired="25")))
    assert await edge.until(lambda: edge.reports and edge.reports[-1].value == "25.0", 5)
    assert edge.reports[-1].twin.observedDesired.value == "25"


async def test_a_value_the_property_cannot_have_is_refused_with_a_sentence(edge: Edge, caller: Caller) -> None:
    with pytest.raises(GRPCError, match="property 't': desired value '101' is above the maximum 100; the rest"):
        await caller.call("UpdateDevice", dmi.UpdateDeviceRequest(device=device(desired="101")))
    answer = await caller.call("GetDevice", dmi.GetDeviceRequest(deviceName="d", deviceNamespace="default"))
    assert answer.device.name == "d"


async def test_devices_come_and_go(edge: Edge, caller: Caller, mapper: Mapper) -> None:
    answer = await caller.call("RegisterDevice", dmi.RegisterDeviceRequest(device=device("e")))
    assert (answer.deviceName, answer.deviceNamespace) == ("e", "default")
    assert await edge.until(lambda: any(report.device == "e" for report in edge.reports), 5)
    await caller.call("RemoveDevice", dmi.RemoveDeviceRequest(deviceName="e", deviceNamespace="default"))
    assert [str(item.definition.id) for item in mapper.devices] == ["default/d"]


async def test_an_edge_that_restarts_is_registered_at_again_and_told_everything(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "dmi.sock")
    edge.models, edge.devices = [MODEL], [device()]
    mapper = Mapper(Virtual, protocol="virtual", edge_socket=edge.path)
    task = spawn(mapper.run(), name="mapper")
    async with edge.serving():
        assert await edge.until(lambda: edge.reports, 5)
    edge.reports.clear()
    edge.devices.clear()
    async with edge.serving():
        assert await edge.until(lambda: len(edge.registrations) == 2 and edge.reports, 10)
        assert edge.reports[0].value == "21.3"
    await cancel_and_join(task)


async def test_a_refused_registration_is_tried_again(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "dmi.sock")
    edge.refuse_registrations = unavailable()
    mapper = Mapper(Virtual, protocol="virtual", edge_socket=edge.path)
    task = spawn(mapper.run(), name="mapper")
    async with edge.serving():
        assert await edge.until(lambda: edge.registrations, 5)
        edge.refuse_registrations = None
        assert await edge.until(lambda: len(edge.registrations) > 1, 5)
        await cancel_and_join(task)


async def test_requests_without_content_are_refused(caller: Caller) -> None:
    for method, request in (
        ("RegisterDevice", dmi.RegisterDeviceRequest()),
        ("UpdateDevice", dmi.UpdateDeviceRequest()),
    ):
        with pytest.raises(GRPCError, match="the request has no device"):
            await caller.call(method, request)
    with pytest.raises(GRPCError, match="device default/x is not here"):
        await caller.call("GetDevice", dmi.GetDeviceRequest(deviceName="x"))


async def test_a_path_no_socket_can_have_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        Mapper(Virtual, protocol="virtual", edge_socket=Path("/" + "x" * 120 + "/dmi.sock"))


async def test_a_hundred_devices_are_read_side_by_side(edge: Edge, caller: Caller) -> None:
    async with asyncio.TaskGroup() as tasks:
        for number in range(100):
            request = dmi.RegisterDeviceRequest(device=device(f"many-{number}", latency=5))
            tasks.create_task(caller.call("RegisterDevice", request))
    names = {f"many-{number}" for number in range(100)}
    assert await edge.until(lambda: names <= {report.device for report in edge.reports}, 20)


async def test_a_script_that_runs_its_driver_is_a_mapper_until_it_is_asked_to_end(edge: Edge, tmp_path: Path) -> None:
    edge.devices = [device("d")]
    script = tmp_path / "fan.py"
    script.write_text(
        "from edgehive.mapper import run\n"
        "from edgehive.mappers.virtual import Virtual\n"
        f"run(Virtual, edge_socket={str(edge.path)!r}, name='fan')\n"
    )
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(sys.executable, script, stdout=quiet, stderr=quiet)
    assert await edge.until(lambda: edge.reports, 20)
    assert edge.registrations[0][1].mapper.name == "fan"
    process.terminate()
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert not (tmp_path / "fan.sock").exists()


def test_a_socket_that_cannot_be_made_is_told_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["run", "virtual", "--edge-socket", str(tmp_path / "dmi.sock"), "--socket", str(tmp_path / "file" / "s")])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("Error: ")


def test_a_second_mapper_does_not_take_the_socket_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be deaf as soon as either of them ended."""
    path = tmp_path / "virtual-mapper.sock"
    with socket.socket(socket.AF_UNIX) as first:
        first.bind(str(path))
        first.listen()
        with pytest.raises(SystemExit) as ended:
            main(["run", "virtual", "--edge-socket", str(tmp_path / "dmi.sock")])
        said = f"another mapper serves {path}; end that one, or give this one a --name or --socket of its own"
        assert (ended.value.code, capsys.readouterr().err) == (1, f"Error: {said}\n")
        with pytest.raises(SystemExit) as ended:
            run(Virtual, edge_socket=tmp_path / "dmi.sock")
        assert ended.value.code == said
        assert path.exists()


class Noting(Virtual):
    """Reads the time, and notes when it is opened."""

    began: ClassVar[list[float]] = []

    async def open(self, config: Mapping[str, Any]) -> None:
        self.began.append(asyncio.get_running_loop().time())
        await super().open(config)

    async def read(self, visitor: Visitor) -> Value:
        return asyncio.get_running_loop().time()


@asynccontextmanager
async def many(count: int, edge: FakeEdge) -> AsyncIterator[None]:
    """So many devices that came with one registration."""
    Noting.began.clear()
    devices = Devices(Noting, "virtual", edge, CLOCK)
    devices.put_model(model_of(MODEL))
    for number in range(count):
        devices.put(device_of(device(f"d{number}")))
    try:
        yield
    finally:
        await devices.close()


@pytest.mark.looptime
async def test_devices_that_came_together_begin_one_after_the_other() -> None:
    async with many(200, FakeEdge()):
        await asyncio.sleep(1)
    assert len(Noting.began) == 200
    assert Noting.began[-1] - Noting.began[0] == pytest.approx(0.199, abs=0.01)


@pytest.mark.looptime
async def test_what_waits_for_a_slow_edge_is_told_as_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehive.mapper.devices.CALLS", 1)
    edge = FakeEdge()
    edge.slow = 2.0
    async with many(5, edge):
        await asyncio.sleep(30)
    ages = [at - edge.slow - float(told["t"]) for at, _, told in edge.reports]
    assert len(ages) >= 6
    assert max(ages) < 0.2
