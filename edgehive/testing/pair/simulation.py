"""`simulate(seed)`: one schedule from its beginning to the check of what must hold afterwards.

A failure carries its seed and the story of the objects concerned. The same seed tells the same story again, in any
process whose PYTHONHASHSEED is 0 (`python -m edgehive.testing.pair SEED` sees to that).
"""

import asyncio
import logging
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from edgehive.api.registry import CONFIG_MAPS, EVENTS, NODES, OBJECT_SYNCS, PODS, SECRETS, SERVICE_ACCOUNTS
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import AlreadyExists, ApiError, Forbidden, NotFound, ServerError
from edgehive.testing.pair import invariants
from edgehive.testing.pair.invariants import Finding
from edgehive.testing.pair.schedule import Step, schedule
from edgehive.testing.pair.world import NODE, World
from edgehive.testing.virtual_time import Stuck, VirtualLoop

#: Virtual seconds both halves get to come to rest, and how often and how long the peace is watched.
SETTLE_SECONDS = 900.0
LOOK_SECONDS = 5.0
PEACE_SECONDS = 40.0
NAMESPACE = "default"


class Broken(AssertionError):
    """What must hold does not; the text tells the story, `summary` what is wrong."""

    def __init__(self, seed: int, found: list[Finding], story: str) -> None:
        findings = "\n".join(f"  - {item.text}" for item in found)
        self.summary = f"seed {seed} (replay: python -m edgehive.testing.pair {seed}):\n{findings}"
        super().__init__(f"{self.summary}\n\n{story}\n")


def simulate(seed: int, steps: Sequence[Step] | None = None, *, tell_all: bool = False) -> str:
    """Perform the schedule of this number, or these steps by its chance; raises Broken. Gives its story."""
    with _numbers(seed), _logs() as logged:
        loop = VirtualLoop()
        performer = Performer(seed, schedule(seed) if steps is None else steps)
        try:
            found = loop.run_until_complete(performer.perform())
        except Stuck as error:
            found = [Finding("", str(error))]
        story = performer.world.story
        found += [Finding(*fault) for fault in performer.world.faults]
        loop.wind_up()
        found += [Finding("", text) for text in logged]
    names = [] if tell_all else sorted({item.about for item in found if item.about})
    text = "\n".join(story.about(*names))
    if found:
        raise Broken(seed, found, text)
    return text


