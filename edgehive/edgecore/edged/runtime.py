"""Performs what `plan.py` decided: sandboxes, containers, hooks; and observes what there is.

For `pods.py`. Nothing is decided or retried here: a step that fails says so with the reason users see.

Go: pkg/kubelet/kuberuntime
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from edgehive.api.core import ConfigMap, Container, LifecycleHandler, Pod, Quantity, Secret
from edgehive.api.registry import CONFIG_MAPS, SECRETS, ApiResource
from edgehive.edgecore.edged import cgroups, podspec
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.environment import ContainerConfigError, PodFacts
from edgehive.edgecore.edged.hooks import Target, get_page, open_port, run_command
from edgehive.edgecore.edged.images import ImageError, ImagePuller
from edgehive.edgecore.edged.plan import (
    ObservedContainer,
    ObservedPod,
    ObservedSandbox,
    State,
    StopContainer,
    StopPod,
    is_sidecar,
    newest_first,
)
from edgehive.edgecore.edged.podfiles import (
    PodFiles,
    termination_message,
)
from edgehive.edgecore.edged.volumes.local import VolumeError, Volumes, remove_pod_directory
from edgehive.edgecore.edged.volumes.projected import ProjectedVolumes
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound
from edgehive.protos import cri_pb2 as cri

log = logging.getLogger("edgehive.edged")

#: A container gets at least this long after its preStop hook used the grace period up.
_LEAST_STOP_SECONDS = 2.0
_HOOK_SECONDS = 30.0
_NAME_TAKEN_SECONDS = 1.0
_MAX_CREDENTIALS = 1024 * 1024
_STATES = {
    cri.CONTAINER_CREATED: State.CREATED,
    cri.CONTAINER_RUNNING: State.RUNNING,
    cri.CONTAINER_EXITED: State.EXITED,
}

_Lens = TypeVar("_Lens", ConfigMap, Secret)

#: Tells an event about a pod, of one of its containers if named: pod, container name, type, reason, message.
Tell = Callable[[Pod, str, str, str, str], None]


class StartFailed(Exception):
    """A step on the way to a running container failed; `reason` is what the Waiting state shows."""

    def __init__(self, reason: str, message: str, *, retry_after: float = 10.0) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


@dataclass(slots=True)
class NodeFacts:
    """What this node is like, as far as pods are told of it."""

    node: podspec.Node
    host_ip: str
    allocatable: Mapping[str, Quantity] = field(default_factory=dict)


class PodRuntime:
    """The pods of one node, through one CRI endpoint."""

    def __init__(
        self,
        client: CriClient,
        api: Client,
        volumes: Sequence[Volumes],
        facts: NodeFacts,
        root: Path,
        tell: Tell,
        *,
        puller: ImagePuller | None = None,
        parallel_sandboxes: int = 3,
    ) -> None:
        self.cri = client
        self._api = api
        self._volumes = volumes
        self.facts = facts
        self._root = root
        self._tell = tell
        self._puller = puller or ImagePuller(client)
        self._creations = asyncio.Semaphore(parallel_sandboxes)
        self._seen: dict[tuple[str, int], cri.ContainerStatus] = {}
        self._ips: dict[str, tuple[str, ...]] = {}
        self._hooked: set[str] = set()
        #: Sandboxes that were stopped and not removed yet.
        self._stopped: set[str] = set()
        #: container or sandbox id -> pod UID, for events that name only the id.
        self.owners: dict[str, str] = {}

    # --- observing ---

    async def observe(self, uid: str) -> ObservedPod:
        """Everything the runtime holds of this pod."""
        labels = {podspec.POD_UID: uid}
        sandboxes = await self.cri.list_pod_sandboxes(labels=labels)
        containers = await self.cri.list_containers(labels=labels) if sandboxes else ()
        return newest_first(
            [await self._sandbox(uid, item) for item in sandboxes],
            [found for item in containers if (found := await self._container(uid, item))],
        )

    async def _sandbox(self, uid: str, item: cri.PodSandbox) -> ObservedSandbox:
        self.owners[item.id] = uid
        ready = item.state == cri.SANDBOX_READY
        if ready and item.id not in self._ips:
            try:
                network = (await self.cri.pod_sandbox_status(item.id)).network
                self._ips[item.id] = tuple(
                    ip for ip in (network.ip, *(more.ip for more in network.additional_ips)) if ip
                )
            except RuntimeRefused as error:
                if not error.not_found:
                    raise
        return ObservedSandbox(
            item.id, ready, item.metadata.attempt, _instant(item.created_at), self._ips.get(item.id, ())
        )

    async def _container(self, uid: str, item: cri.Container) -> ObservedContainer | None:
        self.owners[item.id] = uid
        key = (item.id, int(item.state))
        status = self._seen.get(key)
        if status is None:
            try:
                status = await self.cri.container_status(item.id)
            except RuntimeRefused as error:
                if error.not_found:
                    return None
                raise
            if status.state in (cri.CONTAINER_RUNNING, cri.CONTAINER_EXITED):
                self._seen.pop((item.id, cri.CONTAINER_RUNNING), None)
                self._seen[(item.id, int(status.state))] = status
        return await asyncio.to_thread(self._read, uid, item.pod_sandbox_id, status)

    def _read(self, uid: str, sandbox_id: str, status: cri.ContainerStatus) -> ObservedContainer:
        state = _STATES.get(status.state, State.UNKNOWN)
        message = status.message
        if state is State.EXITED:
            files = PodFiles(self._root, uid)
            message = termination_message(files, status) or message
        return ObservedContainer(
            id=status.id,
            name=status.metadata.name,
            sandbox_id=sandbox_id,
            state=state,
            attempt=status.metadata.attempt,
            spec_hash=status.annotations.get(podspec.CONTAINER_HASH, ""),
            created_at=_instant(status.created_at),
            started_at=_instant(status.started_at),
            finished_at=_instant(status.finished_at),
            exit_code=status.exit_code,
            reason=status.reason,
            message=message,
            image=status.image.image,
            image_id=status.image_ref,
        )

    # --- volumes ---

    async def prepare(self, pod: Pod) -> dict[str, str]:
        """Every volume's place on the node, brought up to date; raises VolumeError."""
        await asyncio.to_thread(PodFiles(self._root, pod.metadata.uid).ensure)
        places = {}
        for volume in pod.spec.volumes or ():
            maker = next((maker for maker in self._volumes if maker.handles(volume)), None)
            if maker is None:
                raise VolumeError(f'volume "{volume.name}" is of a kind this node does not provide')
            try:
                places[volume.name] = str(await maker.prepare(pod, volume))
            except VolumeError as error:
                raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error
        return places

    def next_renewal(self, uid: str) -> datetime | None:
        """When a token in this pod's volumes should be renewed."""
        due = [maker.next_renewal(uid) for maker in self._volumes if isinstance(maker, ProjectedVolumes)]
        return min((item for item in due if item is not None), default=None)

    # --- sandboxes ---

    async def create_sandbox(self, pod: Pod, attempt: int) -> None:
        """Raises StartFailed, also while a former pod of this name is still ending: there are never two."""
        if await self._former_pod_lives(pod):
            raise StartFailed("", "waiting for the former pod of this name to end", retry_after=_NAME_TAKEN_SECONDS)
        try:
            config = podspec.sandbox_config(pod, self.facts.node, attempt=attempt)
            async with self._creations:
                sandbox = await self.cri.run_pod_sandbox(config, runtime_handler="")
        except ContainerConfigError as error:
            raise StartFailed(error.reason, error.message) from error
        except RuntimeRefused as error:
            message = f"Failed to create pod sandbox: {error}"
            self._tell(pod, "", "Warning", "FailedCreatePodSandBox", message)
            raise StartFailed("FailedCreatePodSandBox", message, retry_after=2.0) from error
        self.owners[sandbox] = pod.metadata.uid

    async def _former_pod_lives(self, pod: Pod) -> bool:
        meta = pod.metadata
        labels = {podspec.POD_NAME: meta.name, podspec.POD_NAMESPACE: meta.namespace}
        found = await self.cri.list_pod_sandboxes(labels=labels)
        others = {item.id: item for item in found if item.labels.get(podspec.POD_UID) != meta.uid}
        if not others:
            return False
        containers = await self.cri.list_containers(labels=labels)
        return any(item.state == cri.SANDBOX_READY for item in others.values()) or any(
            item.pod_sandbox_id in others and item.state == cri.CONTAINER_RUNNING for item in containers
        )

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self.cri.stop_pod_sandbox(sandbox_id)
        await self.cri.remove_pod_sandbox(sandbox_id)
        self.owners.pop(sandbox_id, None)
        self._ips.pop(sandbox_id, None)
        self._stopped.discard(sandbox_id)

    # --- starting ---

    async def start(
        self,
        pod: Pod,
        container: Container,
        attempt: int,
        sandbox: ObservedSandbox,
        places: Mapping[str, str],
        *,
        pid_target: str = "",
    ) -> None:
        """Image, environment, create, start, postStart hook; raises StartFailed."""
        try:
            config, sandbox_config = await self._configure(pod, container, attempt, sandbox, places, pid_target)
            container_id = await self._create(pod, container, sandbox.id, config, sandbox_config)
        except ImageError as error:
            raise StartFailed(error.reason, error.message, retry_after=error.retry_after) from error
        except ContainerConfigError as error:
            self._tell(pod, container.name, "Warning", "Failed", f"Error: {error.message}")
            raise StartFailed(error.reason, error.message) from error
        self.owners[container_id] = pod.metadata.uid
        await self._start(pod, container, container_id, sandbox)

    async def _configure(
        self,
        pod: Pod,
        container: Container,
        attempt: int,
        sandbox: ObservedSandbox,
        places: Mapping[str, str],
        pid_target: str,
    ) -> tuple[cri.ContainerConfig, cri.PodSandboxConfig]:
        sandbox_config = podspec.sandbox_config(pod, self.facts.node, attempt=sandbox.attempt)

        def tell(type: str, reason: str, message: str) -> None:
            self._tell(pod, container.name, type, reason, message)

        image = await self._puller.ensure(
            pod, container, secrets=await self._pull_secrets(pod), sandbox=sandbox_config, report=tell
        )
        facts = await self._pod_facts(pod, container, sandbox)
        files = PodFiles(self._root, pod.metadata.uid)
        ips = self._pod_ips(pod, sandbox)
        made = podspec.ContainerFacts(
            image=image.reference,
            attempt=attempt,
            volumes=places,
            sub_paths=files.sub_paths(podspec.sub_paths(pod, container, facts), places),
            hosts_file=await asyncio.to_thread(files.hosts, pod, ips, self.facts.node.cluster_domain),
            termination_log=files.termination_log(container.name, attempt),
            image_uid=image.uid,
            image_user=image.user,
            pid_target=pid_target,
        )
        return podspec.container_config(pod, container, self.facts.node, facts, made), sandbox_config

    async def _create(
        self, pod: Pod, container: Container, sandbox_id: str, config: cri.ContainerConfig, whole: cri.PodSandboxConfig
    ) -> str:
        try:
            container_id = await self.cri.create_container(sandbox_id, config, whole)
        except RuntimeRefused as error:
            self._tell(pod, container.name, "Warning", "Failed", f"Error: {error.text}")
            raise StartFailed("CreateContainerError", error.text) from error
        self._tell(pod, container.name, "Normal", "Created", f"Created container: {container.name}")
        return container_id

    async def _start(self, pod: Pod, container: Container, container_id: str, sandbox: ObservedSandbox) -> None:
        try:
            await self.cri.start_container(container_id)
        except RuntimeRefused as error:
            self._tell(pod, container.name, "Warning", "Failed", f"Error: {error.text}")
            raise StartFailed("RunContainerError", error.text) from error
        self._tell(pod, container.name, "Normal", "Started", f"Started container {container.name}")
        hook = container.lifecycle.post_start if container.lifecycle else None
        if hook is None:
            return
        target = Target(container_id, container, next(iter(self._pod_ips(pod, sandbox)), ""))
        trouble = await self._run_hook(hook, target, _HOOK_SECONDS * 4)
        if trouble:
            self._tell(pod, container.name, "Warning", "FailedPostStartHook", f"PostStartHook failed: {trouble}")
            await self.cri.stop_container(container_id, timeout=_grace(pod))
            raise StartFailed("PostStartHookError", f"PostStartHook failed: {trouble}")

    async def _pull_secrets(self, pod: Pod) -> list[Secret]:
        """The pod's, then the node's own."""
        names = [item.name for item in pod.spec.image_pull_secrets or () if item.name]
        found = [await self._fetch(SECRETS, name, pod, Secret) for name in names]
        own = await asyncio.to_thread(_node_credentials, self._root / "config.json")
        return [*(item for item in found if item is not None), *own]

    async def _pod_facts(self, pod: Pod, container: Container, sandbox: ObservedSandbox) -> PodFacts:
        named = podspec.references(container)
        maps = {name: await self._fetch(CONFIG_MAPS, name, pod, ConfigMap) for name in sorted(named.config_maps)}
        secrets = {name: await self._fetch(SECRETS, name, pod, Secret) for name in sorted(named.secrets)}
        return PodFacts(
            host_ips=(self.facts.host_ip,),
            pod_ips=self._pod_ips(pod, sandbox),
            node_allocatable=self.facts.allocatable,
            config_maps={name: item for name, item in maps.items() if item is not None},
            secrets={name: item for name, item in secrets.items() if item is not None},
        )

    async def _fetch(self, resource: ApiResource, name: str, pod: Pod, lens: type[_Lens]) -> _Lens | None:
        """The object, None when there is none; raises ContainerConfigError when nobody can tell."""
        try:
            return (await self._api.get(resource, name, pod.metadata.namespace)).read(lens)
        except NotFound:
            return None
        except ApiError as error:
            raise ContainerConfigError(f'{resource.kind.lower()} "{name}" cannot be read: {error}') from error

    def _pod_ips(self, pod: Pod, sandbox: ObservedSandbox) -> tuple[str, ...]:
        return (self.facts.host_ip,) if pod.spec.host_network else sandbox.ips

    # --- stopping ---

    async def stop_pod(self, pod: Pod, stop: StopPod) -> None:
        """Main containers side by side, sidecars after them in reverse order, then the sandboxes."""
        sidecars = [item.name for item in pod.spec.init_containers or () if is_sidecar(item)]
        first = [item for item in stop.containers if item.name not in sidecars]
        await _all(self.stop_container(pod, item) for item in first)
        for name in reversed(sidecars):
            await _all(self.stop_container(pod, item) for item in stop.containers if item.name == name)
        for sandbox_id in stop.sandboxes:
            # One that is down stays down: a pod that waits for its volumes is looked at again and again.
            if sandbox_id not in self._stopped:
                await self.cri.stop_pod_sandbox(sandbox_id)
                self._stopped.add(sandbox_id)

    async def stop_container(self, pod: Pod, stop: StopContainer) -> None:
        """The preStop hook (once) and the stop share the grace period."""
        self._tell(pod, stop.name, "Normal", "Killing", stop.message)
        loop = asyncio.get_running_loop()
        began = loop.time()
        hook = self._pre_stop(pod, stop)
        if hook is not None and stop.id not in self._hooked:
            container, handler = hook
            self._hooked.add(stop.id)
            target = Target(stop.id, container, await self._address(stop.id, pod))
            trouble = await self._run_hook(handler, target, float(stop.grace_seconds))
            if trouble:
                self._tell(pod, stop.name, "Warning", "FailedPreStopHook", f"PreStopHook failed: {trouble}")
        left = stop.grace_seconds - (loop.time() - began)
        if hook is not None:
            left = max(left, _LEAST_STOP_SECONDS)
        try:
            await self.cri.stop_container(stop.id, timeout=max(0.0, left))
        except RuntimeRefused as error:
            if not error.not_found:
                raise
        self._hooked.discard(stop.id)

    def _pre_stop(self, pod: Pod, stop: StopContainer) -> tuple[Container, LifecycleHandler] | None:
        if stop.grace_seconds <= 0:
            return None
        for container in (*pod.spec.containers, *(pod.spec.init_containers or ())):
            if container.name == stop.name and container.lifecycle and container.lifecycle.pre_stop:
                return container, container.lifecycle.pre_stop
        return None

    async def _address(self, container_id: str, pod: Pod) -> str:
        if pod.spec.host_network:
            return self.facts.host_ip
        observed = await self.observe(self.owners.get(container_id, pod.metadata.uid))
        return next((ip for sandbox in observed.sandboxes for ip in sandbox.ips), "")

    async def _run_hook(self, hook: LifecycleHandler, target: Target, limit: float) -> str:
        """ "" when it did what it should within `limit` seconds."""
        try:
            async with asyncio.timeout(limit):
                if hook.exec:
                    return await run_command(self.cri, target, hook.exec, limit)
                if hook.http_get:
                    return await get_page(target, hook.http_get, min(limit, _HOOK_SECONDS))
                if hook.tcp_socket:
                    return await open_port(target, hook.tcp_socket, min(limit, _HOOK_SECONDS))
                if hook.sleep:
                    await asyncio.sleep(hook.sleep.seconds)
        except TimeoutError:
            return f"it did not end within {limit:g}s"
        return ""

    async def remove_container(self, container_id: str) -> None:
        await self.cri.remove_container(container_id)
        self.owners.pop(container_id, None)
        for state in _STATES:
            self._seen.pop((container_id, int(state)), None)

    # --- the end ---

    async def release(self, uid: str) -> None:
        """Take down what a stopped pod has on disk; raises VolumeError when a mount stays."""
        await remove_pod_directory(self._root, uid)
        for maker in self._volumes:
            if isinstance(maker, ProjectedVolumes):
                maker.forget(uid)
        self._puller.forget(uid)

    async def erase(self, pod: Pod) -> None:
        """Remove every record of a stopped pod: sandboxes, containers, cgroup and logs."""
        observed = await self.observe(pod.metadata.uid)
        for container in observed.containers:
            await self.remove_container(container.id)
        for sandbox in observed.sandboxes:
            await self.remove_sandbox(sandbox.id)
        cgroups.remove_pod_cgroup(self.facts.node.cgroup_root, pod.metadata.uid)
        await asyncio.to_thread(PodFiles.remove_logs, podspec.log_directory(pod, self.facts.node.pod_logs))


async def _all(steps: Iterable[Awaitable[None]]) -> None:
    """Every step gets its try; the first error is raised when all have ended."""
    results = await asyncio.gather(*steps, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _node_credentials(path: Path) -> list[Secret]:
    """What `docker login` leaves in a config.json, put into the agent's folder by whoever runs the node."""
    try:
        if path.stat().st_size <= _MAX_CREDENTIALS:
            return [Secret(data={".dockerconfigjson": path.read_bytes()})]
        log.warning("%s is larger than %d bytes: not read", path, _MAX_CREDENTIALS)
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("the node's registry credentials cannot be read: %s", error)
    return []


def _grace(pod: Pod) -> float:
    own = pod.spec.termination_grace_period_seconds
    return float(30 if own is None else own)


def _instant(nanoseconds: int) -> datetime | None:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC) if nanoseconds > 0 else None
