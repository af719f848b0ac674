"""A container runtime in memory: sandboxes, containers, images and their lives, without root.

For tests of whatever speaks CRI. `client()` calls it directly (virtual time works), `async with runtime.serve(path)`
puts it on a unix socket, containerd's task events included.

    runtime = FakeRuntime(images=["localhost/app:1"])
    runtime.script("app", [1, 1, None])      # this container name fails twice, then keeps running
    runtime.fail("RunPodSandbox", "UNKNOWN", "failed to setup network")
"""

import asyncio
import hashlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.protocol import H2Protocol
from grpclib.server import Server

from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgecore.edged.rpc import Reply, RuntimeRefused
from edgehive.kit.clock import Clock, SystemClock
from edgehive.protos import containerd_events_pb2 as events
from edgehive.protos import containerd_tasks_pb2 as tasks
from edgehive.protos import cri_pb2 as cri

#: (exit code, stdout) of a command run by ExecSync.
Command = Callable[[str, tuple[str, ...]], tuple[int, bytes]]


class FakeRuntime:
    """The runtime's whole state is public: look at `sandboxes`, `containers`, `images` and `calls`."""

    def __init__(self, *, images: Iterable[str] = (), clock: Clock | None = None) -> None:
        self.sandboxes: dict[str, cri.PodSandboxStatus] = {}
        self.sandbox_configs: dict[str, cri.PodSandboxConfig] = {}
        self.containers: dict[str, cri.ContainerStatus] = {}
        self.container_configs: dict[str, cri.ContainerConfig] = {}
        self.container_sandbox: dict[str, str] = {}
        self.images: dict[str, cri.Image] = {}
        #: References a registry would give; pulling anything else fails.
        self.registry: set[str] = set()
        self.calls: list[str] = []
        #: container id -> the grace it was stopped with
        self.stops: dict[str, int] = {}
        #: container name -> bytes of memory it uses
        self.memory: dict[str, int] = {}
        self.network_ready = True
        self.command: Command = lambda *_: (0, b"")
        #: Where a test serves the streams of exec, attach and port-forward; and every request for one.
        self.streaming_url = "http://127.0.0.1:1"
        self.streams: list[Message] = []
        self._clock = clock or SystemClock()
        self._scripts: dict[str, deque[int | None]] = defaultdict(deque)
        self._faults: dict[str, deque[RuntimeRefused]] = defaultdict(deque)
        self._delays: dict[str, float] = {}
        self._listeners: set[asyncio.Queue[events.Envelope]] = set()
        self._counter = 0
        self._away = False
        for reference in images:
            self.add_image(reference)

    # --- what a test does to it ---

    def add_image(self, reference: str, *, size: int = 1_000_000, uid: int | None = None, pinned: bool = False) -> None:
        """Put an image in, as if it had been imported."""
        digest = f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}"
        image = cri.Image(id=digest, repo_tags=[reference], size=size, pinned=pinned)
        if uid is not None:
            image.uid.value = uid
        self.images[reference] = image

    def script(self, container_name: str, codes: Iterable[int | None]) -> None:
        """What becomes of the next starts of this container: an exit code at once, or None to keep running."""
        self._scripts[container_name].extend(codes)

    def fail(self, method: str, code: str, text: str, *, times: int = 1) -> None:
        """Refuse the next calls of a method."""
        self._faults[method].extend([RuntimeRefused(method, code, text)] * times)

    def go_away(self) -> None:
        """Every call fails as if nobody listened, until `come_back`."""
        self._away = True

    def come_back(self) -> None:
        self._away = False

    def delay(self, method: str, seconds: float) -> None:
        """Make every call of a method take this long."""
        self._delays[method] = seconds

    def exit(self, container_id: str, code: int, *, reason: str = "", message: str = "") -> None:
        """The container's process ends by itself."""
        status = self.containers[container_id]
        if status.state != cri.CONTAINER_RUNNING:
            return
        status.state = cri.CONTAINER_EXITED
        status.exit_code = code
        status.reason = reason or ("Completed" if code == 0 else "Error")
        status.message = message
        status.finished_at = self._now()
        self._publish("exit", tasks.TaskExit(container_id=container_id, id=container_id, exit_status=code))

    def out_of_memory(self, container_id: str) -> None:
        """The kernel kills it."""
        self._publish("oom", tasks.TaskOOM(container_id=container_id))
        self.exit(container_id, 137, reason="OOMKilled")

    def reboot(self) -> None:
        """Everything stops without anybody being told; records stay, as containerd's do."""
        for status in self.containers.values():
            if status.state == cri.CONTAINER_RUNNING:
                status.state = cri.CONTAINER_EXITED
                status.exit_code, status.reason, status.finished_at = 255, "Unknown", self._now()
        for sandbox in self.sandboxes.values():
            sandbox.state = cri.SANDBOX_NOTREADY

    def running(self, name: str = "") -> list[str]:
        """Ids of the running containers, of this name or all."""
        return [
            id
            for id, status in self.containers.items()
            if status.state == cri.CONTAINER_RUNNING and name in ("", status.metadata.name)
        ]

    def write_log(self, container_id: str, text: str) -> None:
        """A line of the container's output, into its log file."""
        config = self.sandbox_configs[self.container_sandbox[container_id]]
        path = Path(config.log_directory) / self.container_configs[container_id].log_path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as log:
            log.write(f"{self._clock.now().isoformat().replace('+00:00', 'Z')} stdout F {text}\n")

    # --- doors ---

    def client(self) -> CriClient:
        """Calls without a socket."""
        return CriClient(_Direct(self))

    @asynccontextmanager
    async def serve(self, path: Path) -> AsyncIterator[str]:
        """Listen on a unix socket; gives the endpoint. Leaving is the runtime going down, its memory stays."""
        server = _Server([_Service(self)])
        await server.start(path=str(path))
        try:
            yield f"unix://{path}"
        finally:
            server.sever()
            server.close()
            await server.wait_closed()
            path.unlink(missing_ok=True)  # noqa: ASYNC240 - one directory entry

    async def handle(self, method: str, request: Any) -> Message:
        """One call by its CRI name; raises RuntimeRefused."""
        self.calls.append(method)
        if self._away:
            text = "no container runtime listens on /run/fake.sock: start containerd"
            raise RuntimeRefused(method, "UNAVAILABLE", text)
        if method in self._delays:
            await asyncio.sleep(self._delays[method])
        if self._faults[method]:
            raise self._faults[method].popleft()
        handler = getattr(self, f"_{_snake(method)}", None)
        if handler is None:
            raise RuntimeRefused(method, "UNIMPLEMENTED", f"unknown method {method}")
        return cast("Message", handler(request))

    async def task_events(self) -> AsyncIterator[events.Envelope]:
        """What containerd's Events.Subscribe would send from now on."""
        queue: asyncio.Queue[events.Envelope] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    # --- the runtime ---

    def _version(self, _: cri.VersionRequest) -> cri.VersionResponse:
        return cri.VersionResponse(
            version="0.1.0", runtime_name="fake", runtime_version="1.0", runtime_api_version="v1"
        )

    def _status(self, _: cri.StatusRequest) -> cri.StatusResponse:
        ready = cri.RuntimeCondition(type="RuntimeReady", status=True)
        network = cri.RuntimeCondition(type="NetworkReady", status=self.network_ready)
        return cri.StatusResponse(status=cri.RuntimeStatus(conditions=[ready, network]))

    # --- sandboxes ---

    def _run_pod_sandbox(self, request: cri.RunPodSandboxRequest) -> cri.RunPodSandboxResponse:
        config = request.config
        for known in self.sandboxes.values():
            if known.metadata == config.metadata:
                name = f"{config.metadata.name}_{config.metadata.namespace}_{config.metadata.uid}"
                raise RuntimeRefused(
                    "RunPodSandbox", "UNKNOWN", f'failed to reserve sandbox name "{name}_{config.metadata.attempt}"'
                )
        sandbox_id = self._new_id("sandbox")
        host = config.linux.security_context.namespace_options.network == cri.NODE
        address = "" if host else f"10.250.{self._counter // 250}.{self._counter % 250 + 2}"
        self.sandbox_configs[sandbox_id] = config
        self.sandboxes[sandbox_id] = cri.PodSandboxStatus(
            id=sandbox_id, metadata=config.metadata, state=cri.SANDBOX_READY, created_at=self._now(),
            network=cri.PodSandboxNetworkStatus(ip=address), labels=config.labels, annotations=config.annotations,
        )  # fmt: skip
        return cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)

    def _stop_pod_sandbox(self, request: cri.StopPodSandboxRequest) -> cri.StopPodSandboxResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox is not None:
            sandbox.state = cri.SANDBOX_NOTREADY
            for container_id in self._inside(sandbox.id):
                self.exit(container_id, 137)
        return cri.StopPodSandboxResponse()

    def _remove_pod_sandbox(self, request: cri.RemovePodSandboxRequest) -> cri.RemovePodSandboxResponse:
        for container_id in self._inside(request.pod_sandbox_id):
            self._forget(container_id)
        self.sandboxes.pop(request.pod_sandbox_id, None)
        return cri.RemovePodSandboxResponse()

    def _pod_sandbox_status(self, request: cri.PodSandboxStatusRequest) -> cri.PodSandboxStatusResponse:
        if request.pod_sandbox_id not in self.sandboxes:
            raise RuntimeRefused("PodSandboxStatus", "NOT_FOUND", f"sandbox {request.pod_sandbox_id} not found")
        return cri.PodSandboxStatusResponse(status=self.sandboxes[request.pod_sandbox_id])

    def _list_pod_sandbox(self, request: cri.ListPodSandboxRequest) -> cri.ListPodSandboxResponse:
        chosen = request.filter
        return cri.ListPodSandboxResponse(items=[
            cri.PodSandbox(
                id=item.id, metadata=item.metadata, state=item.state, created_at=item.created_at, labels=item.labels,
                annotations=item.annotations,
            )
            for item in self.sandboxes.values()
            if chosen.id in ("", item.id) and _has(item.labels, chosen.label_selector)
            and (not chosen.HasField("state") or chosen.state.state == item.state)
        ])  # fmt: skip

    # --- containers ---

    def _create_container(self, request: cri.CreateContainerRequest) -> cri.CreateContainerResponse:
        config = request.config
        image = self._image(config.image.image)
        if image is None:
            raise RuntimeRefused("CreateContainer", "NOT_FOUND", f'failed to resolve image "{config.image.image}"')
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox is None:
            raise RuntimeRefused("CreateContainer", "NOT_FOUND", f"sandbox {request.pod_sandbox_id} not found")
        container_id = self._new_id("container")
        self.container_configs[container_id] = config
        self.container_sandbox[container_id] = request.pod_sandbox_id
        self.containers[container_id] = cri.ContainerStatus(
            id=container_id, metadata=config.metadata, state=cri.CONTAINER_CREATED, created_at=self._now(),
            image=config.image, image_ref=image.id, image_id=image.id, labels=config.labels,
            annotations=config.annotations, log_path=f"{request.sandbox_config.log_directory}/{config.log_path}",
            mounts=config.mounts,
        )  # fmt: skip
        return cri.CreateContainerResponse(container_id=container_id)

    def _start_container(self, request: cri.StartContainerRequest) -> cri.StartContainerResponse:
        status = self._container("StartContainer", request.container_id)
        status.state, status.started_at = cri.CONTAINER_RUNNING, self._now()
        self._publish("start", tasks.TaskStart(container_id=status.id))
        script = self._scripts[status.metadata.name]
        code = script.popleft() if script else None
        if code is not None:
            self.exit(status.id, code)
        return cri.StartContainerResponse()

    def _stop_container(self, request: cri.StopContainerRequest) -> cri.StopContainerResponse:
        self.stops[request.container_id] = request.timeout
        if request.container_id in self.containers:
            self.exit(request.container_id, 143 if request.timeout else 137)
        return cri.StopContainerResponse()

    def _remove_container(self, request: cri.RemoveContainerRequest) -> cri.RemoveContainerResponse:
        self._forget(request.container_id)
        return cri.RemoveContainerResponse()

    def _container_status(self, request: cri.ContainerStatusRequest) -> cri.ContainerStatusResponse:
        return cri.ContainerStatusResponse(status=self._container("ContainerStatus", request.container_id))

    def _list_containers(self, request: cri.ListContainersRequest) -> cri.ListContainersResponse:
        chosen = request.filter
        return cri.ListContainersResponse(containers=[
            cri.Container(
                id=item.id, pod_sandbox_id=self.container_sandbox[item.id], metadata=item.metadata, image=item.image,
                image_ref=item.image_ref, state=item.state, created_at=item.created_at, labels=item.labels,
                annotations=item.annotations,
            )
            for item in self.containers.values()
            if chosen.id in ("", item.id) and _has(item.labels, chosen.label_selector)
            and chosen.pod_sandbox_id in ("", self.container_sandbox[item.id])
            and (not chosen.HasField("state") or chosen.state.state == item.state)
        ])  # fmt: skip

    def _exec_sync(self, request: cri.ExecSyncRequest) -> cri.ExecSyncResponse:
        if self._container("ExecSync", request.container_id).state != cri.CONTAINER_RUNNING:
            raise RuntimeRefused("ExecSync", "UNKNOWN", "container is not running")
        code, output = self.command(request.container_id, tuple(request.cmd))
        return cri.ExecSyncResponse(exit_code=code, stdout=output)

    def _exec(self, request: cri.ExecRequest) -> cri.ExecResponse:
        self._container("Exec", request.container_id)
        return cri.ExecResponse(url=self._stream(request))

    def _attach(self, request: cri.AttachRequest) -> cri.AttachResponse:
        self._container("Attach", request.container_id)
        return cri.AttachResponse(url=self._stream(request))

    def _port_forward(self, request: cri.PortForwardRequest) -> cri.PortForwardResponse:
        return cri.PortForwardResponse(url=self._stream(request))

    def _stream(self, request: Message) -> str:
        self.streams.append(request)
        return f"{self.streaming_url}/stream/{len(self.streams)}"

    def _reopen_container_log(self, request: cri.ReopenContainerLogRequest) -> cri.ReopenContainerLogResponse:
        Path(self._container("ReopenContainerLog", request.container_id).log_path).touch()
        return cri.ReopenContainerLogResponse()

    def _list_container_stats(self, _: cri.ListContainerStatsRequest) -> cri.ListContainerStatsResponse:
        return cri.ListContainerStatsResponse(stats=[self._stats(id) for id in self.running()])

    def _pod_sandbox_stats(self, request: cri.PodSandboxStatsRequest) -> cri.PodSandboxStatsResponse:
        sandbox = self.sandboxes.get(request.pod_sandbox_id)
        if sandbox is None:
            raise RuntimeRefused("PodSandboxStats", "NOT_FOUND", f"sandbox {request.pod_sandbox_id} not found")
        traffic = cri.NetworkInterfaceUsage(
            name="eth0", rx_bytes=cri.UInt64Value(value=1000), tx_bytes=cri.UInt64Value(value=500)
        )
        return cri.PodSandboxStatsResponse(
            stats=cri.PodSandboxStats(
                attributes=cri.PodSandboxAttributes(id=sandbox.id, metadata=sandbox.metadata, labels=sandbox.labels),
                linux=cri.LinuxPodSandboxStats(
                    network=cri.NetworkUsage(timestamp=self._now(), default_interface=traffic)
                ),
            )
        )

    def _stats(self, container_id: str) -> cri.ContainerStats:
        status = self._container("ContainerStats", container_id)
        used = (self._now() - status.started_at) // 10
        return cri.ContainerStats(
            attributes=cri.ContainerAttributes(id=container_id, metadata=status.metadata, labels=status.labels),
            cpu=cri.CpuUsage(timestamp=self._now(), usage_core_nano_seconds=cri.UInt64Value(value=used)),
            memory=cri.MemoryUsage(
                timestamp=self._now(),
                working_set_bytes=cri.UInt64Value(value=self.memory.get(status.metadata.name, 4_000_000)),
            ),
        )

    # --- images ---

    def _list_images(self, _: cri.ListImagesRequest) -> cri.ListImagesResponse:
        return cri.ListImagesResponse(images=list(self.images.values()))

    def _image_status(self, request: cri.ImageStatusRequest) -> cri.ImageStatusResponse:
        return cri.ImageStatusResponse(image=self._image(request.image.image))

    def _pull_image(self, request: cri.PullImageRequest) -> cri.PullImageResponse:
        reference = request.image.image
        if reference not in self.registry:
            raise RuntimeRefused("PullImage", "NOT_FOUND", f'failed to pull and unpack image "{reference}": not found')
        self.add_image(reference)
        return cri.PullImageResponse(image_ref=self.images[reference].id)

    def _remove_image(self, request: cri.RemoveImageRequest) -> cri.RemoveImageResponse:
        name = request.image.image
        self.images = {ref: image for ref, image in self.images.items() if name not in (ref, image.id)}
        return cri.RemoveImageResponse()

    def _image_fs_info(self, _: cri.ImageFsInfoRequest) -> cri.ImageFsInfoResponse:
        usage = cri.FilesystemUsage(
            timestamp=self._now(), fs_id=cri.FilesystemIdentifier(mountpoint="/"),
            used_bytes=cri.UInt64Value(value=sum(image.size for image in self.images.values())),
        )  # fmt: skip
        return cri.ImageFsInfoResponse(image_filesystems=[usage])

    # --- memory ---

    def _image(self, name: str) -> cri.Image | None:
        return next((image for ref, image in self.images.items() if name in (ref, image.id)), None)

    def _container(self, method: str, container_id: str) -> cri.ContainerStatus:
        if container_id not in self.containers:
            raise RuntimeRefused(method, "NOT_FOUND", f'an error occurred when try to find container "{container_id}"')
        return self.containers[container_id]

    def _inside(self, sandbox_id: str) -> list[str]:
        return [id for id, sandbox in self.container_sandbox.items() if sandbox == sandbox_id]

    def _forget(self, container_id: str) -> None:
        if container_id in self.containers:
            self.exit(container_id, 137)
        for held in (self.containers, self.container_configs, self.container_sandbox):
            cast("dict[str, Any]", held).pop(container_id, None)

    def _new_id(self, kind: str) -> str:
        self._counter += 1
        return f"{kind}-{self._counter}"

    def _now(self) -> int:
        return int(self._clock.now().timestamp() * 1_000_000) * 1000

    def _publish(self, topic: str, event: Message) -> None:
        payload = AnyMessage(type_url=event.DESCRIPTOR.full_name, value=event.SerializeToString())
        for queue in self._listeners:
            queue.put_nowait(events.Envelope(namespace="k8s.io", topic=f"/tasks/{topic}", event=payload))