class Performer:
    """Each method is one step."""

    def __init__(self, seed: int, steps: Sequence[Step]) -> None:
        self.world = World(seed)
        self._steps = steps
        self._serial = 0
        #: Names of events that were on the edge's disk.
        self.events: set[str] = set()
        self._later: set[asyncio.Task[Any]] = set()
        self._returns: dict[str, float] = {}

    async def perform(self) -> list[Finding]:
        """From the beginning to the end; what is wrong then."""
        async with self.world as world:
            await self._prepare()
            for step in self._steps:
                await asyncio.sleep(step.pause)
                world.story.tell("schedule", str(step))
                await getattr(self, step.name)(**step.options)
            found = await self.settle()
            await cancel_and_join(*self._later)
            return found

    async def _prepare(self) -> None:
        client = self.world.client
        with suppress(AlreadyExists):
            await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, NAMESPACE)
        await asyncio.sleep(12)

    # Objects

    async def create_pod(self, name: str, form: str) -> None:
        with suppress(AlreadyExists):
            await self.world.client.create(PODS, {"metadata": {"name": name}, "spec": pod_spec(form)}, NAMESPACE)

    async def change_pod(self, name: str) -> None:
        await self._quietly(
            self.world.client.patch(PODS, name, {"metadata": {"labels": {"n": self._next()}}}, NAMESPACE)
        )

    async def delete_pod(self, name: str, grace: int | None, again: bool, form: str) -> None:
        await self._quietly(self.world.client.delete(PODS, name, NAMESPACE, grace_period_seconds=grace))
        if again:
            await self.create_pod(name, form)

    async def end_container(self, name: str, code: int) -> None:
        runtime = self.world.runtime
        for id in runtime.running():
            if runtime.name_of(id) == name:
                runtime.exit(id, code)
                self.world.story.tell("runtime", f"{id} exits with {code}", name)
                return

    async def write_config_map(self, name: str) -> None:
        body = {"metadata": {"name": name}, "data": {"k": self._next()}}
        try:
            await self.world.client.create(CONFIG_MAPS, body, NAMESPACE)
        except AlreadyExists:
            await self.world.client.patch(CONFIG_MAPS, name, {"data": body["data"]}, NAMESPACE)

    async def delete_config_map(self, name: str, again: bool) -> None:
        await self._quietly(self.world.client.delete(CONFIG_MAPS, name, NAMESPACE))
        if again:
            await self.write_config_map(name)

    async def write_secret(self, name: str) -> None:
        body = {"metadata": {"name": name}, "stringData": {"k": self._next()}}
        try:
            await self.world.client.create(SECRETS, body, NAMESPACE)
        except AlreadyExists:
            await self.world.client.patch(SECRETS, name, {"stringData": body["stringData"]}, NAMESPACE)

    async def report_event(self) -> None:
        edge = self.world.edge
        if edge is None:
            return
        name = f"event-{self._next()}"
        body = {"metadata": {"name": name, "namespace": NAMESPACE}, "involvedObject": {"kind": "Node", "name": NODE}}
        self._do_later(self._quietly(edge.client.create(EVENTS, body, NAMESPACE)), "report")
        await asyncio.sleep(0.01)
        if name in self._reports_on_disk():
            self.events.add(name)

    def _reports_on_disk(self) -> str:
        return "\n".join(row[0] for row in self.world.database.look("SELECT message FROM outbox"))

    # The link

    async def cut(self) -> None:
        self.world.network.cut()

    async def unplug(self, seconds: float) -> None:
        self.world.network.plugged = False
        self.world.network.cut()
        self._undo(seconds, "plug", lambda: setattr(self.world.network, "plugged", True))

    async def slow_link(self, latency: float, seconds: float) -> None:
        self.world.network.disturbance.latency = latency
        self._undo(seconds, "latency", lambda: setattr(self.world.network.disturbance, "latency", 0.0))

    async def half_open(self, up: bool, down: bool) -> None:
        self.world.network.fall_silent(up, down)

    async def disturb_acks(self, lost: int, twice: int, held: int, foreign: int) -> None:
        now = self.world.network.disturbance
        now.lose_acks, now.repeat_acks, now.hold_acks, now.foreign_acks = lost, twice, held, foreign

    async def disturb_pushes(self, again: int, stale: int) -> None:
        now = self.world.network.disturbance
        now.repeat_messages, now.stale_messages = again, stale

    # The processes

    async def crash_edge(self, back: float) -> None:
        await self.world.stop_edge("killed")
        self._undo(back, "edge", self.world.start_edge)

    async def crash_cloud(self, back: float) -> None:
        await self.world.stop_cloud("killed")
        self._undo(back, "cloud", self.world.start_cloud)

    async def crash_edge_at_write(self, after: int, done: bool, back: float) -> None:
        self.world.database.crash_after(after, torn=not done)
        self._undo(back + 60, "edge", self.world.start_edge)

    async def crash_edge_at_runtime(self, after: int, done: bool, back: float) -> None:
        self.world.runtime.crash_after(after, performed=done)
        self._undo(back + 60, "edge", self.world.start_edge)

    async def crash_cloud_at_write(self, after: int, done: bool, back: float) -> None:
        self.world.weather.crash_after(after, performed=done)
        self._undo(back + 60, "cloud", self.world.start_cloud)

    async def reboot(self) -> None:
        await self.world.reboot()

    async def lose_disk(self) -> None:
        await self.world.lose_disk()
        self.events &= {item.meta.name for item in (await self.world.client.list(EVENTS)).items}

    # What they stand on

    async def api_away(self, seconds: float) -> None:
        self.world.weather.away = True
        self.world.weather.break_watches()
        self._undo(seconds, "api", lambda: setattr(self.world.weather, "away", False))

    async def slow_api(self, latency: float, seconds: float) -> None:
        self.world.weather.latency = latency
        self._undo(seconds, "slow api", lambda: setattr(self.world.weather, "latency", 0.0))

    async def api_errors(self, count: int, permanent: bool) -> None:
        error: ApiError = Forbidden("not allowed now") if permanent else ServerError("etcd has no leader")
        self.world.weather.errors = [error] * count

    async def slow_runtime(self, method: str, takes: float, seconds: float) -> None:
        self.world.runtime.delay(method, takes)
        self._undo(seconds, method, lambda: self.world.runtime.delay(method, 0.0))

    async def break_watches(self) -> None:
        self.world.weather.break_watches()

    async def turn_clock(self, whose: str, days: float) -> None:
        self.world.clocks()[whose].offset += timedelta(days=days)

    async def disk_full(self, seconds: float) -> None:
        self.world.database.full = True
        self._undo(seconds, "disk", lambda: setattr(self.world.database, "full", False))

    async def runtime_away(self, seconds: float) -> None:
        self.world.runtime.go_away()
        self._undo(seconds, "runtime", self.world.runtime.come_back)

    async def runtime_refuses(self, method: str, times: int) -> None:
        self.world.runtime.fail(method, "UNKNOWN", "the shim is not there", times=times)

    async def delete_node(self) -> None:
        await self._quietly(self.world.client.delete(NODES, NODE))

    async def delete_record(self) -> None:
        """As the end of a namespace does."""
        for record in (await self.world.client.list(OBJECT_SYNCS)).items[:1]:
            await self._quietly(self.world.client.delete(OBJECT_SYNCS, record.meta.name, record.meta.namespace))

    # The end

    async def settle(self) -> list[Finding]:
        """Mend everything, wait until all is as it must be and stays so for a while; what is still wrong."""
        await cancel_and_join(*self._later)
        self.world.heal()
        self.world.story.tell("schedule", "everything works again")
        loop = asyncio.get_running_loop()
        began, since = loop.time(), loop.time()
        found = [Finding("", "nothing was looked at")]
        while loop.time() - began < SETTLE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            self.world.start_both()
            found = await invariants.differences(self.world, set() if self._may_lose_events else self.events)
            if found:
                since = loop.time()
            elif loop.time() - since >= PEACE_SECONDS:
                break
        return found or await invariants.at_rest(self.world)

    @property
    def _may_lose_events(self) -> bool:
        """A cloud that dies between reading and writing one loses it, and one the API refuses is nobody's (0012)."""
        return any(
            step.name in ("crash_cloud", "crash_cloud_at_write") or step.options.get("permanent")
            for step in self._steps
        )

    # Spelling

    def _undo(self, seconds: float, what: str, undo: Callable[[], Any]) -> None:
        """After this time, unless a later step asks for a later one."""
        loop = asyncio.get_running_loop()
        due = self._returns[what] = loop.time() + seconds

        async def later() -> None:
            await asyncio.sleep(seconds)
            if self._returns[what] == due:
                undo()

        self._do_later(later(), what)

    def _do_later(self, work: Any, name: str) -> None:
        task = spawn(work, name=name)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    @staticmethod
    async def _quietly(request: Any) -> None:
        with suppress(NotFound, ApiError):
            await request

    def _next(self) -> str:
        self._serial += 1
        return str(self._serial)


