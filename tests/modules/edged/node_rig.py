"""Edged over a runtime in memory and an API in memory, for the tests beside this file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.document import Document
from edgehive.api.registry import EVENTS, PODS, ApiResource
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.edged.edged import Edged
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import DocumentList
from edgehive.kube.errors import NotFound, Unreachable
from edgehive.testing.cluster import Cluster
from edgehive.testing.cri import FakeRuntime
from edgehive.testing.virtual_time import LoopClock, threads_take_no_time

NODE = "edge-1"


class Flaky:
    """A client that can lose its connection, as MetaClient does: reads go on, writes are Unreachable."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.connected = True
        self.sent = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def create(self, *arguments: Any, **options: Any) -> Document:
        if not self.connected:
            raise Unreachable("connection lost between EdgeCore and CloudCore")
        found: Document = await self._client.create(*arguments, **options)
        return found

    async def patch(self, resource: ApiResource, *arguments: Any, **options: Any) -> Document:
        if not self.connected:
            raise Unreachable("connection lost between EdgeCore and CloudCore")
        self.sent += resource is PODS
        found: Document = await self._client.patch(resource, *arguments, **options)
        return found

    async def delete(self, *arguments: Any, **options: Any) -> Document | None:
        if not self.connected:
            raise Unreachable("connection lost between EdgeCore and CloudCore")
        found: Document | None = await self._client.delete(*arguments, **options)
        return found

    async def list(self, *arguments: Any, **options: Any) -> DocumentList:
        found: DocumentList = await self._client.list(*arguments, **options)
        return found


class Rig:
    """One node."""

    def __init__(self, cluster: Cluster, root: Path, clock: LoopClock, **settings: Any) -> None:
        self.api = cluster.client()
        self.client = Flaky(self.api)
        self.clock = clock
        self.runtime = FakeRuntime(images=["localhost/busybox:1"], clock=clock)
        #: Of edged and of its kubelet; `settings` are of the latter.
        self.options: dict[str, Any] = {"report_event": True}
        self.settings = settings
        self.root = root
        self.bus = Bus()
        self.edged: Edged
        self.life = AsyncExitStack()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Edged]:
        kubelet = TailoredKubeletConfig(read_only_port=0, **self.settings)
        config = EdgedConfig(root_directory=str(self.root), tailored_kubelet_config=kubelet, **self.options)
        self.bus = Bus()
        self.edged = Edged(
            bus=self.bus,
            client=self.client,  # type: ignore[arg-type]
            config=config,
            clock=self.clock,
            node_name=NODE,
            cri=self.runtime.client(),
        )
        ready = asyncio.Event()
        task = spawn(self.edged.run(ready.set), name="edged")
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            yield self.edged
        finally:
            await cancel_and_join(task)

    async def boot(self) -> None:
        """Run edged until the test is over. In the test itself: virtual time does not reach into fixtures."""
        await self.life.enter_async_context(self.running())

    @property
    def port(self) -> int:
        """Where the node's HTTP door is."""
        return self.edged._port

    async def tell(self, operation: str, resource: str, content: Any) -> None:
        message = Message.of(
            source="edgecontroller",
            group="resource",
            operation=operation,
            resource=resource,
            content=content,
            timestamp=0,
        )
        await self.bus.send("edged", message)

    async def create(self, name: str, **spec: Any) -> dict[str, Any]:
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "localhost/busybox:1"}], **spec}
        body = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        return (await self.api.create(PODS, body, "default")).to_dict()

    async def start(self, name: str, **spec: Any) -> dict[str, Any]:
        """Create it and see it run."""
        made = await self.create(name, **spec)
        await self.tell("insert", f"default/pod/{name}", made)
        await self.until(name, lambda status: status.get("phase") == "Running")
        return made

    async def delete(self, made: dict[str, Any], *, grace: int = 30) -> None:
        """Delete it as a user does: the node is told, and told again when the API has let go of it."""
        name = made["metadata"]["name"]
        terminating = await self.api.delete(PODS, name, "default", grace_period_seconds=grace)
        assert terminating is not None
        await self.tell("update", f"default/pod/{name}", terminating.to_dict())

    async def gone(self, name: str, *, but: str = "") -> None:
        """Until the API holds no such pod, or one of another UID than `but`."""
        async with asyncio.timeout(300):
            while True:
                try:
                    if (await self.api.get(PODS, name, "default")).meta.uid != but and but:
                        return
                except NotFound:
                    return
                await asyncio.sleep(0.01)

    @staticmethod
    async def after(seconds: float) -> None:
        """Let (virtual) time pass."""
        await asyncio.sleep(seconds)

    async def events(self, reason: str = "") -> list[dict[str, Any]]:
        """Everything edged told of pods, or what it told for this reason."""
        found = [item.to_dict() for item in (await self.api.list(EVENTS, "default")).items]
        return [item for item in found if item["involvedObject"]["kind"] == "Pod" and reason in ("", item["reason"])]

    async def until(
        self, name: str, wanted: Callable[[dict[str, Any]], bool], *, or_missing: bool = False
    ) -> dict[str, Any]:
        """The pod's status once it is as wanted; with `or_missing` the pod may still have to come."""
        last: dict[str, Any] = {}
        try:
            async with asyncio.timeout(300):
                while True:
                    with suppress(*([NotFound] if or_missing else [])):
                        last = (await self.api.get(PODS, name, "default")).to_dict()["status"]
                        if wanted(last):
                            return last
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"{name} stayed at {last}") from None


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(300):
        while not check():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def node(root: Path, **settings: Any) -> AsyncIterator[Rig]:
    """A node in virtual time; the test is marked `looptime`."""
    threads_take_no_time()
    clock = LoopClock()
    async with Cluster(clock=clock) as cluster:
        rig = Rig(cluster, root, clock, **settings)
        async with rig.life:
            yield rig
