"""Whether anything grows: a thousand hollow nodes that come, go and work for half an hour, over a cloudcore of ours.

First hours in virtual time (`virtual_soak`), then real minutes: pods are made and deleted, statuses reported,
connections cut, and now and then a fifth of all nodes comes back at once. What cloudcore's /metrics says is read every
few seconds; slopes are fitted to it, and all of it is drawn.
`python -m bench soak --minutes 3` is a short one. `EDGEHIVE_SOAK_NODES` is the number of nodes.
"""

import asyncio
import contextlib
import itertools
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter

from bench import virtual_soak
from bench.own_cloud import OwnCloud, own_cloud
from bench.plot import write_svg
from bench.report import RESULTS, Figure
from edgehive.testing.fleet.fleet import Fleet
from edgehive.testing.fleet.node import HollowNode, Refused
from edgehive.testing.fleet.workload import Workload
from edgehive.wire.link import LinkClosed

MINUTES = 30.0
NODES = int(os.environ.get("EDGEHIVE_SOAK_NODES", "1000"))
SAMPLE_SECONDS = 5.0
#: Each second: pods made (and as many of the oldest ended), statuses reported, connections cut.
PODS, STATUSES, CUTS = 3, 10, 3
#: Pods that stand at a time.
STANDING = 200
STORM_SECONDS = 120.0
#: Not part of the slope: what is reached only after a while.
WARM_UP_SHARE = 1 / 3
#: From here on a slope says something; a shorter run only shows that nothing breaks.
TELLING_MINUTES = 20.0
_MAILBOX = "edgehive_mailbox_depth{"

#: What is drawn: its name, and how it is read from /metrics.
READ: dict[str, Callable[[dict[str, float]], float]] = {
    "resident MiB": lambda told: told["process_resident_memory_bytes"] / 2**20,
    "open files": lambda told: told["process_open_fds"],
    "tasks": lambda told: told["edgehive_tasks"],
    "sessions": lambda told: told["edgehive_hub_sessions"],
    "messages waiting for nodes": lambda told: told["edgehive_hub_waiting_messages"],
    "messages in mailboxes": lambda told: sum(value for name, value in told.items() if name.startswith(_MAILBOX)),
}
#: What may be gained in half an hour once warm, and the unit.
MOST = {"resident MiB": (3.0, "MiB"), "open files": (20.0, ""), "tasks": (50.0, "")}


def run(minutes: float = MINUTES) -> list[Figure]:
    import uvloop

    virtual = virtual_soak.run()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="eh-soak-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return [*virtual, *runner.run(_soak(Path(folder), minutes))]


async def _soak(folder: Path, minutes: float) -> list[Figure]:
    async with (
        own_cloud(folder, NODES) as cloud,
        Fleet(cloud.plan(NODES)) as fleet,
        Workload(cloud.client, "fleet", fleet.journal) as workload,
    ):
        print(f"  {NODES} nodes join", file=sys.stderr, flush=True)
        await fleet.certify()
        await fleet.connect()
        await fleet.register()
        fleet.leases.pause(False)
        samples = Samples()
        churn = Churn(fleet, workload)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(minutes * 60), asyncio.TaskGroup() as group:
                for work in (churn.make_pods, churn.report, churn.cut, churn.storm):
                    group.create_task(work())
                group.create_task(samples.take(cloud))
        await churn.all_back()
        figures = samples.figures(minutes)
        samples.keep("soak")
        return [
            *figures,
            *(Figure(f"{name} altogether", number, "") for name, number in sorted(churn.done.items())),
            Figure("nodes connected at the end", fleet.connected, "", f"{NODES}", fleet.connected == NODES),
            Figure("answers missing", fleet.journal.counts["answers missing"], "", "0",
                   not fleet.journal.counts["answers missing"]),
        ]  # fmt: skip


