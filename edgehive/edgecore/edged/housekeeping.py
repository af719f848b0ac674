"""What edged does now and then: leftovers of pods nobody wants, logs that grew, images nobody uses.

A pod in the runtime that the local store does not hold is stopped only with a reason: its removal was noted
before this process ended, or the store demonstrably holds other pods, or the cloud has been connected long
enough to have sent it again. An empty store alone proves nothing.

Go: pkg/kubelet/kubelet_pods.go (HandlePodCleanups)
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from edgehive.api.config.durations import seconds
from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.core import Pod
from edgehive.api.meta import ObjectMeta
from edgehive.api.registry import PODS
from edgehive.edgecore.edged import podspec
from edgehive.edgecore.edged.images import ImageCollector
from edgehive.edgecore.edged.logs import LogRotation
from edgehive.edgecore.edged.plan import DEFAULT_GRACE_SECONDS, State, StopContainer, StopPod, every_container
from edgehive.edgecore.edged.podfiles import PodFiles
from edgehive.edgecore.edged.pods import Pods
from edgehive.edgecore.edged.registry_auth import InvalidImageName, image_reference
from edgehive.edgecore.edged.rounds import every
from edgehive.edgecore.edged.runtime import PodRuntime
from edgehive.edgecore.edged.volumes.local import pods_on_disk
from edgehive.kit.clock import Clock
from edgehive.kube import quantity
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound

log = logging.getLogger("edgehive.edged")

_ORPHANS_SECONDS = 10.0
_IMAGES_SECONDS = 300.0
#: After this long a connected cloud has sent every pod it wants here.
_SETTLED_SECONDS = 120.0


class Housekeeping:
    """`run` for ever."""

    def __init__(
        self,
        runtime: PodRuntime,
        pods: Pods,
        client: Client,
        config: EdgedConfig,
        clock: Clock,
        root: Path,
        known_pods: Callable[[], int | None],
    ) -> None:
        self._runtime = runtime
        self._pods = pods
        self._client = client
        self._root = root
        self._known_pods = known_pods
        self._connected_at: float | None = None
        kubelet = config.tailored_kubelet_config
        size = int(quantity.parse(kubelet.container_log_max_size))
        self._rotation = LogRotation(runtime.cri, clock, max_size=size, max_files=kubelet.container_log_max_files)
        self._log_pause = seconds(kubelet.container_log_monitor_interval)
        self._images = ImageCollector(
            runtime.cri,
            kubelet.image_gc_high_threshold_percent,
            kubelet.image_gc_low_threshold_percent,
            seconds(kubelet.image_minimum_gc_age),
            (config.pod_sandbox_image,),
        )

    def cloud_connected(self) -> None:
        self._connected_at = self._connected_at or asyncio.get_running_loop().time()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(every(_ORPHANS_SECONDS, self._orphans, "housekeeping"), name="orphans")
            group.create_task(every(self._log_pause, self._logs, "housekeeping"), name="log rotation")
            group.create_task(every(_IMAGES_SECONDS, self._collect_images, "housekeeping"), name="image collection")

    # orphans

    async def _orphans(self) -> None:
        if self._known_pods() is None:
            return
        sandboxes = await self._runtime.cri.list_pod_sandboxes()
        found = {item.labels[podspec.POD_UID]: item for item in sandboxes if podspec.POD_UID in item.labels}
        for uid, item in found.items():
            if self._pods.get(uid) is None:
                meta = ObjectMeta(
                    name=item.labels.get(podspec.POD_NAME, ""),
                    namespace=item.labels.get(podspec.POD_NAMESPACE, ""),
                    uid=uid,
                )
                await self._orphan(Pod(metadata=meta))
        for uid in await asyncio.to_thread(pods_on_disk, self._root):
            if uid not in found and self._pods.get(uid) is None and self._unwanted(uid):
                await self._runtime.release(uid)

    async def _orphan(self, pod: Pod) -> None:
        meta = pod.metadata
        if not self._unwanted(meta.uid) or not await is_gone(self._client, pod):
            return
        log.warning("pod %s/%s (%s) is not wanted here any more: stopping it", meta.namespace, meta.name, meta.uid)
        PodFiles(self._root, meta.uid).bury()
        observed = await self._runtime.observe(meta.uid)
        stops = tuple(
            StopContainer(item.id, item.name, DEFAULT_GRACE_SECONDS, f"Stopping container {item.name}")
            for item in observed.alive
        )
        await self._runtime.stop_pod(pod, StopPod(stops, tuple(item.id for item in observed.sandboxes)))
        await self._runtime.erase(pod)
        await self._runtime.release(meta.uid)

    def _unwanted(self, uid: str) -> bool:
        """There is a reason to believe it, beyond its absence from an empty list."""
        if PodFiles(self._root, uid).buried or self._known_pods():
            return True
        since = self._connected_at
        return since is not None and asyncio.get_running_loop().time() - since > _SETTLED_SECONDS

    # logs and images

    async def _logs(self) -> None:
        for worker in self._pods:
            folder = Path(podspec.log_directory(worker.pod, self._runtime.facts.node.pod_logs))
            for seen in worker.observed.containers:
                if seen.state is State.RUNNING:
                    await self._rotation.rotate(seen.id, folder / podspec.log_path(seen.name, seen.attempt))

    async def _collect_images(self) -> None:
        await self._images.collect(await self._images_in_use())

    async def free_images(self) -> int:
        """Remove every image nobody uses; bytes freed."""
        return await self._images.free_all(await self._images_in_use())

    async def _images_in_use(self) -> set[str]:
        containers = await self._runtime.cri.list_containers()
        used = {name for item in containers for name in (item.image_ref, item.image.image)}
        for worker in self._pods:
            used |= {item.image for item in every_container(worker.pod)}
            used |= {_full_name(item.image) for item in every_container(worker.pod)}
        return used


def _full_name(image: str) -> str:
    """As the runtime names it; what is no name at all names no image."""
    try:
        return image_reference(image)
    except InvalidImageName:
        return image


async def is_gone(client: Client, pod: Pod) -> bool:
    """Whether the API says that this life of the pod is over; an API that does not answer says nothing."""
    try:
        found = await client.get(PODS, pod.metadata.name, pod.metadata.namespace)
    except NotFound:
        return True
    except ApiError:
        return False
    return found.meta.uid not in ("", pod.metadata.uid)
