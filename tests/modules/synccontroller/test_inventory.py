"""A node that says what it holds is mended by it; it gets nothing by it that is not its own (decision 0013)."""

import asyncio

import pytest

from edgehive.api.registry import CONFIG_MAPS, NODES, OBJECT_SYNCS, PODS, SECRETS
from edgehive.beehive.message import Message
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud
from edgehive.testing.cluster import Cluster
from edgehive.wire.inventory import Held
from edgehive.wire.names import Path

pytestmark = pytest.mark.looptime


def held(kind: str, name: str, uid: str, version: str = "1", namespace: str = "default") -> Held:
    return Held(namespace, kind, name, uid, int(version))


async def delivered(it: Cloud, *names: str) -> list[Held]:
    """Pods the node n1 got and acknowledged; it is away afterwards."""
    edge = await it.edge("n1")
    pods = [await it.pod(name, "n1") for name in names]
    for name in names:
        await edge.expect_object(f"default/pod/{name}")
    await asyncio.sleep(8)
    await edge.close()
    return [held("pod", pod.meta.name, pod.meta.uid, pod.meta.resource_version) for pod in pods]


async def test_a_go_edge_is_never_asked() -> None:
    async with cloud() as it:
        await delivered(it, "web")
        edge = await it.edge("n1", register=False)
        await asyncio.sleep(8)
        assert edge.received == []


async def test_what_is_complete_costs_one_question_and_nothing_else() -> None:
    async with cloud() as it:
        holds = await delivered(it, "web", "db")
        edge = await it.edge("n1", register=False, holds=holds)
        await asyncio.sleep(8)
        assert [m.route.resource for m in edge.received if "/pod/" in m.route.resource] == []
        assert sum(m.route.resource == Path.INVENTORY for m in edge.received) == 1


async def test_what_is_missing_or_older_comes_again_also_after_a_restart_of_the_cloud() -> None:
    async with Cluster() as cluster:
        async with cloud(cluster=cluster) as it:
            _, older, kept = await delivered(it, "lost", "older", "kept")
        async with cloud(cluster=cluster) as it:
            stale = held("pod", "older", older.uid, str(older.version - 1))
            edge = await it.edge("n1", register=False, holds=[stale, kept])
            await edge.expect_object("default/pod/lost")
            await edge.expect_object("default/pod/older")
            await asyncio.sleep(90)
            assert edge.pushed("default/pod/lost") == ["update"]
            assert edge.pushed("default/pod/kept") == []


async def test_what_nobody_recorded_and_the_api_has_no_more_is_deleted() -> None:
    """The records went with their namespace, or with the node while that was deleted."""
    async with cloud() as it:
        (web,) = await delivered(it, "web")
        gone = [held("pod", "old", "u-1"), held("configmap", "old", "u-2"), held("secret", "web", "u-3")]
        edge = await it.edge("n1", register=False, holds=[web, *gone])
        for path in ("default/pod/old", "default/configmap/old", "default/secret/web"):
            message = await edge.expect_object(path, "delete")
            assert message.read(dict)["metadata"]["uid"].startswith("u-")
        await asyncio.sleep(90)
        assert edge.pushed("default/pod/old") == ["delete"]
        assert edge.pushed("default/pod/web") == []


async def test_claiming_an_object_does_not_bring_it() -> None:
    """No node gets a secret by saying that it holds an old version of it."""
    async with cloud() as it:
        body = {"metadata": {"name": "admin", "namespace": "default"}, "stringData": {"password": "x"}}
        secret = await it.client.create(SECRETS, body, "default")
        (web,) = await delivered(it, "web")
        edge = await it.edge("n1", register=False, holds=[web, held("secret", "admin", secret.meta.uid)])
        await asyncio.sleep(8)
        await it.client.patch(SECRETS, "admin", {"metadata": {"labels": {"a": "b"}}}, "default")
        await asyncio.sleep(90)
        assert edge.pushed("default/secret/admin") == []
        assert not [item for item in (await it.client.list(OBJECT_SYNCS)).items if secret.meta.uid in item.meta.name]


