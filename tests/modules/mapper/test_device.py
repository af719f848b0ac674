"""One device: desired values reach it, its readings are told when they change, and its faults stay its own."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mapper_rig import CLOCK, FakeEdge, define

from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Value, Visitor
from edgehive.mapper.calls import BadValue, CallFailed, NoSuch
from edgehive.mapper.definition import Definition
from edgehive.mapper.device import Device
from edgehive.mapper.polling import State

pytestmark = pytest.mark.looptime


class Box:
    """A driver of a device that is a dictionary; errors and latency as told."""

    protocol = "virtual"

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.writes: list[tuple[str, Value]] = []
        self.errors: dict[str, Exception] = {}
        self.write_error: Exception | None = None
        self.open_error: Exception | None = None
        self.opened: list[Mapping[str, Any]] = []
        self.closed = 0
        self.busy = False

    async def open(self, config: Mapping[str, Any]) -> None:
        self.opened.append(config)
        if self.open_error:
            raise self.open_error

    async def read(self, visitor: Visitor) -> Value:
        assert not self.busy, "two calls at once"
        self.busy = True
        await asyncio.sleep(self.values.get("latency", 0))  # type: ignore[arg-type]
        self.busy = False
        if visitor.property in self.errors:
            raise self.errors[visitor.property]
        return self.values.get(visitor.property, 0.0)

    async def write(self, visitor: Visitor, value: Value) -> None:
        if self.write_error:
            raise self.write_error
        self.writes.append((visitor.property, value))
        self.values[visitor.property] = value

    async def close(self) -> None:
        self.closed += 1
        self.busy = False


@asynccontextmanager
async def running(definition: Definition, box: Box, edge: FakeEdge) -> AsyncIterator[Device]:
    device = Device(definition, lambda: box, edge, CLOCK)
    task = spawn(device.run(), name="device")
    try:
        yield device
    finally:
        await cancel_and_join(task)


T = {"name": "t"}


async def test_a_reading_is_told_once_and_again_when_it_changes() -> None:
    box, edge = Box(), FakeEdge()
    box.values["t"] = 20.5
    async with running(define((T, {})), box, edge):
        await asyncio.sleep(10)
        assert edge.values("t") == ["20.5"]
        box.values["t"] = 21.0
        await asyncio.sleep(2)
    assert edge.values("t") == ["20.5", "21.0"]
    assert {(item.type, item.millis) for item in edge.readings} == {("float", 1767323045000)}


async def test_a_value_that_stays_is_told_twice_and_then_each_minute() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {})), box, edge):
        await asyncio.sleep(130)
    times = [round(at) for at, _, _ in edge.reports]
    assert len(times) == 4
    assert times[1] <= 7


async def test_a_change_is_told_no_more_often_than_the_report_cycle_and_is_the_newest() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"collectCycle": 100, "reportCycle": 2000})), box, edge):
        for step in range(60):
            box.values["t"] = float(step)
            await asyncio.sleep(0.1)
    times = [at for at, _, _ in edge.reports]
    assert len(times) == 3
    assert all(late - early >= 2 for early, late in itertools.pairwise(times))
    assert float(edge.values("t")[-1]) >= 38


async def test_a_deadband_keeps_small_changes_back_and_lets_a_slow_drift_through() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"visitors": {"configData": {"deadband": 0.5}}})), box, edge):
        for value in (20.0, 20.2, 20.4, 20.3, 20.6, 20.7):
            box.values["t"] = value
            await asyncio.sleep(1)
    assert edge.values("t") == ["20.0", "20.6"]


async def test_the_properties_of_one_round_go_in_one_report() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define(*(({"name": f"p{n}"}, {}) for n in range(20))), box, edge):
        await asyncio.sleep(0.5)
    assert [len(told) for _, _, told in edge.reports] == [20]


async def test_a_property_that_is_not_for_the_cloud_is_read_and_not_told() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"reportToCloud": False})), box, edge) as device:
        await asyncio.sleep(3)
        assert [item.name for item in device.readings()] == ["t"]
    assert edge.reports == []


async def test_a_desired_value_is_written_at_once_and_told_as_observed() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"collectCycle": 60000})), box, edge) as device:
        await asyncio.sleep(5)
        device.follow(define((T, {"collectCycle": 60000, "desired": {"value": "22"}})))
        await asyncio.sleep(0.05)
        assert box.writes == [("t", 22.0)]
        await asyncio.sleep(2)
    assert edge.readings[-1].observed_desired == "22"
    assert edge.values("t")[-1] == "22.0"


async def test_a_refused_desired_value_is_tried_until_it_is_taken() -> None:
    box, edge = Box(), FakeEdge()
    box.write_error = ValueError("not now")
    async with running(
        define((T, {"desired": {"value": "22"}}), stateReport={"reportToCloud": True}), box, edge
    ) as device:
        await asyncio.sleep(5)
        assert device.state is State.UNHEALTHY
        assert device.faults == {"t (desired)": "write t: not now"}
        assert edge.readings[-1].observed_desired == ""
        box.write_error = None
        await asyncio.sleep(60)
        assert device.state is State.ONLINE
    assert box.writes == [("t", 22.0)]


async def test_a_newer_desired_value_takes_the_place_of_one_that_was_never_taken() -> None:
    box, edge = Box(), FakeEdge()
    box.write_error = ValueError("not now")
    async with running(define((T, {"desired": {"value": "22"}})), box, edge) as device:
        await asyncio.sleep(5)
        device.follow(define((T, {"desired": {"value": "23"}})))
        box.write_error = None
        await asyncio.sleep(60)
    assert box.writes == [("t", 23.0)]


async def test_a_value_the_device_already_has_is_not_written_again() -> None:
    box, edge = Box(), FakeEdge()
    box.values["t"] = 22.0
    async with running(define((T, {"desired": {"value": "22"}})), box, edge):
        await asyncio.sleep(3)
    assert box.writes == []
    assert edge.readings[-1].observed_desired == "22"


async def test_a_device_that_forgot_its_setting_gets_it_back() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"desired": {"value": "22"}})), box, edge):
        await asyncio.sleep(3)
        box.values.clear()
        box.errors["t"] = ConnectionError("power cut")
        await asyncio.sleep(2)
        box.errors.clear()
        await asyncio.sleep(60)
    assert box.writes == [("t", 22.0), ("t", 22.0)]


async def test_somebody_who_turns_the_knob_is_not_fought() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"desired": {"value": "22"}})), box, edge):
        await asyncio.sleep(3)
        box.values["t"] = 25.0
        await asyncio.sleep(10)
    assert box.writes == [("t", 22.0)]
    assert edge.values("t")[-1] == "25.0"


async def test_a_lost_device_is_opened_again_with_growing_pauses_and_its_state_is_told() -> None:
    box, edge = Box(), FakeEdge()
    box.open_error = ConnectionRefusedError("nobody there")
    state = {"reportToCloud": True, "reportCycle": 10000}
    async with running(define((T, {}), stateReport=state), box, edge) as device:
        await asyncio.sleep(100)
        assert 4 <= len(box.opened) <= 10
        assert box.closed == len(box.opened)
        assert device.faults == {"": "open: nobody there"}
        box.open_error = None
        await asyncio.sleep(40)
    assert edge.states[0][1] == "offline"
    assert edge.states[-1][1] == "online"
    assert len(edge.states) in range(10, 20)


async def test_one_broken_property_leaves_the_others_alone() -> None:
    box, edge = Box(), FakeEdge()
    box.errors["u"] = ValueError("no such register")
    async with running(define((T, {}), ({"name": "u"}, {})), box, edge) as device:
        await asyncio.sleep(10)
        assert device.state is State.UNHEALTHY
        assert device.faults == {"u": "read u: no such register"}
    assert len(box.opened) == 1
    assert edge.values("t") == ["0.0"]


async def test_a_read_that_hangs_is_ended_and_the_device_opened_again() -> None:
    box, edge = Box(), FakeEdge()
    box.values["latency"] = 3600
    async with running(define((T, {})), box, edge) as device:
        await asyncio.sleep(10.2)
        assert device.faults == {"": "read t: no answer within 10 s"}
        box.values["latency"] = 0
        await asyncio.sleep(5)
        assert device.state is State.ONLINE


@pytest.mark.parametrize("value", ["warm", None, float("nan"), b"\xff", 2**70])
async def test_a_driver_that_returns_nonsense_hurts_one_property_only(value: Any) -> None:
    box, edge = Box(), FakeEdge()
    box.values["u"] = value
    async with running(define((T, {}), ({"name": "u", "type": "INT"}, {})), box, edge) as device:
        await asyncio.sleep(3)
        assert "the driver's value" in device.faults["u"]
    assert edge.values("u") == []
    assert edge.values("t") == ["0.0"]


async def test_what_could_not_be_told_is_told_later_in_its_newest_form() -> None:
    box, edge = Box(), FakeEdge()
    edge.away = True
    async with running(define((T, {})), box, edge):
        for step in range(10):
            box.values["t"] = float(step)
            await asyncio.sleep(1)
        edge.away = False
        await asyncio.sleep(20)
    assert edge.values("t") == ["9.0"]


async def test_a_slow_edge_delays_no_reading() -> None:
    box, edge = Box(), FakeEdge()
    edge.slow = 5
    async with running(define((T, {})), box, edge) as device:
        await asyncio.sleep(20.5)
        assert device.reads >= 20


async def test_an_edge_that_refuses_a_report_gets_the_next_change() -> None:
    box, edge = Box(), FakeEdge()
    edge.refusal = "no such device"
    async with running(define((T, {})), box, edge):
        await asyncio.sleep(5)
        edge.refusal = ""
        box.values["t"] = 1.0
        await asyncio.sleep(3)
    assert edge.values("t") == ["1.0"]


async def test_everything_is_told_again_to_an_edge_that_began_anew() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {})), box, edge) as device:
        await asyncio.sleep(3)
        device.tell_everything()
        await asyncio.sleep(0.1)
    assert [told for _, _, told in edge.reports] == [{"t": "0.0"}, {"t": "0.0"}]


async def test_a_changed_cycle_is_followed_and_a_changed_address_opens_anew() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {})), box, edge) as device:
        await asyncio.sleep(3)
        device.follow(define((T, {"collectCycle": 100})))
        before = device.reads
        await asyncio.sleep(1)
        assert device.reads - before >= 9
        assert len(box.opened) == 1
        device.follow(define((T, {}), config={"ip": "192.0.2.7"}))
        await asyncio.sleep(0.2)
    assert box.opened[-1] == {"ip": "192.0.2.7"}
    assert len(box.opened) == 2


async def test_properties_come_and_go() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {})), box, edge) as device:
        await asyncio.sleep(1)
        device.follow(define(({"name": "u"}, {})))
        await asyncio.sleep(3)
        assert [item.name for item in device.readings()] == ["u"]
    assert edge.values("u") == ["0.0"]


async def test_one_dead_device_slows_no_other() -> None:
    dead, well, edge = Box(), Box(), FakeEdge()
    dead.values["latency"] = 3600
    defined = {name: define((T, {}), name=name) for name in ("dead", "well")}
    async with running(defined["dead"], dead, edge), running(defined["well"], well, edge) as device:
        await asyncio.sleep(30.5)
        assert device.reads >= 30


async def test_stopping_closes_the_driver() -> None:
    box = Box()
    async with running(define((T, {})), box, FakeEdge()):
        await asyncio.sleep(1)
    assert box.closed == 1


async def test_where_nobody_asked_for_states_illness_and_recovery_alone_are_told() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {}), (U, {})), box, edge):
        await asyncio.sleep(10)
        assert edge.states == []
        box.errors["u"] = ValueError("kind 'teapot' is none of value, sine")
        await asyncio.sleep(10)
        del box.errors["u"]
        await asyncio.sleep(10)
    assert [state for _, state in edge.states] == ["unhealthy", "online"]


# Methods, and what is read at once


class Switch(Box):
    """A box whose methods do something of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[str, str, Value]] = []

    async def call(self, method: str, visitor: Visitor, value: Value) -> None:
        if self.write_error:
            raise self.write_error
        self.called.append((method, visitor.property, value))


