"""Probes: who is restarted, when, and what the pod's status and events say of it."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from node_rig import Rig, node

pytestmark = pytest.mark.looptime
IMAGE = "localhost/busybox:1"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with node(tmp_path) as rig:
        yield rig


def probed(**probes: dict[str, Any]) -> list[dict[str, Any]]:
    """One container whose probes run a command named after them."""
    made = {f"{kind}Probe": {"exec": {"command": [kind]}, **settings} for kind, settings in probes.items()}
    return [{"name": "c", "image": IMAGE, **made}]


def answering(rig: Rig, **healthy: bool) -> dict[str, bool]:
    """What each kind of probe finds; the caller may change it."""
    rig.runtime.command = lambda _, command: (0, b"") if healthy.get(command[0], True) else (1, b"broken")
    return healthy


def first(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["containerStatuses"][0]
    return found


def starts(rig: Rig) -> list[float]:
    """When the containers there still are were started, in seconds."""
    return sorted(status.started_at / 1e9 for status in rig.runtime.containers.values())


async def test_a_failing_liveness_probe_restarts_the_container_ever_later(rig: Rig) -> None:
    await rig.boot()
    answering(rig, liveness=False)
    await rig.start("web", containers=probed(liveness={"periodSeconds": 1, "failureThreshold": 2}))
    status = await rig.until("web", lambda told: first(told)["restartCount"] == 1)
    assert first(status)["lastState"]["terminated"]["exitCode"] == 143
    began = starts(rig)
    assert began[1] - began[0] < 5, "the first restart comes at once"
    status = await rig.until("web", lambda told: "waiting" in first(told)["state"])
    waiting = first(status)["state"]["waiting"]
    assert waiting["reason"] == "CrashLoopBackOff"
    assert waiting["message"].startswith("back-off 10s restarting failed container=c pod=web_default(")
    for count, pause in ((2, 10), (3, 20), (4, 40)):
        await rig.until("web", lambda told, count=count: first(told)["restartCount"] == count)
        before, now = starts(rig)[-2:]
        assert pause < now - before < pause + 5
    (killing,) = {item["message"] for item in await rig.events("Killing")}
    assert killing == "Container c failed liveness probe, will be restarted"
    assert {item["message"] for item in await rig.events("Unhealthy")} == {"Liveness probe failed: broken"}
    assert {item["type"] for item in await rig.events("Unhealthy")} == {"Warning"}
    (backing_off,) = {item["message"] for item in await rig.events("BackOff")}
    assert backing_off.startswith("Back-off restarting failed container c in pod web_default(")


@pytest.mark.parametrize(("settings", "grace"), [({"terminationGracePeriodSeconds": 3}, 3), ({}, 40)])
async def test_a_probes_own_grace_is_given_where_it_has_one(rig: Rig, settings: dict[str, Any], grace: int) -> None:
    await rig.boot()
    answering(rig, liveness=False)
    pod = probed(liveness={"periodSeconds": 1, "failureThreshold": 1, **settings})
    await rig.start("web", containers=pod, terminationGracePeriodSeconds=40)
    await rig.until("web", lambda told: first(told)["restartCount"] == 1)
    assert next(iter(rig.runtime.stops.values())) == grace


async def test_readiness_decides_ready_and_restarts_nothing(rig: Rig) -> None:
    await rig.boot()
    health = answering(rig, readiness=False)
    await rig.start("web", containers=probed(readiness={"periodSeconds": 5}))
    status = await rig.until("web", lambda told: "running" in first(told)["state"])
    assert (first(status)["ready"], first(status)["started"]) == (False, True)
    health["readiness"] = True
    await rig.until("web", ready)
    health["readiness"] = False
    status = await rig.until("web", lambda told: not ready(told))
    (condition,) = (item for item in status["conditions"] if item["type"] == "Ready")
    assert condition["message"] == "containers with unready status: [c]"
    assert first(status)["restartCount"] == 0
    assert (await rig.events("Unhealthy"))[0]["message"] == "Readiness probe failed: broken"
    assert not await rig.events("Killing")


async def test_nothing_else_is_probed_until_the_startup_probe_has_passed(rig: Rig) -> None:
    await rig.boot()
    asked: list[str] = []
    health = answering(rig, startup=False, liveness=False)
    answer = rig.runtime.command

    def listening(container: str, command: tuple[str, ...]) -> tuple[int, bytes]:
        asked.append(command[0])
        return answer(container, command)

    rig.runtime.command = listening
    probes = probed(
        startup={"periodSeconds": 10, "failureThreshold": 30},
        liveness={"periodSeconds": 1, "failureThreshold": 1},
        readiness={"periodSeconds": 1},
    )
    await rig.start("slow", containers=probes)
    await rig.after(45)
    assert set(asked) == {"startup"}
    health |= {"startup": True, "liveness": True}
    status = await rig.until("slow", ready)
    assert first(status)["started"] is True
    await rig.after(3)
    assert {"liveness", "readiness"} < set(asked)
    seen = asked.count("startup")
    await rig.after(60)
    assert asked.count("startup") == seen, "a startup probe that passed is over"
    assert first(await rig.until("slow", ready))["restartCount"] == 0


async def test_a_startup_that_never_comes_is_a_restart(rig: Rig) -> None:
    await rig.boot()
    answering(rig, startup=False)
    await rig.start("dead", containers=probed(startup={"periodSeconds": 2, "failureThreshold": 3}))
    status = await rig.until("dead", lambda told: first(told)["restartCount"] == 1)
    assert first(status)["started"] is False
    assert (await rig.events("Killing"))[0]["message"] == "Container c failed startup probe, will be restarted"


async def test_every_shot_is_counted_for_collectors(rig: Rig) -> None:
    await rig.boot()
    answering(rig, liveness=False)
    await rig.start("web", containers=probed(liveness={"periodSeconds": 1}, readiness={"periodSeconds": 1}))
    await rig.until("web", lambda told: first(told)["restartCount"] == 1)

    def count(kind: str, result: str) -> float:
        labels = {"container": "c", "pod": "web", "namespace": "default", "probe_type": kind, "result": result}
        return sum(
            sample.value
            for family in rig.edged._probes.collect()
            for sample in family.samples
            if sample.name == "prober_probe_total" and labels.items() <= sample.labels.items()
        )

    assert count("Liveness", "failed") >= 3
    assert count("Readiness", "successful") >= 2
    assert count("Liveness", "successful") == 0


async def test_probes_of_a_terminating_pod_are_over(rig: Rig) -> None:
    await rig.boot()
    health = answering(rig)
    rig.runtime.delay("StopContainer", 20)
    made = await rig.start("web", containers=probed(liveness={"periodSeconds": 1, "failureThreshold": 1}))
    await rig.delete(made)
    await rig.after(2)
    health["liveness"] = False
    await rig.gone("web")
    assert {item["message"] for item in await rig.events("Killing")} == {"Stopping container c"}


def ready(status: dict[str, Any]) -> bool:
    return any(item["type"] == "Ready" and item["status"] == "True" for item in status["conditions"])


async def test_probes_begin_in_time_though_the_clock_was_set_back(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web", containers=probed(readiness={"periodSeconds": 1, "initialDelaySeconds": 5}))
    rig.clock.offset -= timedelta(days=30)
    answering(rig, readiness=False)
    async with rig.running():
        await rig.after(20)
        status = await rig.until("web", lambda told: not first(told)["ready"])
        assert first(status)["restartCount"] == 0
