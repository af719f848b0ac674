"""Desired pods, and one worker for each: look, decide (`plan.py`), report (`status.py`), act (`runtime.py`).

For `edged.py`. A worker sleeps until something it depends on changes: the pod, its containers, a probe, a
ConfigMap, the end of a back-off. Nothing it starts depends on the cloud. A pod that is merely missing from a
list is never stopped: pods go by an explicit removal.

Go: pkg/kubelet/pod_workers.go, pkg/kubelet/kubelet.go (SyncPod)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from edgehive.api.core import Container, EphemeralContainer, Pod
from edgehive.api.document import Document
from edgehive.edgecore.edged import cgroups
from edgehive.edgecore.edged.cri import RuntimeRefused
from edgehive.edgecore.edged.plan import (
    CRASH_LOOP,
    POD,
    Action,
    CreateSandbox,
    Desired,
    Failure,
    Notes,
    ObservedPod,
    Plan,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    State,
    StopContainer,
    StopPod,
    Termination,
    crash_after_restart,
    deadline_of,
    every_container,
    plan,
)
from edgehive.edgecore.edged.podfiles import PodFiles
from edgehive.edgecore.edged.probes import Kind, Prober, Verdict
from edgehive.edgecore.edged.reporter import Reporter
from edgehive.edgecore.edged.runtime import PodRuntime, StartFailed, Tell
from edgehive.edgecore.edged.status import Surroundings, pod_status
from edgehive.edgecore.edged.volumes.local import VolumeError
from edgehive.edgecore.edged.volumes.projected import referenced
from edgehive.kit.clock import Clock, parse_rfc3339
from edgehive.kit.tasks import cancel_and_join, spawn

log = logging.getLogger("edgehive.edged")

_VOLUME_RETRY_SECONDS = 5.0
_STOP_RETRY_SECONDS = 2.0
#: The date and the loop's time may drift apart by this much between two looks without a jump.
_CLOCK_DRIFT = timedelta(seconds=1)
#: A stop that takes longer than its grace period by this much is tried again without any grace.
_STOP_MARGIN_SECONDS = 60.0


class PodRefused(Exception):
    """Not an object this node can run; the message names what is wrong."""


@dataclass(slots=True)
class Parts:
    """What the workers of one node share."""

    runtime: PodRuntime
    reporter: Reporter
    clock: Clock
    tell: Tell
    prober: Prober | None = None
    ended: Callable[[str], None] = lambda _: None


def read_pod(document: Document, node_name: str = "") -> Pod:
    """Check and read a pod; raises PodRefused."""
    try:
        meta = document.meta
        if document.kind != "Pod" or document.api_version != "v1":
            raise PodRefused(f"kind {document.kind!r} of apiVersion {document.api_version!r} is no v1 Pod")
        missing = [key for key in ("name", "namespace", "uid") if not getattr(meta, key)]
        if missing:
            raise PodRefused(f"pod {meta.namespace}/{meta.name} lacks metadata.{', metadata.'.join(missing)}")
        pod = document.read(Pod)
    except msgspec.DecodeError as error:
        raise PodRefused(f"no readable pod: {error}") from error
    if not pod.spec.containers:
        raise PodRefused(f"pod {meta.namespace}/{meta.name} has no containers")
    if node_name and pod.spec.node_name != node_name:
        raise PodRefused(f"pod {meta.namespace}/{meta.name} belongs to node {pod.spec.node_name!r}")
    return pod


class PodWorker:
    """One pod from its first sight to its last trace."""

    def __init__(self, parts: Parts, document: Document, pod: Pod) -> None:
        self._parts = parts
        self.document = document
        self.notes = Notes()
        self.observed = ObservedPod()
        self.looked = False
        self.desired = Desired(pod, started_at=_start_time(pod))
        self._changed = asyncio.Event()
        self._job: asyncio.Task[None] | None = None
        self._job_ends = False
        self._places: dict[str, str] | None = None
        #: At first too: what changed while this process did not run is in no message.
        self._stale_volumes = True
        self._stop_failures = 0
        #: Containers whose back-off was told in an event.
        self._told_back_off: set[str] = set()
        self._released = False
        self._looked_at: tuple[datetime, float] | None = None
        self.erased = False

    @property
    def pod(self) -> Pod:
        return self.desired.pod

    @property
    def uid(self) -> str:
        return self.pod.metadata.uid

    # what others tell it

    def wake(self) -> None:
        self._changed.set()

    def update(self, document: Document, pod: Pod) -> None:
        self.document = document
        self.desired = _with_pod(self.desired, pod)
        self.wake()

    def remove(self) -> None:
        """The API holds it no longer."""
        self.desired = Desired(self.pod, True, self.desired.evicted, self.desired.started_at)
        self.wake()

    def evict(self, termination: Termination) -> None:
        self.desired = Desired(self.pod, self.desired.removed, termination, self.desired.started_at)
        self.wake()

    def source_changed(self) -> None:
        """A ConfigMap or Secret of the pod's namespace changed: volumes follow, waiting containers try again."""
        self._stale_volumes = True
        for name in [name for name, item in self.notes.failures.items() if name == POD or "Config" in item.reason]:
            del self.notes.failures[name]
        self.wake()

    def judged(self, verdict: Verdict) -> None:
        """A probe's verdict changed."""
        if verdict.kind is Kind.READINESS:
            self.notes.readiness[verdict.container_id] = verdict.healthy
        elif verdict.healthy and verdict.kind is Kind.STARTUP:
            self.notes.startup[verdict.container_id] = True
        elif not verdict.healthy:
            probe = verdict.kind.value.lower()
            self.notes.unhealthy[verdict.container_id] = (
                f"Container {verdict.container} failed {probe} probe, will be restarted"
            )
            if verdict.grace is not None:
                self.notes.grace[verdict.container_id] = verdict.grace
        self.wake()

    # its life

    async def run(self) -> None:
        """Until the pod is gone from the API and from the runtime."""
        try:
            while not self.erased:
                self._changed.clear()
                wake_at = await self._step()
                await self._sleep(wake_at)
        finally:
            await cancel_and_join(self._job)
            if self._parts.prober is not None:
                await self._parts.prober.forget(self.uid)

    async def _sleep(self, wake_at: datetime | None) -> None:
        if self.erased:
            return
        delay = None if wake_at is None else max(0.0, (wake_at - self._parts.clock.now()).total_seconds())
        try:
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _step(self) -> datetime | None:
        """Look, decide, report, act; when to look again at the latest."""
        now = self._parts.clock.now()
        # What is seen while something is being done is old when that is over.
        doing = self._busy
        try:
            self.observed = await self._parts.runtime.observe(self.uid)
        except RuntimeRefused as error:
            log.debug("pod %s cannot be observed: %s", self.uid, error)
            return now + timedelta(seconds=1)
        self._follow_clock(now)
        self._begin(now)
        self.notes.note_ends(self.observed, now)
        self._note_probes()
        steps = plan(self.desired, self.observed, self.notes, now)
        if not self.desired.removed:
            self._parts.reporter.report(self.uid, self._status(steps, now))
        self._tell_back_off(steps)
        self._sync_probes(steps)
        await self._act(steps, settled=not doing)
        renewal = await self._keep_volumes_fresh(now)
        deadline = deadline_of(self.desired) if steps.termination is None else None
        return min((item for item in (steps.wake_at, renewal, deadline) if item), default=None)

    def _follow_clock(self, now: datetime) -> None:
        """What waits goes by time that passed, whatever the date was set to meanwhile."""
        time = asyncio.get_running_loop().time()
        if self._looked_at is not None:
            before, then = self._looked_at
            jump = (now - before) - timedelta(seconds=time - then)
            if abs(jump) > _CLOCK_DRIFT:
                self.notes.clock_was_set(jump)
        self._looked_at = (now, time)

    def _begin(self, now: datetime) -> None:
        self.looked = True
        if self.desired.started_at is None:
            self.desired = Desired(self.pod, self.desired.removed, self.desired.evicted, now)

    def _status(self, steps: Plan, now: datetime) -> dict[str, object]:
        around = Surroundings(self._parts.runtime.facts.host_ip, qos_class=cgroups.qos_class(self.pod).value)
        previous = self._parts.reporter.last(self.uid)
        return pod_status(self.desired, self.observed, steps, self.notes, now, around, previous)

    def _tell_back_off(self, steps: Plan) -> None:
        """Once for every container that crashed and has to wait."""
        meta = self.pod.metadata
        waiting = {}
        for name, (reason, _) in steps.held.items():
            crashed = self.observed.latest(name)
            if reason == CRASH_LOOP and crashed is not None:
                waiting[crashed.id] = name
        for name in (name for id, name in waiting.items() if id not in self._told_back_off):
            text = f"Back-off restarting failed container {name} in pod {meta.name}_{meta.namespace}({meta.uid})"
            self._parts.tell(self.pod, name, "Warning", "BackOff", text)
        self._told_back_off = set(waiting)

    @property
    def _busy(self) -> bool:
        return self._job is not None and not self._job.done()

    # acting

    async def _act(self, steps: Plan, *, settled: bool) -> None:
        ends = steps.termination is not None
        if self._busy and ends and not self._job_ends:
            # Whatever is being started is not wanted any more.
            await cancel_and_join(self._job)
            self.wake()
            return
        if self._busy or not settled:
            return
        if steps.finished:
            await self._finish()
        elif steps.actions:
            self._job_ends = ends
            self._job = spawn(self._perform(steps.actions), name=f"pod {self.pod.metadata.name}")

    async def _perform(self, actions: Iterable[Action]) -> None:
        try:
            for action in actions:
                await self._one(action)
        except RuntimeRefused as error:
            log.warning("pod %s/%s: %s", self.pod.metadata.namespace, self.pod.metadata.name, error)
            await asyncio.sleep(_STOP_RETRY_SECONDS)
        except Exception:
            # One pod's bug must not stop the others; it is tried again, slowly.
            log.exception("pod %s/%s: step failed", self.pod.metadata.namespace, self.pod.metadata.name)
            await asyncio.sleep(_STOP_RETRY_SECONDS)
        finally:
            self.wake()

    async def _one(self, action: Action) -> None:
        runtime = self._parts.runtime
        match action:
            case CreateSandbox(attempt):
                await self._try(POD, self._create_sandbox(attempt))
            case StartContainer(name, attempt):
                await self._try(name, self._start(name, attempt))
            case StopContainer():
                await runtime.stop_container(self.pod, action)
                self.notes.unhealthy.pop(action.id, None)
                self.notes.grace.pop(action.id, None)
            case StopPod():
                await self._stop(action)
            case RemoveContainer(container_id):
                await runtime.remove_container(container_id)
            case RemoveSandbox(sandbox_id):
                await runtime.remove_sandbox(sandbox_id)

    async def _try(self, name: str, step: Awaitable[None]) -> None:
        """Do it, or note why it failed and when to try again."""
        now = self._parts.clock.now
        try:
            await step
        except StartFailed as error:
            self._failed(name, error.reason, error.message, now() + timedelta(seconds=error.retry_after))
        except VolumeError as error:
            self._parts.tell(self.pod, "", "Warning", "FailedMount", str(error))
            self._failed(POD, "", str(error), now() + timedelta(seconds=_VOLUME_RETRY_SECONDS))
        else:
            self.notes.failures.pop(name, None)

    def _failed(self, name: str, reason: str, message: str, retry_at: datetime) -> None:
        before = self.notes.failures.get(name)
        self.notes.failures[name] = Failure(reason, message, retry_at, before.count + 1 if before else 1)

    async def _create_sandbox(self, attempt: int) -> None:
        await self._prepare()
        await self._parts.runtime.create_sandbox(self.pod, attempt)

    async def _start(self, name: str, attempt: int) -> None:
        sandbox = self.observed.sandbox
        if sandbox is None:
            return
        places = self._places if self._places is not None else await self._prepare()
        before = self.observed.latest(name)
        container = _container(self.pod, name)
        target = self._pid_target(container)
        await self._parts.runtime.start(self.pod, container, attempt, sandbox, places, pid_target=target)
        if before is not None and before.state is State.EXITED:
            now = self._parts.clock.now()
            crash = self.notes.crashes.get(name)
            ended = self.notes.ended.get(before.id) or now
            self.notes.crashes[name] = crash_after_restart(crash, ended, now)

    def _pid_target(self, container: Container) -> str:
        """Whose processes an ephemeral container shall see."""
        name = container.target_container_name if isinstance(container, EphemeralContainer) else ""
        seen = self.observed.current(name) if name else None
        if name and (seen is None or seen.state is not State.RUNNING):
            raise StartFailed("CreateContainerConfigError", f'unable to find target container "{name}"')
        return seen.id if seen else ""

    async def _stop(self, stop: StopPod) -> None:
        if self._stop_failures:
            # It had its grace period.
            calm = tuple(StopContainer(item.id, item.name, 0, item.message) for item in stop.containers)
            stop = StopPod(calm, stop.sandboxes)
        grace = max((item.grace_seconds for item in stop.containers), default=0)
        try:
            async with asyncio.timeout(grace + _STOP_MARGIN_SECONDS):
                await self._parts.runtime.stop_pod(self.pod, stop)
            self._stop_failures = 0
        except TimeoutError:
            self._stop_failures += 1
            log.warning("pod %s does not stop; trying again without grace", self.uid)
        except RuntimeRefused:
            self._stop_failures += 1
            raise

    # the end

    async def _finish(self) -> None:
        """Nothing runs any more and nothing will: give back what the pod held here, then tell the API."""
        wanted_gone = self.desired.removed or self.pod.metadata.deletion_timestamp is not None
        if not wanted_gone:
            return
        try:
            if not self._released:
                await self._parts.runtime.release(self.uid)
                self._released = True
            if self.desired.removed:
                await self._parts.runtime.erase(self.pod)
                # Last, since the note of the removal lies in the pod's folder.
                await self._parts.runtime.release(self.uid)
                self.erased = True
            else:
                self._parts.reporter.finish(self.uid)
        except (RuntimeRefused, VolumeError) as error:
            log.warning(
                "pod %s/%s cannot be cleaned up yet: %s", self.pod.metadata.namespace, self.pod.metadata.name, error
            )
            self._job = spawn(self._later(), name=f"cleanup {self.uid}")

    async def _later(self) -> None:
        await asyncio.sleep(_STOP_RETRY_SECONDS)
        self.wake()

    # volumes and probes

    async def _prepare(self) -> dict[str, str]:
        self._stale_volumes = False
        self._places = await self._parts.runtime.prepare(self.pod)
        return self._places

    async def _keep_volumes_fresh(self, now: datetime) -> datetime | None:
        """Follow changed sources and renew tokens while the pod runs; when the next token is due."""
        if self._released or not self.observed.alive or self.desired.removed:
            return None
        due = self._parts.runtime.next_renewal(self.uid)
        if not self._busy and (self._stale_volumes or (due is not None and due <= now)):
            await self._refresh_volumes()
            due = self._parts.runtime.next_renewal(self.uid)
        return None if due is None else max(due, now + timedelta(seconds=_VOLUME_RETRY_SECONDS))

    async def _refresh_volumes(self) -> None:
        try:
            await self._prepare()
        except VolumeError as error:
            # What is there stays; the next change or renewal tries again.
            self._parts.tell(self.pod, "", "Warning", "FailedMount", str(error))

    def _note_probes(self) -> None:
        """Containers with probes count as not ready, not started, until told; adopted ones as they were reported."""
        reported = {
            item.get("containerID", "").rpartition("/")[2]: item
            for item in self._parts.reporter.last(self.uid).get("containerStatuses") or ()
        }
        for seen in self.observed.containers:
            container = container_or_none(self.pod, seen.name)
            if container is None or seen.state is not State.RUNNING:
                continue
            before = reported.get(seen.id, {})
            if container.readiness_probe:
                self.notes.readiness.setdefault(seen.id, bool(before.get("ready")))
            if container.startup_probe:
                self.notes.startup.setdefault(seen.id, bool(before.get("started")))

    def _sync_probes(self, steps: Plan) -> None:
        if self._parts.prober is None:
            return
        sandbox = self.observed.sandbox
        ips = sandbox.ips if sandbox else ()
        address = self._parts.runtime.facts.host_ip if self.pod.spec.host_network else next(iter(ips), "")
        observed = ObservedPod() if steps.termination else self.observed
        self._parts.prober.sync(self.pod, observed, self.notes, address)


