"""Images: pulling by policy with credentials and back-off, and removing unused ones when the disk fills.

For `runtime.py` (an image before a container) and edged's housekeeping. Names and credentials: `registry_auth.py`.
Go: pkg/kubelet/images/image_manager.go, pkg/kubelet/images/image_gc_manager.go
"""

import asyncio
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from edgehive.api.core import Container, Pod, Secret
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.registry_auth import InvalidImageName, credentials, image_reference
from edgehive.protos import cri_pb2 as cri

_FIRST_WAIT, _LONGEST_WAIT = 10.0, 300.0
#: How long a pod shows ErrImagePull and the registry's words before it shows that it backs off.
_SHOWN_SECONDS = 5.0

#: Tells an event: type, reason, message.
Report = Callable[[str, str, str], None]


class ImageError(Exception):
    """No image for a container: the waiting reason users see, and in how many seconds it makes sense to try again."""

    def __init__(self, reason: str, message: str, *, retry_after: float = _FIRST_WAIT) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that is here: what to create containers with, and whom it runs as."""

    reference: str
    id: str
    uid: int | None = None
    user: str = ""


@dataclass(slots=True)
class _Wait:
    seconds: float
    until: float
    error: str


class ImagePuller:
    """One per node; `parallel` pulls at a time (1: one after the other, as small devices like it)."""

    def __init__(self, client: CriClient, *, parallel: int = 1) -> None:
        self._cri = client
        self._slots = asyncio.Semaphore(parallel)
        self._waits: dict[tuple[str, str], _Wait] = {}

    async def ensure(
        self,
        pod: Pod,
        container: Container,
        *,
        secrets: Sequence[Secret] = (),
        sandbox: cri.PodSandboxConfig | None = None,
        report: Report | None = None,
    ) -> LocalImage:
        """The container's image, pulled if its policy says so; raises ImageError."""
        tell = report or _silent
        try:
            reference = _reference(container.image)
        except ImageError as error:
            tell("Warning", "InspectFailed", str(error))
            tell("Warning", "Failed", "Error: InvalidImageName")
            raise
        policy = pull_policy(container, reference)
        present = await self._present(reference)
        if present is not None and policy != "Always":
            tell("Normal", "Pulled", f'Container image "{container.image}" already present on machine')
            return present
        if policy == "Never":
            message = f'Container image "{container.image}" is not present with pull policy of Never'
            tell("Warning", "ErrImageNeverPull", message)
            raise ImageError("ErrImageNeverPull", message)
        key = (pod.metadata.uid, reference)
        self._check_wait(key, container.image, tell)
        async with self._slots:
            if policy != "Always" and (present := await self._present(reference)) is not None:
                return present
            return await self._pull(key, container.image, credentials(reference, secrets), sandbox, tell)

    def forget(self, pod_uid: str) -> None:
        """The pod is gone: drop what is remembered of its failures."""
        self._waits = {key: wait for key, wait in self._waits.items() if key[0] != pod_uid}

    async def _present(self, reference: str) -> LocalImage | None:
        try:
            image = await self._cri.image_status(reference)
        except RuntimeRefused as error:
            raise ImageError("ImageInspectError", f'Failed to inspect image "{reference}": {error}') from error
        return None if image is None else _local(reference, image)

    def _check_wait(self, key: tuple[str, str], image: str, tell: Report) -> None:
        wait = self._waits.get(key)
        left = wait.until - _now() if wait else 0.0
        if wait is None or left <= 0:
            return
        tell("Normal", "BackOff", f'Back-off pulling image "{image}"')
        raise ImageError(
            "ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {wait.error}', retry_after=left
        )

    async def _pull(
        self,
        key: tuple[str, str],
        image: str,
        auths: Sequence[cri.AuthConfig],
        sandbox: cri.PodSandboxConfig | None,
        tell: Report,
    ) -> LocalImage:
        tell("Normal", "Pulling", f'Pulling image "{image}"')
        started = _now()
        error: RuntimeRefused | None = None
        for auth in auths or (None,):
            try:
                await self._cri.pull_image(key[1], auth=auth, sandbox=sandbox)
                break
            except RuntimeRefused as refused:
                error = refused
        else:
            raise self._failed(key, image, error.text if error else "", tell)
        self._waits.pop(key, None)
        found = await self._present(key[1])
        if found is None:
            raise self._failed(key, image, "the image vanished after it was pulled", tell)
        tell("Normal", "Pulled", f'Successfully pulled image "{image}" in {_now() - started:.3g}s')
        return found

    def _failed(self, key: tuple[str, str], image: str, text: str, tell: Report) -> ImageError:
        before = self._waits.get(key)
        seconds = min(_LONGEST_WAIT, before.seconds * 2) if before else _FIRST_WAIT
        self._waits[key] = _Wait(seconds, _now() + seconds, text)
        tell("Warning", "Failed", f'Failed to pull image "{image}": {text}')
        tell("Warning", "Failed", "Error: ErrImagePull")
        return ImageError("ErrImagePull", text, retry_after=min(_SHOWN_SECONDS, seconds / 2))


