"""The way of values from devices to the API and back, through real processes: mapper, edgecore, cloudcore, API server.

Up: 1,000 devices of 10 properties, all read and reported once a second, with edgecore's pace as it is unless configured
(messageQPS 30) and with a raised one. A reading is the time at which it was taken, so its age is seen where it arrives:
in a watch of the DeviceStatus of 100 of the devices. Down: a desired value patched into a Device, until the driver is
called, or until a Modbus register has it. Then what a newcomer waits for (`first_value.py`). All shares this machine's
processors, so the seconds depend on what else it does; processor time does much less.
"""

import asyncio
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from bench import first_value
from bench.device_stand import Json, Stand, device_stand, written
from bench.report import Figure, at_most
from bench.stamping_driver import microsecond
from edgehive.api.registry import DEVICE_STATUSES, DEVICES, NAMESPACES
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import EventType, PatchType
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.ports import free_port

DEVICES_COUNT, PROPERTIES, WATCHED = 1000, 10, 100
#: The watched devices stand in a namespace of their own.
SPACE = "watched"
WRITES, WARMING, BETWEEN_WRITES = 100, 5, 0.2
IDLE_SECONDS = 8
PARTS = ("mapper", "edgecore", "cloudcore", "API server")
_BEGAN = time.perf_counter()
DRIVER = str(Path(__file__).with_name("stamping_driver.py"))


@dataclass(frozen=True, slots=True)
class Load:
    """How the edge may speak, how long until all is under way, and how long is measured."""

    name: str
    hub: dict[str, int]
    settling: float
    seconds: float


LOADS = (
    Load("messageQPS 30", {}, 20, 30),
    Load("messageQPS, nodeMessageQPS 2000", {"messageQPS": 2000, "messageBurst": 4000}, 10, 25),
)


