"""Hours of churn in virtual time: both halves whole over an API and a runtime in memory, none of them ever restarted.

Objects come, change and go; the link is cut, slowed and half open, the API and the disk fail for a while. After each
half hour all heals, both halves must agree, and what lives in them is counted: it may not grow.
"""

import asyncio
import gc
import logging
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count

from bench.report import Figure
from edgehive.api.registry import EVENTS, OBJECT_SYNCS
from edgehive.testing.pair.schedule import Step, schedule
from edgehive.testing.pair.simulation import Performer
from edgehive.testing.virtual_time import VirtualLoop

HOURS = 8.0
ROUND_SECONDS = 1800.0
#: Steps after which the same processes go on.
WITHOUT_RESTART = frozenset({
    "create_pod", "change_pod", "delete_pod", "end_container", "write_config_map", "delete_config_map", "write_secret",
    "cut", "unplug", "slow_link", "half_open", "disturb_acks", "disturb_pushes", "api_away", "slow_api",
    "break_watches", "disk_full", "runtime_away",
})  # fmt: skip
#: What may be gained between the first and the last third of the rounds, as a share and in numbers.
SHARE, FEW = 0.05, 20
#: The API server of this world keeps its history, and what reports events remembers up to 4,096 of them: not counted.
_OURS = ("edgehive.cloudcore.", "edgehive.edgecore.", "edgehive.beehive.", "edgehive.wire.", "edgehive.kit.")


class Soak(Performer):
    """Step after step for hours; a count after each round."""

    def __init__(self, seed: int, hours: float) -> None:
        super().__init__(seed, [])
        self.rounds: list[Counter[str]] = []
        self.steps = 0
        self._hours = hours
        self._seed = seed

    async def soak(self) -> None:
        """Raises AssertionError when the halves do not agree after a round."""
        loop, steps = asyncio.get_running_loop(), self._endless()
        async with self.world:
            await self._prepare()
            end = loop.time() + self._hours * 3600
            while loop.time() < end:
                until = loop.time() + ROUND_SECONDS
                while loop.time() < until:
                    step = next(steps)
                    # Schedules are dense; a day is not.
                    await asyncio.sleep(step.pause + 5)
                    await getattr(self, step.name)(**step.options)
                    self.steps += 1
                found = await self.settle()
                assert not found, [item.text for item in found]
                await self._note()

    def _endless(self) -> Iterator[Step]:
        for seed in count(self._seed):
            yield from (step for step in schedule(seed) if step.name in WITHOUT_RESTART)

    async def _note(self) -> None:
        # An API server forgets events after an hour; the one in memory does not.
        for event in (await self.world.client.list(EVENTS)).items:
            await self.world.client.delete(EVENTS, event.meta.name, event.meta.namespace)
        await asyncio.sleep(60)
        gc.collect()
        rows = self.world.database.look("SELECT count(*) FROM meta UNION ALL SELECT count(*) FROM outbox")
        self.rounds.append(
            Counter({
                "tasks": len(asyncio.all_tasks()),
                "objects of both halves": sum(map(_is_ours, gc.get_objects())),
                "rows of the node's database": sum(int(row[0]) for row in rows),
                "delivery records": len((await self.world.client.list(OBJECT_SYNCS)).items),
            })
        )  # fmt: skip


def _is_ours(item: object) -> bool:
    return str(type(item).__module__).startswith(_OURS)


def run(hours: float = HOURS) -> list[Figure]:
    loop = VirtualLoop()
    soak = Soak(1, hours)
    print(f"  {hours:g} virtual hours", file=sys.stderr, flush=True)
    logging.getLogger("edgehive").setLevel(logging.CRITICAL)  # what fails here is meant to
    try:
        loop.run_until_complete(soak.soak())
    finally:
        loop.wind_up()
    figures = [
        Figure("virtual: hours of churn", hours, "h"),
        Figure("virtual: steps", soak.steps, ""),
        Figure("virtual: messages", soak.world.messages, ""),
        Figure("virtual: rounds after which the halves disagreed", 0, "", "0", True),
    ]
    third = max(1, len(soak.rounds) // 3)
    for name in soak.rounds[0]:
        first, last = (min(part[name] for part in some) for some in (soak.rounds[:third], soak.rounds[-third:]))
        most = first * SHARE + FEW
        figures.append(
            Figure(f"virtual: {name}, from {first} to", last, "", f"at most {first + most:.0f}", last - first <= most)
        )
    return figures
