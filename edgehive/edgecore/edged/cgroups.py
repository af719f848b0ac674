"""What a pod's requests and limits mean to the kernel: QoS class, shares, quota, OOM score, cgroup names.

For `podspec.py` (the numbers go to the runtime) and `pods.py` (the pod's own cgroup folder, which the runtime
creates below `root` and nobody else removes). The arithmetic is pure; `remove_pod_cgroup` touches the file system.
Go: pkg/kubelet/cm/helpers_linux.go, pkg/kubelet/qos/policy.go, pkg/apis/core/v1/helper/qos
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

from edgehive.api.core import Container, Pod, Quantity
from edgehive.kube import quantity

_MIN_SHARES, _MAX_SHARES, _SHARES_PER_CPU = 2, 262144, 1024
_PERIOD = 100_000
_MIN_QUOTA = 1000
_OOM_GUARANTEED, _OOM_BEST_EFFORT = -997, 1000
_CRITICAL_PRIORITY = 2_000_000_000
_CGROUP_MOUNT = Path("/sys/fs/cgroup")


class QosClass(Enum):
    GUARANTEED = "Guaranteed"
    BURSTABLE = "Burstable"
    BEST_EFFORT = "BestEffort"


def qos_class(pod: Pod) -> QosClass:
    """As the API server computes status.qosClass: cpu and memory of all containers, init containers included."""
    containers = [*pod.spec.containers, *(pod.spec.init_containers or ())]
    requests = [_positive(container.resources.requests) for container in containers]
    limits = [_positive(container.resources.limits) for container in containers]
    if not any(requests) and not any(limits):
        return QosClass.BEST_EFFORT
    guaranteed = all(
        limit.keys() == {"cpu", "memory"} and all(request.get(name, value) == value for name, value in limit.items())
        for request, limit in zip(requests, limits, strict=True)
    )
    return QosClass.GUARANTEED if guaranteed else QosClass.BURSTABLE


def _positive(held: Mapping[str, Quantity] | None) -> dict[str, object]:
    parsed = {name: quantity.parse(value) for name, value in (held or {}).items() if name in ("cpu", "memory")}
    return {name: value for name, value in parsed.items() if value > 0}


def milli_cpu(held: Mapping[str, Quantity] | None) -> int | None:
    """Thousandths of a CPU, rounded up; None when not set."""
    value = (held or {}).get("cpu")
    return None if value is None else -int(-quantity.parse(value) * 1000 // 1)


def memory_bytes(held: Mapping[str, Quantity] | None) -> int | None:
    value = (held or {}).get("memory")
    return None if value is None else -int(-quantity.parse(value) // 1)


def cpu_shares(container: Container) -> int:
    """The request's weight; a limit without a request stands for it."""
    request = milli_cpu(container.resources.requests)
    milli = milli_cpu(container.resources.limits) if request is None else request
    return max(_MIN_SHARES, min(_MAX_SHARES, (milli or 0) * _SHARES_PER_CPU // 1000))


def cpu_quota(container: Container) -> tuple[int, int]:
    """(quota, period) in microseconds; quota 0 is no limit."""
    limit = milli_cpu(container.resources.limits)
    return (max(_MIN_QUOTA, limit * _PERIOD // 1000) if limit else 0, _PERIOD)


def oom_score_adj(pod: Pod, container: Container, memory_capacity: int) -> int:
    """Who dies first when the node runs out of memory: BestEffort, then Burstable by how little they asked for."""
    if (pod.spec.priority or 0) >= _CRITICAL_PRIORITY:
        return _OOM_GUARANTEED
    match qos_class(pod):
        case QosClass.GUARANTEED:
            return _OOM_GUARANTEED
        case QosClass.BEST_EFFORT:
            return _OOM_BEST_EFFORT
    request = memory_bytes(container.resources.requests) or 0
    score = 1000 - 1000 * request // max(1, memory_capacity)
    return max(1000 + _OOM_GUARANTEED, min(_OOM_BEST_EFFORT - 1, score))


def pod_cgroup(root: str, pod: Pod) -> str:
    """The cgroup path the runtime creates the pod's containers under; "" leaves it to the runtime."""
    if not root:
        return ""
    qos = qos_class(pod)
    middle = "" if qos is QosClass.GUARANTEED else f"/{qos.value.lower()}"
    return f"{root.rstrip('/')}{middle}/pod{pod.metadata.uid}"


def remove_pod_cgroup(root: str, pod_uid: str, *, mount: Path = _CGROUP_MOUNT) -> None:
    """Remove the empty folders the runtime left of a pod that is gone; one still in use stays."""
    for folder in _pod_folders(root, pod_uid, mount):
        try:
            folder.rmdir()
        except OSError:
            continue


def _pod_folders(root: str, pod_uid: str, mount: Path) -> Iterator[Path]:
    """The pod's folder in the one hierarchy of cgroup v2, or in each of v1."""
    inside = root.strip("/")
    if not inside:
        return
    for base in (mount, *mount.glob("*/")):
        yield from base.glob(f"{inside}/pod{pod_uid}")
        yield from base.glob(f"{inside}/*/pod{pod_uid}")
