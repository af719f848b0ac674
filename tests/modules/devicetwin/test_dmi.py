"""Mappers over DMI, both ways: registration and reports, and what edgecore tells them; bad ones hurt nobody."""

import asyncio
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from edgehive.edgecore.devicetwin import dmi as service
from edgehive.edgecore.devicetwin import mappers, mapping
from edgehive.kit import grpc_server
from edgehive.kit.backoff import Backoff
from edgehive.protos import dmi_pb2 as dmi
from edgehive.testing.mapper import Manager, Mapper
from edgehive.wire.devices import read_state


@pytest.fixture
def sockets() -> AsyncIterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="dmi-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(mappers, "PATIENT", Backoff(first=0.01, factor=1.0, limit=0.01))


@pytest.fixture
async def edge(start, sockets):
    async with start(dmi=str(sockets)) as running:
        yield running


@pytest.fixture
def door(sockets) -> Path:
    return sockets / "dmi.sock"


@pytest.fixture
async def manager(edge, door):
    client = Manager(door)
    yield client
    client.close()


@pytest.fixture
async def mapper(sockets):
    async with Mapper(sockets / "m.sock") as running:
        yield running


async def refused(call) -> GRPCError:
    with pytest.raises(GRPCError) as caught:
        await call
    return caught.value


async def test_a_mapper_gets_its_devices_and_their_models_merged(edge, mapper, door):
    await edge.put_model("m", t="INT")
    edge.rows["default/devicemodel/m"]["spec"] |= {"protocolConfigData": {"slaveID": 1, "baud": 9600}}
    await edge.put("d", t="21")
    edge.rows["default/device/d"]["spec"]["protocol"]["configData"] = {"slaveID": 2}
    await edge.put("other", protocol="bluetooth", t="1")
    answer = await mapper.register(door)
    assert [model.name for model in answer.modelList] == ["m"]
    assert [device.name for device in answer.deviceList] == ["d"]
    device = answer.deviceList[0]
    assert device.spec.properties[0].desired.value == "21"
    assert set(device.spec.protocol.configData.data) == {"slaveID", "baud"}


async def test_a_mapper_that_wants_no_data_gets_none_and_hears_of_changes(edge, mapper, door):
    """Better than the Go edge, which never calls such a mapper."""
    await edge.put_model("m", t="INT")
    answer = await mapper.register(door, with_data=False)
    assert (len(answer.modelList), len(answer.deviceList)) == (0, 0)
    await edge.put("d", t="1")
    assert (await mapper.called())[0] == "RegisterDevice"


async def test_a_desired_change_reaches_the_mapper_and_nothing_is_told_twice(edge, mapper, door):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    await edge.put("d", t="1")
    await edge.put("d", t="2")
    name, request = await mapper.called()
    assert (name, request.device.spec.properties[0].desired.value) == ("UpdateDevice", "2")
    await edge.delete("d")
    assert (await mapper.called())[0] == "RemoveDevice"
    assert mapper.calls.empty()


async def test_a_value_set_at_the_edge_reaches_the_mapper_at_once(edge, mapper, door):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    await edge.update(t={"expected": {"value": "5"}})
    name, request = await mapper.called()
    assert (name, request.device.spec.properties[0].desired.value) == ("UpdateDevice", "5")
    # When the cloud has taken it over, and shows it, that is no news.
    await edge.put("d", t="5")
    await edge.put("d", t="6")
    name, request = await mapper.called()
    assert (name, request.device.spec.properties[0].desired.value) == ("UpdateDevice", "6")
    assert mapper.calls.empty()


async def test_models_come_and_go_with_their_devices(edge, mapper, door):
    await mapper.register(door)
    await edge.put_model("m", t="INT")
    assert (await mapper.called())[0] == "CreateDeviceModel"
    await edge.put("d", t="1")
    assert (await mapper.called())[0] == "RegisterDevice"
    await edge.put_model("m", "update", t="INT", u="INT")
    name, request = await mapper.called()
    assert (name, len(request.model.spec.properties)) == ("UpdateDeviceModel", 2)
    await edge.delete("m", "devicemodel")
    assert (await mapper.called())[0] == "RemoveDeviceModel"


