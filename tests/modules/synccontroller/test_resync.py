"""What changed while a node was away arrives once per object when it returns, deletions included."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.edge import ObjectSync
from edgehive.api.registry import CONFIG_MAPS, DEVICE_MODELS, DEVICES, NODES, OBJECT_SYNCS, PODS
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.objectsync import DeliveryRecords, ObjectRef
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.cloudcore.synccontroller import SyncController
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import Forbidden, Unreachable
from edgehive.kube.informer import Informers
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud, content_of
from edgehive.testing.cluster import Cluster
from edgehive.wire.inventory import Held

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


async def test_a_restarted_cloudcore_says_of_lost_devices_and_models_what_their_mapper_speaks() -> None:
    """A Go edge finds the mapper that is to hear of it by that; nobody else knows it any more."""
    async with Cluster() as cluster:
        async with cloud(cluster=cluster) as it:
            edge = await it.edge("n1")
            model = {"metadata": {"name": "m"}, "spec": {"protocol": "modbus", "properties": []}}
            await it.client.create(DEVICE_MODELS, model, "default")
            spec = {"nodeName": "n1", "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "modbus"}}
            await it.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
            await edge.expect_object("default/device/d")
            await settle()
        client = cluster.client()
        await client.delete(DEVICES, "d", "default")
        await client.delete(DEVICE_MODELS, "m", "default")
        async with cloud(cluster=cluster) as it:
            edge = await it.edge("n1", register=False)
            device = content_of(await edge.expect_object("default/device/d", "delete"))
            model = content_of(await edge.expect_object("default/devicemodel/m", "delete"))
            assert (device["metadata"]["name"], device["spec"]) == ("d", {"protocol": {"protocolName": "modbus"}})
            assert (model["metadata"]["name"], model["spec"]) == ("m", {"protocol": "modbus"})


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


class Refusing(Flaky):
    """A client that is never told of one object."""

    async def get(self, resource, name, namespace="", *, subresource=""):
        if name == "secret-thing":
            raise Forbidden("not for you")
        return await self._client.get(resource, name, namespace, subresource=subresource)


async def test_an_object_the_api_refuses_to_tell_of_keeps_nothing_else_from_its_node() -> None:
    async with Cluster() as cluster, cloud(cluster=cluster, client=Refusing(cluster.client())) as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        await settle()
        await edge.close()
        await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
        await it.pod("new", "n1")
        await asyncio.sleep(1)
        unknown = Held("default", "configmap", "secret-thing", "u-9", 1)
        edge = await it.edge("n1", register=False, holds=[unknown])
        await edge.expect_object("default/pod/web", "delete")
        await edge.expect_object("default/pod/new")


async def test_what_could_not_be_handed_over_is_not_forgotten() -> None:
    """Of a stray only the node's inventory tells, once."""
    async with Cluster() as cluster, Informers(cluster.client()) as informers:
        bus = Bus()
        deps = CloudDeps(CloudCore(), bus, cluster.client(), informers, cluster.clock, CollectorRegistry())
        records = DeliveryRecords(cluster.client(), informers, deps.standing)
        controller = SyncController(deps, records)
        ready = asyncio.Event()
        tasks = [spawn(records.run(), name="records"), spawn(controller.run(ready.set), name="controller")]
        await ready.wait()
        stray = ObjectRef("v1", "Pod", "default", "old", "u-1")
        await cluster.client().create(NODES, {"metadata": {"name": "n1", "labels": {EDGE_LABEL: ""}}})
        assert records.compare("n1", {stray: 1}) == (0, 1)
        await bus.send("synccontroller", returned("n1"))
        await asyncio.sleep(1)
        assert records.strays("n1") == [(stray, 1)]
        hub = bus.register("cloudhub", "cloudhub")
        await settle()
        sent = {(hub_message := hub.get_nowait()).route.resource: hub_message for _ in range(len(hub))}
        assert sent["node/n1/default/pod/old"].route.operation == "delete"
        assert "node/n1/null/inventory" in sent
        assert records.strays("n1") == []
        await cancel_and_join(*tasks)


def returned(node: str) -> Message:
    return Message.of(
        source="cloudhub",
        group="synccontroller",
        operation="connect",
        resource=f"node/{node}/connection",
        timestamp=1,
    )


async def test_strays_go_with_their_node() -> None:
    async with Cluster() as cluster, Informers(cluster.client()) as informers:
        records = DeliveryRecords(cluster.client(), informers, Standing())
        stray = ObjectRef("v1", "Pod", "default", "old", "u-1")
        records.compare("n1", {stray: 1})
        records.forget_node("n1")
        assert records.strays("n1") == []
        records.compare("n1", {stray: 1})
        assert records.compare("n1", {}) == (0, 0)
        assert records.strays("n1") == []