METHODS = [{"name": "boost", "propertyNames": ["t"]}, {"name": "reset", "propertyNames": ["t", "u"]}]
U = {"name": "u", "accessMode": "ReadOnly"}


async def test_a_method_writes_its_property_and_what_it_does_is_told_at_once() -> None:
    box, edge = Box(), FakeEdge()
    async with running(define((T, {"collectCycle": 60_000}), methods=METHODS[:1]), box, edge) as device:
        await asyncio.sleep(1)
        assert await device.call("boost", "t", "25") == 25.0
        await asyncio.sleep(2)
    assert box.writes == [("t", 25.0)]
    assert edge.values("t") == ["0.0", "25.0"]


async def test_a_driver_with_methods_of_its_own_is_given_the_call() -> None:
    box = Switch()
    async with running(define((T, {}), (U, {}), methods=METHODS), box, FakeEdge()) as device:
        await asyncio.sleep(1)
        await device.call("reset", "u", "1")
    assert box.called == [("reset", "u", 1.0)]
    assert box.writes == []


@pytest.mark.parametrize(
    ("method", "name", "text", "said"),
    [
        ("bost", "t", "1", "device default/d has no method 'bost'; it has: boost, reset"),
        ("boost", "u", "1", "method 'boost' of device default/d has no property 'u'; it has: t"),
        ("boost", "t", "warm", "property 't': value 'warm' is no number, and the property's type is one"),
        ("boost", "t", "1e9", "property 't': value '1e9' is above the maximum 30"),
        ("reset", "u", "1", "property 'u' is ReadOnly, and the driver has no `call` that does more with it"),
    ],
)
async def test_a_call_that_makes_no_sense_reaches_no_device(method: str, name: str, text: str, said: str) -> None:
    box = Box()
    async with running(define((T | {"maximum": "30"}, {}), (U, {}), methods=METHODS), box, FakeEdge()) as device:
        await asyncio.sleep(1)
        with pytest.raises((NoSuch, BadValue)) as caught:
            await device.call(method, name, text)
        assert str(caught.value) == said
        assert device.state is State.ONLINE
    assert box.writes == []


