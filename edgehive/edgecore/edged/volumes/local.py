"""emptyDir and hostPath: folders on the node, checked and made as the pod asks.

For `runtime.py`. `prepare` may be called again at any time and changes nothing that is right. What is mounted
below a pod's folder is found in the kernel's mount table, so it is cleaned up after a crash as well.

Go: pkg/volume/emptydir, pkg/volume/hostpath
"""

import asyncio
import shutil
import stat
from pathlib import Path
from typing import Protocol

from edgehive.api.core import EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume
from edgehive.edgecore.edged.cgroups import memory_bytes
from edgehive.kube import quantity

_MOUNT_SECONDS = 10.0


class VolumeError(Exception):
    """A volume cannot be made; `reason` is the event's."""

    reason = "FailedMount"


class Volumes(Protocol):
    """One way of making volumes."""

    def handles(self, volume: Volume) -> bool:
        """Whether this volume's source is one of ours."""
        ...

    async def prepare(self, pod: Pod, volume: Volume) -> Path:
        """Its place on the node, made if need be; raises VolumeError."""
        ...


def pod_directory(root: Path, uid: str) -> Path:
    """`<rootDirectory>/pods/<uid>`: all this node keeps on disk for a pod, logs apart."""
    if not uid or "/" in uid or uid in (".", ".."):
        raise VolumeError(f"{uid!r} is no pod UID")
    return root / "pods" / uid


def volume_directory(root: Path, uid: str, plugin: str, name: str) -> Path:
    """`…/volumes/kubernetes.io~empty-dir/<name>`, as the Go kubelet lays it out."""
    return pod_directory(root, uid) / "volumes" / f"kubernetes.io~{plugin}" / name


class LocalVolumes:
    """emptyDir and hostPath."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def handles(self, volume: Volume) -> bool:
        # A volume without any source is an emptyDir.
        return volume.host_path is not None or volume.empty_dir is not None

    async def prepare(self, pod: Pod, volume: Volume) -> Path:
        if volume.host_path is not None:
            return host_path(volume.name, volume.host_path)
        folder = volume_directory(self._root, pod.metadata.uid, "empty-dir", volume.name)
        return await self._empty_dir(folder, volume.empty_dir or EmptyDirVolumeSource(), pod)

    async def _empty_dir(self, folder: Path, source: EmptyDirVolumeSource, pod: Pod) -> Path:
        if source.medium not in ("", "Memory"):
            raise VolumeError(f'emptyDir medium "{source.medium}" is not supported: use "" or "Memory"')
        try:
            _make_folder(folder)
            if source.medium == "Memory" and str(folder) not in mount_points():
                await _mount_tmpfs(folder, memory_size(source, pod))
            own_for_group(folder, pod)
        except OSError as error:
            raise VolumeError(f"cannot make emptyDir {folder}: {error.strerror}") from error
        return folder


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


def own_for_group(folder: Path, pod: Pod) -> None:
    """Everyone may write; with fsGroup the folder belongs to it and hands it down."""
    context = pod.spec.security_context
    group = context.fs_group if context else None
    if group is None:
        folder.chmod(0o777)
        return
    shutil.chown(folder, group=group)
    folder.chmod(0o2777)


def memory_size(source: EmptyDirVolumeSource, pod: Pod) -> int | None:
    """The smaller of the volume's limit and the memory its pod may use; None without either: the kernel's default."""
    pods = sum(memory_bytes(item.resources.limits) or 0 for item in pod.spec.containers)
    own = int(quantity.parse(source.size_limit)) if source.size_limit is not None else 0
    return min((size for size in (pods, own) if size > 0), default=None)


async def _mount_tmpfs(folder: Path, size: int | None) -> None:
    options = "mode=0777" if size is None else f"mode=0777,size={size}"
    await _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder))


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(_MOUNT_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        raise VolumeError(f"{' '.join(command)} did not end within {_MOUNT_SECONDS:.0f} s") from error
    if process.returncode:
        raise VolumeError(f"{' '.join(command)}: {output.decode(errors='replace').strip()}")


# --- hostPath ---------------------------------------------------------------------------------------------

_CHECKS = {
    "Directory": (stat.S_ISDIR, "directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "directory"),
    "File": (stat.S_ISREG, "file"),
    "FileOrCreate": (stat.S_ISREG, "file"),
    "Socket": (stat.S_ISSOCK, "socket file"),
    "CharDevice": (stat.S_ISCHR, "character device"),
    "BlockDevice": (stat.S_ISBLK, "block device"),
}


def host_path(name: str, source: HostPathVolumeSource) -> Path:
    """The path itself, created where the type says so; raises VolumeError when it is something else."""
    path, kind = Path(source.path), source.type or ""
    if not path.is_absolute() or ".." in path.parts:
        raise VolumeError(f"hostPath {source.path!r} of volume {name} must be absolute and without '..'")
    try:
        _create_missing(path, kind)
        mode = path.stat().st_mode
    except FileNotFoundError:
        if kind == "":
            # The runtime creates a missing folder for an unchecked hostPath.
            return path
        raise VolumeError(f"hostPath type check failed: {path} is not a {_kind(kind)}") from None
    except OSError as error:
        raise VolumeError(f"hostPath {path}: {error.strerror}") from error
    check = _CHECKS.get(kind)
    if kind and check is None:
        raise VolumeError(f'hostPath type "{kind}" is unknown')
    if check is not None and not check[0](mode):
        raise VolumeError(f"hostPath type check failed: {path} is not a {_kind(kind)}")
    return path


def _create_missing(path: Path, kind: str) -> None:
    if kind == "DirectoryOrCreate" and not path.exists():
        path.mkdir(mode=0o755, parents=True)
    if kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)


def _kind(kind: str) -> str:
    return _CHECKS[kind][1] if kind in _CHECKS else kind


# --- cleaning up ------------------------------------------------------------------------------------------


def mount_points() -> set[str]:
    """Every mount point this process sees."""
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    return {_unescape(line.split(" ", 5)[4]) for line in text.splitlines() if line.count(" ") > 5}


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


async def remove_pod_directory(root: Path, uid: str) -> None:
    """Take every mount below the pod's folder down, then remove the folder. A mount that stays keeps it.

    Never follows a link out of the folder, and never deletes through a mount.
    """
    folder = pod_directory(root, uid)
    for point in sorted((item for item in mount_points() if item.startswith(f"{folder}/")), reverse=True):
        await _run("umount", point)
    if any(item.startswith(f"{folder}/") for item in mount_points()):
        raise VolumeError(f"{folder} still holds a mount")
    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def pods_on_disk(root: Path) -> list[str]:
    """UIDs that have a folder here."""
    folder = root / "pods"
    return [item.name for item in folder.iterdir() if item.is_dir()] if folder.is_dir() else []
