"""A whole site for tests: API server in memory, controllers, cloudcore, edgecore on a real containerd, one link to cut.

The edge runs in this process while it has a cloud, or as a process of its own (`agent.py`) that can be killed.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.config.edgecore import EdgeCore
from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, KUBEEDGE, NODES, PODS, SECRETS, SERVICE_ACCOUNTS
from edgehive.beehive.message import Message
from edgehive.cloudcore.app import run_cloudcore
from edgehive.edgecore.app import run_edgecore
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.edgesite.controllers.roster import run_controllers
from edgehive.kit import config, tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import NotFound
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cluster import Cluster
from edgehive.testing.ports import free_port
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.memory import MemoryNetwork

NODE = "edge-1"
BUSYBOX = "localhost/busybox:1"
PATIENCE = 40.0
RUNNING = 1


class Cable:
    """The way from the edge to the cloud; while it is cut, nothing passes and no call is answered."""

    def __init__(self, network: MemoryNetwork) -> None:
        self._network = network
        self._cut = False
        self._links: list[Link] = []
        #: What the edge received, in order.
        self.received: list[Message] = []

    async def dial(self) -> Link:
        if self._cut:
            raise LinkClosed("the cable is cut")
        link = _Heard(await self._network.dial(Peer(node=NODE)), self.received)
        self._links.append(link)
        return link

    async def cut(self) -> None:
        self._cut = True
        while self._links:
            await self._links.pop().close("the cable is cut")

    def mend(self) -> None:
        self._cut = False

    def pushed(self, resource: str) -> list[str]:
        """The operations the cloud sent for one object, acknowledgements and answers left out."""
        return [
            m.route.operation
            for m in self.received
            if m.route.resource == resource and m.route.operation in ("insert", "update", "delete", "patch")
        ]


class _Heard:
    """A link that keeps what arrives."""

    def __init__(self, link: Link, received: list[Message]) -> None:
        self._link, self._received = link, received

    @property
    def peer(self) -> Peer:
        return self._link.peer

    async def send(self, message: Message) -> None:
        await self._link.send(message)

    async def receive(self) -> Message:
        message = await self._link.receive()
        self._received.append(message)
        return message

    async def close(self, reason: str = "") -> None:
        await self._link.close(reason)


class WholeSite:
    """The cloud's side runs as long as the site; edges come and go."""

    def __init__(self, cluster: Cluster, network: MemoryNetwork, cri: CriClient, endpoint: str, root: Path) -> None:
        self.api = cluster.client()
        self.cable = Cable(network)
        self.cri = cri
        self.root = root
        self.kubelet_port = free_port()
        self._config = root / "edgecore.yaml"
        config_text = config.dump(_edge_config(root, endpoint, self.kubelet_port))
        self._config.write_text(config_text)

    # The edge

    @asynccontextmanager
    async def edge(self) -> AsyncIterator[None]:
        """edgecore in this process, joined to the cloud by the cable."""
        stop = asyncio.Event()
        settings = config.load(self._config, EdgeCore)
        task = spawn(run_edgecore(settings, dial=self.cable.dial, clock=SystemClock(), stop=stop), name="edgecore")
        try:
            yield
            if task.done():
                await task
        finally:
            stop.set()
            await asyncio.wait([task], timeout=20)
            await cancel_and_join(task)

    @asynccontextmanager
    async def agent(self, *, days: int = 0) -> AsyncIterator["asyncio.subprocess.Process"]:
        """edgecore as a process without a cloud; killed at the end when the test has not."""
        with (self.root / "agent.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(Path(__file__).with_name("agent.py")), str(self._config), str(days),
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()

    async def kubelet(self, path: str) -> tuple[int, str]:
        """What the node's own API answers; status 0 while nobody listens."""
        url = f"http://127.0.0.1:{self.kubelet_port}{path}"
        try:
            async with aiohttp.ClientSession() as session, session.get(url) as response:
                return response.status, await response.text()
        except aiohttp.ClientError:
            return 0, ""

    async def containers(self, name: str = "") -> list[tuple[str, int]]:
        """Id and start time of every running container (of one pod)."""
        labels = {"io.kubernetes.pod.name": name} if name else {}
        found = [c for c in await self.cri.list_containers(labels=labels) if c.state == RUNNING]
        return sorted([(c.id, (await self.cri.container_status(c.id)).started_at) for c in found])

    def output(self, name: str) -> str:
        """All a pod's containers wrote, every life of theirs."""
        files = sorted((self.root / "logs" / "pods").glob(f"default_{name}_*/*/*.log"))
        return "\n".join(line.split(" ", 3)[3] for file in files for line in file.read_text().splitlines())

    # The cloud

    async def create(self, name: str, script: str, env: Sequence[Any] = (), **spec: Any) -> Document:
        """A pod bound to the node, with one busybox container; every volume is mounted at /mnt/NAME."""
        mounts = [{"name": volume["name"], "mountPath": f"/mnt/{volume['name']}"} for volume in spec.get("volumes", ())]
        main: dict[str, Any] = {"name": "c", "image": BUSYBOX, "command": ["sh", "-c", script], "volumeMounts": mounts}
        main["env"] = list(env)
        spec = {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [main]} | spec
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        return await self.api.create(PODS, body, "default")

    async def create_data(self, kind: str, name: str, **data: str) -> None:
        key, resource = {"ConfigMap": ("data", CONFIG_MAPS), "Secret": ("stringData", SECRETS)}[kind]
        meta = {"name": name, "namespace": "default"}
        await self.api.create(resource, {"kind": kind, "apiVersion": "v1", "metadata": meta, key: data}, "default")

    async def pod(self, name: str) -> Document | None:
        try:
            return await self.api.get(PODS, name, "default")
        except NotFound:
            return None

    async def restarts(self, name: str) -> int:
        document = await self.pod(name)
        statuses = document.read(Pod).status.container_statuses if document else ()
        return statuses[0].restart_count if statuses else -1

    async def runs(self, name: str) -> bool:
        document = await self.pod(name)
        return document is not None and document.read(Pod).status.phase == "Running"


@asynccontextmanager
async def whole_site(containerd: PrivateContainerd, cri: CriClient, root: Path) -> AsyncIterator[WholeSite]:
    clock = SystemClock()
    options = ServerOptions(service_account_key=tls.new_key(), service_account_admission=True, extra_resources=KUBEEDGE)
    authority = tls.self_signed_ca("test-ca", clock.now(), timedelta(days=365))
    async with Cluster(clock=clock, options=options) as cluster, AsyncExitStack() as stack:
        network, stop = MemoryNetwork(clock=clock), asyncio.Event()

        def client_for(name: str) -> Any:
            return cluster.client(f"system:{name}")

        controllers = spawn(run_controllers(client_for, authority, "test", clock), name="controllers")
        cloud = spawn(
            run_cloudcore(
                CloudCore(), client_for("cloudcore"), acceptors=[network.acceptor()], clock=clock, stop=stop,
                api_ca=authority.certificate_pem.decode(),
            ),
            name="cloudcore",
        )  # fmt: skip

        async def end() -> None:
            stop.set()
            await asyncio.wait([cloud], timeout=20)
            await cancel_and_join(cloud, controllers)

        stack.push_async_callback(end)
        site = WholeSite(cluster, network, cri, containerd.endpoint, root)
        await eventually(lambda: _has_account(site), "the default service account")
        yield site


async def _has_account(site: WholeSite) -> bool:
    names = {d.meta.name for d in (await site.api.list(SERVICE_ACCOUNTS, "default")).items}
    trust = {d.meta.name for d in (await site.api.list(CONFIG_MAPS, "default")).items}
    return "default" in names and "kube-root-ca.crt" in trust


async def node_ready(site: WholeSite) -> bool:
    nodes = (await site.api.list(NODES)).items
    return any(
        c["type"] == "Ready" and c["status"] == "True" for n in nodes for c in n.to_dict()["status"]["conditions"]
    )


async def eventually(check: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE) -> Any:
    """The first true answer of `check`; fails with `what` when none comes in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not (answer := await check()):
        if loop.time() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still not: {what}")
        await asyncio.sleep(0.05)
    return answer


def _edge_config(root: Path, endpoint: str, port: int) -> EdgeCore:
    kubelet = {
        "readOnlyPort": port,
        "staticPodPath": str(root / "manifests"),
        "containerRuntimeEndpoint": endpoint,
        "imageServiceEndpoint": endpoint,
    }
    edged = {
        "hostnameOverride": NODE,
        "podSandboxImage": "localhost/pause:1",
        "rootDirectory": str(root),
        "reportEvent": True,
        "tailoredKubeletConfig": kubelet,
    }
    modules = {
        "edged": edged,
        "edgeHub": {"messageQPS": 1000, "messageBurst": 1000},
        "eventBus": {"enable": False},
        "deviceTwin": {"enable": False},
    }
    return msgspec.convert({"database": {"dataSource": str(root / "edgecore.db")}, "modules": modules}, EdgeCore)