async def test_a_call_the_device_refuses_or_that_loses_it_is_answered() -> None:
    box, edge = Switch(), FakeEdge()
    async with running(define((T, {}), methods=METHODS[:1]), box, edge) as device:
        await asyncio.sleep(1)
        box.write_error = ValueError("the lid is open")
        with pytest.raises(CallFailed, match=r"^method boost: the lid is open$"):
            await device.call("boost", "t", "1")
        assert device.state is State.ONLINE
        box.write_error, box.open_error = ConnectionError("cut"), ConnectionError("still cut")
        with pytest.raises(CallFailed, match="cut"):
            await device.call("boost", "t", "1")
        await asyncio.sleep(1)
        with pytest.raises(CallFailed, match="the device is offline: open: still cut"):
            await device.call("boost", "t", "1")


async def test_calls_never_interrupt_another_call_and_only_so_many_wait() -> None:
    box, edge = Box(), FakeEdge()
    box.values["latency"] = 0.5
    async with running(define((T, {}), methods=METHODS[:1]), box, edge) as device:
        await asyncio.sleep(1)
        calls = [spawn(device.read_now("t"), name=f"call {n}") for n in range(40)]
        await asyncio.wait(calls)
    refused = [call for call in calls if call.exception() is not None]
    assert len(refused) == 8
    assert str(refused[0].exception()) == "32 calls wait for the device already"


