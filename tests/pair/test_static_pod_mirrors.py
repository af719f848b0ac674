"""A static pod of a node, seen at the API through both halves: its mirror, its status, and what a deletion does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.config.edgecore import TailoredKubeletConfig
from edgehive.api.registry import NODES, PODS
from edgehive.beehive.bus import Bus
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edged.edged import Edged
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud
from edgehive.testing.cri import FakeRuntime
from edgehive.wire.link import Link, Peer

NODE = "edge-1"
NAME = f"web-{NODE}"


@asynccontextmanager
async def node(it: Cloud, runtime: FakeRuntime, root: Path) -> AsyncIterator[None]:
    clock, bus = SystemClock(), Bus()
    kubelet = TailoredKubeletConfig(read_only_port=0, static_pod_path=str(root / "manifests"))
    config = EdgedConfig(root_directory=str(root), tailored_kubelet_config=kubelet)

    async def dial() -> Link:
        return await it.network.dial(Peer(node=NODE))

    async with edge_database(root / "edgecore.db", clock) as database:
        modules = (
            MetaManager(bus, database, clock, NODE, timeout=10),
            EdgeHub(bus, database, clock, dial, rate=1e6, burst=1000, backoff=Backoff(first=0.01)),
            Edged(bus=bus, client=MetaClient(bus, clock, timeout=10), config=config, clock=clock, node_name=NODE,
                  cri=runtime.client()),
        )  # fmt: skip
        tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]
        try:
            yield
        finally:
            await cancel_and_join(*tasks)


async def mirror(it: Cloud, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            try:
                found = (await it.client.get(PODS, NAME, "default")).to_dict()
                if wanted(found):
                    return found
            except NotFound:
                pass
            await asyncio.sleep(0.01)


def runs(pod: dict[str, Any]) -> bool:
    return bool(pod["status"].get("phase") == "Running")


async def test_a_mirror_comes_back_after_its_deletion_and_goes_with_its_file(tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / "web.yaml"
    manifest.parent.mkdir()
    spec = {"containers": [{"name": "c", "image": "localhost/busybox:1"}]}
    manifest.write_text(yaml.safe_dump({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": spec}))
    runtime = FakeRuntime(images=["localhost/busybox:1"])
    async with cloud() as it:
        await it.client.create(NODES, {"metadata": {"name": NODE, "labels": {EDGE_LABEL: ""}}})
        async with node(it, runtime, tmp_path):
            first = await mirror(it, runs)
            (container,) = runtime.running("c")
            await it.client.delete(PODS, NAME, "default")
            second = await mirror(it, lambda pod: runs(pod) and pod["metadata"]["uid"] != first["metadata"]["uid"])
        async with node(it, runtime, tmp_path):
            runtime.exit(container, 1)
            await mirror(it, lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1)
            assert (await mirror(it, runs))["metadata"]["uid"] == second["metadata"]["uid"]
            manifest.unlink()
            async with asyncio.timeout(20):
                while runtime.sandboxes or any(item.meta.name == NAME for item in (await it.client.list(PODS)).items):
                    await asyncio.sleep(0.01)
