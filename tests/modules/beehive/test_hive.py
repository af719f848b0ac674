"""A Hive starts in order, restarts by policy, and stops in reverse with a deadline each."""

import asyncio
import json
import os
import signal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from edgehive.beehive.bus import Bus
from edgehive.beehive.health import routes
from edgehive.beehive.hive import Hive, ModuleFailed, UnknownModule, run_until_signal
from edgehive.beehive.module import Ready, Restart, RestartPolicy
from edgehive.kit.backoff import Backoff
from edgehive.kit.http import PortInUse
from edgehive.kit.tasks import cancel_and_join, spawn

STEADY = Backoff(first=1, factor=2, limit=8, jitter=0)


class Recorded:
    """A module that writes down its life."""

    group = "test"

    def __init__(self, name: str, story: list[str], needs: tuple[str, ...] = ()) -> None:
        self.name, self.story, self.needs = name, story, needs

    async def run(self, ready: Ready) -> None:
        self.story.append(f"+{self.name}")
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            self.story.append(f"-{self.name}")


class Failing(Recorded):
    """Raises so many times, then works."""

    def __init__(self, name: str, story: list[str], times: int) -> None:
        super().__init__(name, story)
        self.times = times

    async def run(self, ready: Ready) -> None:
        if self.times:
            self.times -= 1
            self.story.append(f"!{self.name}@{asyncio.get_running_loop().time():.0f}")
            raise OSError("broken pipe")
        await super().run(ready)


class Stuck(Recorded):
    """Does not stop when told to."""

    async def run(self, ready: Ready) -> None:
        ready()
        while True:
            try:
                await asyncio.sleep(30)
                return
            except asyncio.CancelledError:
                self.story.append(f"{self.name} ignores it")


def hive(*modules: Recorded, **options: object) -> Hive:
    return Hive("test", {m.name: lambda m=m: m for m in modules}, bus=Bus(), **options)  # type: ignore[arg-type,misc]


async def until_ready(target: Hive) -> None:
    while not target.health().ready:
        await asyncio.sleep(0.01)


@pytest.mark.looptime
async def test_start_in_order_stop_in_reverse() -> None:
    """B6, B7."""
    story: list[str] = []
    target = hive(*(Recorded(name, story) for name in "abc"))
    stop = asyncio.Event()
    running = spawn(target.run(stop), name="hive")
    await until_ready(target)
    stop.set()
    await running
    assert story == ["+a", "+b", "+c", "-c", "-b", "-a"]


@pytest.mark.looptime
async def test_a_failing_module_is_restarted_with_growing_delay_and_others_live() -> None:
    """B5, BH5."""
    story: list[str] = []
    target = hive(
        Recorded("calm", story), Failing("shaky", story, 3), policies={"shaky": RestartPolicy(backoff=STEADY)}
    )
    stop = asyncio.Event()
    running = spawn(target.run(stop), name="hive")
    await until_ready(target)
    assert story == ["+calm", "!shaky@0", "!shaky@1", "!shaky@3", "+shaky"]
    assert target.health().restarts["shaky"] == 3
    stop.set()
    await running


@pytest.mark.looptime
async def test_after_the_last_retry_the_handler_runs_and_the_hive_fails_in_order() -> None:
    story: list[str] = []
    gave_up: list[str] = []
    target = hive(
        Recorded("calm", story),
        Failing("broken", story, 99),
        policies={"broken": RestartPolicy(backoff=STEADY, limit=2)},
        on_give_up=lambda name, error: gave_up.append(f"{name}: {error}"),
    )
    with pytest.raises(ModuleFailed, match=r"'broken' failed for good: OSError: broken pipe"):
        await target.run()
    assert gave_up == ["broken: broken pipe"]
    assert story[-1] == "-calm"


class Unmendable(Recorded):
    """Finds its port taken, inside a task group as modules work."""

    async def run(self, ready: Ready) -> None:
        self.story.append(f"!{self.name}")
        async with asyncio.TaskGroup():
            raise PortInUse("port 10000 is in use: configure another port")


@pytest.mark.looptime
async def test_what_no_retry_can_mend_ends_the_hive_at_once_with_its_own_sentence() -> None:
    story: list[str] = []
    target = hive(Recorded("calm", story), Unmendable("door", story), Recorded("late", story))
    with pytest.raises(ModuleFailed, match=r"^port 10000 is in use: configure another port$"):
        await target.run()
    assert story == ["+calm", "!door", "-calm"]
    assert asyncio.get_running_loop().time() < 0.1