def run() -> list[Figure]:
    # A short path: a unix socket's name has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="ehd-", dir="/tmp"))
    try:
        figures = asyncio.run(_measure(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*figures, *first_value.run()]


def _say(text: str) -> None:
    print(f"  {time.perf_counter() - _BEGAN:4.0f} s {text}", file=sys.stderr, flush=True)


async def _measure(folder: Path) -> list[Figure]:
    async with device_stand(folder) as stand:
        _say(f"a cloud and an edge {'with' if stand.has_pods else 'without'} its pods' runtime")
        stand.start_edgecore(LOADS[0].hub)
        await stand.add_node()
        figures = [*await _desired_in_memory(stand), *await _desired_in_register(stand)]
        _say(f"{DEVICES_COUNT} devices")
        await _add_devices(stand)
        await asyncio.sleep(IDLE_SECONDS)
        who = f"edgecore{'' if stand.has_pods else ' without edged'}, {DEVICES_COUNT} devices of {PROPERTIES}"
        figures.append(at_most(f"{who}, idle", stand.resident("edgecore"), "MiB", 64))
        stand.start_mapper("mapper", DRIVER)
        for number, load in enumerate(LOADS):
            if number:
                stand.stop("edgecore")
                stand.start_edgecore(load.hub)
            _say(f"every device reports once a second, {load.name}")
            figures += await _under_load(stand, load)
        figures.append(Figure(f"{who}, reporting", round(stand.resident("edgecore"), 1), "MiB"))
        figures.append(Figure("the mapper of these", round(stand.resident("mapper"), 1), "MiB"))
    return figures


# Down


async def _desired_in_memory(stand: Stand) -> list[Figure]:
    _say("desired values to the driver")
    async with written() as (told, port):
        await stand.add_model("knob", "stamping", [{"name": "target", "type": "INT", "accessMode": "ReadWrite"}])
        protocol = {"protocolName": "stamping", "configData": {"port": port}}
        property = {"name": "target", "desired": {"value": "1"}, "reportToCloud": True}
        await stand.add_device("knob", "knob", {"protocol": protocol, "properties": [property]})
        stand.start_mapper("mapper", DRIVER)

        async def until(value: int) -> int:
            while (heard := await told.heard.get())[0] != value:
                """An earlier one, told again."""
            return heard[1]

        await asyncio.wait_for(until(1), 60)
        times = await _writes(stand, "knob", microsecond, until)
    stand.stop("mapper")
    await stand.client.delete(DEVICES, "knob", "default")
    return _times("desired value set in the API to the driver's write", *times)


async def _desired_in_register(stand: Stand) -> list[Figure]:
    _say("desired values to a Modbus register")
    arrived: asyncio.Queue[tuple[int, int]] = asyncio.Queue()

    async def asked(function: int, *request: Any) -> None:
        if function in (6, 16):
            arrived.put_nowait((request[-1][0], microsecond()))

    port, bits = free_port(), [SimData(0, values=[True] * 8, datatype=DataType.BITS)]
    words = [SimData(0, values=[0] * 8, datatype=DataType.REGISTERS)]
    server = ModbusTcpServer(
        SimDevice(1, simdata=(bits, bits, words, words), action=asked), address=("127.0.0.1", port)
    )
    await server.listen()
    await stand.add_model("register", "modbus", [{"name": "target", "type": "INT", "accessMode": "ReadWrite"}])
    protocol = {"protocolName": "modbus", "configData": {"ip": "127.0.0.1", "port": port, "slaveID": 1}}
    visitors = {"protocolName": "modbus", "configData": {"register": "HoldingRegister", "offset": 0, "limit": 1}}
    property = {"name": "target", "desired": {"value": "1"}, "reportToCloud": True, "visitors": visitors}
    await stand.add_device("register", "register", {"protocol": protocol, "properties": [property]})
    stand.start_mapper("modbus mapper", "modbus")

    async def until(value: int) -> int:
        while (seen := await arrived.get())[0] != value:
            """An earlier one, written again."""
        return seen[1]

    numbers = iter(range(2, 60000))
    await asyncio.wait_for(until(1), 60)
    times = await _writes(stand, "register", lambda: next(numbers), until)
    stand.stop("modbus mapper")
    await server.shutdown()
    await stand.client.delete(DEVICES, "register", "default")
    return _times("desired value set in the API to the Modbus register written", *times)


async def _writes(
    stand: Stand, device: str, value: Callable[[], int], until: Callable[[int], Awaitable[int]]
) -> tuple[list[float], list[float]]:
    """Milliseconds from before the API is asked until the device has it, and until the API answers; one at a time."""
    times, answers = [], []
    for number in range(WARMING + WRITES):
        await asyncio.sleep(BETWEEN_WRITES)
        chosen, began = value(), microsecond()
        patch = [{"op": "replace", "path": "/spec/properties/0/desired/value", "value": str(chosen)}]
        await stand.client.patch(DEVICES, device, patch, "default", type=PatchType.JSON)
        answered = microsecond()
        at = await asyncio.wait_for(until(chosen), 30)
        if number >= WARMING:
            times.append((at - began) / 1000)
            answers.append((answered - began) / 1000)
    return times, answers


def _times(name: str, times: list[float], answers: list[float]) -> list[Figure]:
    return [
        Figure(f"{name}, p50", round(quantile(times, 0.5), 2), "ms"),
        Figure(f"{name}, p99", round(quantile(times, 0.99), 2), "ms"),
        Figure("  of it until the API's own answer, p50", round(quantile(answers, 0.5), 2), "ms"),
    ]


# Up


async def _add_devices(stand: Stand) -> None:
    await stand.client.create(NAMESPACES, {"metadata": {"name": SPACE}})
    names = [f"p{number}" for number in range(PROPERTIES)]
    modelled = [{"name": name, "type": "INT", "accessMode": "ReadOnly"} for name in names]
    own = [{"name": name, "collectCycle": 1000, "reportCycle": 1000, "reportToCloud": True} for name in names]
    spec: Json = {"protocol": {"protocolName": "stamping", "configData": {}}, "properties": own}
    for space in ("default", SPACE):
        await stand.add_model("meter", "stamping", modelled, space)
    room = asyncio.Semaphore(8)

    async def add(number: int) -> None:
        async with room:
            await stand.add_device(f"d{number}", "meter", spec, SPACE if number < WATCHED else "default")

    async with asyncio.TaskGroup() as group:
        for number in range(DEVICES_COUNT):
            group.create_task(add(number))
    await stand.until_accepted(DEVICES_COUNT)


@dataclass(slots=True)
class Arrivals:
    """What the watch of the chosen devices saw."""

    newest: dict[str, int] = field(default_factory=dict)
    #: Seconds from the reading to the API.
    ages: list[float] = field(default_factory=list)
    #: Seconds, now and then, that the newest value of each device is old.
    trails: list[float] = field(default_factory=list)

    def see(self, status: Json) -> None:
        name, twins = status["metadata"]["name"], (status.get("status") or {}).get("twins") or []
        taken = max((int((twin.get("reported") or {}).get("value") or 0) for twin in twins), default=0)
        if taken > self.newest.get(name, 0):
            self.newest[name] = taken
            self.ages.append((microsecond() - taken) / 1e6)

    async def follow(self, stand: Stand) -> None:
        """Until cancelled."""
        found = await stand.client.list(DEVICE_STATUSES, SPACE)
        for document in found.items:
            self.see(document.to_dict())
        async for event in stand.client.watch(DEVICE_STATUSES, SPACE, resource_version=found.resource_version):
            if event.type is not EventType.BOOKMARK:
                self.see(event.object.to_dict())

    async def look(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(1)
            now = microsecond()
            self.trails += [(now - taken) / 1e6 for taken in self.newest.values()]

    def clear(self) -> None:
        self.ages.clear()
        self.trails.clear()


async def _under_load(stand: Stand, load: Load) -> list[Figure]:
    arrivals = Arrivals()
    tasks = [spawn(arrivals.follow(stand), name="arrivals"), spawn(arrivals.look(), name="trails")]
    try:

        async def all_seen() -> bool:
            return len(arrivals.newest) == WATCHED

        await stand.until("a value of each device", all_seen)
        await asyncio.sleep(load.settling)
        arrivals.clear()
        loop = asyncio.get_running_loop()
        began, used, taken = loop.time(), stand.processor(PARTS), await stand.reports_taken()
        await asyncio.sleep(load.seconds)
        took, taken = loop.time() - began, await stand.reports_taken() - taken
        spent = {part: seconds - used[part] for part, seconds in stand.processor(PARTS).items()}
        ages, trails = list(arrivals.ages), list(arrivals.trails)
        with contextlib.suppress(asyncio.InvalidStateError):
            tasks[0].result()
    finally:
        await cancel_and_join(*tasks)
    stored = len(ages) * DEVICES_COUNT / WATCHED
    return [
        *_rates(load.name, taken, stored, took),
        *_costs(load.name, spent, taken, stored, took),
        Figure(f"{load.name}: reading to the API, p50", round(quantile(ages, 0.5), 3), "s"),
        Figure(f"{load.name}: reading to the API, p99", round(quantile(ages, 0.99), 3), "s"),
        Figure(f"{load.name}: age of the API's value, mean", round(statistics.fmean(trails), 3), "s"),
        Figure(f"{load.name}: age of the API's value, worst", round(max(trails), 3), "s"),
    ]


def _rates(name: str, taken: float, stored: float, seconds: float) -> list[Figure]:
    return [
        Figure(f"{name}: reports taken by the edge", round(taken / seconds), "1/s"),
        Figure(f"{name}: values taken by the edge", round(PROPERTIES * taken / seconds), "1/s"),
        Figure(f"{name}: reports in the API", round(stored / seconds), "1/s"),
        Figure(f"{name}: values in the API", round(PROPERTIES * stored / seconds), "1/s"),
    ]


def _costs(name: str, spent: dict[str, float], taken: float, stored: float, seconds: float) -> list[Figure]:
    """Of the edge's parts by what the edge took, of the cloud's by what was stored."""
    shares = {part: taken if part in ("mapper", "edgecore") else stored for part in spent}
    costs = {part: 1000 * spent[part] / max(1, shares[part]) for part in spent}
    total = sum(costs.values())
    return [
        *(Figure(f"{name}: CPU of a report, {part}", round(cost, 3), "ms") for part, cost in costs.items()),
        *(Figure(f"{name}: load, {part}", round(100 * spent[part] / seconds), "% of a core") for part in spent),
        Figure(f"{name}: reports on one core, the whole way", round(1000 / total), "1/s"),
    ]
