"""10,000 simulated schedules of faults over both halves: how many break, and what one costs.

`python -m edgehive.testing.pair SEED` tells the story of one that broke. Their numbers follow those that CI tries.
"""

import itertools
import os
import resource
import subprocess
import sys

from bench.report import Figure, at_most

SCHEDULES = int(os.environ.get("EDGEHIVE_SCHEDULES", "10000"))
#: CI tries those below.
FIRST = int(os.environ.get("EDGEHIVE_FIRST_SCHEDULE", "2000"))
MILLISECONDS_EACH = 100.0


def run() -> list[Figure]:
    before = _seconds_of_children()
    broken = sum(_broken(process) for process in [_start(*share) for share in _shares()])
    spent = _seconds_of_children() - before
    return [
        Figure("schedules tried", SCHEDULES, ""),
        Figure("schedules that broke something", broken, "", "0", broken == 0),
        at_most("CPU of a schedule", 1000 * spent / SCHEDULES, "ms", MILLISECONDS_EACH),
    ]


def _shares() -> list[tuple[int, int]]:
    """The first and the last number of each process."""
    processes = min(len(os.sched_getaffinity(0)), SCHEDULES)
    bounds = [FIRST + SCHEDULES * number // processes for number in range(processes + 1)]
    return [(first, after - 1) for first, after in itertools.pairwise(bounds)]


def _start(first: int, last: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "edgehive.testing.pair", f"{first}-{last}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONHASHSEED": "0"})


def _broken(process: "subprocess.Popen[str]") -> int:
    """Tells of those that broke; gives how many."""
    said = process.communicate()[0].splitlines()
    print(*said[:-1], sep="\n", file=sys.stderr)
    if not said or not said[-1].endswith(" broken"):
        raise RuntimeError(f"the simulation ended with {process.returncode}")
    return int(said[-1].split()[-2])


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
