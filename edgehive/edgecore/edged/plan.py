"""What to do next for one pod: (desired pod, observed pod, notes, instant) -> actions. Pure.

`pods.py` calls it after every change, `runtime.py` carries the actions out. It decides restarts, order of init
containers, back-off, replacement of a dead sandbox and termination; it never waits, asks or remembers. What runs
already is kept: a running container is stopped only for a reason a user can read in its `Stop`.

Go: pkg/kubelet/kuberuntime/kuberuntime_manager.go (computePodActions), client-go flowcontrol/backoff.go
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum

from edgehive.api.core import Container, Pod

#: The waiting reason of a container that is restarted later.
CRASH_LOOP = "CrashLoopBackOff"
CRASH_FIRST_SECONDS = 10.0
CRASH_LIMIT_SECONDS = 300.0
#: A container that ran this long is no crash loop any more.
CRASH_FORGIVEN_SECONDS = 600.0
DEFAULT_GRACE_SECONDS = 30
TERMINAL_PHASES = ("Succeeded", "Failed")
#: The key in `Notes.failures` for what concerns the pod as a whole: its sandbox and volumes.
POD = ""


# --- what is observed -------------------------------------------------------------------------------------


class State(Enum):
    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ObservedContainer:
    """One container as the runtime tells of it; `attempt` is Kubernetes' restartCount."""

    id: str
    name: str
    sandbox_id: str
    state: State
    attempt: int = 0
    spec_hash: str = ""
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_id: str = ""

    @property
    def succeeded(self) -> bool:
        return self.state is State.EXITED and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class ObservedSandbox:
    id: str
    ready: bool
    attempt: int = 0
    created_at: datetime | None = None
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """Everything the runtime holds for one pod UID; both tuples newest first."""

    sandboxes: tuple[ObservedSandbox, ...] = ()
    containers: tuple[ObservedContainer, ...] = ()

    @property
    def sandbox(self) -> ObservedSandbox | None:
        """The newest sandbox, ready or not."""
        return self.sandboxes[0] if self.sandboxes else None

    def attempts(self, name: str) -> Iterator[ObservedContainer]:
        """All containers of this name, newest first."""
        return (item for item in self.containers if item.name == name)

    def latest(self, name: str) -> ObservedContainer | None:
        return next(self.attempts(name), None)

    def current(self, name: str) -> ObservedContainer | None:
        """The latest of this name inside the newest sandbox."""
        sandbox = self.sandbox
        return next((item for item in self.attempts(name) if sandbox and item.sandbox_id == sandbox.id), None)

    @property
    def alive(self) -> tuple[ObservedContainer, ...]:
        """What may still execute code."""
        return tuple(item for item in self.containers if item.state in (State.RUNNING, State.UNKNOWN))

    @property
    def stopped(self) -> bool:
        """No container runs and no sandbox holds a network."""
        return not self.alive and not any(sandbox.ready for sandbox in self.sandboxes)