async def test_a_device_without_its_model_waits_for_it(edge, mapper, door):
    await mapper.register(door)
    await edge.put("d", t="1")
    await edge.settled()
    await edge.put_model("m", t="INT")
    assert [(await mapper.called())[0] for _ in range(2)] == ["CreateDeviceModel", "RegisterDevice"]


async def test_a_device_that_changes_its_protocol_changes_its_mapper(edge, mapper, door, sockets):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    async with Mapper(sockets / "b.sock", name="b", protocol="bluetooth") as other:
        await other.register(door)
        await edge.put("d", protocol="bluetooth", t="1")
        assert (await mapper.called())[0] == "RemoveDevice"
        assert (await other.called())[0] == "RegisterDevice"


async def test_reports_reach_applications_and_the_cloud(edge, manager):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="21")
    twin = dmi.Twin(
        propertyName="t",
        observedDesired=dmi.TwinProperty(value="21", metadata={"type": "int", "timestamp": "5"}),
        reported=dmi.TwinProperty(value="30", metadata={"type": "int", "timestamp": "5"}),
    )
    await manager.report_twins("d", twin)
    answer = await edge.hear("/update/result")
    assert (answer["event_id"], answer["twin"]["t"]["actual"]["value"]) == ("", "30")
    assert (await edge.hear("/update/delta"))["delta"] == {"t": "21"}
    await edge.link(True)
    told = (await edge.reported()).read(dict)["twin"]["t"]
    assert (told["actual"]["value"], told["expected"]["value"]) == ("30", "21")
    await manager.report_state("d", "online")
    assert json.loads((await edge.reported("state/update")).read(str))["device"]["state"] == "online"


async def test_a_mapper_that_lags_or_reports_nothing_desired_sets_nothing(edge, manager):
    await edge.put("d", t="21")
    for seen in ("", "20"):
        observed, reported = dmi.TwinProperty(value=seen), dmi.TwinProperty(value="5")
        await manager.report_twins("d", dmi.Twin(propertyName="t", observedDesired=observed, reported=reported))
    assert (await edge.twins())["t"]["expected"]["value"] == "21"


async def test_a_mapper_may_set_a_desired_value_when_it_says_so(edge, manager):
    await edge.put("d", t="21")
    wish = dmi.TwinProperty(value="25", metadata={"setBy": "edge"})
    await manager.report_twins("d", dmi.Twin(propertyName="t", observedDesired=wish))
    assert (await edge.twins())["t"]["expected"]["value"] == "25"
    await edge.link(True)
    while "local" not in (report := (await edge.reported()).read(dict)["twin"]["t"]):
        pass
    assert report["local"] == {"base": "21"}


async def test_values_of_mappers_may_be_any_text_of_their_type(edge, manager):
    await edge.put_model("m", s="STRING", b="BYTES", d="DOUBLE")
    await edge.put("d", s=None, b=None, d=None)
    await manager.report("d", s="zwei Wörter", b="AAE=", d="4.5")
    twins = await edge.twins()
    assert {name: (twin["actual"]["value"], twin["metadata"]["type"]) for name, twin in twins.items()} == {
        "s": ("zwei Wörter", "string"), "b": ("AAE=", "string"), "d": ("4.5", "float")
    }  # fmt: skip


async def test_a_value_that_is_refused_says_so_and_the_others_are_kept(edge, manager):
    await edge.put_model("m", t="INT")
    await edge.put("d", t=None)
    error = await refused(manager.report("d", t="abc", u="1", v="x" * 5000))
    assert error.status is Status.INVALID_ARGUMENT
    assert "t: the value is not int or integer" in error.message
    assert "v: the value has 5000 characters" in error.message
    assert set(await edge.twins()) == {"u"}
    assert "t: the value is not int or integer" in (await edge.event())["message"]


