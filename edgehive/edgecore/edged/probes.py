"""Liveness, readiness and startup probes: one task per probe of a running container.

For `pods.py`, which tells it what runs and learns of every change of verdict. Nothing is restarted here.

Go: pkg/kubelet/prober
"""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from prometheus_client import CollectorRegistry, Counter

from edgehive.api.core import Container, Pod, Probe
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.grpc_health import check_health
from edgehive.edgecore.edged.hooks import Target, get_page, open_port, run_command
from edgehive.edgecore.edged.plan import Notes, ObservedContainer, ObservedPod, State, is_sidecar
from edgehive.kit.clock import Clock
from edgehive.kit.tasks import cancel_and_join, spawn


class Kind(Enum):
    STARTUP = "Startup"
    READINESS = "Readiness"
    LIVENESS = "Liveness"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A probe's verdict after its thresholds. `message` says what the last shot found, `grace` the probe's own one."""

    pod: Pod
    container: str
    container_id: str
    kind: Kind
    healthy: bool
    message: str = ""
    grace: int | None = None


#: Called on a change of verdict.
Changed = Callable[[Verdict], None]
#: Called on every failed shot: pod, container, message.
Missed = Callable[[Pod, str, str], None]


class Threshold:
    """Counts successes and failures in a row; pure."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._streak = 0
        self._good: bool | None = None

    def count(self, good: bool) -> bool | None:
        """The verdict, once the threshold in this direction is reached."""
        self._streak = self._streak + 1 if good == self._good else 1
        self._good = good
        needed = self._probe.success_threshold if good else self._probe.failure_threshold
        return good if self._streak >= max(1, needed) else None


class Prober:
    """All probes of the node; `async with` it."""

    def __init__(
        self,
        client: CriClient,
        clock: Clock,
        changed: Changed,
        missed: Missed,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._cri = client
        self._clock = clock
        self._changed = changed
        self._missed = missed
        self._tasks: dict[str, dict[tuple[str, Kind], asyncio.Task[None]]] = {}
        self._counted = Counter(
            "prober_probe",
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
            ("probe_type", "result", "container", "pod", "namespace", "pod_uid"),
            registry=registry,
        )

    async def __aenter__(self) -> "Prober":
        return self

    async def __aexit__(self, *_: object) -> None:
        await cancel_and_join(*(task for tasks in self._tasks.values() for task in tasks.values()))

    def sync(self, pod: Pod, observed: ObservedPod, notes: Notes, ip: str) -> None:
        """Probe what runs, and nothing else."""
        wanted = dict(_wanted(pod, observed, notes))
        tasks = self._tasks.setdefault(pod.metadata.uid, {})
        for key in [key for key in tasks if key not in wanted]:
            tasks.pop(key).cancel()
        for key, (container, seen, probe) in wanted.items():
            if key not in tasks:
                target = Target(seen.id, container, ip)
                work = self._watch(pod, target, probe, key[1], seen.started_at)
                tasks[key] = spawn(work, name=f"{key[1].value} probe of {pod.metadata.name}/{container.name}")
        if not tasks:
            del self._tasks[pod.metadata.uid]

    async def forget(self, uid: str) -> None:
        await cancel_and_join(*self._tasks.pop(uid, {}).values())
        self._counted.remove_by_labels({"pod_uid": uid})

    async def _watch(self, pod: Pod, target: Target, probe: Probe, kind: Kind, started: datetime | None) -> None:
        threshold, verdict = Threshold(probe), None
        await asyncio.sleep(self._first_wait(probe, started))
        while True:
            trouble = await self._shoot(target, probe)
            if trouble:
                self._missed(pod, target.container.name, f"{kind.value} probe failed: {trouble}")
            self._count(pod, target, kind, trouble)
            now = threshold.count(not trouble)
            if now is not None and now != verdict:
                verdict = now
                grace = probe.termination_grace_period_seconds
                self._changed(Verdict(pod, target.container.name, target.container_id, kind, now, trouble, grace))
            if kind is Kind.STARTUP and verdict is not None:
                return
            await asyncio.sleep(max(1, probe.period_seconds))

    def _count(self, pod: Pod, target: Target, kind: Kind, trouble: str) -> None:
        meta, result = pod.metadata, "failed" if trouble else "successful"
        self._counted.labels(kind.value, result, target.container.name, meta.name, meta.namespace, meta.uid).inc()

    def _first_wait(self, probe: Probe, started: datetime | None) -> float:
        """The rest of the initial delay; after a restart of the agent the probes of a node do not all fire at once."""
        # A clock that was set back would make the container younger than nothing.
        age = max(0.0, (self._clock.now() - started).total_seconds()) if started else 0.0
        left = probe.initial_delay_seconds - age
        if left > 0 or age < probe.period_seconds:
            return max(0.0, left)
        return random.uniform(0, min(1.0, probe.period_seconds))  # noqa: S311

    async def _shoot(self, target: Target, probe: Probe) -> str:
        timeout = float(max(1, probe.timeout_seconds))
        if probe.exec:
            return await run_command(self._cri, target, probe.exec, timeout)
        if probe.http_get:
            return await get_page(target, probe.http_get, timeout)
        if probe.tcp_socket:
            return await open_port(target, probe.tcp_socket, timeout)
        if probe.grpc:
            return await check_health(target.ip, probe.grpc, timeout)
        return ""


def _wanted(
    pod: Pod, observed: ObservedPod, notes: Notes
) -> Iterator[tuple[tuple[str, Kind], tuple[Container, ObservedContainer, Probe]]]:
    """What to probe now: the startup probe alone until it has passed, then the two others."""
    sidecars = [item for item in pod.spec.init_containers or () if is_sidecar(item)]
    for container in (*pod.spec.containers, *sidecars):
        seen = observed.current(container.name)
        if seen is None or seen.state is not State.RUNNING or seen.id in notes.unhealthy:
            continue
        if container.startup_probe and not notes.startup.get(seen.id, False):
            yield (seen.id, Kind.STARTUP), (container, seen, container.startup_probe)
            continue
        if container.readiness_probe:
            yield (seen.id, Kind.READINESS), (container, seen, container.readiness_probe)
        if container.liveness_probe:
            yield (seen.id, Kind.LIVENESS), (container, seen, container.liveness_probe)