# --- what is remembered between two plans -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CrashDelay:
    """The wait the next crash will cost, and when the last restart happened."""

    seconds: float
    since: datetime


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that could not be done and will be tried again at `retry_at`."""

    reason: str
    message: str
    retry_at: datetime
    count: int = 1


@dataclass(slots=True)
class Notes:
    """What the worker of one pod knows beyond the two pods. Lost with the process, and that is fine."""

    crashes: dict[str, CrashDelay] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    #: container id -> why it must be replaced (liveness or startup probe).
    unhealthy: dict[str, str] = field(default_factory=dict)
    #: container id -> the grace its probe gives it when it is replaced, where that is not the pod's.
    grace: dict[str, int] = field(default_factory=dict)
    #: container id -> verdict of the readiness probe; only containers that have one.
    readiness: dict[str, bool] = field(default_factory=dict)
    #: container id -> whether the startup probe passed; only containers that have one.
    startup: dict[str, bool] = field(default_factory=dict)
    #: container id -> when it ended, by the clock as it is now.
    ended: dict[str, datetime] = field(default_factory=dict)

    def clock_was_set(self, by: timedelta) -> None:
        """The date jumped: what was to happen in a while happens after that while."""
        self.failures = {name: replace(item, retry_at=item.retry_at + by) for name, item in self.failures.items()}
        self.crashes = {name: replace(item, since=item.since + by) for name, item in self.crashes.items()}
        self.ended = {id: at + by for id, at in self.ended.items()}

    def note_ends(self, observed: "ObservedPod", now: datetime) -> None:
        """A container that ended in the future did so before the clock was set back."""
        exited = [item for item in observed.containers if item.state is State.EXITED]
        self.ended = {item.id: self.ended.get(item.id) or min(item.finished_at or now, now) for item in exited}


@dataclass(frozen=True, slots=True)
class Termination:
    """Why a pod must end. `reason` and `message` reach the pod's status where Kubernetes reports them.

    `disruption`: it is none of the pod's own doing.
    """

    grace_seconds: int
    reason: str = ""
    message: str = ""
    disruption: bool = False


@dataclass(frozen=True, slots=True)
class Desired:
    """The pod as wanted. `removed`: the API holds it no longer. `evicted`: this node gives it up."""

    pod: Pod
    removed: bool = False
    evicted: Termination | None = None
    started_at: datetime | None = None


# --- what to do -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Pull if needed, create and start. `attempt` is the restart count it gets."""

    name: str
    attempt: int
    init: bool = False


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Run the preStop hook and stop, within the grace period."""

    id: str
    name: str
    grace_seconds: int
    message: str


@dataclass(frozen=True, slots=True)
class StopPod:
    """Stop these containers side by side, sidecars after the rest, then every ready sandbox."""

    containers: tuple[StopContainer, ...]
    sandboxes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    id: str


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    id: str


Action = CreateSandbox | StartContainer | StopContainer | StopPod | RemoveContainer | RemoveSandbox


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in order; when to look again; which containers wait and why; whether the pod came to its end."""

    actions: tuple[Action, ...] = ()
    wake_at: datetime | None = None
    #: container name -> (reason, message) of its Waiting state.
    held: dict[str, tuple[str, str]] = field(default_factory=dict)
    #: Nothing of this pod runs, and nothing of it will be started again.
    finished: bool = False
    termination: Termination | None = None


def plan(desired: Desired, observed: ObservedPod, notes: Notes, now: datetime) -> Plan:
    """The next steps for one pod."""
    ending = termination(desired, now)
    if ending is not None:
        return _terminate(observed, ending)
    sandbox = observed.sandbox
    if sandbox is None or not sandbox.ready:
        return _new_sandbox(desired, observed, notes, now)
    draft = _Draft(desired, observed, notes, now)
    draft.decide()
    return draft.result()


def termination(desired: Desired, now: datetime) -> Termination | None:
    """Why and with which grace this pod must end; None while it shall run."""
    meta, spec = desired.pod.metadata, desired.pod.spec
    own_grace = spec.termination_grace_period_seconds
    grace = own_grace if own_grace is not None else DEFAULT_GRACE_SECONDS
    if desired.removed or meta.deletion_timestamp is not None:
        asked = meta.deletion_grace_period_seconds
        return Termination(max(1, asked if asked is not None else grace))
    if desired.evicted is not None:
        return desired.evicted
    status = desired.pod.status
    if status.phase in TERMINAL_PHASES:
        return Termination(max(1, grace), status.reason, status.message)
    deadline = deadline_of(desired)
    if deadline is not None and now >= deadline:
        return Termination(
            max(1, grace), "DeadlineExceeded", "Pod was active on the node longer than the specified deadline"
        )
    return None


def deadline_of(desired: Desired) -> datetime | None:
    """When activeDeadlineSeconds will be over."""
    seconds = desired.pod.spec.active_deadline_seconds
    if seconds is None or desired.started_at is None:
        return None
    return desired.started_at + timedelta(seconds=seconds)


def spec_hash(container: Container) -> str:
    """Identity of a container's definition: only what the API lets change in place (the image) and the name.

    Narrow on purpose: a new release that defaults one more field must not restart every container.
    """
    return hashlib.sha256(f"{container.name}\0{container.image}".encode()).hexdigest()[:8]