@pytest.mark.parametrize("content", ["text", {"a": 1}, [[1]], [["default", "pod", "x", None, 1]], [[]]])
async def test_an_inventory_that_is_none_changes_nothing(content: object) -> None:
    async with cloud() as it:
        await delivered(it, "web")
        edge = await it.edge("n1", register=False, holds=content)
        await asyncio.sleep(8)
        assert edge.pushed("default/pod/web") == []
        assert not edge.closed.is_set()


async def test_strange_entries_are_passed_over() -> None:
    async with cloud() as it:
        (web,) = await delivered(it, "web")
        strange = [
            held("frobnicator", "x", "u-9"), held("pod", "", "u-8"), held("pod", "x", ""),
            held("node", "n1", "u-7", namespace="null"), held("pod", "a/b", "u-6", version="-4"),
        ]  # fmt: skip
        edge = await it.edge("n1", register=False, holds=[web, *strange])
        await asyncio.sleep(20)
        # Its own former life as a node is nothing to be told of: that would end the session.
        assert not edge.closed.is_set()


async def test_records_that_vanish_with_their_namespace_still_end_at_the_node() -> None:
    async with cloud() as it:
        await delivered(it, "web")
        await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
        for item in (await it.client.list(OBJECT_SYNCS)).items:
            await it.client.delete(OBJECT_SYNCS, item.meta.name, "default")
        await asyncio.sleep(1)
        edge = await it.edge("n1", register=False)
        await edge.expect_object("default/pod/web", "delete")


async def test_a_pod_without_a_record_is_found_when_its_node_connects() -> None:
    """As after a failure of the hub, which loses what its mailbox held."""
    async with cloud() as it:
        (web,) = await delivered(it, "web")
        await it.client.delete(OBJECT_SYNCS, f"n1.{web.uid}", "default")
        await asyncio.sleep(1)
        edge = await it.edge("n1", register=False, holds=())
        message: Message = await edge.expect_object("default/pod/web")
        assert message.read(dict)["metadata"]["uid"] == web.uid


async def test_a_node_that_came_back_gets_what_its_pods_need_and_it_holds_in_an_old_version() -> None:
    async with cloud() as it:
        body = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"k": "new"}}
        settings = await it.client.create(CONFIG_MAPS, body, "default")
        edge = await it.edge("n1")
        volumes = [{"name": "v", "configMap": {"name": "settings"}}]
        pod = await it.pod("web", "n1", volumes=volumes)
        await edge.expect_object("default/pod/web")
        await edge.close()
        holds = [
            held("pod", "web", pod.meta.uid, pod.meta.resource_version),
            held("configmap", "settings", settings.meta.uid, "1"),
        ]
        edge = await it.edge("n1", register=False, holds=holds)
        answer = await edge.expect(lambda message: message.route.resource == "default/configmap/settings")
        assert answer.read(dict)["data"] == {"k": "new"}


async def test_what_its_pods_need_and_changed_while_there_was_no_node_is_told_when_it_registers_again() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await edge.expect_object("default/pod/web")
        await it.client.delete(NODES, "n1")
        await asyncio.wait_for(edge.closed.wait(), 20)
        body = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"k": "v"}}
        await it.client.create(CONFIG_MAPS, body, "default")
        await asyncio.sleep(2)
        edge = await it.edge("n1")
        message = await edge.expect_object("default/configmap/settings")
        assert message.read(dict)["data"] == {"k": "v"}


async def test_what_a_node_answers_when_it_is_asked_for_another_reason_counts_too() -> None:
    """It is asked as it connects, and again as its Node appears."""
    async with cloud() as it:
        edge = await it.edge("n1", register=False, holds=[])
        await asyncio.sleep(8)
        edge.holds = [held("pod", "old", "u-1")]
        await edge.request("insert", "null/node/n1", {"metadata": {"name": "n1", "labels": {EDGE_LABEL: ""}}})
        message = await edge.expect_object("default/pod/old", "delete")
        await edge.ack(message)