async def test_what_no_mapper_should_send_is_refused_by_name(edge, manager):
    """[80] B4: a registration without its mapper field ends a Go edgecore."""
    error = await refused(manager.register(None))
    assert (error.status, error.message) == (
        Status.INVALID_ARGUMENT, "this mapper is not registered: the request has no mapper"
    )  # fmt: skip
    for info, said in (
        (dmi.MapperInfo(name="m", address=b"/x"), "protocol"),
        (dmi.MapperInfo(protocol="p", address=b"/x"), "name"),
        (dmi.MapperInfo(name="m", protocol="p", address=b"relative"), "absolute path"),
        (dmi.MapperInfo(name="m", protocol="p", address=b"\xff"), "no text"),
        (dmi.MapperInfo(name="m", protocol="p", address=b"/" + b"x" * 200), "107 bytes"),
    ):
        error = await refused(manager.register(info))
        assert error.status is Status.INVALID_ARGUMENT
        assert said in error.message
    error = await refused(manager.report("d"))
    # wire: as a Go edge says it (recording 13).
    assert (error.status, error.message) == (
        Status.UNKNOWN, "ReportDeviceStatusRequest does not have twin data"
    )  # fmt: skip
    await manager.report_state("nosuch", "online")
    await manager.report("nosuch", t="1")
    assert await edge.ask("$hw/events/node/n/membership/get", {})


async def test_a_request_of_many_megabytes_is_refused_unread(edge, manager):
    error = await refused(manager.report("d", t="x" * (service.REQUEST_LIMIT + 1)))
    assert error.status is Status.RESOURCE_EXHAUSTED
    assert str(service.REQUEST_LIMIT) in error.message


async def test_a_mad_mapper_is_slowed_and_hurts_no_other(edge, manager, door, monkeypatch):
    monkeypatch.setattr(service, "BURST", 50)
    monkeypatch.setattr(service, "RATE", 1)
    await edge.put("d", t=None)
    mad, good = Manager(door), Manager(door)
    try:
        answers = await asyncio.gather(*(mad.report("d", t=str(n)) for n in range(80)), return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, GRPCError)]
        assert {error.status for error in errors} == {Status.RESOURCE_EXHAUSTED}
        assert 25 <= len(errors) <= 30
        await good.report("d", t="good")
        assert (await edge.twins())["t"]["actual"]["value"] == "good"
    finally:
        mad.close()
        good.close()


async def test_connections_beyond_the_limit_are_closed(edge, manager, door, monkeypatch):
    await manager.report_state("d", "online")
    monkeypatch.setattr(grpc_server, "CONNECTIONS", 1)
    more = Manager(door)
    try:
        with pytest.raises((StreamTerminatedError, OSError)):
            await more.report_state("d", "online")
    finally:
        more.close()
    await manager.report_state("d", "online")


async def test_the_socket_is_for_its_user_and_group(edge, door):
    assert stat.S_IMODE(os.stat(door).st_mode) == 0o660


async def test_a_process_of_a_stranger_is_refused(edge, manager, monkeypatch):
    monkeypatch.setattr(service, "_refusal_of", lambda _: "user 7 of group 7 may not be a mapper here")
    error = await refused(manager.report("d", t="1"))
    assert error.status is Status.PERMISSION_DENIED


async def test_a_registration_outlives_edgecore(start, sockets, mapper, door):
    """users.md row 20. What changed meanwhile is told, what did not is not."""
    async with start(dmi=str(sockets)) as edge:
        await edge.put_model("m", t="INT")
        await edge.put("d", t="1")
        await edge.put("e", t="1")
        await mapper.register(door)
        rows, version = edge.rows, edge.version
    rows["default/device/e"]["spec"]["properties"][0]["desired"]["value"] = "2"
    rows["default/device/e"]["metadata"]["resourceVersion"] = str(version + 1)
    async with start(dmi=str(sockets), rows=rows):
        name, request = await mapper.called()
        assert (name, request.device.name) == ("UpdateDevice", "e")
        assert mapper.calls.empty()


