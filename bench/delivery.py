"""Messages each way through cuts of the link and kills of either end: none lost, none out of order, none twice.

Down go versions of pods, up go statuses of the same pods; each has to arrive before the next one about its pod is
written, so that none may be skipped. What is repeated after a cut is told apart by its id, uid and version; counted
here is what comes out behind that. The whole is done in shares, as many at a time as there are cores, each a cluster of
its own in virtual time (`testing.pair`).

Events are not among them: a cloud that is killed between reading and writing one loses it (decision 0012).
"""

import asyncio
import json
import logging
import os
import random
import resource
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

import msgspec

from bench.report import Figure
from edgehive.api.document import Document
from edgehive.api.registry import PODS
from edgehive.kit.tasks import cancel_and_join, first_of, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError
from edgehive.testing.pair import NODE, Pair
from edgehive.testing.virtual_time import VirtualLoop

MESSAGES = int(os.environ.get("EDGEHIVE_MESSAGES", "1000000"))
#: For a million messages each way.
CUTS, KILLS_AT_EACH_END = 1000, 200
SHARE = 20_000
PODS_AT_ONCE = 50
#: Virtual seconds in which everything under way arrives, repetitions included.
PATIENCE = 900.0
#: Virtual seconds between two writes about one pod.
PAUSE = 0.001