def pull_policy(container: Container, reference: str) -> str:
    """The policy, defaulted as the API server does: Always for :latest, else IfNotPresent."""
    if container.image_pull_policy:
        return container.image_pull_policy
    return "Always" if reference.endswith(":latest") else "IfNotPresent"


def _reference(image: str) -> str:
    try:
        return image_reference(image)
    except InvalidImageName as error:
        message = f'Failed to apply default image tag "{image}": couldn\'t parse image name "{image}": {error}'
        raise ImageError("InvalidImageName", message, retry_after=_LONGEST_WAIT) from error


def _local(reference: str, image: cri.Image) -> LocalImage:
    uid = image.uid.value if image.HasField("uid") else None
    return LocalImage(reference=reference, id=image.id, uid=uid, user=image.username)


def _silent(type: str, reason: str, message: str) -> None:
    """Nobody wants the events."""


def _now() -> float:
    return asyncio.get_running_loop().time()


# --- garbage collection -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DiskUse:
    """A file system's size and what is free of it, in bytes."""

    capacity: int
    available: int

    @property
    def percent(self) -> int:
        return 100 - self.available * 100 // self.capacity if self.capacity else 0


@dataclass(slots=True)
class _Known:
    first_seen: float
    last_used: float = 0.0


@dataclass(slots=True)
class ImageCollector:
    """Above `high` percent use of the images' file system, removes unused images, longest unused first, to `low`."""

    client: CriClient
    high: int = 80
    low: int = 40
    min_age: float = 120.0
    #: Names never removed, such as the sandbox image: containerd 1.6 does not pin it.
    keep: Collection[str] = ()
    _known: dict[str, _Known] = field(default_factory=dict)

    async def collect(self, in_use: Collection[str], disk: DiskUse | None = None) -> int:
        """One round; bytes freed. `in_use` holds ids and references of all containers' images, stopped ones too."""
        images = await self.client.list_images()
        candidates = self._detect(images, frozenset(in_use))
        disk = disk or await self.disk_use()
        if disk is None or disk.percent < self.high:
            return 0
        wanted = disk.capacity * (100 - self.low) // 100 - disk.available
        freed = 0
        for image in candidates:
            if freed >= wanted:
                break
            freed += await self._remove(image)
        return freed

    async def disk_use(self) -> DiskUse | None:
        """Of the file system the runtime keeps images on; None when it does not tell or the place is not visible."""
        for usage in await self.client.image_fs_info():
            try:
                found = await asyncio.to_thread(shutil.disk_usage, usage.fs_id.mountpoint)
            except OSError:
                continue
            return DiskUse(found.total, found.free)
        return None

    def _detect(
        self, images: Sequence[cri.Image], in_use: frozenset[str], *, min_age: float | None = None
    ) -> list[cri.Image]:
        """Note what is used now; the removable ones, longest unused first."""
        now = _now()
        age = self.min_age if min_age is None else min_age
        self._known = {image.id: self._known.get(image.id) or _Known(now) for image in images}
        removable = []
        for image in images:
            names = {image.id, *image.repo_tags, *image.repo_digests}
            if image.pinned or names & in_use:
                self._known[image.id].last_used = now
            elif not names & set(self.keep) and not _imported(image) and now - self._known[image.id].first_seen >= age:
                removable.append(image)
        return sorted(removable, key=lambda image: self._known[image.id].last_used)

    async def free_all(self, in_use: Collection[str]) -> int:
        """The disk is short: every unused image goes, young ones too; bytes freed."""
        images = await self.client.list_images()
        return sum([await self._remove(image) for image in self._detect(images, frozenset(in_use), min_age=0.0)])

    async def _remove(self, image: cri.Image) -> int:
        try:
            await self.client.remove_image(image.id)
        except RuntimeRefused:
            # Used again meanwhile, or the runtime is busy: the next round sees it afresh.
            return 0
        self._known.pop(image.id, None)
        return image.size


def _imported(image: cri.Image) -> bool:
    """It came from an archive: no registry would give it back."""
    return any(name.startswith("localhost/") for name in image.repo_tags)