class _Direct:
    """A connection that is a function call; messages are copied, as a wire would."""

    path = "memory"

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    async def call(self, method: str, request: Message, reply: type[Reply], *, timeout: float) -> Reply:
        name = method.rpartition("/")[2]
        try:
            async with asyncio.timeout(timeout):
                answer = await self._runtime.handle(name, type(request).FromString(request.SerializeToString()))
        except TimeoutError:
            raise RuntimeRefused(name, "DEADLINE_EXCEEDED", "no answer in time") from None
        return reply.FromString(answer.SerializeToString())

    def close(self) -> None:
        """Nothing is open."""


class _Server(Server):
    """Remembers its connections: a process that ends takes them along, which the library's server does not."""

    def __init__(self, handlers: Collection[Any]) -> None:
        super().__init__(handlers)
        self._open: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        self._open.append(super()._protocol_factory())
        return self._open[-1]

    def sever(self) -> None:
        for protocol in self._open:
            protocol.connection.close()


class _Service:
    """All CRI methods, and containerd's event stream, for a grpclib server."""

    def __init__(self, runtime: FakeRuntime) -> None:
        self._runtime = runtime

    def __mapping__(self) -> Mapping[str, Handler]:
        found = {
            f"/{service.full_name}/{method.name}": Handler(
                self._unary(method.name),
                Cardinality.UNARY_UNARY,
                GetMessageClass(method.input_type),
                GetMessageClass(method.output_type),
            )
            for service in cri.DESCRIPTOR.services_by_name.values()
            for method in service.methods
        }
        found["/containerd.services.events.v1.Events/Subscribe"] = Handler(
            self._subscribe, Cardinality.UNARY_STREAM, events.SubscribeRequest, events.Envelope
        )
        return found

    def _unary(self, name: str) -> Callable[[Any], Any]:
        async def answer(stream: Any) -> None:
            try:
                await stream.send_message(await self._runtime.handle(name, await stream.recv_message()))
            except RuntimeRefused as error:
                raise GRPCError(Status[error.code], error.text) from error

        return answer

    async def _subscribe(self, stream: Any) -> None:
        await stream.recv_message()
        await stream.send_initial_metadata()
        async for envelope in self._runtime.task_events():
            await stream.send_message(envelope)


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
