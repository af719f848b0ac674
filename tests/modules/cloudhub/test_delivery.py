"""Objects reach their node acknowledged, recorded, once, and newest last."""

import asyncio

import pytest

from edgehive.api.edge import ObjectSync
from edgehive.api.registry import CLUSTER_OBJECT_SYNCS, OBJECT_SYNCS, PODS
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import Cloud, cloud, content_of

pytestmark = pytest.mark.looptime


async def sync_version(it: Cloud, node: str, uid: str) -> str:
    return (
        (await it.client.get(OBJECT_SYNCS, f"{node}.{uid}", "default")).read(ObjectSync).status.object_resource_version
    )


async def wait_for_version(it: Cloud, node: str, uid: str, version: str) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if await sync_version(it, node, uid) == version:
                    return
            except NotFound:
                pass
            await asyncio.sleep(0.05)


async def test_a_pod_arrives_is_recorded_changes_and_goes() -> None:
    """[28, 32, 39]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = await it.pod("web", "n1")
        message = await edge.expect_object("default/pod/web")
        assert message.route.operation == "insert"
        assert message.route.source == "edgecontroller"
        assert message.route.group == "resource"
        assert message.header.resourceversion == pod.meta.resource_version
        assert content_of(message)["metadata"]["uid"] == pod.meta.uid
        await wait_for_version(it, "n1", pod.meta.uid, pod.meta.resource_version)
        sync = (await it.client.get(OBJECT_SYNCS, f"n1.{pod.meta.uid}", "default")).read(ObjectSync)
        assert (sync.spec.object_api_version, sync.spec.object_kind, sync.spec.object_name) == ("v1", "Pod", "web")

        changed = await it.client.patch(PODS, "web", {"metadata": {"labels": {"a": "b"}}}, "default")
        message = await edge.expect_object("default/pod/web", "update")
        assert message.header.resourceversion == changed.meta.resource_version
        await wait_for_version(it, "n1", pod.meta.uid, changed.meta.resource_version)

        await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
        await edge.expect_object("default/pod/web", "delete")
        async with asyncio.timeout(20):
            while any(item.meta.name == f"n1.{pod.meta.uid}" for item in (await it.client.list(OBJECT_SYNCS)).items):
                await asyncio.sleep(0.05)


async def test_a_node_is_recorded_cluster_wide() -> None:
    """[39]"""
    async with cloud() as it:
        await it.edge("n1")
        async with asyncio.timeout(20):
            while True:
                items = (await it.client.list(CLUSTER_OBJECT_SYNCS)).items
                if items and items[0].read(ObjectSync).status.object_resource_version:
                    break
                await asyncio.sleep(0.05)
        assert items[0].read(ObjectSync).spec.object_kind == "Node"


async def test_an_unacknowledged_message_is_repeated_with_its_id_and_then_gives_way() -> None:
    """[38]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        edge.acknowledge = False
        loop = asyncio.get_running_loop()
        await it.pod("stuck", "n1")
        first = await edge.expect_object("default/pod/stuck")
        began = loop.time()
        await it.pod("other", "n1")
        for repetition in range(1, 5):
            await edge.keepalive()
            again = await edge.expect_object("default/pod/stuck")
            assert again.id == first.id
            assert loop.time() - began == pytest.approx(5 * repetition, abs=0.5)
        await edge.keepalive()
        other = await edge.expect_object("default/pod/other")
        assert loop.time() - began == pytest.approx(25, abs=0.5)
        await edge.ack(other)
        again = await edge.expect_object("default/pod/stuck")
        assert again.id == first.id
        await edge.ack(again)


async def test_an_error_is_no_acknowledgement_and_a_late_one_counts() -> None:
    """[37]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        edge.acknowledge = False
        pod = await it.pod("web", "n1")
        message = await edge.expect_object("default/pod/web")
        await edge.link.send(message.reply("disk full", timestamp=1, operation="error"))
        again = await edge.expect_object("default/pod/web")
        assert again.id == message.id
        await edge.ack(again)
        await wait_for_version(it, "n1", pod.meta.uid, pod.meta.resource_version)


async def test_versions_that_wait_become_one() -> None:
    """[38]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        edge.acknowledge = False
        await it.pod("blocker", "n1")
        blocker = await edge.expect_object("default/pod/blocker")
        await it.pod("web", "n1")
        for number in range(5):
            last = await it.client.patch(PODS, "web", {"metadata": {"labels": {"n": str(number)}}}, "default")
            await asyncio.sleep(0.1)
        edge.acknowledge = True
        await edge.ack(blocker)
        message = await edge.expect_object("default/pod/web")
        assert message.header.resourceversion == last.meta.resource_version
        await asyncio.sleep(10)
        assert len(edge.pushed("default/pod/web")) == 1


async def test_a_status_patch_is_not_echoed_and_its_version_is_recorded() -> None:
    """[48]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        reply = await edge.request("patch", "default/podpatch/web", '{"status":{"phase":"Running"}}')
        patched = content_of(reply)["Object"]
        assert patched["status"]["phase"] == "Running"
        await wait_for_version(it, "n1", pod.meta.uid, patched["metadata"]["resourceVersion"])
        assert edge.pushed("default/pod/web") == ["insert"]


async def test_the_wire_never_shows_the_node_prefix_and_other_nodes_get_nothing() -> None:
    """[26]"""
    async with cloud() as it:
        one, two = await it.edge("n1"), await it.edge("n2")
        await it.pod("web", "n1")
        await one.expect_object("default/pod/web")
        await asyncio.sleep(1)
        assert not any(message.route.resource.startswith("node/") for message in one.received)
        assert not two.pushed("default/pod/web")
