"""Edged over a runtime in memory and an API in memory: what it does when the world misbehaves."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from node_rig import NODE, Rig, node, until

from edgehive.api.registry import LEASES, NODES, PODS
from edgehive.kube.client import DocumentList
from edgehive.kube.errors import NotFound

pytestmark = pytest.mark.looptime


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with node(tmp_path) as rig:
        yield rig


async def test_pods_of_the_local_store_run_with_the_cloud_away(rig: Rig) -> None:
    """[56]"""
    await rig.create("web")
    rig.client.connected = False
    async with rig.running():
        await until(lambda: rig.runtime.running("c"))
        rig.client.connected = True
        await rig.tell("connect", "node/connection", "cloud_connected")
        await rig.until("web", lambda status: status.get("phase") == "Running")


async def test_the_newest_status_alone_is_sent_after_an_outage(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        rig.client.connected = False
        sent = rig.client.sent
        for _ in range(3):
            (container,) = rig.runtime.running("c")
            rig.runtime.exit(container, 1)
            await until(lambda before=container: rig.runtime.running("c") not in ([], [before]) or _waits(rig))
            if _waits(rig):
                break
        rig.client.connected = True
        await rig.tell("connect", "node/connection", "cloud_connected")
        found = await rig.until("web", lambda status: status["containerStatuses"][0]["restartCount"] == 1)
        assert found["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 1
        assert rig.client.sent - sent <= 2


def _waits(rig: Rig) -> bool:
    return any(
        "waiting" in item["state"]
        for worker in rig.edged._pods
        for item in rig.edged._reporter.last(worker.uid)["containerStatuses"]
    )


async def test_an_object_without_kind_or_uid_is_refused_and_counted(rig: Rig) -> None:
    async with rig.running() as edged:
        made = await rig.start("web")
        for broken in (made | {"kind": ""}, made | {"metadata": {"name": "x", "namespace": "default"}}, {}, "text"):
            await rig.tell("update", "default/pod/web", broken)
        await until(lambda: edged._refused._value.get() == 4)
        assert len(rig.runtime.running("c")) == 1


async def test_an_empty_store_stops_nothing(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
    containers = rig.runtime.running("c")

    async def nothing(*_: Any, **__: Any) -> DocumentList:
        return DocumentList([], "1")

    rig.client.list = nothing  # type: ignore[method-assign]
    async with rig.running():
        await asyncio.sleep(60)
        assert rig.runtime.running("c") == containers


async def test_a_restarted_edged_adopts_containers(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        before = list(rig.runtime.containers)
    async with rig.running():
        await asyncio.sleep(60)
        assert list(rig.runtime.containers) == before
        assert len(rig.runtime.sandboxes) == 1


async def test_after_a_reboot_the_pod_gets_a_new_sandbox_and_keeps_its_count(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
    rig.runtime.reboot()
    async with rig.running():
        found = await rig.until(
            "web",
            lambda status: (
                "running" in status["containerStatuses"][0]["state"]
                and status["containerStatuses"][0]["restartCount"] == 1
            ),
        )
    assert found["phase"] == "Running"


async def test_a_deleted_pod_is_confirmed_once_its_containers_are_gone(rig: Rig) -> None:
    async with rig.running():
        await rig.start("web")
        terminating = (await rig.api.delete(PODS, "web", "default", grace_period_seconds=5)).to_dict()  # type: ignore[union-attr]
        await rig.tell("update", "default/pod/web", terminating)
        await until(lambda: not rig.runtime.running("c"))
        await rig.gone("web")
        await rig.tell("delete", "default/pod/web", terminating)
        await until(lambda: not rig.runtime.sandboxes)
        assert list((rig.root / "pods").iterdir()) == []


async def test_a_forced_deletion_stops_the_containers_too(rig: Rig) -> None:
    async with rig.running():
        made = await rig.start("web")
        await rig.api.delete(PODS, "web", "default", grace_period_seconds=0)
        await rig.tell("delete", "default/pod/web", made)
        await until(lambda: not rig.runtime.sandboxes)


async def test_a_removal_noted_before_a_crash_is_finished_afterwards(rig: Rig) -> None:
    async with rig.running():
        made = await rig.start("web")
    (rig.root / "pods" / made["metadata"]["uid"] / "deleted").touch()
    await rig.api.delete(PODS, "web", "default", grace_period_seconds=0)
    async with rig.running():
        await until(lambda: not rig.runtime.sandboxes)


async def test_a_delete_for_another_uid_touches_nothing(rig: Rig) -> None:
    async with rig.running():
        made = await rig.start("web")
        other = made | {"metadata": made["metadata"] | {"uid": "another"}}
        await rig.tell("delete", "default/pod/web", other)
        await asyncio.sleep(60)
        assert rig.runtime.running("c")


async def test_a_missing_runtime_is_said_in_the_nodes_status_and_outlived(rig: Rig) -> None:
    rig.runtime.go_away()
    async with rig.running():
        async with asyncio.timeout(60):
            while True:
                try:
                    node = (await rig.api.get(NODES, NODE)).to_dict()
                    break
                except NotFound:
                    await asyncio.sleep(0.01)
        ready = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
        assert ready["status"] == "False"
        assert "start containerd" in ready["message"]
        rig.runtime.come_back()
        await rig.tell("connect", "node/connection", "cloud_connected")
        await _node_ready(rig)


async def test_a_missing_runtime_is_told_once_and_so_is_its_return(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    def said() -> list[str]:
        return [item.getMessage() for item in caplog.records if item.name == "edgehive.edged"]

    caplog.set_level("INFO")
    rig.runtime.go_away()
    async with rig.running():
        await rig.after(600)
        (line,) = said()
        assert line.startswith("the container runtime does not answer, trying again: ")
        assert "no container runtime listens on /run/fake.sock: start containerd" in line
        caplog.clear()
        rig.runtime.come_back()
        await rig.after(60)
        assert said() == ["the container runtime answers"]
        caplog.clear()
        rig.runtime.go_away()
        await rig.after(600)
        assert len(said()) == 1


async def test_a_node_deleted_by_somebody_registers_again_with_its_lease(rig: Rig) -> None:
    """[43]"""
    async with rig.running() as edged:
        await _node_ready(rig)
        first = (await rig.api.get(NODES, NODE)).meta.uid
        await rig.api.delete(NODES, NODE)
        edged._node.cloud_connected()
        node = await _node_ready(rig)
        assert node["metadata"]["uid"] != first
        assert node["metadata"]["labels"]["node-role.kubernetes.io/edge"] == ""
        assert (await rig.api.get(LEASES, NODE, "kube-node-lease")).to_dict()["spec"]["holderIdentity"] == NODE


async def _node_ready(rig: Rig) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            try:
                node = (await rig.api.get(NODES, NODE)).to_dict()
                if any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions", ())):
                    return node
            except NotFound:
                pass
            await asyncio.sleep(0.01)
