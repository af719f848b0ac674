"""Ends pods that write more to the disk than they said they would: emptyDir sizeLimit, ephemeral-storage limits.

For `edged.py`. Nothing stops a write at the limit; once a minute the files of pods with limits are counted.

Go: pkg/kubelet/eviction/eviction_manager.go (localStorageEviction)
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehive.api.core import Container, Pod, Quantity, Volume
from edgehive.edgecore.edged.eviction import DISK, binary_units
from edgehive.edgecore.edged.evictor import IMMEDIATE_SECONDS, give_up, is_critical
from edgehive.edgecore.edged.plan import Termination
from edgehive.edgecore.edged.pods import Pods, PodWorker
from edgehive.edgecore.edged.rounds import every
from edgehive.edgecore.edged.runtime import Tell
from edgehive.edgecore.edged.stats import Reading, StatsSummary
from edgehive.edgecore.edged.storage_use import empty_dirs, log_folder, on_disk
from edgehive.kube import quantity

log = logging.getLogger("edgehive.edged")

_LOOK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class StorageUse:
    """Bytes on disk: container -> written layer and logs; volume -> emptyDir."""

    containers: Mapping[str, int]
    volumes: Mapping[str, int]


def has_limits(pod: Pod) -> bool:
    spec = pod.spec
    return any(_disk_limit(item) is not None for item in spec.containers) or any(
        _size_limit(item) is not None for item in spec.volumes or ()
    )


def exceeded(pod: Pod, use: StorageUse) -> str:
    """What the pod takes more of than it may, in Kubernetes' words; "" for nothing."""
    for volume in pod.spec.volumes or ():
        size = _size_limit(volume)
        if size is not None and use.volumes.get(volume.name, 0) > quantity.parse(size):
            return f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{size}". '
    limits = {item.name: _disk_limit(item) for item in pod.spec.containers}
    total = sum(quantity.parse(limit) for limit in limits.values() if limit is not None)
    if total and sum(use.containers.values()) + sum(use.volumes.values()) > total:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {binary_units(int(total))}. "
    for name, limit in limits.items():
        if limit is not None and use.containers.get(name, 0) > quantity.parse(limit):
            return f'Container {name} exceeded its local ephemeral storage limit "{limit}". '
    return ""


def _disk_limit(container: Container) -> Quantity | None:
    return (container.resources.limits or {}).get(DISK)


def _size_limit(volume: Volume) -> Quantity | None:
    """Of an emptyDir on disk; one in memory is as large as its file system."""
    source = volume.empty_dir
    return source.size_limit if source is not None and source.medium != "Memory" else None


class StorageLimits:
    """`run` for ever."""

    def __init__(self, pods: Pods, stats: StatsSummary, *, root: Path, pod_logs: str, tell: Tell) -> None:
        self._pods = pods
        self._stats = stats
        self._root = root
        self._pod_logs = pod_logs
        self._tell = tell

    async def run(self) -> None:
        await every(_LOOK_SECONDS, self.look, "storage limits")

    async def look(self) -> None:
        """One round over the pods that have limits."""
        workers = [
            item
            for item in self._pods
            if has_limits(item.pod) and item.observed.alive and item.desired.evicted is None and not is_critical(item)
        ]
        if not workers:
            return
        reading = await self._stats.read()
        for worker in workers:
            use = await asyncio.to_thread(self._use, worker, reading)
            text = exceeded(worker.pod, use)
            if text:
                give_up(worker, Termination(IMMEDIATE_SECONDS, "Evicted", text), self._tell)

    def _use(self, worker: PodWorker, reading: Reading) -> StorageUse:
        written = {item.attributes.id: item.writable_layer.used_bytes.value for item in reading.containers}
        containers = {
            seen.name: written.get(seen.id, 0) + on_disk(log_folder(worker.pod, self._pod_logs, seen.name))
            for seen in worker.observed.alive
        }
        folder = empty_dirs(self._root, worker.uid)
        volumes = {
            item.name: on_disk(folder / item.name)
            for item in worker.pod.spec.volumes or ()
            if item.empty_dir is not None and item.empty_dir.medium != "Memory"
        }
        return StorageUse(containers, volumes)
