"""What changed while a node was away arrives once per object when it returns, deletions included."""

import asyncio

import pytest

from edgehive.api.edge import ObjectSync
from edgehive.api.registry import CONFIG_MAPS, NODES, OBJECT_SYNCS, PODS
from edgehive.kube.errors import Unreachable
from edgehive.testing.cloud import Cloud, cloud, content_of
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


async def config_map(it: Cloud, name: str, value: str) -> str:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}}
    return (await it.client.create(CONFIG_MAPS, body, "default")).meta.uid


def reading(name: str) -> dict[str, object]:
    return {"volumes": [{"name": "v", "configMap": {"name": name}}]}


async def settle() -> None:
    await asyncio.sleep(8)


async def test_every_change_of_an_absence_arrives_exactly_once() -> None:
    """[23, 40]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        for name in ("stays", "changes", "goes", "returns"):
            await it.pod(name, "n1")
            await edge.expect_object(f"default/pod/{name}")
        await settle()
        await edge.close()
        await asyncio.sleep(1)

        for number in range(3):
            await it.client.patch(PODS, "changes", {"metadata": {"labels": {"n": str(number)}}}, "default")
        await it.client.delete(PODS, "goes", "default", grace_period_seconds=0)
        await it.client.delete(PODS, "returns", "default", grace_period_seconds=0)
        reborn = await it.pod("returns", "n1")
        await it.pod("comes", "n1")
        await asyncio.sleep(1)

        edge = await it.edge("n1", register=False)
        changed = await edge.expect_object("default/pod/changes")
        assert content_of(changed)["metadata"]["labels"] == {"n": "2"}
        await edge.expect_object("default/pod/comes")
        for _ in range(20):
            await asyncio.sleep(10)
            await edge.keepalive()
        assert edge.pushed("default/pod/stays") == []
        assert edge.pushed("default/pod/changes") == ["update"]
        assert edge.pushed("default/pod/goes") == ["delete"]
        assert edge.pushed("default/pod/comes") == ["update"]
        # The old life ends before the new one begins.
        assert edge.pushed("default/pod/returns") == ["delete", "update"]
        last = [m for m in edge.received if m.route.resource == "default/pod/returns"][-1]
        assert content_of(last)["metadata"]["uid"] == reborn.meta.uid
        names = {item.read(ObjectSync).spec.object_name for item in (await it.client.list(OBJECT_SYNCS)).items}
        assert names == {"stays", "changes", "returns", "comes"}


async def test_a_config_map_made_anew_while_the_node_was_away_replaces_the_old_one() -> None:
    """[40]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        await config_map(it, "settings", "one")
        await it.pod("web", "n1", **reading("settings"))
        await edge.expect_object("default/pod/web")
        assert content_of(await edge.request("query", "default/configmap/settings"))["data"] == {"k": "one"}
        await settle()
        await edge.close()
        await it.client.delete(CONFIG_MAPS, "settings", "default")
        uid = await config_map(it, "settings", "two")
        await asyncio.sleep(1)
        edge = await it.edge("n1", register=False)
        await settle()
        assert edge.pushed("default/configmap/settings") == ["delete", "update"]
        assert content_of(edge.received[-1])["metadata"]["uid"] == uid


async def test_a_restarted_cloudcore_sends_nothing_it_has_sent_and_all_it_has_not() -> None:
    async with Cluster() as cluster:
        async with cloud(cluster=cluster) as it:
            edge = await it.edge("n1")
            await it.pod("known", "n1")
            await it.pod("doomed", "n1")
            await edge.expect_object("default/pod/known")
            await edge.expect_object("default/pod/doomed")
            await settle()
        client = cluster.client()
        await client.delete(PODS, "doomed", "default", grace_period_seconds=0)
        async with cloud(cluster=cluster) as it:
            await it.pod("new", "n1")
            edge = await it.edge("n1", register=False)
            await edge.expect_object("default/pod/new")
            await settle()
            assert edge.pushed("default/pod/known") == []
            assert edge.pushed("default/pod/doomed") == ["delete"]
            assert len(edge.pushed("default/pod/new")) == 1


async def test_records_of_nodes_that_are_gone_end() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        await settle()
        await edge.close()
        await it.client.delete(NODES, "n1")
        await settle()
        assert (await it.client.list(OBJECT_SYNCS)).items == []


class Flaky:
    """A client whose GETs fail for a while; everything else goes through."""

    def __init__(self, client) -> None:
        self._client = client
        self.broken = False

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    async def get(self, resource, name, namespace="", *, subresource=""):
        if self.broken:
            raise Unreachable("no route")
        return await self._client.get(resource, name, namespace, subresource=subresource)


async def test_nothing_is_deleted_on_suspicion() -> None:
    """The copy at hand lacks an object and the API does not answer: the node keeps it until the API speaks."""
    async with Cluster() as cluster:
        client = Flaky(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1")
            await it.pod("web", "n1")
            await edge.expect_object("default/pod/web")
            await settle()
            await edge.close()
            await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
            await asyncio.sleep(1)
            client.broken = True
            edge = await it.edge("n1", register=False)
            await asyncio.sleep(4)
            assert edge.pushed("default/pod/web") == []
            client.broken = False
            await edge.keepalive()
            await edge.expect_object("default/pod/web", "delete")