_APP: dict[str, Any] = {"name": "c", "image": "localhost/app:1"}


def pod_spec(form: str) -> dict[str, Any]:
    """The spec of a pod made in one of `schedule.POD_FORMS`."""
    spec: dict[str, Any] = {"nodeName": NODE, "containers": [dict(_APP)]}
    mount = {"name": "v", "mountPath": "/v"}
    match form:
        case "config-map":
            spec["volumes"] = [{"name": "v", "configMap": {"name": "settings"}}]
            spec["containers"][0]["volumeMounts"] = [mount]
        case "secret":
            spec["volumes"] = [{"name": "v", "secret": {"secretName": "key"}}]
            spec["containers"][0]["volumeMounts"] = [mount]
        case "environment":
            spec["containers"][0]["envFrom"] = [{"configMapRef": {"name": "serviceaccounttoken-x", "optional": True}}]
        case "token":
            token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}
            spec["volumes"] = [{"name": "v", "projected": {"sources": [token]}}]
            spec["containers"][0]["volumeMounts"] = [mount]
        case "two":
            spec["containers"].append(_APP | {"name": "d"})
        case "job":
            spec["restartPolicy"] = "OnFailure"
        case "init":
            spec["initContainers"] = [_APP | {"name": "i", "restartPolicy": "Always"}]
    return spec


@contextmanager
def _numbers(seed: int) -> Iterator[None]:
    """Ids and jitter follow from the seed."""
    before, state = uuid.uuid4, random.getstate()
    chance = random.Random(seed)  # noqa: S311
    random.seed(seed)
    uuid.uuid4 = lambda: uuid.UUID(int=chance.getrandbits(128), version=4)
    try:
        yield
    finally:
        uuid.uuid4 = before
        random.setstate(state)


class _Tracebacks(logging.Handler):
    """A traceback in the log is a bug, whatever came of it."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._found = found

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._found.append(f"the log holds a traceback: {record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def _logs() -> Iterator[list[str]]:
    """What the log held that must not be there; nothing is printed."""
    found: list[str] = []
    handler, root = _Tracebacks(found), logging.getLogger()
    hive = logging.getLogger("edgehive")
    before = root.handlers, hive.level
    root.handlers = [handler]
    hive.setLevel(logging.ERROR)
    try:
        yield found
    finally:
        root.handlers = before[0]
        hive.setLevel(before[1])
