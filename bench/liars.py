"""What lying nodes cost the honest ones: their lease renewals and pods, beside nobody and beside each kind of liar.

Honest nodes live in this process; the liars (`edgehive fleet --liars`) in another, as do our API server and our
cloudcore. `EDGEHIVE_LIARS_SECONDS` is how long each kind lies, `EDGEHIVE_LIARS_GARBAGE` how many connections of garbage
are thrown.
"""

import asyncio
import contextlib
import os
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

from bench.own_cloud import OwnCloud, own_cloud
from bench.report import Figure, resident_mib
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.testing.fleet.fleet import Fleet
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.fleet.meter import Meter
from edgehive.testing.fleet.node import HollowNode

NODES = 50
SECONDS = float(os.environ.get("EDGEHIVE_LIARS_SECONDS", "30"))
GARBAGE = int(os.environ.get("EDGEHIVE_LIARS_GARBAGE", "100000"))
START_SECONDS = 8.0
#: Honest renewals a second, all nodes together.
RATE = 100.0
#: How many liars of each kind.
LIARS = {
    "acks-nothing": 10, "acks-twice": 10, "acks-unsent": 10, "floods": 3, "half-open": 10, "reconnects": 3,
    "garbage": 2,
}  # fmt: skip
#: How the lie shows in `edgehive_refusals_total{door=hub,…}`.
SIGNS = {
    "acks-nothing": "no acknowledgement", "acks-twice": "repeated acknowledgement",
    "acks-unsent": "unknown acknowledgement", "floods": "message rate", "half-open": "silent",
    "reconnects": "reconnects", "garbage": "handshake",
}  # fmt: skip
#: What an unacknowledged message and a silent connection need to be noticed.
LEAST_SECONDS = {"acks-nothing": 40.0, "half-open": 45.0}
#: Memory that lies may leave behind.
GROWTH_MIB = 20.0


def run() -> list[Figure]:
    import uvloop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="eh-liars-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    async with own_cloud(folder, NODES + sum(LIARS.values())) as cloud, Fleet(cloud.plan(NODES, "honest")) as fleet:
        await fleet.certify()
        await fleet.connect()
        await fleet.register()
        fleet.leases.pause(True)
        await _renewals(fleet, 5.0)
        meter = Meter(cloud.pid)
        cpu, began = meter.cpu(), perf_counter()
        alone = await _renewals(fleet, SECONDS)
        cores = (meter.cpu() - cpu) / (perf_counter() - began)
        rest = resident_mib(cloud.pid)
        figures = [
            *_latencies("alone", alone, None),
            Figure("cores of cloudcore alone", round(cores, 3), "cores"),
            Figure("cloudcore resident before", round(rest, 1), "MiB"),
        ]
        for kind in LIARS:
            figures += await _beside(cloud, fleet, kind, quantile(alone, 0.99), folder)
        await _renewals(fleet, 5.0)
        after = resident_mib(cloud.pid)
        figures += [
            Figure("cloudcore resident after all lies", round(after, 1), "MiB", f"at most {GROWTH_MIB:g} MiB more",
                   after - rest <= GROWTH_MIB),
            *_of_the_log(folder / "cloudcore.log"),
            Figure("honest answers missing", fleet.journal.counts["answers missing"], "", "0",
                   not fleet.journal.counts["answers missing"]),
        ]  # fmt: skip
        return figures


async def _beside(cloud: OwnCloud, fleet: Fleet, kind: str, bar: float, folder: Path) -> list[Figure]:
    """The honest nodes' latencies while this kind lies."""
    print(f"  {LIARS[kind]} × {kind}", file=sys.stderr, flush=True)
    sign = f"edgehive_refusals_total{{door=hub,reason={SIGNS[kind]}}}"
    before = (await cloud.metrics()).get(sign, 0.0)
    async with _lying(cloud, kind, folder) as thrown:
        # The liars' own start is not measured.
        await _renewals(fleet, START_SECONDS)
        meter = Meter(cloud.pid)
        cpu, began = meter.cpu(), perf_counter()
        times = await _renewals(fleet, max(SECONDS, LEAST_SECONDS.get(kind, 0.0)))
        cores = (meter.cpu() - cpu) / (perf_counter() - began)
        while kind == "garbage" and (await cloud.metrics()).get(sign, 0.0) - before < GARBAGE and thrown():
            times += await _renewals(fleet, 5.0)
        resident = resident_mib(cloud.pid)
    counted = (await cloud.metrics()).get(sign, 0.0) - before
    return [
        *_latencies(f"beside {LIARS[kind]} × {kind}", times, bar),
        Figure(f"{kind}: counted as {SIGNS[kind]!r}", counted, "", "at least 1", counted >= 1),
        Figure(f"{kind}: cores of cloudcore meanwhile", round(cores, 3), "cores"),
        Figure(f"{kind}: cloudcore resident meanwhile", round(resident, 1), "MiB"),
    ]


def _latencies(name: str, times: list[float], bar: float | None) -> list[Figure]:
    p50, p99 = (quantile(times, share) * 1e3 for share in (0.5, 0.99))
    told = ("", None) if bar is None else (f"at most {_noise(bar) * 1e3:.3g} ms", p99 <= _noise(bar) * 1e3)
    return [
        Figure(f"lease renewal {name}, p50", round(p50, 3), "ms"),
        Figure(f"lease renewal {name}, p99", round(p99, 3), "ms", *told),
    ]


def _noise(alone: float) -> float:
    """What p99 may be beside liars: they need processor time of the same machine."""
    return alone * 2 + 0.005


def _of_the_log(log: Path) -> list[Figure]:
    lines = log.read_text(errors="replace").splitlines()
    return [
        Figure("lines in cloudcore's log", len(lines), "", "at most 500", len(lines) <= 500),
        Figure("tracebacks in it", sum("Traceback" in line for line in lines), "", "0",
               not any("Traceback" in line for line in lines)),
    ]  # fmt: skip


async def _renewals(fleet: Fleet, seconds: float) -> list[float]:
    """Lease renewals at a fixed rate, whatever the answers take; their seconds."""
    times: list[float] = []
    began, number = perf_counter(), 0

    async def renew(node: HollowNode, due: float) -> None:
        await node.renewed()
        times.append(perf_counter() - due)

    async with asyncio.TaskGroup() as group:
        while (due := began + number / RATE) < began + seconds:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            # From the moment it was due: an answer that holds up the next ones counts for those too.
            group.create_task(renew(fleet.nodes[number % len(fleet.nodes)], due))
            number += 1
    return times


@asynccontextmanager
async def _lying(cloud: OwnCloud, kind: str, folder: Path) -> AsyncIterator[Callable[[], bool]]:
    """So many liars in a process of their own; gives whether it lives."""
    output = folder / f"{kind}.json"
    words = (
        "-m", "edgehive", "fleet", "--nodes", "1", "--prefix", f"with-{kind}", "--liars", f"{kind}={LIARS[kind]}",
        "--hub", f"{cloud.hub.host}:{cloud.hub.port}", "--join", cloud.join_server, "--token", cloud.token,
        "--scenario", "idle", "--seconds", "3600", "--output", str(output), "--keep",
    )  # fmt: skip
    with (folder / f"{kind}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=log, stderr=log)
    ending = spawn(process.wait(), name="liars end")
    try:
        yield lambda: not ending.done()
        if ending.done():
            raise RuntimeError(f"the liars ended: {(folder / f'{kind}.log').read_text(errors='replace')[-500:]}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await cancel_and_join(ending)
