"""Checks of what a mapper reports, and of what becomes of desired values."""

import asyncio
import re

from edgehive.api.devices import PropertyType
from edgehive.kit.clock import unix_millis
from edgehive.mapper import values
from edgehive.mapper.conformance.bench import PATIENCE, QUIET, STEADY, Bench, Broken, NotTried
from edgehive.mapper.conformance.edge import Report
from edgehive.mapper.conformance.kit import check
from edgehive.protos import dmi_pb2 as dmi

REPORTS, STATES, DESIRED = "reports", "states", "desired values"

#: What a stock edgecore lets pass.
_VALUE = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{0,512}")
_TYPES = {"string", "int", "integer", "float", "boolean"}
_STATES = {"ok", "online", "offline", "disconnected", "unhealthy", "unknown"}


@check(REPORTS, "names of properties are the device's")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        if item.twin.propertyName not in bench.definition.properties:
            raise Broken(f"{item.twin.propertyName!r} is reported, and the device has no such property")


@check(REPORTS, "the device's namespace is told")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        if not item.namespace:
            raise Broken(f"a report of {item.device} has no namespace")


@check(REPORTS, "types are those an edge lets pass")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        # Where it tells none, as Go's mappers may, an edge takes the model's.
        if (told := item.twin.reported.metadata.get("type", "")) and told not in _TYPES:
            raise Broken(f"{item.twin.propertyName} has type {told!r}; edges know {', '.join(sorted(_TYPES))}")


@check(REPORTS, "types are those of the model")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        wanted = values.TWIN_TYPES[bench.definition.properties[item.twin.propertyName].visitor.type]
        told = item.twin.reported.metadata.get("type", "").replace("integer", "int")
        if told and told != wanted:
            raise Broken(f"{item.twin.propertyName} has type {told!r}; by its model it is {wanted!r}")


@check(REPORTS, "values are of their types")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        kind = bench.definition.properties[item.twin.propertyName].visitor.type
        try:
            values.exact(kind if kind is not PropertyType.BYTES else PropertyType.STRING, item.value)
        except ValueError as error:
            raise Broken(f"{item.twin.propertyName}: {item.value[:80]!r} {error}") from None


@check(REPORTS, "values are in the letters a stock edge lets pass, 512 at most")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        if not _VALUE.fullmatch(item.value):
            raise Broken(f"{item.twin.propertyName} is {item.value[:80]!r}")


@check(REPORTS, "a time that is told is when the value was read, in milliseconds")
async def _(bench: Bench) -> None:
    now = unix_millis(bench.clock.now())
    for item in await _some(bench):
        if (told := _millis(item)) is not None and abs(now - told) > 60_000:
            raise Broken(f"{item.twin.propertyName} has timestamp {told}, and now is {now}")


@check(REPORTS, "times do not go back")
async def _(bench: Bench) -> None:
    last: dict[tuple[str, str], int] = {}
    for item in await _some(bench):
        key = item.device, item.twin.propertyName
        if (told := _millis(item)) is None:
            continue
        if told < last.get(key, 0):
            raise Broken(f"{item.twin.propertyName} of {item.device} went from {last[key]} to {told}")
        last[key] = told


@check(REPORTS, "observedDesired is there, empty or not")
async def _(bench: Bench) -> None:
    for item in await _some(bench):
        if not item.twin.HasField("observedDesired"):
            raise Broken(f"{item.twin.propertyName} has none, and a stock edgecore reads it without looking")


@check(REPORTS, "no report is without values")
async def _(bench: Bench) -> None:
    calls = {item.call for item in await _some(bench)}
    if missing := set(range(1, bench.edge.calls + 1)) - calls - {item.call for item in bench.edge.reports}:
        raise Broken(f"{len(missing)} reports had no values, which edges refuse")


@check(REPORTS, "a property is reported no more often than its cycle")
async def _(bench: Bench) -> None:
    device = bench.device(cycle=500)
    await bench.add(device)
    name = bench.any_property().name
    await bench.first_report(device, name)
    since = bench.mark()
    await asyncio.sleep(2.0)
    if (count := len(bench.reports(device, name, since))) > 6:
        raise Broken(f"{count} reports came in 2 s, and the cycle is 500 ms")


@check(REPORTS, "what is not for the cloud is not reported")
async def _(bench: Bench) -> None:
    device = bench.device(told=False)
    await bench.add(device)
    await bench.silence(device)


@check(STATES, "a device's state is reported where that is asked for")
async def _(bench: Bench) -> None:
    device = bench.device(state_cycle=200)
    await bench.add(device)
    await _state(bench, device)


@check(STATES, "states are words edges know")
async def _(bench: Bench) -> None:
    device = bench.device(state_cycle=200)
    await bench.add(device)
    if (told := await _state(bench, device)).lower() not in _STATES:
        raise Broken(f"the state is {told!r}; known are {', '.join(sorted(_STATES))}")


@check(STATES, "a state is repeated at its cycle")
async def _(bench: Bench) -> None:
    device = bench.device(state_cycle=200)
    await bench.add(device)
    await _state(bench, device, times=3)