def test_a_method_of_an_unknown_property_is_a_fault_of_the_device() -> None:
    definition = define((T, {}), methods=METHODS)
    assert definition.faults == ("method 'reset' names property 'u', which the device does not have",)
    assert definition.methods == {"boost": ("t",), "reset": ("t",)}


# Anomalies


class Judge(Box):
    """A box that finds values above a limit strange."""

    def __init__(self) -> None:
        super().__init__()
        self.judged: list[Value] = []
        self.error: Exception | None = None

    async def detect(self, visitor: Visitor, value: Value, config: Mapping[str, Any]) -> str:
        self.judged.append(value)
        if self.error:
            raise self.error
        return f"{value} is above {config['limit']}" if value > config["limit"] else ""  # type: ignore[operator]


WATCHED = {"reportCycle": 5000, "pushMethod": {"anomalyDetection": {"limit": 30.0}}}


async def test_an_anomaly_makes_a_device_unhealthy_until_it_is_over() -> None:
    box, edge = Judge(), FakeEdge()
    definition = define((T, WATCHED), stateReport={"reportToCloud": True, "reportCycle": 60_000})
    async with running(definition, box, edge) as device:
        await asyncio.sleep(11)
        assert box.judged == [0.0] * 3, "once per report cycle"
        box.values["t"] = 31.0
        await asyncio.sleep(5)
        assert device.state is State.UNHEALTHY
        assert device.faults == {"t (anomaly)": "t: 31.0 is above 30"}
        box.values["t"] = 20.0
        await asyncio.sleep(5)
        assert device.state is State.ONLINE
    assert [state for _, state in edge.states] == ["online", "unhealthy", "online"]


