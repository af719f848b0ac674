"""What edged shows of its pods at the node's HTTP door: objects, logs, and where the runtime serves their streams.

For `kubelet_server.py` and `streaming.py`. Only looks; the words of its refusals are the kubelet's.
Go: pkg/kubelet/kubelet_pods.go
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgehive.edgecore.edged import podspec
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.logs import LogFile
from edgehive.edgecore.edged.plan import ObservedContainer, State
from edgehive.edgecore.edged.pods import Pods, PodWorker, container_or_none
from edgehive.edgecore.edged.reporter import Reporter
from edgehive.edgecore.edged.streaming import Place, Unavailable, Wanted
from edgehive.protos import cri_pb2 as cri

_WAITING = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


class PodViews:
    """The pods of the node as others may see them."""

    def __init__(
        self, pods: Pods, reporter: Reporter, client: CriClient, pod_logs: str, healthy: Callable[[], str]
    ) -> None:
        self._pods = pods
        self._reporter = reporter
        self._cri = client
        self._pod_logs = pod_logs
        self.healthy = healthy

    def pods(self) -> Iterator[Mapping[str, Any]]:
        for worker in self._pods:
            yield worker.document.to_dict() | {"status": dict(self._reporter.last(worker.uid))}

    def running_pods(self) -> Iterable[Mapping[str, Any]]:
        return [_running(worker) for worker in self._pods if worker.observed.alive]

    def running_containers(self) -> Mapping[str, ObservedContainer]:
        """By id."""
        return {
            seen.id: seen for worker in self._pods for seen in worker.observed.containers if seen.state is State.RUNNING
        }

    # logs

    def container_log(self, namespace: str, pod: str, container: str, *, previous: bool) -> LogFile:
        """The newest (or the one before) attempt's log file; raises Unavailable."""
        worker = self._worker(namespace, pod, f'pod "{pod}" does not exist')
        if container_or_none(worker.pod, container) is None:
            raise Unavailable(f'container "{container}" not found in pod "{pod}"', 404)
        attempts = [item for item in worker.observed.attempts(container) if item.state is not State.CREATED]
        if previous and len(attempts) < 2:
            raise Unavailable(f'previous terminated container "{container}" in pod "{pod}" not found', 400)
        if not attempts:
            why = self._waiting(worker, container)
            raise Unavailable(f'container "{container}" in pod "{pod}" is waiting to start: {why}', 400)
        seen = attempts[1 if previous else 0]

        async def running() -> bool:
            latest = worker.observed.latest(container)
            return latest is not None and latest.id == seen.id and latest.state is State.RUNNING

        folder = podspec.log_directory(worker.pod, self._pod_logs)
        return LogFile(Path(folder) / podspec.log_path(container, seen.attempt), running)

    def _waiting(self, worker: PodWorker, container: str) -> str:
        status = self._reporter.last(worker.uid)
        for kind in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
            for item in status.get(kind) or ():
                if item.get("name") == container:
                    reason: str = item.get("state", {}).get("waiting", {}).get("reason", "")
                    return _WAITING.get(reason, reason)
        return "ContainerCreating"

    # streams

    async def exec_url(self, place: Place, command: list[str], wanted: Wanted) -> str:
        seen = self._runs(self._worker(place.namespace, place.pod), place)
        return await self._cri.exec_url(
            cri.ExecRequest(
                container_id=seen.id,
                cmd=command,
                tty=wanted.tty,
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr,
            )
        )

    async def attach_url(self, place: Place, wanted: Wanted) -> str:
        worker = self._worker(place.namespace, place.pod)
        seen = self._runs(worker, place)
        spec = container_or_none(worker.pod, place.container)
        # Whether a process has a terminal was settled when it started.
        tty = spec is not None and bool(spec.tty)
        return await self._cri.attach_url(
            cri.AttachRequest(
                container_id=seen.id,
                tty=tty,
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr and not tty,
            )
        )

    async def port_forward_url(self, place: Place, ports: list[int]) -> str:
        worker = self._worker(place.namespace, place.pod)
        if not self._is(worker, place.uid):
            raise Unavailable("pod not found", 404)
        sandbox = worker.observed.sandbox
        if sandbox is None or not sandbox.ready:
            raise Unavailable(f'pod "{place.pod}" is not running: its sandbox is not ready', 400)
        return await self._cri.port_forward_url(sandbox.id, ports)

    def _worker(self, namespace: str, pod: str, message: str = "pod does not exist") -> PodWorker:
        workers = self._pods.named(namespace, pod)
        if not workers:
            raise Unavailable(message, 404)
        return workers[-1]

    def _is(self, worker: PodWorker, uid: str) -> bool:
        """Static pods are known by the UID of their mirror too; "" is any."""
        return uid in ("", worker.uid, self._reporter.api_uid(worker.uid))

    def _runs(self, worker: PodWorker, place: Place) -> ObservedContainer:
        if not self._is(worker, place.uid) or container_or_none(worker.pod, place.container) is None:
            raise Unavailable(f'container not found ("{place.container}")', 404)
        seen = worker.observed.current(place.container)
        if seen is None or seen.state is not State.RUNNING:
            raise Unavailable(f'container "{place.container}" in pod "{place.pod}" is not running', 400)
        return seen


def _running(worker: PodWorker) -> dict[str, Any]:
    meta = worker.pod.metadata
    alive = worker.observed.alive
    return {
        "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
        "spec": {"containers": [{"name": item.name, "image": item.image, "resources": {}} for item in alive]},
        "status": {},
    }