def every_container(pod: Pod) -> tuple[Container, ...]:
    """Main, init and ephemeral ones."""
    spec = pod.spec
    return (*spec.containers, *(spec.init_containers or ()), *(spec.ephemeral_containers or ()))


def is_sidecar(container: Container) -> bool:
    """An init container that keeps running beside the main ones."""
    return container.restart_policy == "Always"


def crash_wait_until(crash: CrashDelay | None, finished_at: datetime) -> datetime | None:
    """When a container that ended at `finished_at` may start again; None: at once."""
    if crash is None or finished_at - crash.since > timedelta(seconds=CRASH_FORGIVEN_SECONDS):
        return None
    return finished_at + timedelta(seconds=crash.seconds)


def crash_after_restart(crash: CrashDelay | None, finished_at: datetime, now: datetime) -> CrashDelay:
    """The back-off to note down when a container is started again."""
    if crash is None or finished_at - crash.since > timedelta(seconds=CRASH_FORGIVEN_SECONDS):
        return CrashDelay(CRASH_FIRST_SECONDS, now)
    return CrashDelay(min(crash.seconds * 2, CRASH_LIMIT_SECONDS), now)


def next_attempt(desired: Desired, observed: ObservedPod, name: str) -> int:
    """The restart count of the next container of this name: from the runtime, else from the last report."""
    latest = observed.latest(name)
    if latest is not None:
        return latest.attempt if latest.state is State.CREATED else latest.attempt + 1
    status = desired.pod.status
    reported = [*(status.init_container_statuses or ()), *(status.container_statuses or ())]
    # A container the last report knew and the runtime does not was lost in a reboot: that is a restart.
    return next((item.restart_count + 1 for item in reported if item.name == name and item.container_id), 0)


def outcome(pod: Pod, observed: ObservedPod) -> str:
    """`Succeeded` or `Failed` for a pod of which nothing runs any more."""
    exits = [observed.latest(container.name) for container in pod.spec.containers]
    return "Succeeded" if all(item is not None and item.succeeded for item in exits) else "Failed"


# --- deciding ---------------------------------------------------------------------------------------------


def _terminate(observed: ObservedPod, ending: Termination) -> Plan:
    if observed.stopped:
        return Plan(finished=True, termination=ending)
    stop = _stop_all(observed, ending.grace_seconds, "Stopping container {name}")
    return Plan((stop,), termination=ending)


def _stop_all(observed: ObservedPod, grace: int, message: str) -> StopPod:
    return StopPod(
        tuple(StopContainer(item.id, item.name, grace, message.format(name=item.name)) for item in observed.alive),
        tuple(sandbox.id for sandbox in observed.sandboxes if sandbox.ready),
    )


def _new_sandbox(desired: Desired, observed: ObservedPod, notes: Notes, now: datetime) -> Plan:
    """There is no sandbox to run in: make one, unless all the pod's work is done."""
    if not _anything_to_start(desired.pod, observed):
        if not observed.stopped:
            return Plan((_stop_all(observed, DEFAULT_GRACE_SECONDS, "Stopping container {name}"),))
        return Plan(finished=True)
    failure = notes.failures.get(POD)
    if failure is not None and failure.retry_at > now:
        return Plan(wake_at=failure.retry_at)
    actions: list[Action] = []
    if not observed.stopped or observed.sandboxes:
        # Stopping a sandbox that is down already still gives back its network.
        ids = tuple(sandbox.id for sandbox in observed.sandboxes)
        stop = _stop_all(observed, DEFAULT_GRACE_SECONDS, "Pod sandbox changed, it will be killed and re-created.")
        actions.append(StopPod(stop.containers, ids))
    sandbox = observed.sandbox
    actions.append(CreateSandbox(sandbox.attempt + 1 if sandbox else 0))
    return Plan(tuple(actions))


def _anything_to_start(pod: Pod, observed: ObservedPod) -> bool:
    policy = pod.spec.restart_policy
    seen = [observed.latest(container.name) for container in pod.spec.containers]
    if policy == "Never":
        # A pod that had its one try does not get a second, unless it never came to its main containers.
        inits = [observed.latest(item.name) for item in pod.spec.init_containers or () if not is_sidecar(item)]
        if any(item is not None and item.state is State.EXITED and item.exit_code for item in inits):
            return False
        return not any(item is not None and item.state is not State.CREATED for item in seen)
    if policy == "OnFailure":
        return not all(item is not None and item.succeeded for item in seen)
    return True