class Pods:
    """Every pod this node should run; `async with` it."""

    def __init__(self, parts: Parts, files: Callable[[str], PodFiles]) -> None:
        self._parts = parts
        self._files = files
        self._workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Pods":
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_join(*self._tasks.values())

    def __iter__(self) -> Iterator[PodWorker]:
        return iter(list(self._workers.values()))

    def get(self, uid: str) -> PodWorker | None:
        return self._workers.get(uid)

    def named(self, namespace: str, name: str) -> list[PodWorker]:
        """All of this name: a replaced pod may still be ending beside its successor."""
        wanted = (namespace, name)
        return [
            item for item in self._workers.values() if (item.pod.metadata.namespace, item.pod.metadata.name) == wanted
        ]

    async def apply(self, document: Document, pod: Pod) -> None:
        """This pod is wanted, in this form."""
        meta = pod.metadata
        for other in self.named(meta.namespace, meta.name):
            if other.uid != meta.uid:
                await self.remove(other.uid)
        self._parts.reporter.learn(document)
        worker = self._workers.get(meta.uid)
        if worker is not None:
            worker.update(document, pod)
            return
        worker = self._workers[meta.uid] = PodWorker(self._parts, document, pod)
        self._tasks[meta.uid] = spawn(self._live(worker), name=f"worker {meta.namespace}/{meta.name}")

    async def remove(self, uid: str) -> None:
        """The API holds this pod no longer: stop it and leave no trace."""
        worker = self._workers.get(uid)
        if worker is None or worker.desired.removed:
            return
        self._files(uid).bury()
        await self._parts.reporter.forget(uid)
        worker.remove()

    def wake(self, uid: str) -> None:
        worker = self._workers.get(uid)
        if worker is not None:
            worker.wake()

    def source_changed(self, kind: str, namespace: str, name: str) -> None:
        """A ConfigMap or Secret changed."""
        for worker in self._workers.values():
            if worker.pod.metadata.namespace == namespace and (
                worker.notes.failures or (kind, name) in referenced(worker.pod)
            ):
                worker.source_changed()

    def judged(self, verdict: Verdict) -> None:
        worker = self._workers.get(verdict.pod.metadata.uid)
        if worker is not None:
            worker.judged(verdict)

    async def _live(self, worker: PodWorker) -> None:
        await worker.run()
        self._workers.pop(worker.uid, None)
        self._tasks.pop(worker.uid, None)
        self._parts.ended(worker.uid)


def _with_pod(desired: Desired, pod: Pod) -> Desired:
    return Desired(pod, desired.removed, desired.evicted, desired.started_at or _start_time(pod))


def _start_time(pod: Pod) -> datetime | None:
    try:
        return parse_rfc3339(pod.status.start_time) if pod.status.start_time else None
    except ValueError:
        return None


def _container(pod: Pod, name: str) -> Container:
    found = container_or_none(pod, name)
    if found is None:
        raise StartFailed("CreateContainerConfigError", f"pod has no container {name}")
    return found


def container_or_none(pod: Pod, name: str) -> Container | None:
    return next((item for item in every_container(pod) if item.name == name), None)