async def test_a_mapper_that_began_anew_while_edgecore_was_away_gets_everything_when_it_registers(
    start, sockets, mapper, door
):
    """It is not asked before: GetDevice ends a Go mapper, whose process no other call can end."""
    async with start(dmi=str(sockets)) as edge:
        await edge.put_model("m", t="INT")
        await edge.put("d", t="1")
        await edge.put("e", t="1")
        await mapper.register(door)
        rows = edge.rows
    mapper.devices.clear()
    async with start(dmi=str(sockets), rows=rows):
        answer = await mapper.register(door)
        assert sorted(device.name for device in answer.deviceList) == ["d", "e"]
        assert mapper.calls.empty()


async def test_a_newer_mapper_takes_the_place_of_the_older(start, sockets, mapper, door):
    async with start(dmi=str(sockets)) as edge, Mapper(sockets / "n.sock", name="newer") as newer:
        await edge.put_model("m", t="INT")
        await edge.put("d", t="1")
        await mapper.register(door)
        await newer.register(door)
        event = await edge.event()
        assert (event["reason"], event["involvedObject"]["name"]) == ("MapperReplaced", "d")
        assert event["message"] == "mapper newer serves it now, in place of fake, which hears nothing any more"
        await newer.register(door)
        assert not len(edge.events)
        await edge.put("d", t="2")
        assert (await newer.called())[0] == "UpdateDevice"
        assert mapper.calls.empty()
        rows = edge.rows
        async with start(dmi=str(sockets / "x"), rows=rows) as again:
            await again.put("d", t="3")
            assert (await newer.called())[1].device.spec.properties[0].desired.value == "3"


@pytest.mark.parametrize("has_orders", [False, True])
async def test_a_mapper_that_is_gone_is_an_event_on_its_devices_once(edge, mapper, door, monkeypatch, has_orders):
    monkeypatch.setattr(mappers, "LOOK", 0.02)
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await edge.put("other", t="1", protocol="opcua")
    await mapper.register(door)
    await mapper.stop()
    if has_orders:
        await edge.put("d", t="2")
    event = await edge.event()
    assert (event["involvedObject"]["name"], event["reason"]) == ("d", "MapperAway")
    assert event["message"].startswith("its mapper fake does not answer: ")
    await mapper.start()
    await edge.put("d", t="3")
    while (await mapper.called())[1].device.spec.properties[0].desired.value != "3":
        pass
    assert not len(edge.events)


async def test_the_state_of_devices_is_unknown_while_their_mapper_is_away(edge, manager, mapper, door, monkeypatch):
    monkeypatch.setattr(mappers, "LOOK", 0.02)
    await edge.put_model("m", t="INT")
    await edge.link(True)
    for name, asked in (("d", True), ("broken", True), ("unasked", False)):
        await edge.put(name, t="1", state_report=asked)
    await mapper.register(door)
    for name, state in (("d", "online"), ("broken", "offline"), ("unasked", "online")):
        await manager.report_state(name, state)
        assert read_state(await edge.reported("state/update")).device.state == state
    await mapper.stop()
    said = await edge.reported("state/update")
    assert said.route.resource.split("/")[2] == "d"
    assert read_state(said).device.state == "unknown"
    await mapper.start()
    await manager.report_state("d", "online")
    assert read_state(await edge.reported("state/update")).device.state == "online"


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"], ids=["hangs", "speaks something else"])
async def test_what_is_no_mapper_at_the_socket_of_one_is_an_event(edge, mapper, door, sockets, monkeypatch, answer):
    """A process that was stopped accepts connections and says nothing."""
    monkeypatch.setattr(mappers, "LOOK", 0.02)
    monkeypatch.setattr(mappers, "LOOK_SECONDS", 0.1)
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    await mapper.stop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, sockets / "m.sock"):
        assert (await edge.event())["reason"] == "MapperAway"


async def test_a_mapper_that_is_there_and_has_nothing_to_hear_is_no_event(edge, mapper, door, monkeypatch):
    monkeypatch.setattr(mappers, "LOOK", 0.0)
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    for number in range(20):
        await edge.put("d", t=str(number + 2))
        await mapper.called()
    assert not len(edge.events)