class Samples:
    """What was read, and what follows from it."""

    def __init__(self) -> None:
        self.minutes: list[float] = []
        self.series: dict[str, list[float]] = {name: [] for name in READ}

    async def take(self, cloud: OwnCloud) -> None:
        """For ever."""
        began = perf_counter()
        while True:
            told = await cloud.metrics()
            self.minutes.append((perf_counter() - began) / 60)
            for name, read in READ.items():
                self.series[name].append(read(told))
            await asyncio.sleep(SAMPLE_SECONDS)

    def figures(self, minutes: float) -> list[Figure]:
        warm = int(len(self.minutes) * WARM_UP_SHARE)
        found = []
        for name, values in self.series.items():
            gained = slope(self.minutes[warm:], values[warm:]) * 30
            most, unit = MOST.get(name, (None, ""))
            told = ("", None) if most is None or minutes < TELLING_MINUTES else (f"at most {most:g}", gained <= most)
            found.append(Figure(f"{name}: gained in half an hour", round(gained, 3), unit, *told))
            found.append(Figure(f"{name}: median once warm", round(median(values[warm:]), 1), unit))
            found.append(Figure(f"{name}: most", round(max(values), 1), unit))
        return found

    def keep(self, name: str) -> None:
        RESULTS.mkdir(exist_ok=True)
        body = {"minutes": [round(minute, 3) for minute in self.minutes], "series": self.series}
        (RESULTS / f"{name}-samples.json").write_text(json.dumps(body) + "\n")
        write_svg(RESULTS / f"{name}.svg", f"cloudcore with {NODES} nodes that churn", self.minutes, self.series)


def slope(minutes: Sequence[float], values: Sequence[float]) -> float:
    """Of the line that fits best, per minute."""
    return linear_regression(minutes, values).slope if len(set(minutes)) > 1 else 0.0


class Churn:
    """Everything a fleet does all day; each method for ever."""

    def __init__(self, fleet: Fleet, workload: Workload) -> None:
        self.done: dict[str, int] = {}
        self._fleet = fleet
        self._workload = workload
        self._chance = random.Random(1)

    async def make_pods(self) -> None:
        standing: list[str] = []
        for number in itertools.count():
            names = [(f"soak-{number}-{index}", self._someone().name) for index in range(PODS)]
            await self._workload.create_pods(names, _nothing)
            standing += [name for name, _ in names]
            if len(standing) > STANDING:
                await self._workload.delete_pods(standing[:PODS], _nothing)
                del standing[:PODS]
            self._count("pods made", PODS)
            await asyncio.sleep(1)

    async def report(self) -> None:
        """Another status of some pods."""
        while True:
            for _ in range(STATUSES):
                node = self._someone()
                if node.pods and node.connected:
                    await self._try(node.report_pod(self._chance.choice(list(node.pods)), self._chance.randrange(100)))
                    self._count("statuses reported", 1)
                await asyncio.sleep(1 / STATUSES)

    async def cut(self) -> None:
        while True:
            for _ in range(CUTS):
                await self._back(self._someone())
                await asyncio.sleep(1 / CUTS)

    async def storm(self) -> None:
        while True:
            await asyncio.sleep(STORM_SECONDS)
            some = self._chance.sample(self._fleet.nodes, max(1, len(self._fleet.nodes) // 5))
            async with asyncio.TaskGroup() as group:
                for node in some:
                    group.create_task(self._back(node))
            self._count("storms", 1)

    async def all_back(self) -> None:
        """The end came upon some while they were cut off."""
        for node in self._fleet.nodes:
            while not node.connected:
                await self._try(node.connect())
                await asyncio.sleep(0.1)

    async def _back(self, node: HollowNode) -> None:
        """Lose the connection and have it again, however often that takes."""
        node.cut()
        await asyncio.sleep(0.1)
        while not node.connected:
            await self._try(node.connect())
            await asyncio.sleep(0.1)
        self._count("reconnections", 1)

    async def _try(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (LinkClosed, Refused):
            self._count("tries in vain", 1)

    def _someone(self) -> HollowNode:
        return self._chance.choice(self._fleet.nodes)

    def _count(self, what: str, number: int) -> None:
        self.done[what] = self.done.get(what, 0) + number


def _nothing() -> None:
    """Nobody looks on."""
