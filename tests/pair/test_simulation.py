"""Schedules of faults over both halves, edged included: afterwards all is as the API says, and nothing was lost.

Two processes share the schedules, since a machine of CI has two cores; a schedule takes some 80 ms of one. A failure
prints its seed, and `python -m edgehive.testing.pair SEED` tells the story.
"""

import os
import subprocess
import sys

import pytest

from edgehive.testing.pair.schedule import schedule

#: A night can afford more of them, and others.
SCHEDULES = int(os.environ.get("EDGEHIVE_SCHEDULES", "2000"))
FIRST = int(os.environ.get("EDGEHIVE_FIRST_SCHEDULE", "0"))
PROCESSES = 2


def replay(*seeds: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "edgehive.testing.pair", *seeds]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


@pytest.mark.timeout(1200)
def test_no_schedule_breaks_anything() -> None:
    share = SCHEDULES // PROCESSES
    firsts = [FIRST + number * share for number in range(PROCESSES)]
    running = [replay(f"{first}-{first + share - 1}") for first in firsts]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * PROCESSES, "\n".join(said)
    assert [text.splitlines()[-1] for text in said] == [f"{share} schedules, 0 broken"] * PROCESSES


def test_a_schedule_tells_the_same_story_twice() -> None:
    stories = [process.communicate()[0] for process in (replay("--all", "29"), replay("--all", "29"))]
    assert "RunPodSandbox" in stories[0]
    assert stories[0] == stories[1]


def test_a_number_stands_for_one_schedule_for_ever() -> None:
    assert schedule(7) == schedule(7)
    assert schedule(7) != schedule(8)
