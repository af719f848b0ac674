"""The link is cut: the node goes on by itself, and both sides learn afterwards what happened, each object once."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from whole_site import WholeSite, eventually, node_ready, whole_site

from edgehive.api.core import Pod
from edgehive.api.registry import CONFIG_MAPS, PODS
from edgehive.edgecore.edged.cri import CriClient
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.kit.tasks import cancel_and_join, spawn

pytestmark = [pytest.mark.containerd, pytest.mark.timeout(150)]

FOREVER = "trap 'exit 0' TERM; echo up; while true; do sleep 0.1; done"
READS = "trap 'exit 0' TERM; while true; do cat /mnt/settings/color; echo; sleep 0.2; done"
DIES = "trap 'exit 0' TERM; while [ ! -e /mnt/out/die ]; do sleep 0.1; done; rm /mnt/out/die; echo dying; exit 1"


@pytest.fixture
async def site(containerd: PrivateContainerd, cri: CriClient, tmp_path: Path) -> AsyncIterator[WholeSite]:
    async with whole_site(containerd, cri, tmp_path) as running:
        yield running


async def test_a_cut_link_stops_nothing_and_loses_nothing(site: WholeSite) -> None:
    out = site.root / "out"
    out.mkdir()
    async with site.edge():
        await eventually(lambda: node_ready(site), "the node is Ready")
        await site.create_data("ConfigMap", "settings", color="blue")
        await site.create("stays", READS, volumes=[{"name": "settings", "configMap": {"name": "settings"}}])
        await site.create("dies", DIES, volumes=[{"name": "out", "hostPath": {"path": str(out)}}])
        await site.create("doomed", FOREVER)
        for name in ("stays", "dies", "doomed"):
            await eventually(lambda name=name: site.runs(name), f"{name} runs")
        kept = {name: await site.containers(name) for name in ("stays", "dies", "doomed")}

        await site.cable.cut()
        (out / "die").touch()
        await eventually(lambda: _another_life(site, "dies", kept["dies"]), "the dead container is back")
        assert await site.containers("stays") == kept["stays"]
        assert await site.containers("doomed") == kept["doomed"]
        assert await site.restarts("dies") == 0, "the cloud cannot know yet"
        await _the_node_answers(site)

        await site.api.patch(CONFIG_MAPS, "settings", {"data": {"color": "green"}}, "default")
        for number in range(3):
            await site.api.patch(PODS, "stays", {"metadata": {"labels": {"n": str(number)}}}, "default")
        await site.api.delete(PODS, "doomed", "default")
        await site.create("late", FOREVER)
        history: list[tuple[int, str]] = []
        watching = spawn(_watch_restarts(site, history), name="history of dies")
        site.cable.received.clear()
        site.cable.mend()

        await eventually(lambda: site.runs("late"), "the pod made meanwhile runs")
        await eventually(lambda: _gone(site, "doomed"), "the pod deleted meanwhile is gone")
        await eventually(lambda: _restarts(site, "dies", 1), "the cloud knows of the restart")
        await eventually(lambda: _reads(site, "stays", "green"), "the volume shows the new ConfigMap")
        await cancel_and_join(watching)
        assert await site.containers("doomed") == []
        assert await site.containers("stays") == kept["stays"]
        assert site.cable.pushed("default/pod/stays") == ["update"]
        assert site.cable.pushed("default/configmap/settings") == ["update"]
        assert site.cable.pushed("default/pod/doomed") == ["update", "delete"]
        assert len(site.cable.pushed("default/pod/late")) == 1
        assert site.cable.pushed("default/pod/dies") == []
        assert history == sorted(history), "an older status never follows a newer one"
        assert history[-1] == (1, "Running")


async def _another_life(site: WholeSite, name: str, before: list[tuple[str, int]]) -> bool:
    now = await site.containers(name)
    return len(now) == 1 and now != before


async def _gone(site: WholeSite, name: str) -> bool:
    return await site.pod(name) is None


async def _restarts(site: WholeSite, name: str, count: int) -> bool:
    return await site.restarts(name) == count and await site.runs(name)


async def _reads(site: WholeSite, name: str, text: str) -> bool:
    return site.output(name).endswith(text)


async def _the_node_answers(site: WholeSite) -> None:
    status, text = await site.kubelet("/pods")
    assert status == 200
    assert {item["metadata"]["name"] for item in json.loads(text)["items"]} == {"stays", "dies", "doomed"}
    assert await site.kubelet("/containerLogs/default/doomed/c") == (200, "up\n")


async def _watch_restarts(site: WholeSite, history: list[tuple[int, str]]) -> None:
    listed = await site.api.list(PODS, "default")
    async for event in site.api.watch(PODS, "default", resource_version=listed.resource_version):
        if event.object.meta.name == "dies":
            status = event.object.read(Pod).status
            history.append((status.container_statuses[0].restart_count, status.phase))