async def test_a_device_whose_protocol_nobody_serves_is_an_event_once(start, sockets, mapper, door, monkeypatch):
    monkeypatch.setattr(mapping, "UNSERVED_SECONDS", 0.02)
    async with start() as edge:
        await edge.put_model("m", t="INT")
        await edge.put("spoken-for", t="1", protocol="carrier-pigeon")
        await edge.update("default/spoken-for", t="5")  # over MQTT, which needs no mapper
        rows = edge.rows
    async with start(dmi=str(sockets), rows=rows) as edge:
        await mapper.register(door)
        await edge.put("served", t="1")
        for name in ("d", "e"):
            await edge.put(name, t="1", protocol="carrier-pigeon")
            event = await edge.event()
            assert (event["involvedObject"]["name"], event["reason"]) == (name, "NoMapper")
            assert event["message"] == "no mapper for protocol 'carrier-pigeon' has registered on this node"
        assert not len(edge.events)


async def test_a_device_that_falls_ill_is_an_event(edge, manager):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    for state in ("online", "offline", "offline", "online", "unhealthy"):
        await manager.report_state("d", state)
    events = [await edge.event(), await edge.event()]
    assert [event["reason"] for event in events] == ["DeviceOffline", "DeviceUnhealthy"]
    assert events[0]["message"] == "it is reported as offline; the log of its mapper says why"
    assert not len(edge.events)


async def test_a_mapper_that_was_away_hears_the_newest_when_it_is_back(edge, mapper, door):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="1")
    await mapper.register(door)
    await mapper.stop()
    for value in ("2", "3", "4"):
        await edge.put("d", t=value)
    await edge.settled()
    await mapper.start()
    assert (await mapper.called())[1].device.spec.properties[0].desired.value == "4"


async def test_a_mapper_that_hangs_slows_no_other(edge, mapper, door, sockets):
    await edge.put_model("m", t="INT")
    async with Mapper(sockets / "b.sock", name="b", protocol="bluetooth") as other:
        await mapper.register(door)
        await other.register(door)
        mapper.hang = asyncio.Event()
        await edge.put("d", t="1")
        await edge.put("e", protocol="bluetooth", t="1")
        assert (await other.called())[0] == "RegisterDevice"
        assert (await edge.update("default/d", t="5"))["twin"]
        mapper.hang.set()
        mapper.hang = None
        assert (await mapper.called())[0] == "RegisterDevice"


async def test_a_mapper_that_refuses_a_device_is_asked_thrice_and_the_device_says_so(edge, mapper, door):
    await edge.put_model("m", t="INT")
    await mapper.register(door)
    mapper.refusal = "no such register"
    await edge.put("d", t="1")
    event = await edge.event()
    assert (event["reason"], event["involvedObject"]["name"]) == ("MapperRefused", "d")
    assert "no such register" in event["message"]
    assert [(await mapper.called())[0] for _ in range(3)] == ["RegisterDevice"] * 3


async def test_without_a_place_for_the_socket_the_rest_works(start, tmp_path, caplog):
    file = tmp_path / "file"
    file.touch()
    async with start(dmi=str(file / "under")) as edge:
        await edge.add("default/d")
        assert (await edge.update(t="1"))["twin"]
    assert "modules.deviceTwin.dmiSockPath" in caplog.text


async def test_a_mapper_that_refuses_devices_is_not_said_to_be_away(edge, mapper, door, monkeypatch):
    """It answers, so nothing is said of its other devices."""
    await edge.put_model("m", t="INT")
    await edge.put("good", t="1")
    await mapper.register(door)
    mapper.refusal = "no such register"
    for name in "abc":
        await edge.put(name, t="1")
    events = [await edge.event() for _ in "abc"]
    assert {(event["reason"], event["involvedObject"]["name"]) for event in events} == {
        ("MapperRefused", name) for name in "abc"
    }