@check(STATES, "a state is not reported where nobody asked for it")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    await asyncio.sleep(QUIET)
    if any(item.device == device.name for item in bench.edge.states):
        raise Broken("a state was reported, and stateReport.reportToCloud is false")


@check(DESIRED, "a desired value of a new device reaches it")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable()
    device = bench.device(desired={item.name: first})
    await bench.add(device)
    await _shown(bench, device, item.name, first)


@check(DESIRED, "a changed desired value reaches the device")
async def _(bench: Bench) -> None:
    item, first, second = bench.writable()
    device = bench.device(desired={item.name: first})
    await bench.add(device)
    await _shown(bench, device, item.name, first)
    await bench.update(bench.device(device.name, desired={item.name: second}))
    await _shown(bench, device, item.name, second)


@check(DESIRED, "a desired value that was taken is told as observed")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable()
    device = bench.device(desired={item.name: first})
    await bench.add(device)
    await bench.report_where(
        device, lambda told: told.twin.observedDesired.value == first, f"observedDesired {first}", item.name
    )


@check(DESIRED, "of ten quick changes the newest stays")
async def _(bench: Bench) -> None:
    item, first, second = bench.writable()
    device = bench.device(desired={item.name: first})
    await bench.add(device)
    await _shown(bench, device, item.name, first)
    for number in range(11):
        await bench.update(bench.device(device.name, desired={item.name: (second, first)[number % 2]}))
    await _shown(bench, device, item.name, second)
    await asyncio.sleep(QUIET)
    last = bench.reports(device, item.name)[-1]
    if not _same(item.visitor.type, last.value, second):
        raise Broken(f"the last value is {last.value!r}, and {second!r} is desired")


@check(DESIRED, "a desired value that is no value of its type changes nothing")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable_number()
    await _stays(bench, item.name, first, "no-number")


@check(DESIRED, "a desired value above the maximum changes nothing")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable_number()
    if item.visitor.maximum is None:
        raise NotTried(f"{item.name} has no maximum")
    await _stays(bench, item.name, first, f"{item.visitor.maximum + 1:g}")


@check(DESIRED, "a desired value below the minimum changes nothing")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable_number()
    if item.visitor.minimum is None:
        raise NotTried(f"{item.name} has no minimum")
    await _stays(bench, item.name, first, f"{item.visitor.minimum - 1:g}")


@check(DESIRED, "a desired value of 100 kB changes nothing")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable_number()
    await _stays(bench, item.name, first, "9" * 100_000)


@check(DESIRED, "an empty desired value is none")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable()
    await _stays(bench, item.name, first, "")


@check(DESIRED, "a desired value of a ReadOnly property is no harm")
async def _(bench: Bench) -> None:
    name = next((name for name, item in bench.definition.properties.items() if not item.visitor.writable), None)
    if name is None:
        raise NotTried("the device has no ReadOnly property")
    device = bench.device(desired={name: "1"})
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.remove(device)


@check(DESIRED, "GetDevice tells the values that were read")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    name = bench.any_property().name
    await bench.first_report(device, name)
    found = await bench.get(device)
    if name not in {twin.propertyName for twin in found.status.twins}:
        raise Broken(f"its status has no {name}")


async def _some(bench: Bench) -> list[Report]:
    """All that was reported of devices that are told entirely; at least every property of one."""
    for name in bench.definition.properties:
        await bench.first_report(bench.device(STEADY), name)
    return [item for item in bench.edge.reports if item.twin.propertyName != "conformance-unknown"]


def _millis(item: Report) -> int | None:
    """None where it tells none, as Go's mappers: edges take the time of the report."""
    told = item.twin.reported.metadata.get("timestamp", "")
    if not told:
        return None
    if not told.isdecimal():
        raise Broken(f"{item.twin.propertyName} has timestamp {told!r}")
    return int(told)


async def _state(bench: Bench, device: dmi.Device, times: int = 1) -> str:
    def told() -> list[str]:
        return [item.state for item in bench.edge.states if item.device == device.name]

    if not await bench.edge.until(lambda: len(told()) >= times, PATIENCE):
        raise Broken(f"its state was told {len(told())} times within {PATIENCE:g} s")
    return told()[0]


def _same(kind: PropertyType, told: str, wanted: str) -> bool:
    try:
        return values.exact(kind, told) == values.exact(kind, wanted)
    except ValueError:
        return False


async def _shown(bench: Bench, device: dmi.Device, name: str, value: str) -> None:
    kind = bench.definition.properties[name].visitor.type
    await bench.report_where(device, lambda told: _same(kind, told.value, value), f"{name} = {value}", name)


async def _stays(bench: Bench, name: str, first: str, second: str) -> None:
    """The device keeps its value, and goes on with it."""
    device = bench.device(desired={name: first})
    await bench.add(device)
    await _shown(bench, device, name, first)
    changed = bench.device(device.name, desired={name: second})
    await bench.either("UpdateDevice", dmi.UpdateDeviceRequest(device=changed))
    await asyncio.sleep(QUIET)
    kind = bench.definition.properties[name].visitor.type
    if not _same(kind, (last := bench.reports(device, name)[-1].value), first):
        raise Broken(f"{name} became {last[:80]!r}")
    await bench.touch()
