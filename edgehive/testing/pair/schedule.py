"""A schedule of faults from one number: which objects come, change and go, and what breaks meanwhile. Pure.

A schedule is a list of steps; `simulation.py` performs each by the method of its name, after its pause.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PODS_NAMED = ("web", "my-podlist", "membership")
MAPS_NAMED = ("settings", "serviceaccounttoken-x")
SECRETS_NAMED = ("key",)
#: How a pod is made; `simulation.pod_spec` knows them.
POD_FORMS = ("plain", "config-map", "secret", "environment", "token", "two", "job", "init")
_PAUSES = (0.0, 0.0, 0.0, 0.001, 0.01, 0.2, 1.0, 6.0, 20.0)
_CLOCKS = ("api", "cloud", "edge", "edge")
#: Calls of the runtime that change something.
_CALLS = (
    "RunPodSandbox", "CreateContainer", "StartContainer", "StopContainer", "StopPodSandbox", "RemovePodSandbox",
    "RemoveContainer",
)  # fmt: skip
_DAYS = (-30.0, -1.0, -0.02, 0.02, 1.0, 30.0)


class Step(NamedTuple):
    pause: float
    name: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options.items())})"


def schedule(seed: int) -> list[Step]:
    """The steps of this number, the same for ever."""
    chance = random.Random(seed)  # noqa: S311
    count = chance.choice((4, 6, 8, 12, 20))
    # Half of all schedules look closely at few kinds of fault: many at once hide each other.
    faults = list(_FAULTS)
    if chance.random() < 0.5:
        faults = chance.sample(faults, 2)
    steps = [_step(chance, _OBJECTS, "create_pod")]
    for _ in range(count):
        table = _OBJECTS if chance.random() < 0.5 else {name: _FAULTS[name] for name in faults}
        steps.append(_step(chance, table, chance.choice(list(table))))
    return steps


def _step(chance: random.Random, table: "Mapping[str, Options]", name: str) -> Step:
    return Step(chance.choice(_PAUSES), name, table[name](chance))


Options = Callable[[random.Random], dict[str, Any]]


def _none(_: random.Random) -> dict[str, Any]:
    return {}


def _pod(chance: random.Random) -> dict[str, Any]:
    return {"name": chance.choice(PODS_NAMED), "form": chance.choice(POD_FORMS)}


def _pod_end(chance: random.Random) -> dict[str, Any]:
    return {
        "name": chance.choice(PODS_NAMED),
        "grace": chance.choice((0, 0, 1, 30, None)),
        "again": chance.random() < 0.5,
        "form": chance.choice(POD_FORMS),
    }


def _map(chance: random.Random) -> dict[str, Any]:
    return {"name": chance.choice(MAPS_NAMED)}


def _back(chance: random.Random) -> dict[str, Any]:
    """After how long the process is started again."""
    return {"back": chance.choice((0.0, 0.5, 3.0, 45.0))}


def _crash_point(chance: random.Random) -> dict[str, Any]:
    return {"after": chance.randint(0, 6), "done": chance.random() < 0.5, **_back(chance)}


def _for_a_while(chance: random.Random) -> dict[str, Any]:
    return {"seconds": chance.choice((0.5, 5.0, 30.0, 100.0))}


_OBJECTS: dict[str, Options] = {
    "create_pod": _pod,
    "change_pod": lambda chance: {"name": chance.choice(PODS_NAMED)},
    "delete_pod": _pod_end,
    "end_container": lambda chance: {"name": chance.choice(PODS_NAMED), "code": chance.choice((0, 1, 137))},
    "write_config_map": _map,
    "delete_config_map": lambda chance: {**_map(chance), "again": chance.random() < 0.5},
    "write_secret": lambda chance: {"name": chance.choice(SECRETS_NAMED)},
    "report_event": _none,
}
_FAULTS: dict[str, Options] = {
    "cut": _none,
    "unplug": _for_a_while,
    "slow_link": lambda chance: {"latency": chance.choice((0.05, 1.0, 7.0)), **_for_a_while(chance)},
    "half_open": lambda chance: {"up": chance.random() < 0.7, "down": chance.random() < 0.7},
    "disturb_acks": lambda chance: {key: chance.randint(0, 2) for key in ("lost", "twice", "held", "foreign")},
    "disturb_pushes": lambda chance: {key: chance.randint(0, 3) for key in ("again", "stale")},
    "crash_edge": _back,
    "crash_cloud": _back,
    "crash_edge_at_write": _crash_point,
    "crash_edge_at_runtime": _crash_point,
    "crash_cloud_at_write": _crash_point,
    "api_away": _for_a_while,
    "slow_api": lambda chance: {"latency": chance.choice((0.5, 5.0, 20.0)), **_for_a_while(chance)},
    "api_errors": lambda chance: {"count": chance.randint(1, 4), "permanent": chance.random() < 0.3},
    "break_watches": _none,
    "turn_clock": lambda chance: {"whose": chance.choice(_CLOCKS), "days": chance.choice(_DAYS)},
    "disk_full": _for_a_while,
    "runtime_away": _for_a_while,
    "runtime_refuses": lambda chance: {"method": chance.choice(_CALLS), "times": chance.randint(1, 3)},
    "slow_runtime": lambda chance: {
        "method": chance.choice((*_CALLS, "ContainerStatus")),
        "takes": chance.choice((0.1, 3.0, 25.0)),
        **_for_a_while(chance),
    },
    "reboot": _none,
    "lose_disk": _none,
    "delete_node": _none,
    "delete_record": _none,
}
