"""ConfigMaps and Secrets reach exactly the nodes whose pods need them, deletions too, until the last pod goes."""

import asyncio

import pytest

from edgehive.api.registry import CONFIG_MAPS, PODS, SECRETS
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of
from edgehive.wire.inventory import Held

pytestmark = pytest.mark.looptime


async def make(it: Cloud, name: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "1"}}
    await it.client.create(CONFIG_MAPS, body, "default")


async def change(it: Cloud, name: str, value: str) -> None:
    await it.client.patch(CONFIG_MAPS, name, {"data": {"k": value}}, "default")


async def test_changes_and_deletion_go_to_the_nodes_that_use_it() -> None:
    """[55]"""
    async with cloud() as it:
        user, other = await it.edge("n1"), await it.edge("n2")
        await make(it, "settings")
        env_from = [{"configMapRef": {"name": "settings"}}]
        init = [{"name": "i", "image": "x", "envFrom": env_from}]
        await it.pod("web", "n1", initContainers=init)
        await user.expect_object("default/pod/web")
        await user.request("query", "default/configmap/settings")
        await change(it, "settings", "2")
        message = await user.expect_object("default/configmap/settings", "update")
        assert content_of(message)["data"] == {"k": "2"}
        await it.client.delete(CONFIG_MAPS, "settings", "default")
        await user.expect_object("default/configmap/settings", "delete")
        assert other.pushed("default/configmap/settings") == []


async def test_what_was_missed_by_a_pod_that_went_comes_with_the_next_pod() -> None:
    """A Go edge keeps the error it was answered and would serve it, as an empty object, to every later pod."""
    volume = [{"name": "v", "configMap": {"name": "late"}}]
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("early", "n1", volumes=volume)
        await edge.expect_object("default/pod/early")
        missing = content_of(await edge.request("query", "default/configmap/late"))
        assert missing["ErrStatus"]["reason"] == "NotFound"
        await it.client.delete(PODS, "early", "default", grace_period_seconds=0)
        await edge.expect_object("default/pod/early", "delete")
        await make(it, "late")
        await it.pod("next", "n1", volumes=volume)
        await edge.expect_object("default/pod/next")
        assert content_of(await edge.expect_object("default/configmap/late"))["data"] == {"k": "1"}
        await it.pod("third", "n1", volumes=volume)
        await edge.expect_object("default/pod/third")
        await asyncio.sleep(5)
        assert edge.pushed("default/configmap/late") == ["update"]


async def test_a_new_secret_is_an_update() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1", imagePullSecrets=[{"name": "pull"}])
        await edge.expect_object("default/pod/web")
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"}, "data": {}}
        await it.client.create(SECRETS, body, "default")
        assert (await edge.expect_object("default/secret/pull")).route.operation == "update"


async def test_after_the_last_pod_nothing_comes_any_more() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make(it, "settings")
        await it.pod("web", "n1", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await edge.expect_object("default/pod/web")
        await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
        await edge.expect_object("default/pod/web", "delete")
        before = len(edge.pushed("default/configmap/settings"))
        await change(it, "settings", "2")
        await asyncio.sleep(5)
        assert len(edge.pushed("default/configmap/settings")) == before


async def test_pods_of_other_nodes_and_of_none_never_arrive() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("elsewhere", "cloud-node")
        unbound = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "late", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }
        await it.client.create(PODS, unbound, "default")
        await asyncio.sleep(1)
        assert edge.pushed("default/pod/late") == []
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "late"},
            "target": {"kind": "Node", "name": "n1"},
        }
        await it.client.create(PODS, binding, "default", name="late", subresource="binding")
        # First seen without a node, so it comes as an update.
        assert (await edge.expect_object("default/pod/late")).route.operation == "update"
        assert edge.pushed("default/pod/elsewhere") == []


async def test_a_node_that_becomes_an_edge_node_gets_the_pods_bound_to_it_before() -> None:
    async with cloud() as it:
        await it.pod("early", "n1")
        edge = await it.edge("n1")
        await edge.expect_object("default/pod/early")


READING = [{"name": "v", "configMap": {"name": "settings"}}]


async def with_a_row_nobody_needs(it: Cloud) -> ScriptedEdge:
    """Node n1 has ConfigMap settings of a pod that is no more."""
    edge = await it.edge("n1")
    await make(it, "settings")
    await it.pod("first", "n1", volumes=READING)
    await edge.expect_object("default/pod/first")
    reply = await edge.request("query", "default/configmap/settings")
    assert content_of(reply)["data"] == {"k": "1"}
    await asyncio.sleep(6)
    await it.client.delete(PODS, "first", "default", grace_period_seconds=0)
    await edge.expect_object("default/pod/first", "delete")
    return edge


def told_since(edge: ScriptedEdge, count: int) -> list[str]:
    return [f"{message.route.operation} {message.route.resource}" for message in edge.received[count:]]


async def test_what_changed_while_no_pod_needed_it_comes_before_the_next_pod() -> None:
    """Whatever happens to the link then, no pod begins with what was there before it was created."""
    async with cloud() as it:
        edge = await with_a_row_nobody_needs(it)
        await change(it, "settings", "2")
        await asyncio.sleep(1)
        before = len(edge.received)
        await it.pod("next", "n1", volumes=READING)
        await edge.expect_object("default/pod/next")
        assert told_since(edge, before) == ["update default/configmap/settings", "insert default/pod/next"]
        assert content_of(edge.received[before])["data"] == {"k": "2"}
        await it.pod("third", "n1", volumes=READING)
        await edge.expect_object("default/pod/third")
        assert edge.pushed("default/configmap/settings") == ["update"]


async def test_what_was_made_anew_while_no_pod_needed_it_leaves_no_row_of_its_former_life() -> None:
    async with cloud() as it:
        edge = await with_a_row_nobody_needs(it)
        before = len(edge.received)
        await it.client.delete(CONFIG_MAPS, "settings", "default")
        await make(it, "settings")
        await it.pod("next", "n1", volumes=READING)
        await edge.expect_object("default/pod/next")
        assert told_since(edge, before) == ["delete default/configmap/settings", "insert default/pod/next"]


async def test_what_changed_while_the_node_was_away_comes_before_the_pods() -> None:
    async with cloud() as it:
        edge = await with_a_row_nobody_needs(it)
        await edge.close()
        await asyncio.sleep(1)
        await it.pod("next", "n1", volumes=READING)
        await change(it, "settings", "2")
        await asyncio.sleep(1)
        edge = await it.edge("n1", register=False)
        await edge.expect_object("default/pod/next")
        assert told_since(edge, 0) == ["update default/configmap/settings", "update default/pod/next"]


async def test_an_old_row_without_a_record_is_renewed_with_the_next_pod_that_needs_it() -> None:
    """Its record went with the node while that was deleted: only the node itself knows of the row."""
    async with cloud() as it:
        await make(it, "settings")
        uid = (await it.client.get(CONFIG_MAPS, "settings", "default")).meta.uid
        await (await it.edge("n1")).close()
        edge = await it.edge("n1", register=False, holds=[Held("default", "configmap", "settings", uid, 1)])
        await asyncio.sleep(10)
        assert edge.pushed("default/configmap/settings") == []
        await it.pod("next", "n1", volumes=READING)
        await edge.expect_object("default/pod/next")
        told = [
            what for what in told_since(edge, 0) if what.split()[0] in ("insert", "update") and "/node/" not in what
        ]
        assert told == ["update default/configmap/settings", "insert default/pod/next"]