class _Draft:
    """One pass over the containers of a pod whose sandbox is ready."""

    def __init__(self, desired: Desired, observed: ObservedPod, notes: Notes, now: datetime) -> None:
        self.desired, self.observed, self.notes, self.now = desired, observed, notes, now
        self.spec = desired.pod.spec
        self.actions: list[Action] = []
        self.held: dict[str, tuple[str, str]] = {}
        self.wakes: list[datetime] = []
        self.failed = False
        self.busy = False

    def decide(self) -> None:
        if self._initialize() and not self.failed:
            self._main_containers()
        if not self.failed and self.busy:
            self._replace_unhealthy_sidecars()
            self.actions += _prune(self.observed)
        self._ephemeral_containers()

    def result(self) -> Plan:
        deadline = deadline_of(self.desired)
        wakes = [*self.wakes, deadline] if deadline else self.wakes
        if not self.busy:
            # All work is done or lost: sidecars and the sandbox go too.
            return Plan((_stop_all(self.observed, self._grace, "Stopping container {name}"),), held=self.held)
        return Plan(tuple(self.actions), min(wakes, default=None), self.held)

    @property
    def _grace(self) -> int:
        own = self.spec.termination_grace_period_seconds
        return own if own is not None else DEFAULT_GRACE_SECONDS

    # init containers

    def _initialize(self) -> bool:
        """True when the main containers may run."""
        passed = any(self.observed.current(container.name) for container in self.spec.containers)
        for container in self.spec.init_containers or ():
            seen = self.observed.current(container.name)
            done = self._sidecar(container, seen) if is_sidecar(container) else self._init(container, seen, passed)
            if not done and not passed:
                return False
        return True

    def _init(self, container: Container, seen: ObservedContainer | None, passed: bool) -> bool:
        if passed or (seen is not None and seen.succeeded):
            return True
        if seen is not None and seen.state is State.EXITED and self.spec.restart_policy == "Never":
            self.failed = True
            return False
        self.busy = True
        self._ensure(container, seen, init=True)
        return False

    def _sidecar(self, container: Container, seen: ObservedContainer | None) -> bool:
        """Start it if it is down; it lets the next container run once it has started."""
        if seen is None or seen.state is not State.RUNNING:
            self.busy = self.busy or not self._work_is_done()
            if self.busy:
                self._ensure(container, seen, init=True)
            return False
        self.busy = self.busy or not self._work_is_done()
        return self.notes.startup.get(seen.id, True)

    def _replace_unhealthy_sidecars(self) -> None:
        for container in filter(is_sidecar, self.spec.init_containers or ()):
            seen = self.observed.current(container.name)
            if seen is not None and seen.state is State.RUNNING:
                self._keep_or_stop(container, seen)

    def _work_is_done(self) -> bool:
        """Every main container ended for good."""
        return all(self._ended(container) for container in self.spec.containers)

    def _ended(self, container: Container) -> bool:
        seen = self.observed.latest(container.name)
        return seen is not None and seen.state is State.EXITED and not self._restarts(container, seen)

    # ephemeral containers

    def _ephemeral_containers(self) -> None:
        """Each gets one start, after everything the pod itself needs, and whatever state the pod is in."""
        for container in self.spec.ephemeral_containers or ():
            seen = self.observed.latest(container.name)
            if seen is None or seen.state is State.CREATED:
                self._ensure(container, seen)

    # main containers

    def _main_containers(self) -> None:
        for container in self.spec.containers:
            if self._ended(container):
                continue
            self.busy = True
            seen = self.observed.current(container.name)
            if seen is not None and seen.state is State.RUNNING:
                self._keep_or_stop(container, seen)
            else:
                self._ensure(container, seen)

    def _restarts(self, container: Container, seen: ObservedContainer) -> bool:
        if seen.spec_hash and seen.spec_hash != spec_hash(container):
            return True
        policy = self.spec.restart_policy
        return policy == "Always" or (policy == "OnFailure" and seen.exit_code != 0)

    def _keep_or_stop(self, container: Container, seen: ObservedContainer) -> None:
        message = self.notes.unhealthy.get(seen.id, "")
        grace = self.notes.grace.get(seen.id, self._grace)
        if seen.spec_hash and seen.spec_hash != spec_hash(container):
            message, grace = f"Container {container.name} definition changed, will be restarted", self._grace
        if message:
            self.actions.append(StopContainer(seen.id, seen.name, grace, message))

    def _ensure(self, container: Container, seen: ObservedContainer | None, *, init: bool = False) -> None:
        """Get this container running, or note why it has to wait."""
        if seen is not None and seen.state is State.RUNNING:
            if init and not is_sidecar(container):
                self._keep_or_stop(container, seen)
            return
        trouble = self.notes.failures.get(POD)
        if trouble is not None and trouble.retry_at > self.now:
            self.wakes.append(trouble.retry_at)
            return
        failure = self.notes.failures.get(container.name)
        if failure is not None and failure.retry_at > self.now:
            self._hold(container.name, failure.reason, failure.message, failure.retry_at)
            return
        if seen is not None and seen.state is State.EXITED and self._must_wait(container, seen):
            return
        if seen is not None and seen.state is State.UNKNOWN:
            self.actions.append(StopContainer(seen.id, seen.name, self._grace, "Container is in unknown state"))
        if seen is not None and seen.state is State.CREATED:
            self.actions.append(RemoveContainer(seen.id))
        self.actions.append(
            StartContainer(container.name, next_attempt(self.desired, self.observed, container.name), init)
        )

    def _must_wait(self, container: Container, seen: ObservedContainer) -> bool:
        changed = bool(seen.spec_hash) and seen.spec_hash != spec_hash(container)
        crash = self.notes.crashes.get(container.name)
        ended = self.notes.ended.get(seen.id) or seen.finished_at or self.now
        until = None if changed else crash_wait_until(crash, ended)
        if crash is None or until is None or until <= self.now:
            return False
        meta = self.desired.pod.metadata
        where = f"container={container.name} pod={meta.name}_{meta.namespace}({meta.uid})"
        message = f"back-off {_go_duration(crash.seconds)} restarting failed {where}"
        self._hold(container.name, CRASH_LOOP, message, until)
        return True

    def _hold(self, name: str, reason: str, message: str, until: datetime) -> None:
        self.held[name] = (reason, message)
        self.wakes.append(until)


