"""`Hive`: ordered start, readiness, supervision and reverse-order shutdown of a process's modules.

Used by cloudcore, edgecore and edgesite. All modules are constructed, and so all mailboxes exist, before the
first one starts. Supervisors never let an exception reach a task group: they report, and the Hive stops
modules one at a time, last started first, each with a deadline, before it raises `ModuleFailed`.

Go: staging/src/github.com/kubeedge/beehive/pkg/core/core.go
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from prometheus_client import CollectorRegistry, Counter

from edgehive.beehive.bus import Bus
from edgehive.beehive.module import Module, Restart, RestartPolicy
from edgehive.kit.fatal import fatal_in
from edgehive.kit.tasks import cancel_and_join, spawn

log = logging.getLogger("edgehive.beehive")

Factory = Callable[[], Module]
GiveUp = Callable[[str, BaseException], None]

#: On any of these a process stops its modules and ends (as the Go processes do, SIGHUP included).
STOP_SIGNALS = (
    signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGILL, signal.SIGTRAP, signal.SIGABRT,
)  # fmt: skip


class ModuleFailed(Exception):
    """A module used up its restarts, or did not become ready; the text names it and the last error."""


class UnknownModule(Exception):
    """Configuration names a module this process does not have."""


class State(Enum):
    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"
    FAILED = "failed"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class HiveHealth:
    """What /healthz, /readyz and /statusz tell."""

    live: bool
    ready: bool
    awaited: tuple[str, ...]
    modules: dict[str, str]
    restarts: dict[str, int]


class _Supervisor:
    """Keeps one module running by its policy and tells when it is ready, when it gave up, and why."""

    def __init__(self, name: str, factory: Factory, policy: RestartPolicy, restarts: Counter) -> None:
        self.name = name
        self.state = State.WAITING
        self.restarts = 0
        self.module = factory()
        self.ready = asyncio.Event()
        self.failure: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self._factory = factory
        self._policy = policy
        self._counter = restarts

    def start(self, on_end: Callable[["_Supervisor"], None]) -> None:
        self.state = State.STARTING
        self.task = spawn(self._supervise(on_end), name=f"module {self.name}")

    async def _supervise(self, on_end: Callable[["_Supervisor"], None]) -> None:
        failures = 0
        while True:
            error = await self._run_once()
            if not self._again(error, failures):
                self._end(error)
                on_end(self)
                return
            delay = self._policy.backoff.delay(failures)
            failures += 1
            self.restarts += 1
            self._counter.labels(self.name).inc()
            self.state = State.RESTARTING
            log.error("module %s ended (%s); restart %d in %.1f s", self.name, describe(error), failures, delay)
            await asyncio.sleep(delay)

    async def _run_once(self) -> BaseException | None:
        try:
            await self.module.run(self._mark_ready)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.debug("module %s raised", self.name, exc_info=error)
            return error
        return None

    def _again(self, error: BaseException | None, failures: int) -> bool:
        policy = self._policy
        if fatal_in(error) is not None:
            return False
        if policy.restart is Restart.NEVER or (policy.restart is Restart.ON_FAILURE and error is None):
            return False
        return policy.limit == 0 or failures < policy.limit

    def _end(self, error: BaseException | None) -> None:
        if error is None and self._policy.restart is not Restart.ALWAYS:
            self.state = State.STOPPED
            log.warning("module %s returned although nobody asked it to stop", self.name)
            return
        self.state = State.FAILED
        self.failure = error or RuntimeError("its run() returned although nobody asked it to stop")

    def _mark_ready(self) -> None:
        self.state = State.READY
        self.ready.set()


def describe(error: BaseException | None) -> str:
    """One line for a log: the type and the text of an error, the first cause of a group."""
    if error is None:
        return "returned"
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


class Hive:
    """`factories` in start order; `enabled` None means all. See `run`."""

    def __init__(
        self,
        name: str,
        factories: Mapping[str, Factory],
        *,
        bus: Bus,
        enabled: Collection[str] | None = None,
        registry: CollectorRegistry | None = None,
        policies: Mapping[str, RestartPolicy] | None = None,
        ready_timeout: float = 60.0,
        stop_timeout: float = 10.0,
        on_give_up: GiveUp | None = None,
    ) -> None:
        self.name = name
        self.bus = bus
        self.registry = registry or CollectorRegistry()
        self._factories = dict(factories)
        self._policies = dict(policies or {})
        self._ready_timeout = ready_timeout
        self._stop_timeout = stop_timeout
        self._on_give_up = on_give_up
        self._restarts = Counter(
            "edgehive_module_restarts", "Restarts of a module after it failed.", ["module"], registry=self.registry
        )
        self._running: dict[str, _Supervisor] = {}
        self._ended: asyncio.Queue[_Supervisor] = asyncio.Queue()
        self._changing = asyncio.Lock()
        wanted = list(self._factories) if enabled is None else list(enabled)
        self._check_known(wanted)
        self._wanted = [module for module in self._factories if module in wanted]

    async def run(self, stop: asyncio.Event | None = None) -> None:
        """Start everything, supervise until `stop` is set or a module fails for good, stop everything.

        Raises ModuleFailed after all modules are stopped; UnknownModule before any is started.
        """
        stop = stop or asyncio.Event()
        try:
            self._construct(self._wanted)
            await self._start_all(stop)
            await self._watch(stop)
        finally:
            await self._stop_all()

    async def enable(self, name: str) -> None:
        """Construct and start one more module while running; no effect when it runs already."""
        self._check_known([name])
        async with self._changing:
            if name not in self._running:
                self._construct([name])
                await self._start(self._running[name])

    async def disable(self, name: str) -> None:
        """Stop one module while the others go on; its unread messages are counted in the log."""
        self._check_known([name])
        async with self._changing:
            supervisor = self._running.get(name)
            if supervisor is not None:
                await self._stop(supervisor)

    async def set_enabled(self, names: Iterable[str]) -> None:
        """Make exactly these modules run: the live change of the enabled list."""
        wanted = set(names)
        self._check_known(wanted)
        for name in reversed([running for running in self._running if running not in wanted]):
            await self.disable(name)
        for name in self._factories:
            if name in wanted:
                await self.enable(name)

    def health(self) -> HiveHealth:
        states = dict.fromkeys(self._factories, State.DISABLED.value)
        states |= {name: supervisor.state.value for name, supervisor in self._running.items()}
        awaited = tuple(name for name, s in self._running.items() if s.state is not State.READY)
        failed = any(s.state is State.FAILED for s in self._running.values())
        return HiveHealth(
            live=not failed,
            ready=bool(self._running) and not awaited,
            awaited=awaited,
            modules=states,
            restarts={name: s.restarts for name, s in self._running.items()},
        )

    def _check_known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._factories:
                raise UnknownModule(f"{self.name} has no module {name!r}; it has {', '.join(self._factories)}")

    def _construct(self, names: list[str]) -> None:
        for name in names:
            policy = self._policies.get(name, RestartPolicy())
            supervisor = _Supervisor(name, self._factories[name], policy, self._restarts)
            missing = [need for need in supervisor.module.needs if need not in self._running]
            if missing:
                self.bus.unregister(supervisor.module.name)
                raise ModuleFailed(
                    f"module {name!r} needs {', '.join(missing)}, which must be enabled and listed first"
                )
            self._running[name] = supervisor

    async def _start_all(self, stop: asyncio.Event) -> None:
        for name in self._wanted:
            if stop.is_set():
                return
            supervisor = self._running.get(name)
            if supervisor is not None:
                await self._start(supervisor, stop)
                if supervisor.failure is not None:
                    return

    async def _start(self, supervisor: _Supervisor, stop: asyncio.Event | None = None) -> None:
        """Start a module and wait until it is ready, has given up, or the process is told to stop."""
        supervisor.start(self._ended.put_nowait)
        waits = [spawn(supervisor.ready.wait(), name=f"{supervisor.name} ready")]
        assert supervisor.task is not None
        if stop is not None:
            waits.append(spawn(stop.wait(), name=f"{supervisor.name} stop"))
        try:
            done, _ = await asyncio.wait(
                [*waits, supervisor.task], timeout=self._ready_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await cancel_and_join(*waits)
        if not done:
            raise ModuleFailed(f"module {supervisor.name!r} was not ready within {self._ready_timeout:g} s")
        if supervisor.ready.is_set():
            log.info("module %s is ready", supervisor.name)

    async def _watch(self, stop: asyncio.Event) -> None:
        stopping = spawn(stop.wait(), name="stop signal")
        try:
            while not stop.is_set():
                ended = spawn(self._ended.get(), name="module ended")
                try:
                    await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
                    if not ended.done():
                        return
                    self._judge(ended.result())
                finally:
                    await cancel_and_join(ended)
        finally:
            await cancel_and_join(stopping)

    def _judge(self, supervisor: _Supervisor) -> None:
        failure = supervisor.failure
        if self._running.get(supervisor.name) is not supervisor or failure is None:
            return
        if self._on_give_up is not None:
            self._on_give_up(supervisor.name, failure)
        fatal = fatal_in(failure)
        text = f"module {supervisor.name!r} failed for good: {describe(failure)}" if fatal is None else str(fatal)
        raise ModuleFailed(text) from failure

    async def _stop_all(self) -> None:
        for supervisor in reversed(list(self._running.values())):
            await self._stop(supervisor)

    async def _stop(self, supervisor: _Supervisor) -> None:
        self._running.pop(supervisor.name, None)
        task = supervisor.task
        if task is not None and not task.done():
            task.cancel()
            _, pending = await asyncio.wait([task], timeout=self._stop_timeout)
            if pending:
                log.error(
                    "module %s did not stop within %g s; going on without it", supervisor.name, self._stop_timeout
                )
        if supervisor.state is not State.FAILED:
            supervisor.state = State.STOPPED
        left = self.bus.unregister(supervisor.module.name)
        if left:
            log.warning("module %s stopped with %d unread messages", supervisor.name, left)


async def run_until_signal(hive: Hive, *, stop: asyncio.Event | None = None) -> None:
    """`hive.run` until one of the stop signals arrives; a second signal ends the process at once."""
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _on_signal, number, stop)
    try:
        await hive.run(stop)
    finally:
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)


def _on_signal(number: signal.Signals, stop: asyncio.Event) -> None:
    if stop.is_set():
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
        return
    log.info("%s received, stopping", signal.Signals(number).name)
    stop.set()