@dataclass(slots=True)
class Count:
    """What came of one share, or of all."""

    down: int = 0
    up: int = 0
    cuts: int = 0
    edge_kills: int = 0
    cloud_kills: int = 0
    lost: int = 0
    disordered: int = 0
    repeated: int = 0

    def add(self, other: "Count") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def run() -> list[Figure]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = Count()
    shares = range(max(1, MESSAGES // SHARE))
    at_once = len(os.sched_getaffinity(0))
    for first in range(0, len(shares), at_once):
        for process in [_start(number) for number in shares[first : first + at_once]]:
            said = process.communicate()[0]
            if process.returncode:
                raise RuntimeError(f"a share of the messages ended with {process.returncode}")
            whole.add(Count(**json.loads(said)))
        print(f"  {asdict(whole)}", file=sys.stderr, flush=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return [
        Figure("messages down, simulated", whole.down, ""),
        Figure("messages up, simulated", whole.up, ""),
        Figure("cuts of the link", whole.cuts, ""),
        Figure("kills of the edge", whole.edge_kills, ""),
        Figure("kills of the cloud", whole.cloud_kills, ""),
        Figure("lost", whole.lost, "", "0", whole.lost == 0),
        Figure("out of order within an object", whole.disordered, "", "0", whole.disordered == 0),
        Figure("twice behind the filter by id", whole.repeated, "", "0", whole.repeated == 0),
        Figure("CPU of both halves and the API, a message", round(1000 * spent / (whole.down + whole.up), 3), "ms"),
    ]


def _start(number: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench.delivery", str(number), str(min(SHARE, MESSAGES))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Share:
    """One cluster and one edge, its messages each way and its part of the disasters."""

    def __init__(self, pair: Pair, number: int, messages: int) -> None:
        self._pair = pair
        self._chance = random.Random(number)
        self._rounds = messages // PODS_AT_ONCE
        self._parts = messages / 1_000_000
        self.count = Count()
        #: pod -> the newest version the edge was told, and the newest status the API was told.
        self._told: dict[str, int] = {}
        self._seen: dict[str, int] = {}
        self._turns: dict[str, asyncio.Event] = {}
        self._arrived = 0

    async def perform(self) -> None:
        self._pair.on_edge = self._follow
        if self._pair.edge is not None:
            self._follow()
        names = [f"pod-{number}" for number in range(PODS_AT_ONCE)]
        watch = spawn(self._watch(), name="watch")
        disasters = spawn(self._disasters(), name="disasters")
        async with asyncio.TaskGroup() as group:
            for name in names:
                self._turns[name] = asyncio.Event()
                await self._create(name)
                group.create_task(self._down(name))
                group.create_task(self._up(name))
        await disasters
        await self._pair.settle()
        await cancel_and_join(watch)
        assert await self._pair.difference() == []

    async def _create(self, name: str) -> None:
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}
        await self._pair.client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")

    # Down

    async def _down(self, name: str) -> None:
        for version in range(1, self._rounds + 1):
            await asyncio.sleep(PAUSE)
            patch = {"metadata": {"labels": {"n": str(version)}}}
            await self._pair.client.patch(PODS, name, patch, "default")
            if not await self._until(name, self._told, version):
                self.count.lost += 1
            self.count.down += 1

    def _follow(self) -> None:
        """Hear what the stand-in for edged is told, and what it finds on disk as it starts."""
        assert self._pair.edge is not None
        self._pair.edge.edged.on_pod = self._was_told

    def _was_told(self, pod: Document, again: bool) -> None:
        self._arrive(pod.meta.name, self._told, int((pod.meta.labels or {}).get("n", 0)))
        self.count.repeated += again

    # Up

    async def _up(self, name: str) -> None:
        for version in range(1, self._rounds + 1):
            await asyncio.sleep(PAUSE)
            await self._report(name, version)
            self.count.up += 1

    async def _report(self, name: str, version: int) -> None:
        """Until the edge has taken it; from then on it has to arrive by itself."""
        patch = msgspec.json.encode({"status": {"message": str(version)}})
        while self._seen.get(name, 0) < version:
            edge = self._pair.edge
            if edge is not None and name in edge.edged.pods:
                request = edge.client.patch(
                    PODS, name, patch, "default", type=PatchType.STRATEGIC, subresource="status"
                )
                await self._try(request, edge.ended)
            if self._is_kept(name, version) and not await self._until(name, self._seen, version):
                self.count.lost += 1
                return
            await asyncio.sleep(0.5 if self._seen.get(name, 0) < version else 0)

    @staticmethod
    async def _try(request: Coroutine[Any, Any, Document], ended: asyncio.Event) -> None:
        """Ask; whoever asks dies with the edge."""
        try:
            await first_of(request, ended.wait())
        except ApiError:
            return

    def _is_kept(self, name: str, version: int) -> bool:
        rows = self._pair.database.look("SELECT message FROM unanswered WHERE key = ?", f"default/podpatch/{name}")
        return any(json.loads(json.loads(row[0])["content"])["status"]["message"] == str(version) for row in rows)

    async def _watch(self) -> None:
        """A watch that fell behind is ended by the server; what it missed is in the list."""
        while True:
            with suppress(ApiError):
                found = await self._pair.client.list(PODS, "default")
                for pod in found.items:
                    self._came_up(pod)
                async for event in self._pair.client.watch(PODS, "default", resource_version=found.resource_version):
                    self._came_up(event.object)

    def _came_up(self, pod: Document) -> None:
        status = pod.to_dict().get("status") or {}
        self._arrive(pod.meta.name, self._seen, int(status.get("message") or 0))

    # Both

    def _arrive(self, name: str, newest: dict[str, int], version: int) -> None:
        last = newest.get(name, 0)
        self.count.disordered += version < last
        if version > last:
            self._arrived += 1
            newest[name] = version
            self._turns[name].set()

    async def _until(self, name: str, newest: dict[str, int], version: int) -> bool:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while newest.get(name, 0) < version:
            turn = self._turns[name] = self._turns[name] if not self._turns[name].is_set() else asyncio.Event()
            try:
                async with asyncio.timeout_at(deadline):
                    await turn.wait()
            except TimeoutError:
                return False
        return True

    # Disasters

    async def _disasters(self) -> None:
        """Each after its part of the messages."""
        kinds = [self._cut] * round(CUTS * self._parts)
        kinds += [self._kill_edge, self._kill_cloud] * round(KILLS_AT_EACH_END * self._parts)
        self._chance.shuffle(kinds)
        whole = 2 * self._rounds * PODS_AT_ONCE
        for number, disaster in enumerate(kinds, start=1):
            while self._arrived < whole * number / (len(kinds) + 1):
                await asyncio.sleep(PAUSE * self._chance.random())
            await disaster()

    async def _cut(self) -> None:
        self.count.cuts += 1
        await self._pair.cut()

    async def _kill_edge(self) -> None:
        """At once, or at one of its next writes, made or not."""
        self.count.edge_kills += 1
        if self._chance.random() < 0.7:
            self._pair.database.crash_after(self._chance.randint(0, 20), torn=self._chance.random() < 0.5)
            await self._pair.database.crashed.wait()
        await self._pair.crash_edge()
        await asyncio.sleep(self._chance.random())
        self._pair.start_edge()

    async def _kill_cloud(self) -> None:
        self.count.cloud_kills += 1
        await self._pair.crash_cloud()
        await asyncio.sleep(self._chance.random())
        self._pair.start_cloud()


async def _share(number: int, messages: int) -> Count:
    async with Pair() as pair:
        await asyncio.sleep(20)
        share = Share(pair, number, messages)
        await share.perform()
        return share.count


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    loop = VirtualLoop()
    print(json.dumps(asdict(loop.run_until_complete(_share(int(sys.argv[1]), int(sys.argv[2]))))))
    loop.wind_up()
