"""The Container Runtime Interface as typed coroutines, one per call.

For edged's pods, images, logs and stats. Answers are the generated messages of `protos.cri_pb2`; refusals
are `RuntimeRefused`. Every call has a deadline; none is retried here.
Go: staging/src/k8s.io/cri-client/pkg
"""

from collections.abc import Mapping, Sequence

from google.protobuf.message import Message

from edgehive.edgecore.edged.rpc import Caller, Connection, Reply, RuntimeRefused
from edgehive.protos import cri_pb2 as cri

__all__ = ["CriClient", "RuntimeRefused"]

_RUNTIME = "/runtime.v1.RuntimeService/"
_IMAGES = "/runtime.v1.ImageService/"
#: Calls that start or stop processes take long on a busy small device; the Go kubelet allows two minutes.
_SLOW = 120.0
#: Added to a command's or a grace period's own time, so the runtime's answer arrives before our deadline.
_MARGIN = 15.0


class CriClient:
    """Calls on one CRI endpoint such as `unix:///run/containerd/containerd.sock`."""

    def __init__(self, endpoint: str | Caller, *, timeout: float = 30.0, pull_timeout: float = 600.0) -> None:
        self._connection: Caller = Connection(endpoint) if isinstance(endpoint, str) else endpoint
        self._timeout = timeout
        self._pull_timeout = pull_timeout

    async def __aenter__(self) -> "CriClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    @property
    def path(self) -> str:
        """The unix socket's path, for messages to people."""
        return self._connection.path

    # --- the runtime ---

    async def version(self) -> cri.VersionResponse:
        return await self._runtime("Version", cri.VersionRequest(version="v1"), cri.VersionResponse, 5.0)

    async def status(self, *, verbose: bool = False) -> cri.StatusResponse:
        return await self._runtime("Status", cri.StatusRequest(verbose=verbose), cri.StatusResponse, 10.0)

    # --- sandboxes ---

    async def run_pod_sandbox(self, config: cri.PodSandboxConfig, *, runtime_handler: str = "") -> str:
        """Create and start a sandbox; its id."""
        request = cri.RunPodSandboxRequest(config=config, runtime_handler=runtime_handler)
        return (await self._runtime("RunPodSandbox", request, cri.RunPodSandboxResponse, _SLOW)).pod_sandbox_id

    async def stop_pod_sandbox(self, sandbox_id: str) -> None:
        """Stop it and take its network down; containers still running in it are killed. Idempotent."""
        request = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._runtime("StopPodSandbox", request, cri.StopPodSandboxResponse, _SLOW)

    async def remove_pod_sandbox(self, sandbox_id: str) -> None:
        """Remove it with its containers. Idempotent."""
        request = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._runtime("RemovePodSandbox", request, cri.RemovePodSandboxResponse, _SLOW)

    async def pod_sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> cri.PodSandboxStatus:
        request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose)
        return (await self._runtime("PodSandboxStatus", request, cri.PodSandboxStatusResponse)).status

    async def list_pod_sandboxes(
        self, *, sandbox_id: str = "", labels: Mapping[str, str] | None = None, ready: bool | None = None
    ) -> Sequence[cri.PodSandbox]:
        """All sandboxes, or those with this id, these labels, this state."""
        chosen = cri.PodSandboxFilter(id=sandbox_id, label_selector=dict(labels or {}))
        if ready is not None:
            chosen.state.CopyFrom(cri.PodSandboxStateValue(state=cri.SANDBOX_READY if ready else cri.SANDBOX_NOTREADY))
        request = cri.ListPodSandboxRequest(filter=chosen)
        return (await self._runtime("ListPodSandbox", request, cri.ListPodSandboxResponse)).items

    # --- containers ---

    async def create_container(
        self, sandbox_id: str, config: cri.ContainerConfig, sandbox: cri.PodSandboxConfig
    ) -> str:
        """Create it (the image is unpacked if need be), not started; its id."""
        request = cri.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox)
        return (await self._runtime("CreateContainer", request, cri.CreateContainerResponse, _SLOW)).container_id

    async def start_container(self, container_id: str) -> None:
        request = cri.StartContainerRequest(container_id=container_id)
        await self._runtime("StartContainer", request, cri.StartContainerResponse, _SLOW)

    async def stop_container(self, container_id: str, *, timeout: float) -> None:
        """SIGTERM, then after `timeout` seconds SIGKILL; returns when it has exited. Idempotent."""
        request = cri.StopContainerRequest(container_id=container_id, timeout=max(0, round(timeout)))
        await self._runtime("StopContainer", request, cri.StopContainerResponse, timeout + _SLOW)

    async def remove_container(self, container_id: str) -> None:
        """Remove it, killing it if it runs. Idempotent."""
        request = cri.RemoveContainerRequest(container_id=container_id)
        await self._runtime("RemoveContainer", request, cri.RemoveContainerResponse, _SLOW)

    async def container_status(self, container_id: str) -> cri.ContainerStatus:
        request = cri.ContainerStatusRequest(container_id=container_id)
        return (await self._runtime("ContainerStatus", request, cri.ContainerStatusResponse)).status

    async def list_containers(
        self,
        *,
        container_id: str = "",
        sandbox_id: str = "",
        labels: Mapping[str, str] | None = None,
        state: cri.ContainerState | None = None,
    ) -> Sequence[cri.Container]:
        """All containers, or those with this id, sandbox, labels, state."""
        chosen = cri.ContainerFilter(id=container_id, pod_sandbox_id=sandbox_id, label_selector=dict(labels or {}))
        if state is not None:
            chosen.state.CopyFrom(cri.ContainerStateValue(state=state))
        request = cri.ListContainersRequest(filter=chosen)
        return (await self._runtime("ListContainers", request, cri.ListContainersResponse)).containers

    async def reopen_container_log(self, container_id: str) -> None:
        """After its log file was renamed: go on in a new file of the old name."""
        request = cri.ReopenContainerLogRequest(container_id=container_id)
        await self._runtime("ReopenContainerLog", request, cri.ReopenContainerLogResponse)

    # --- commands and streams ---

    async def exec_sync(self, container_id: str, command: Sequence[str], *, timeout: float) -> cri.ExecSyncResponse:
        """Run a command to its end; exit code, stdout and stderr. Too slow: RuntimeRefused DEADLINE_EXCEEDED."""
        request = cri.ExecSyncRequest(container_id=container_id, cmd=list(command), timeout=max(1, round(timeout)))
        return await self._runtime("ExecSync", request, cri.ExecSyncResponse, timeout + _MARGIN)

    async def exec_url(self, request: cri.ExecRequest) -> str:
        """Where to open the stream of an interactive command."""
        return (await self._runtime("Exec", request, cri.ExecResponse)).url

    async def attach_url(self, request: cri.AttachRequest) -> str:
        return (await self._runtime("Attach", request, cri.AttachResponse)).url

    async def port_forward_url(self, sandbox_id: str, ports: Sequence[int]) -> str:
        request = cri.PortForwardRequest(pod_sandbox_id=sandbox_id, port=list(ports))
        return (await self._runtime("PortForward", request, cri.PortForwardResponse)).url

    # --- statistics ---

    async def list_container_stats(self) -> Sequence[cri.ContainerStats]:
        request = cri.ListContainerStatsRequest()
        return (await self._runtime("ListContainerStats", request, cri.ListContainerStatsResponse)).stats

    async def pod_sandbox_stats(self, sandbox_id: str) -> cri.PodSandboxStats:
        """Of the whole pod, its network included."""
        request = cri.PodSandboxStatsRequest(pod_sandbox_id=sandbox_id)
        return (await self._runtime("PodSandboxStats", request, cri.PodSandboxStatsResponse)).stats

    # --- images ---

    async def list_images(self) -> Sequence[cri.Image]:
        return (await self._image("ListImages", cri.ListImagesRequest(), cri.ListImagesResponse)).images

    async def image_status(self, image: str) -> cri.Image | None:
        """The image of this full reference or id, None when it is not here."""
        request = cri.ImageStatusRequest(image=cri.ImageSpec(image=image))
        response = await self._image("ImageStatus", request, cri.ImageStatusResponse)
        return response.image if response.HasField("image") else None

    async def pull_image(
        self, image: str, *, auth: cri.AuthConfig | None = None, sandbox: cri.PodSandboxConfig | None = None
    ) -> str:
        """Fetch it from its registry; the reference to create containers with."""
        request = cri.PullImageRequest(image=cri.ImageSpec(image=image), auth=auth, sandbox_config=sandbox)
        return (await self._image("PullImage", request, cri.PullImageResponse, self._pull_timeout)).image_ref

    async def remove_image(self, image: str) -> None:
        """Remove it with all its names. Idempotent."""
        request = cri.RemoveImageRequest(image=cri.ImageSpec(image=image))
        await self._image("RemoveImage", request, cri.RemoveImageResponse, _SLOW)

    async def image_fs_info(self) -> Sequence[cri.FilesystemUsage]:
        response = await self._image("ImageFsInfo", cri.ImageFsInfoRequest(), cri.ImageFsInfoResponse)
        return response.image_filesystems

    async def _runtime(self, method: str, request: Message, reply: type[Reply], timeout: float = 0.0) -> Reply:
        return await self._connection.call(_RUNTIME + method, request, reply, timeout=timeout or self._timeout)

    async def _image(self, method: str, request: Message, reply: type[Reply], timeout: float = 0.0) -> Reply:
        return await self._connection.call(_IMAGES + method, request, reply, timeout=timeout or self._timeout)
