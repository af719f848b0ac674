"""Checks of a mapper before an edge that is slow, refuses or goes away, and of its own end and return."""

import asyncio
from pathlib import Path

from edgehive.mapper.conformance.bench import PATIENCE, STEADY, Bench, Broken
from edgehive.mapper.conformance.edge import refused, unavailable
from edgehive.mapper.conformance.kit import check

EDGE, PROCESS = "a bad edge", "its process"


@check(EDGE, "calls are answered while the edge takes two seconds for a report")
async def _(bench: Bench) -> None:
    bench.edge.slow = 2.0
    device = bench.device()
    await bench.add(device)
    await asyncio.sleep(0.5)
    start = asyncio.get_running_loop().time()
    await bench.touch()
    if (took := asyncio.get_running_loop().time() - start) > 1:
        raise Broken(f"CreateDeviceModel took {took:.1f} s")


@check(EDGE, "a slow edge gets a report in the end")
async def _(bench: Bench) -> None:
    # Go's mappers wait a second, and say it again at their next cycle.
    bench.edge.slow = 0.7
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)


@check(EDGE, "an edge that is busy is told later")
async def _(bench: Bench) -> None:
    bench.edge.refuse_reports = unavailable()
    device = bench.device()
    await bench.add(device)
    await asyncio.sleep(1.0)
    bench.edge.refuse_reports = None
    await bench.first_report(device)


@check(EDGE, "an edge that refuses a report gets the next device's")
async def _(bench: Bench) -> None:
    bench.edge.refuse_reports = refused()
    await bench.add(bench.device())
    await asyncio.sleep(0.5)
    bench.edge.refuse_reports = None
    await bench.alive()


@check(EDGE, "a desired value set while the edge is away is told when it is back")
async def _(bench: Bench) -> None:
    item, first, _ = bench.writable()
    device = bench.device(desired={item.name: first})
    await bench.close_edge()
    await bench.add(device)
    await asyncio.sleep(0.5)
    await bench.open_edge()
    await bench.first_report(device, item.name)


@check(EDGE, "devices can be removed while the edge's socket is away")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    await bench.close_edge()
    await bench.remove(device)
    since = bench.mark()
    await bench.open_edge()
    await bench.first_report(bench.device(STEADY), since=since)
    if bench.reports(device, since=since):
        raise Broken("a removed device was reported")


@check(EDGE, "three restarts one after another are survived")
async def _(bench: Bench) -> None:
    for _ in range(3):
        await bench.close_edge()
        await bench.open_edge()
        await asyncio.sleep(0.3)
    await bench.edge.until(lambda: False, 1.0)
    await bench.alive()


@check(PROCESS, "asked to end it ends within ten seconds and without an error")
async def _(bench: Bench) -> None:
    code = await bench.command.end()
    await _again(bench)
    if code != 0:
        raise Broken(f"its exit status is {code}")


@check(PROCESS, "asked to end it removes its socket")
async def _(bench: Bench) -> None:
    path = Path(bench.info.address.decode())
    await bench.command.end()
    left = path.exists()  # noqa: ASYNC240
    await _again(bench)
    if left:
        raise Broken(f"{path} is left")


@check(PROCESS, "killed and started again it registers over its old socket")
async def _(bench: Bench) -> None:
    await bench.command.end(kill=True)
    await _again(bench)


@check(PROCESS, "killed and started again it takes up its devices")
async def _(bench: Bench) -> None:
    since = bench.mark()
    await bench.command.end(kill=True)
    await _again(bench)
    await bench.first_report(bench.device(STEADY), since=since)


@check(PROCESS, "started before the edge it waits for it")
async def _(bench: Bench) -> None:
    await bench.command.end()
    await bench.close_edge()
    before = len(bench.edge.registrations)
    await bench.command.start()
    await asyncio.sleep(1.0)
    await bench.open_edge()
    if not await bench.edge.until(lambda: len(bench.edge.registrations) > before, 2 * PATIENCE):
        raise Broken("it did not register")


async def _again(bench: Bench) -> None:
    before = len(bench.edge.registrations)
    await bench.command.start()
    if not await bench.edge.until(lambda: len(bench.edge.registrations) > before, 2 * PATIENCE):
        raise Broken(f"started again, it did not register within {2 * PATIENCE:g} s")
    bench.hang_up()