@pytest.mark.looptime
@pytest.mark.parametrize(("restart", "runs"), [(Restart.NEVER, 1), (Restart.ON_FAILURE, 1), (Restart.ALWAYS, 3)])
async def test_policies_on_a_module_that_returns(restart: Restart, runs: int) -> None:
    story: list[str] = []

    class Brief(Recorded):
        async def run(self, ready: Ready) -> None:
            ready()
            self.story.append("ran")

    target = hive(Brief("brief", story), policies={"brief": RestartPolicy(restart, STEADY, limit=2)})
    stop = asyncio.Event()
    running = spawn(target.run(stop), name="hive")
    await asyncio.sleep(60)
    stop.set()
    outcome = await asyncio.gather(running, return_exceptions=True)
    assert story == ["ran"] * runs
    assert isinstance(outcome[0], ModuleFailed) == (restart is Restart.ALWAYS)


@pytest.mark.looptime
async def test_a_hanging_module_does_not_keep_the_others_from_stopping() -> None:
    story: list[str] = []
    target = hive(Recorded("a", story), Stuck("stuck", story), stop_timeout=5)
    stop = asyncio.Event()
    running = spawn(target.run(stop), name="hive")
    await until_ready(target)
    stop.set()
    before = asyncio.get_running_loop().time()
    await running
    assert asyncio.get_running_loop().time() - before == pytest.approx(5, abs=0.5)
    assert story == ["+a", "stuck ignores it", "-a"]
    await asyncio.sleep(60)


@pytest.mark.looptime
async def test_a_module_that_is_never_ready_is_named() -> None:
    class Mute(Recorded):
        async def run(self, ready: Ready) -> None:
            await asyncio.Event().wait()

    with pytest.raises(ModuleFailed, match="'mute' was not ready within 3 s"):
        await hive(Mute("mute", []), ready_timeout=3).run()


async def test_unknown_and_unmet_names_are_refused_before_anything_starts() -> None:
    """BH1."""
    story: list[str] = []
    with pytest.raises(UnknownModule, match="no module 'dbTest'; it has a"):
        hive(Recorded("a", story), enabled=["a", "dbTest"])
    with pytest.raises(ModuleFailed, match="needs b, which must be enabled and listed first"):
        await hive(Recorded("a", story, needs=("b",)), Recorded("b", story)).run()
    assert story == []


@pytest.mark.looptime
async def test_modules_are_enabled_and_disabled_while_others_run() -> None:
    """BH2."""
    story: list[str] = []
    target = hive(*(Recorded(name, story) for name in "abc"), enabled=["a", "b"])
    stop = asyncio.Event()
    running = spawn(target.run(stop), name="hive")
    await until_ready(target)
    await target.set_enabled(["a", "c"])
    assert story == ["+a", "+b", "-b", "+c"]
    assert target.health().modules == {"a": "ready", "b": "disabled", "c": "ready"}
    stop.set()
    await running


async def test_sigterm_stops_everything() -> None:
    """BH6."""
    story: list[str] = []
    target = hive(Recorded("a", story))
    running = spawn(run_until_signal(target), name="hive")
    await until_ready(target)
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    assert story == ["+a", "-a"]


async def test_two_hives_live_in_one_process() -> None:
    """BH10."""
    story: list[str] = []
    stop = asyncio.Event()
    cloud, edge = hive(Recorded("cloud", story)), hive(Recorded("edge", story))
    running = [spawn(target.run(stop), name="hive") for target in (cloud, edge)]
    await asyncio.gather(until_ready(cloud), until_ready(edge))
    stop.set()
    await asyncio.gather(*running)
    assert sorted(story) == ["+cloud", "+edge", "-cloud", "-edge"]


async def test_health_tells_what_is_awaited() -> None:
    """B8."""
    gate = asyncio.Event()

    class Slow(Recorded):
        async def run(self, ready: Ready) -> None:
            await gate.wait()
            await super().run(ready)

    target = hive(Recorded("a", []), Slow("slow", []))
    app = web.Application()
    app.add_routes(routes(target))
    running = spawn(target.run(), name="hive")
    async with TestClient(TestServer(app)) as client:
        await asyncio.sleep(0.01)
        waiting = await client.get("/readyz")
        assert (waiting.status, await waiting.text()) == (503, "waiting for slow\n")
        gate.set()
        await until_ready(target)
        assert (await client.get("/readyz")).status == 200
        assert (await client.get("/healthz")).status == 200
        status = json.loads(await (await client.get("/statusz")).text())
        assert [m["state"] for m in status["modules"]] == ["ready", "ready"]
        assert "edgehive_module_restarts" in await (await client.get("/metrics")).text()
    await cancel_and_join(running)
