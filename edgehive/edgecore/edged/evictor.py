"""Keeps the node alive when memory or disk run out: gives up unused images, then one pod after another.

For `edged.py`. What is short and who goes is decided in `eviction.py`. A pod that only the node's own files can bring
back, or that the system depends on, is never given up.

Go: pkg/kubelet/eviction/eviction_manager.go
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgehive.api.config.durations import seconds
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.edgecore.edged.eviction import (
    DISK,
    INODES,
    MEMORY,
    Candidate,
    Share,
    Shortage,
    Signals,
    message,
    rank,
    shortages,
)
from edgehive.edgecore.edged.manifests import is_static
from edgehive.edgecore.edged.plan import DEFAULT_GRACE_SECONDS, Termination, every_container
from edgehive.edgecore.edged.pods import Pods, PodWorker
from edgehive.edgecore.edged.rounds import every
from edgehive.edgecore.edged.runtime import Tell
from edgehive.edgecore.edged.stats import Reading, StatsSummary
from edgehive.edgecore.edged.storage_use import empty_dirs, log_folder, on_disk
from edgehive.kube import quantity
from edgehive.protos import cri_pb2 as cri

log = logging.getLogger("edgehive.edged")

_LOOK_SECONDS = 10.0
#: The next pod goes when the last one is gone, or after this long.
_CLEANUP_SECONDS = 30.0
_SYSTEM_CRITICAL = 2_000_000_000
IMMEDIATE_SECONDS = 1


def is_critical(worker: PodWorker) -> bool:
    """Nobody would bring it back, or the system depends on it."""
    return is_static(worker.document) or (worker.pod.spec.priority or 0) >= _SYSTEM_CRITICAL


def give_up(worker: PodWorker, ending: Termination, tell: Tell) -> None:
    """End the pod as Failed, and say why."""
    meta = worker.pod.metadata
    log.warning("evicting pod %s/%s: %s", meta.namespace, meta.name, ending.message)
    tell(worker.pod, "", "Warning", ending.reason, ending.message)
    worker.evict(ending)


class Evictor:
    """`run` for ever."""

    def __init__(
        self,
        pods: Pods,
        stats: StatsSummary,
        measure: Callable[[], Signals],
        config: TailoredKubeletConfig,
        *,
        root: Path,
        pod_logs: str,
        tell: Tell,
        tell_of_node: Callable[[str, str, str], None],
        free_images: Callable[[], Awaitable[int]],
    ) -> None:
        self._pods = pods
        self._stats = stats
        self._measure = measure
        self._config = config
        self._root = root
        self._pod_logs = pod_logs
        self._tell = tell
        self._tell_of_node = tell_of_node
        self._free_images = free_images
        self._lasting = seconds(config.eviction_pressure_transition_period)
        self._grace = {name: seconds(text) for name, text in config.eviction_soft_grace_period.items()}
        #: condition -> when it was last seen, by the loop's time as all times here
        self._pressed: dict[str, float] = {}
        #: signal -> since when its soft threshold is met
        self._soft_since: dict[str, float] = {}
        #: Signals that have to recover by evictionMinimumReclaim too.
        self._reclaiming: set[str] = set()
        self._ending: tuple[str, float] | None = None
        self._helpless = False

    @property
    def conditions(self) -> frozenset[str]:
        """Pressure that holds, or did until a moment ago: a condition that flaps would move pods to and fro."""
        now = asyncio.get_running_loop().time()
        return frozenset(name for name, seen in self._pressed.items() if now - seen < self._lasting)

    async def run(self) -> None:
        await every(_LOOK_SECONDS, self.look, "eviction")

    async def look(self) -> None:
        """One round: at most one pod goes."""
        now = asyncio.get_running_loop().time()
        hard, soft = self._short(now)
        for item in (*hard, *soft):
            self._pressed[item.condition] = now
        short = next((item for item in (*hard, *soft) if item.resource), None)
        if short is None:
            self._reclaiming.clear()
            self._helpless = False
            return
        if short.signal not in self._reclaiming:
            self._tell_of_node("Warning", "EvictionThresholdMet", f"Attempting to reclaim {short.resource}")
        self._reclaiming.add(short.signal)
        if self._still_ending(now):
            return
        if short.resource != MEMORY and await self._free_images() and short.signal not in self._signals(now):
            return
        await self._evict(short, hard=short in hard)

    def _signals(self, now: float) -> set[str]:
        hard, soft = self._short(now)
        return {item.signal for item in (*hard, *soft)}

    def _short(self, now: float) -> tuple[list[Shortage], list[Shortage]]:
        """(hard, soft): the thresholds met, the soft ones for as long as their grace period."""
        signals = self._measure()
        reclaim = {
            name: text for name, text in self._config.eviction_minimum_reclaim.items() if name in self._reclaiming
        }
        hard = shortages(signals, self._config.eviction_hard, reclaim)
        soft = shortages(signals, self._config.eviction_soft, reclaim)
        self._soft_since = {item.signal: self._soft_since.get(item.signal, now) for item in soft}
        due = [item for item in soft if now - self._soft_since[item.signal] >= self._grace.get(item.signal, 0.0)]
        return hard, due

    def _still_ending(self, now: float) -> bool:
        if self._ending is None:
            return False
        uid, since = self._ending
        worker = self._pods.get(uid)
        busy = worker is not None and bool(worker.observed.alive)
        if not busy or now - since > _CLEANUP_SECONDS:
            self._ending = None
        return self._ending is not None

    # who goes

    async def _evict(self, short: Shortage, *, hard: bool) -> None:
        workers = {item.uid: item for item in self._pods if item.observed.alive and item.desired.evicted is None}
        reading = await self._stats.read()
        candidates = await asyncio.to_thread(self._candidates, short, list(workers.values()), reading)
        chosen = next(iter(rank(candidates)), None)
        if chosen is None:
            if not self._helpless:
                log.warning("the node is short of %s, and there is no pod it could give up", short.resource)
            self._helpless = True
            return
        worker = workers[chosen.uid]
        self._ending = (chosen.uid, asyncio.get_running_loop().time())
        grace = IMMEDIATE_SECONDS if hard else self._soft_grace(worker)
        give_up(worker, Termination(grace, "Evicted", message(short, chosen), disruption=True), self._tell)

    def _soft_grace(self, worker: PodWorker) -> int:
        own = worker.pod.spec.termination_grace_period_seconds
        grace = DEFAULT_GRACE_SECONDS if own is None else own
        return max(IMMEDIATE_SECONDS, min(grace, self._config.eviction_max_pod_grace_period))

    def _candidates(self, short: Shortage, workers: Sequence[PodWorker], reading: Reading) -> list[Candidate]:
        measured = {item.attributes.id: item for item in reading.containers}
        return [
            Candidate(
                worker.uid,
                tuple(self._shares(short.resource, worker, measured)),
                worker.pod.spec.priority or 0,
                self._beside(short.resource, worker),
            )
            for worker in workers
            if not is_critical(worker)
        ]

    def _shares(self, resource: str, worker: PodWorker, measured: Mapping[str, cri.ContainerStats]) -> Iterator[Share]:
        specs = {item.name: item for item in every_container(worker.pod)}
        for seen in worker.observed.alive:
            spec, stats = specs.get(seen.name), measured.get(seen.id)
            if spec is None or stats is None:
                continue
            requested = (spec.resources.requests or {}).get(resource)
            used = _used(resource, stats)
            if resource != MEMORY:
                used += on_disk(log_folder(worker.pod, self._pod_logs, seen.name), resource)
            yield Share(seen.name, used, int(quantity.parse(requested)) if requested is not None else 0)

    def _beside(self, resource: str, worker: PodWorker) -> int:
        """emptyDirs."""
        if resource == MEMORY:
            return 0
        return on_disk(empty_dirs(self._root, worker.uid), resource)


def _used(resource: str, stats: cri.ContainerStats) -> int:
    amounts = {
        MEMORY: stats.memory.working_set_bytes.value,
        DISK: stats.writable_layer.used_bytes.value,
        INODES: stats.writable_layer.inodes_used.value,
    }
    return int(amounts[resource])
