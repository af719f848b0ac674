"""A Job's arithmetic: which indexes are done, how many pods to run, whether it is over. Pure.

Go: pkg/controller/job/indexed_job_utils.go, job_controller.go
"""

from collections.abc import Iterable

from edgehive.api.apps import JobSpec
from edgehive.api.core import Pod

INDEX = "batch.kubernetes.io/job-completion-index"
#: Seconds before a failed pod is replaced: first, and at most.
FIRST_DELAY, LONGEST_DELAY = 10.0, 360.0


def parse_indexes(text: str) -> set[int]:
    """`0-2,5` as numbers."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return found


def format_indexes(indexes: Iterable[int]) -> str:
    runs: list[list[int]] = []
    for number in sorted(indexes):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def index_of(pod: Pod) -> int | None:
    text = (pod.metadata.annotations or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def wanted_active(spec: JobSpec, succeeded: int, active: int) -> int:
    """How many pods should run now."""
    parallelism = 1 if spec.parallelism is None else spec.parallelism
    if spec.completions is None:
        # A work queue: once one pod has succeeded no new one starts.
        return active if succeeded else parallelism
    return min(parallelism, max(0, spec.completions - succeeded))


def is_complete(spec: JobSpec, succeeded: int, active: int) -> bool:
    if spec.completions is None:
        return succeeded > 0 and active == 0
    return succeeded >= spec.completions


def restarts(pods: Iterable[Pod]) -> int:
    """Container restarts, which count as failures for pods that restart in place."""
    total = 0
    for pod in pods:
        statuses = (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
        total += sum(status.restart_count for status in statuses)
    return total


def delay(failures: int) -> float:
    return min(LONGEST_DELAY, FIRST_DELAY * float(2 ** min(max(0, failures - 1), 10)))
