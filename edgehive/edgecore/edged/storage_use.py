"""How much of the disk a pod's files take: logs and emptyDirs.

For `evictor.py` and `storage_limits.py`, which call it in a thread.
"""

import os
from pathlib import Path

from edgehive.api.core import Pod
from edgehive.edgecore.edged import podspec
from edgehive.edgecore.edged.eviction import DISK
from edgehive.edgecore.edged.volumes.local import pod_directory

#: Counting stops here: an estimate is good enough to find the greedy ones.
_MAX_FILES = 200_000


def log_folder(pod: Pod, pod_logs: str, container: str) -> Path:
    return Path(podspec.log_directory(pod, pod_logs)) / container


def empty_dirs(root: Path, uid: str) -> Path:
    """The folder that holds one folder for each emptyDir of the pod."""
    return pod_directory(root, uid) / "volumes" / "kubernetes.io~empty-dir"


def on_disk(folder: Path, resource: str = DISK) -> int:
    """Bytes (or files, for inodes) below it, on its own file system: what is in memory takes no disk."""
    try:
        device = folder.stat().st_dev
    except OSError:
        return 0
    total = files = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if _device(os.path.join(place, name)) == device]
        for name in names:
            files += 1
            if files > _MAX_FILES:
                return total if resource == DISK else files
            total += _size(os.path.join(place, name))
    return total if resource == DISK else files


def _device(path: str) -> int:
    try:
        return os.lstat(path).st_dev
    except OSError:
        return -1


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0