def _prune(observed: ObservedPod) -> list[Action]:
    """Dead containers nobody will ask for again, and dead sandboxes that hold none worth keeping."""
    actions: list[Action] = [RemoveContainer(item.id) for item in _beyond_the_last_two(observed.containers)]
    gone = {action.id for action in actions if isinstance(action, RemoveContainer)}
    for sandbox in observed.sandboxes[1:]:
        mine = [item for item in observed.containers if item.sandbox_id == sandbox.id and item.id not in gone]
        superseded = all(observed.latest(item.name) is not item for item in mine)
        if not sandbox.ready and superseded:
            actions.append(RemoveSandbox(sandbox.id))
    return actions


def _beyond_the_last_two(containers: Iterable[ObservedContainer]) -> Iterator[ObservedContainer]:
    seen: dict[str, int] = {}
    for item in containers:
        seen[item.name] = seen.get(item.name, 0) + 1
        if seen[item.name] > 2 and item.state is State.EXITED:
            yield item


def _go_duration(seconds: float) -> str:
    """`10s`, `1m20s`, `5m0s`, as Go prints it."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def newest_first(sandboxes: Iterable[ObservedSandbox], containers: Iterable[ObservedContainer]) -> ObservedPod:
    """Put what a runtime listed in any order into the order the plan expects.

    By attempts first, which count up: creation times do not where a clock was set back.
    """
    epoch = datetime.min.replace(tzinfo=UTC)
    return ObservedPod(
        tuple(sorted(sandboxes, key=lambda item: (item.attempt, item.created_at or epoch), reverse=True)),
        tuple(sorted(containers, key=lambda item: (item.attempt, item.created_at or epoch), reverse=True)),
    )
