"""The edged module: the kubelet of the edge. Wires the parts of this folder and feeds them.

Messages from metamanager name pods, ConfigMaps and Secrets; everything else goes through a `Client`. Pods known
from before are started from the local store, whether or not the cloud is there. A pod is stopped only when it is
removed by name; one that is merely missing from a list runs on.

Go: edge/pkg/edged/edged.go
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api.config.durations import seconds
from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.registry import PODS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.edgecore.edged import machine, podspec
from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgecore.edged.environment import PodFacts
from edgehive.edgecore.edged.evictor import Evictor
from edgehive.edgecore.edged.housekeeping import Housekeeping, is_gone
from edgehive.edgecore.edged.images import ImagePuller
from edgehive.edgecore.edged.kubelet_server import KubeletServer
from edgehive.edgecore.edged.manifests import is_mirror
from edgehive.edgecore.edged.node import NodeReporter, NodeView, resources
from edgehive.edgecore.edged.pleg import Pleg
from edgehive.edgecore.edged.podfiles import PodFiles
from edgehive.edgecore.edged.pods import Parts, PodRefused, Pods, read_pod
from edgehive.edgecore.edged.podviews import PodViews
from edgehive.edgecore.edged.probes import Prober
from edgehive.edgecore.edged.reporter import Reporter
from edgehive.edgecore.edged.resolver import parse_resolv_conf
from edgehive.edgecore.edged.runtime import NodeFacts, PodRuntime
from edgehive.edgecore.edged.static_pods import StaticPods
from edgehive.edgecore.edged.stats import StatsSummary
from edgehive.edgecore.edged.storage_limits import StorageLimits
from edgehive.edgecore.edged.volumes.claims import ClaimedVolumes
from edgehive.edgecore.edged.volumes.local import LocalVolumes
from edgehive.edgecore.edged.volumes.projected import ProjectedVolumes
from edgehive.kit import metrics
from edgehive.kit.clock import Clock
from edgehive.kit.http import serve
from edgehive.kit.mailbox import Mailbox, Policy
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError
from edgehive.kube.recorder import Recorder
from edgehive.wire.names import CLOUD_CONNECTED

log = logging.getLogger("edgehive.edged")

_MAILBOX = 4096
_EVENTS = 1000
_LIST_RETRY_SECONDS = 2.0
_DEFAULT_ROOT = "/var/lib/kubelet"
_DRAIN_SECONDS = 0.2


class Edged:
    """Module `edged`. `cri` and `events` replace the configured runtime (tests)."""

    name = "edged"
    group = "edged"
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        bus: Bus,
        client: Client,
        config: EdgedConfig,
        clock: Clock,
        registry: CollectorRegistry | None = None,
        node_name: str = "",
        cri: CriClient | None = None,
        events: bool = True,
    ) -> None:
        self._client = client
        self._config = config
        self._kubelet = config.tailored_kubelet_config
        self._clock = clock
        self._registry = registry or CollectorRegistry()
        self._probes = CollectorRegistry()
        self._node_name = node_name or config.hostname_override
        self._root = Path(config.root_directory)
        self._mailbox = bus.register(self.name, self.group, size=_MAILBOX)
        self._refused = metrics.counter(
            "edgehive_edged_refused_objects", "Objects that were no runnable pod of this node.", registry=self._registry
        )
        self._told: Mailbox[tuple[dict[str, str], str, str, str, str]] = Mailbox(
            "edged events", size=_EVENTS, policy=Policy.DROP_OLDEST
        )
        self._cri = cri or CriClient(self._kubelet.container_runtime_endpoint)
        self._containerd = Containerd(self._kubelet.container_runtime_endpoint) if events and cri is None else None
        self._stats = StatsSummary(self._cri, clock, self._node_name)
        self._system = machine.system()
        self._port = self._kubelet.read_only_port
        self._runtime_version = ""
        self._image_place: Path | None = None
        self._loaded: int | None = None
        self._evictor: Evictor | None = None
        #: Set while running.
        self._pods: Pods
        self._reporter: Reporter
        self._static: StaticPods
        self._pleg: Pleg
        self._runtime: PodRuntime
        self._node: NodeReporter

    async def run(self, ready: Ready) -> None:
        async with AsyncExitStack() as stack:
            stack.callback(self._cri.close)
            if self._containerd is not None:
                stack.callback(self._containerd.close)
            self._build()
            await stack.enter_async_context(self._reporter)
            prober = await stack.enter_async_context(self._prober())
            parts = Parts(self._runtime, self._reporter, self._clock, self._tell, prober)
            self._pods = await stack.enter_async_context(Pods(parts, lambda uid: PodFiles(self._root, uid)))
            self._static = StaticPods(
                self._kubelet.static_pod_path,
                self._node_name,
                self._client,
                self._clock,
                self._pods,
                self._reporter,
                seconds(self._kubelet.file_check_frequency),
            )
            await self._open_door(stack)
            self._tell_of_node("Normal", "Starting", "Starting kubelet.")
            await self._work(ready)

    def _build(self) -> None:
        address = self._config.node_ip or machine.address(self._config.custom_interface_name)
        facts = NodeFacts(self._pod_node(), address, resources(self._config, self._view(address, ()))[1])
        projected = ProjectedVolumes(self._root, self._client, self._clock, self._volume_facts)
        parallel = 1 if self._kubelet.serialize_image_pulls else self._kubelet.max_parallel_image_pulls or 4
        self._runtime = PodRuntime(
            self._cri,
            self._client,
            (LocalVolumes(self._root), ClaimedVolumes(self._client), projected),
            facts,
            self._root,
            self._tell,
            puller=ImagePuller(self._cri, parallel=parallel),
        )
        self._reporter = Reporter(self._client)
        stream = self._containerd.task_events if self._containerd is not None else None
        self._pleg = Pleg(self._cri, stream, self._runtime.owners, self._pod_changed)
        self._node = NodeReporter(
            self._client, self._node_name, self._config, self._clock, self._gather, self._tell_of_node
        )

    def _pod_node(self) -> podspec.Node:
        """What every pod of this node shares."""
        memory = machine.amounts(self._root).get("memory.available")
        quotas = self._kubelet.cgroups_per_qos and self._kubelet.cgroup_driver == "cgroupfs"
        return podspec.Node(
            cluster_dns=tuple(self._kubelet.cluster_dns),
            cluster_domain=self._kubelet.cluster_domain,
            resolver=parse_resolv_conf(_text(self._kubelet.resolv_conf)),
            memory_capacity=memory.capacity if memory else 0,
            cgroup_root=f"{self._kubelet.cgroup_root.rstrip('/')}/kubepods" if quotas else "",
            cpu_quota=self._kubelet.cpu_cfs_quota,
            pod_logs="/var/log/pods" if str(self._root) == _DEFAULT_ROOT else str(self._root / "logs" / "pods"),
            seccomp_root=str(self._root / "seccomp"),
            default_seccomp="RuntimeDefault" if self._kubelet.seccomp_default else "Unconfined",
        )

    async def _open_door(self, stack: AsyncExitStack) -> None:
        """The kubelet API; port 0 takes a free one, and the Node tells which."""
        views = PodViews(
            self._pods, self._reporter, self._cri, self._runtime.facts.node.pod_logs, lambda: self._pleg.trouble
        )
        debugging = self._kubelet.enable_debugging_handlers
        app = KubeletServer(views, self._stats, self._clock, self._registry, self._probes, debugging=debugging).app()
        # Followed logs and open streams end when their asker likes: no use in waiting for them.
        door = serve(app, host=self._kubelet.address, port=self._kubelet.read_only_port, drain=_DRAIN_SECONDS)
        _, self._port = await stack.enter_async_context(door)

    async def _work(self, ready: Ready) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pleg.run(), name="pleg")
            group.create_task(self._load(ready), name="edged load")
            group.create_task(self._static.run(), name="edged static pods")
            if self._kubelet.register_node:
                group.create_task(self._node.run(), name="edged node")
            if self._config.report_event:
                group.create_task(self._send_events(), name="edged events")
            keeper = Housekeeping(
                self._runtime, self._pods, self._client, self._config, self._clock, self._root, self._known_pods
            )
            group.create_task(keeper.run(), name="edged housekeeping")
            self._evictor = self._make_evictor(keeper)
            group.create_task(self._evictor.run(), name="edged eviction")
            if self._kubelet.local_storage_capacity_isolation:
                limits = StorageLimits(
                    self._pods,
                    self._stats,
                    root=self._root,
                    pod_logs=self._runtime.facts.node.pod_logs,
                    tell=self._tell,
                )
                group.create_task(limits.run(), name="edged storage limits")
            group.create_task(self._listen(keeper), name="edged mailbox")

    def _make_evictor(self, keeper: Housekeeping) -> Evictor:
        return Evictor(
            self._pods,
            self._stats,
            lambda: machine.amounts(self._root, self._image_place),
            self._kubelet,
            root=self._root,
            pod_logs=self._runtime.facts.node.pod_logs,
            tell=self._tell,
            tell_of_node=self._tell_of_node,
            free_images=keeper.free_images,
        )

    # --- what comes in ---

    async def _load(self, ready: Ready) -> None:
        """Take up every pod the local store holds."""
        while True:
            try:
                found = await self._client.list(PODS)
                break
            except ApiError as error:
                log.warning("pods cannot be read from the local store, trying again: %s", error)
                await asyncio.sleep(_LIST_RETRY_SECONDS)
        for document in found.items:
            await self._apply(document)
        self._loaded = len(found.items)
        ready()

    def _known_pods(self) -> int | None:
        """How many pods the local store held at the start; None while it or the manifests have not been read."""
        return self._loaded if self._static.known else None

    async def _listen(self, keeper: Housekeeping) -> None:
        async for message in self._mailbox:
            try:
                await self._take(message, keeper)
            except msgspec.DecodeError as error:
                self._refuse(f"{message.route.resource}: {error}")

    async def _take(self, message: Message, keeper: Housekeeping) -> None:
        resource, operation = message.route.resource, message.route.operation
        if resource == "node/connection":
            if message.content_bytes().decode(errors="replace") == CLOUD_CONNECTED:
                self._reporter.retry_now()
                self._node.cloud_connected()
                self._static.cloud_connected()
                keeper.cloud_connected()
            return
        parts = resource.split("/")
        if len(parts) < 3:
            return
        namespace, kind, name = parts[-3:]
        if kind in ("configmap", "secret"):
            self._pods.source_changed(kind, namespace, name)
        elif kind == "pod" and operation == "delete":
            await self._remove(namespace, name, Document(message.content_bytes()))
        elif kind == "pod" and operation in ("insert", "update", "response"):
            await self._apply(Document(message.content_bytes()))

    async def _apply(self, document: Document) -> None:
        try:
            pod = read_pod(document, self._node_name)
        except PodRefused as error:
            self._refuse(str(error))
            return
        if is_mirror(document):
            self._static.mirror_seen(document)
        else:
            await self._pods.apply(document, pod)

    async def _remove(self, namespace: str, name: str, document: Document) -> None:
        """The pod of this UID is gone; a message that names no UID is checked against the local store."""
        uid = document.meta.uid
        if self._static.owns(namespace, name):
            self._static.mirror_gone(namespace, name, uid)
            return
        for worker in self._pods.named(namespace, name):
            if uid == worker.uid or (not uid and await is_gone(self._client, worker.pod)):
                await self._pods.remove(worker.uid)

    def _refuse(self, why: str) -> None:
        self._refused.inc()
        log.warning("refused: %s", why)

    def _pod_changed(self, uid: str) -> None:
        self._pods.wake(uid)

    # --- node ---

    async def _gather(self) -> NodeView:
        images: list[dict[str, Any]] = []
        trouble = self._pleg.trouble
        try:
            if not self._runtime_version:
                version = await self._cri.version()
                self._runtime_version = f"{version.runtime_name}://{version.runtime_version.lstrip('v')}"
            if self._image_place is None:
                places = await self._cri.image_fs_info()
                self._image_place = next((Path(item.fs_id.mountpoint) for item in places), None)
            status = await self._cri.status()
            trouble = "; ".join(
                f"{item.type} is false: {item.reason} {item.message}".strip()
                for item in status.status.conditions
                if not item.status
            )
            images = await self._images()
        except RuntimeRefused as error:
            trouble = f"container runtime is down: {error}"
        return self._view(self._runtime.facts.host_ip, images, trouble)

    def _view(self, address: str, images: Iterable[Mapping[str, Any]], trouble: str = "") -> NodeView:
        return NodeView(
            self._system,
            address,
            machine.cpus(),
            machine.amounts(self._root, self._image_place),
            self._runtime_version,
            self._port,
            trouble,
            tuple(images),
            self._evictor.conditions if self._evictor else frozenset(),
        )

    async def _images(self) -> list[dict[str, Any]]:
        limit = self._kubelet.node_status_max_images
        if limit == 0:
            return []
        found = sorted(await self._cri.list_images(), key=lambda image: image.size, reverse=True)
        rows = [{"names": [*item.repo_digests, *item.repo_tags][:5], "sizeBytes": item.size} for item in found]
        return rows if limit < 0 else rows[:limit]

    # --- probes, volumes, events ---

    def _prober(self) -> Prober:
        def missed(pod: Pod, container: str, message: str) -> None:
            self._tell(pod, container, "Warning", "Unhealthy", message)

        return Prober(self._cri, self._clock, lambda verdict: self._pods.judged(verdict), missed, self._probes)

    def _volume_facts(self, pod: Pod) -> PodFacts:
        facts = self._runtime.facts
        worker = self._pods.get(pod.metadata.uid)
        sandbox = worker.observed.sandbox if worker else None
        ips = (facts.host_ip,) if pod.spec.host_network else sandbox.ips if sandbox else ()
        return PodFacts(host_ips=(facts.host_ip,), pod_ips=ips, node_allocatable=facts.allocatable)

    def _tell(self, pod: Pod, container: str, type: str, reason: str, message: str) -> None:
        meta = pod.metadata
        log.debug("pod %s/%s: %s %s: %s", meta.namespace, meta.name, type, reason, message)
        if self._config.report_event:
            part = _part(pod, container)
            self._told.put_nowait((
                {"kind": "Pod", "apiVersion": "v1", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
                type,
                reason,
                message,
                f"spec.{part}{{{container}}}" if container else "",
            ))  # fmt: skip

    def _tell_of_node(self, type: str, reason: str, message: str) -> None:
        if self._config.report_event:
            node = {"kind": "Node", "apiVersion": "v1", "name": self._node_name, "uid": self._node_name}
            self._told.put_nowait((node, type, reason, message, ""))

    async def _send_events(self) -> None:
        recorder = Recorder(self._client, "kubelet", self._node_name, self._clock)
        async for reference, type, reason, message, field_path in self._told:
            await recorder.event(reference, type, reason, message, field_path=field_path)


def _part(pod: Pod, container: str) -> str:
    """The list of the pod's spec that this container is in."""
    for part, items in (
        ("initContainers", pod.spec.init_containers),
        ("ephemeralContainers", pod.spec.ephemeral_containers),
    ):
        if container in {item.name for item in items or ()}:
            return part
    return "containers"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