async def test_a_detector_that_fails_disturbs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    box, edge = Judge(), FakeEdge()
    box.error = ConnectionError("the service is away")
    async with running(define((T, WATCHED)), box, edge) as device:
        await asyncio.sleep(3)
        assert device.state is State.ONLINE
    assert len(box.opened) == 1
    assert "default/d: detect t: the service is away" in caplog.text


async def test_a_driver_that_cannot_detect_anomalies_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async with running(define((T, WATCHED)), Box(), FakeEdge()) as device:
        await asyncio.sleep(3)
        assert device.state is State.ONLINE
    assert "nobody looks for anomalies in t: the driver has no method detect" in caplog.text


class Curious(Box):
    """A driver that does something by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, list[str], int]] = []

    async def prepare(self, device: str, visitors: Sequence[Visitor]) -> None:
        self.told.append((device, [item.property for item in visitors], len(self.opened)))


async def test_a_driver_may_be_told_whose_it_is_before_it_is_opened() -> None:
    box = Curious()
    async with running(define((T, {}), ({"name": "u"}, {})), box, FakeEdge()):
        await asyncio.sleep(3)
        box.errors = dict.fromkeys("tu", ConnectionError("lost"))
        await asyncio.sleep(3)
    assert box.told[:2] == [("default/d", ["t", "u"], 0), ("default/d", ["t", "u"], 1)]


class Clock(Box):
    """Reads the time."""

    async def read(self, visitor: Visitor) -> Value:
        return asyncio.get_running_loop().time()


async def test_readings_are_told_as_they_come_however_long_it_goes_on() -> None:
    edge = FakeEdge()
    edge.slow = 0.004
    async with running(define((T, {})), Clock(), edge):
        await asyncio.sleep(300)
    ages = [at - float(told["t"]) for at, _, told in edge.reports]
    assert len(ages) >= 299
    assert max(ages) < 0.05


async def test_a_value_that_was_set_is_told_at_once() -> None:
    box, edge = Box(), FakeEdge()
    slow = {"collectCycle": 5000, "reportCycle": 5000}
    async with running(define((T, slow | {"desired": {"value": "20"}})), box, edge) as device:
        await asyncio.sleep(11.5)
        began = asyncio.get_running_loop().time()
        device.follow(define((T, slow | {"desired": {"value": "25"}})))
        await asyncio.sleep(1)
    assert [(round(at - began, 1), told["t"]) for at, _, told in edge.reports if at > began] == [(0.0, "25.0")]


class Aborted(Box):
    """A driver of a library that cancels what waits for a lost device."""

    cancelled_open = cancelled_read = cancelled_close = False

    async def open(self, config: Mapping[str, Any]) -> None:
        await super().open(config)
        await _cancelled(self.cancelled_open)

    async def read(self, visitor: Visitor) -> Value:
        await _cancelled(self.cancelled_read)
        return await super().read(visitor)

    async def close(self) -> None:
        await super().close()
        await _cancelled(self.cancelled_close)


async def _cancelled(really: bool) -> None:
    if really:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future


@pytest.mark.parametrize("where", ["open", "read", "close"])
async def test_a_driver_whose_own_work_is_cancelled_is_opened_again(where: str) -> None:
    box = Aborted()
    async with running(define((T, {})), box, FakeEdge()) as device:
        await asyncio.sleep(2)
        setattr(box, f"cancelled_{where}", True)
        box.errors["t"] = ConnectionError("lost")
        await asyncio.sleep(20)
        assert device.state is State.OFFLINE
        setattr(box, f"cancelled_{where}", False)
        box.errors.clear()
        await asyncio.sleep(60)
        assert device.state is State.ONLINE
