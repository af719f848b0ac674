"""What simulated schedules found, each told by the few steps it takes: a schedule's number may mean another story
tomorrow, these do not."""

from typing import Any

import pytest

from edgehive.testing.pair.schedule import Step
from edgehive.testing.pair.simulation import simulate

DAYS_BACK = {"whose": "edge", "days": -30.0}


def step(what: str, pause: float = 1.0, /, **options: Any) -> Step:
    return Step(pause, what, options)


STORIES = {
    "what was seen before a container was made is no reason to make another": [
        step("create_pod", name="web", form="init"),
        step("slow_runtime", 0.0, method="ContainerStatus", takes=0.1, seconds=100.0),
        *[step("reboot", 20.0) for _ in range(4)],
    ],
    "a container started after the clock was set back is the newest all the same": [
        step("create_pod", name="web", form="init"),
        step("turn_clock", 20.0, **DAYS_BACK),
        step("reboot"),
        step("end_container", 20.0, name="web", code=1),
    ],
    "a crash before the clock was set back costs its back-off and not a month": [
        step("create_pod", name="web", form="plain"),
        step("end_container", 5.0, name="web", code=1),
        step("end_container", 5.0, name="web", code=1),
        step("turn_clock", 1.0, **DAYS_BACK),
    ],
    "a node whose clock was set back goes on telling of itself": [
        step("turn_clock", 20.0, **DAYS_BACK),
        step("create_pod", name="web", form="plain"),
        step("write_config_map", 400.0, name="settings"),
    ],
    "a pod begins when the former one of its name has ended": [
        step("create_pod", name="web", form="plain"),
        step("slow_runtime", 5.0, method="StopContainer", takes=25.0, seconds=100.0),
        step("delete_pod", 1.0, name="web", grace=0, again=True, form="plain"),
        step("report_event", 40.0),
    ],
    "so it does when the edge dies in between": [
        step("create_pod", name="web", form="plain"),
        step("slow_runtime", 5.0, method="StopContainer", takes=25.0, seconds=100.0),
        step("delete_pod", 1.0, name="web", grace=0, again=True, form="plain"),
        step("crash_edge", 1.0, back=0.5),
    ],
    "a report whose answer was lost is not taken for unwritten": [
        step("slow_api", 5.0, latency=20.0, seconds=30.0),
        step("runtime_away", 0.2, seconds=12.0),
        step("crash_edge", 16.0, back=0.5),
    ],
    "a volume follows what changed while the edge was dead": [
        step("write_config_map", name="settings"),
        step("create_pod", name="web", form="config-map"),
        step("crash_edge_at_write", 20.0, after=0, done=True, back=0.5),
        step("write_config_map", 0.0, name="settings"),
        step("report_event", 10.0),
    ],
    "a pod that waits for its volumes does not stop its dead sandbox again and again": [
        step("write_config_map", name="settings"),
        step("create_pod", name="web", form="config-map"),
        step("delete_config_map", 20.0, name="settings", again=False),
        step("reboot", 20.0),
    ],
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("chance", range(3))
def test_it_does_not_happen_again(story: str, chance: int) -> None:
    simulate(chance, STORIES[story])
