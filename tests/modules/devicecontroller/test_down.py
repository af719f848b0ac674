"""Devices on their way to nodes: what is told, in which order, and to whom. DC1, DC2, DC3, DC5, DC6, DC7, DC10."""

import asyncio
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEVICE_MODELS,
    DEVICE_STATUSES,
    DEVICES,
    EVENTS,
    NAMESPACES,
    NODES,
    OBJECT_SYNCS,
    ApiResource,
)
from edgehive.beehive.message import Message
from edgehive.edgesite.definitions import kubeedge_definitions
from edgehive.kube.client import Client
from edgehive.kube.errors import Forbidden, NotFound
from edgehive.kube.server.app import ServerOptions
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime

MODEL = {
    "protocol": "modbus",
    "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "100"}],
}


def device_spec(node: str = "n1", desired: str = "20", model: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "nodeName": node,
        "deviceModelRef": {"name": model},
        "protocol": {"protocolName": "modbus"},
        "properties": [{"name": "t", "desired": {"value": desired}, "reportToCloud": True}],
    } | more


async def make_model(client: Client, name: str = "m", namespace: str = "default", **spec: Any) -> Document:
    return await client.create(DEVICE_MODELS, {"metadata": {"name": name}, "spec": MODEL | spec}, namespace)


async def make_device(
    client: Client, name: str = "d", namespace: str = "default", labels: dict[str, str] | None = None, **spec: Any
) -> Document:
    body = {"metadata": {"name": name, "labels": labels or {}}, "spec": device_spec(**spec)}
    return await client.create(DEVICES, body, namespace)


async def membership(edge: ScriptedEdge, *, removed: bool = False) -> Any:
    """The next membership notice of that kind: its one device."""
    key = "removed_devices" if removed else "added_devices"
    wanted = lambda m: m.route.resource == "membership" and content_of(m)[key]  # noqa: E731
    return content_of(await edge.expect(wanted))[key][0]


def told(edge: ScriptedEdge) -> list[tuple[str, str]]:
    """Everything about devices so far: operation and resource."""
    kinds = ("membership", "/device/", "/devicemodel/")
    found = [message.route for message in edge.received if not message.header.parent_id]
    return [(r.operation, r.resource) for r in found if any(kind in r.resource for kind in kinds)]


async def settled(edge: ScriptedEdge, seconds: float = 2.0) -> list[tuple[str, str]]:
    await asyncio.sleep(seconds)
    return told(edge)


async def condition(client: Client, type: str, name: str = "d", namespace: str = "default") -> Any:
    """The condition of a device once things have settled; None when there is none."""
    await asyncio.sleep(8)
    device = (await client.get(DEVICES, name, namespace)).to_dict()
    return next((one for one in device.get("status", {}).get("conditions", ()) if one["type"] == type), None)


# DC1


async def test_dc1_a_device_is_told_with_membership_first_then_its_model_then_itself() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        model = await make_model(it.client)
        device = await make_device(it.client, labels={"description": "hall"})
        await edge.expect_object("default/device/d")
        assert told(edge) == [
            ("update", "membership"),
            ("insert", "default/devicemodel/m"),
            ("insert", "default/device/d"),
        ]
        first, second, third = [m for m in edge.received if m.route.source == "devicecontroller"]
        assert first.route.group == "twin"
        assert content_of(first)["added_devices"] == [{"id": "default/d", "name": "d", "description": "hall"}]
        assert content_of(first)["removed_devices"] is None
        assert second.route.group == third.route.group == "resource"
        assert content_of(second)["spec"] == model.to_dict()["spec"]
        assert content_of(third)["spec"] == device.to_dict()["spec"]
        assert content_of(third)["apiVersion"] == "devices.kubeedge.io/v1beta1"
        assert third.header.resourceversion == content_of(third)["metadata"]["resourceVersion"]


async def test_dc1_a_status_is_made_that_the_device_owns() -> None:
    async with cloud() as it:
        device = await make_device(it.client, node="")
        await asyncio.sleep(1)
        status = (await it.client.get(DEVICE_STATUSES, "d", "default")).to_dict()
        assert status["metadata"]["ownerReferences"] == [
            {
                "apiVersion": "devices.kubeedge.io/v1beta1",
                "kind": "Device",
                "name": "d",
                "uid": device.meta.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]


async def test_dc1_the_second_device_of_a_model_comes_without_the_model() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        await settled(edge)
        await make_device(it.client, "d2")
        assert (await settled(edge))[3:] == [("update", "membership"), ("insert", "default/device/d2")]


async def test_a_delivery_is_recorded_like_that_of_any_object() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        device = await make_device(it.client)
        await settled(edge, 5)
        record = await it.client.get(OBJECT_SYNCS, f"n1.{device.meta.uid}", "default")
        assert record.to_dict()["spec"]["objectKind"] == "Device"
        # What cloudcore itself says on the device since is no news for the node.
        current = await it.client.get(DEVICES, "d", "default")
        assert record.to_dict()["status"]["objectResourceVersion"] == current.meta.resource_version


# DC2


async def test_dc2_a_moved_device_leaves_one_node_and_comes_to_the_other() -> None:
    async with cloud() as it:
        a, b = await it.edge("n1"), await it.edge("n2")
        await make_model(it.client)
        await make_device(it.client)
        await a.expect_object("default/device/d")
        await it.client.patch(DEVICES, "d", {"spec": {"nodeName": "n2"}}, "default")
        await b.expect_object("default/device/d", "insert")
        assert (await settled(a))[3:] == [
            ("update", "membership"),
            ("delete", "default/devicemodel/m"),
            ("delete", "default/device/d"),
        ]
        assert told(b) == [
            ("update", "membership"),
            ("insert", "default/devicemodel/m"),
            ("insert", "default/device/d"),
        ]
        assert (await membership(a, removed=True))["id"] == "default/d"


async def test_dc2_a_device_that_moved_while_its_node_was_away_is_deleted_there() -> None:
    async with cloud() as it:
        a, b = await it.edge("n1"), await it.edge("n2")
        await make_model(it.client)
        await make_device(it.client)
        await a.expect_object("default/device/d")
        await settled(a)
        await a.close()
        await it.client.patch(DEVICES, "d", {"spec": {"nodeName": "n2"}}, "default")
        await b.expect_object("default/device/d", "insert")
        a = await it.edge("n1", register=False)
        gone = await a.expect_object("default/device/d")
        assert (gone.route.source, gone.route.operation) == ("devicecontroller", "delete")
        assert (await a.expect_object("default/devicemodel/m")).route.operation == "delete"
        # Its mapper is found by the protocol.
        assert content_of(gone)["spec"]["protocol"] == {"protocolName": "modbus"}


async def test_dc2_a_device_that_comes_back_at_once_is_there_in_the_end() -> None:
    async with cloud() as it:
        a, _ = await it.edge("n1"), await it.edge("n2")
        await make_model(it.client)
        await make_device(it.client)
        await settled(a)
        a.acknowledge = False
        await it.client.patch(DEVICES, "d", {"spec": {"nodeName": "n2"}}, "default")
        await asyncio.sleep(0.5)
        await it.client.patch(DEVICES, "d", {"spec": {"nodeName": "n1"}}, "default")
        await asyncio.sleep(0.5)
        a.acknowledge = True
        await a.expect_object("default/devicemodel/m", "delete")
        await a.expect_object("default/device/d", "delete")
        assert (await settled(a, 20))[-2:] == [("insert", "default/devicemodel/m"), ("insert", "default/device/d")]


# DC3


async def test_dc3_a_changed_desired_value_is_told_within_a_second() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        await edge.expect_object("default/device/d")
        await settled(edge)
        await it.client.patch(DEVICES, "d", {"spec": device_spec(desired="21")}, "default")
        async with asyncio.timeout(1):
            message = await edge.expect_object("default/device/d", "update")
        assert content_of(message)["spec"]["properties"][0]["desired"]["value"] == "21"
        assert (await settled(edge))[3:] == [("update", "default/device/d")]


async def test_what_says_nothing_to_a_node_is_not_sent() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        before = await settled(edge, 10)
        await it.client.patch(DEVICES, "d", {"metadata": {"labels": {"zone": "z"}}}, "default")
        await it.client.patch(DEVICE_MODELS, "m", {"metadata": {"labels": {"zone": "z"}}}, "default")
        assert await settled(edge, 70) == before


async def test_a_changed_description_is_told() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client, labels={"description": "hall"})
        before = len(await settled(edge))
        await it.client.patch(DEVICES, "d", {"metadata": {"labels": {"description": "attic"}}}, "default")
        assert (await settled(edge))[before:] == [("update", "membership"), ("update", "default/device/d")]
        notices = [content_of(m) for m in edge.received if m.route.resource == "membership"]
        # A Go edge that knows the device complains on MQTT about one without twins.
        assert notices[-1]["added_devices"] == [{"id": "default/d", "name": "d", "description": "attic", "twin": {}}]


# DC5


async def test_dc5_a_deleted_device_takes_its_model_along_when_it_is_the_last() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        devices = [await make_device(it.client, name) for name in ("d1", "d2")]
        before = len(await settled(edge))
        for name in ("d1", "d2"):
            await it.client.delete(DEVICES, name, "default")
            await settled(edge)
        assert told(edge)[before:] == [
            ("update", "membership"),
            ("delete", "default/device/d1"),
            ("update", "membership"),
            ("delete", "default/devicemodel/m"),
            ("delete", "default/device/d2"),
        ]
        records = {item.meta.name for item in (await it.client.list(OBJECT_SYNCS)).items}
        assert not {f"n1.{device.meta.uid}" for device in devices} & records


async def test_b5_what_was_deleted_while_the_node_was_away_is_told_when_it_returns() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        await settled(edge)
        await edge.close()
        await it.client.delete(DEVICES, "d", "default")
        await it.client.delete(DEVICE_MODELS, "m", "default")
        await asyncio.sleep(5)
        edge = await it.edge("n1", register=False)
        for resource in ("default/device/d", "default/devicemodel/m"):
            gone = await edge.expect_object(resource)
            assert (gone.route.source, gone.route.operation) == ("devicecontroller", "delete")
        question = await edge.send("get", "membership/detail", "{}", source="twin")
        assert await members(edge, question) == []


async def test_a_device_replaced_at_once_has_its_model_in_the_end() -> None:
    """The model went with the last device of it; a deletion under way is never overtaken."""
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        await settled(edge)
        edge.acknowledge = False
        await it.client.delete(DEVICES, "d", "default")
        await asyncio.sleep(0.5)
        await make_device(it.client)
        await asyncio.sleep(0.5)
        edge.acknowledge = True
        assert (await settled(edge, 20))[-2:] == [("insert", "default/devicemodel/m"), ("insert", "default/device/d")]


# B5: what happened while the node was away


@pytest.mark.parametrize("registered", [True, False], ids=["away", "never seen"])
async def test_b5_what_was_created_while_the_node_was_away_comes_from_devicecontroller(registered: bool) -> None:
    async with cloud() as it:
        if registered:
            edge = await it.edge("n1")
            await edge.close()
        await make_model(it.client)
        await make_device(it.client, labels={"description": "hall"})
        await asyncio.sleep(5)
        edge = await it.edge("n1")
        question = await edge.send("get", "membership/detail", "{}", source="twin")
        assert await members(edge, question) == [{"id": "default/d", "name": "d", "description": "hall", "twin": {}}]
        model = await edge.expect_object("default/devicemodel/m")
        device = await edge.expect_object("default/device/d")
        for message in (model, device):
            assert (message.route.source, message.route.operation) == ("devicecontroller", "insert")
        assert edge.received.index(model) < edge.received.index(device)


async def test_b5_what_was_changed_while_the_node_was_away_comes_from_devicecontroller() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client)
        await settled(edge)
        await edge.close()
        await it.client.patch(DEVICES, "d", {"spec": device_spec(desired="30")}, "default")
        await it.client.patch(DEVICE_MODELS, "m", {"spec": {"protocol": "opcua"}}, "default")
        edge = await it.edge("n1", register=False)
        device = await edge.expect_object("default/device/d")
        assert (device.route.source, device.route.operation) == ("devicecontroller", "update")
        assert content_of(device)["spec"]["properties"][0]["desired"]["value"] == "30"
        model = await edge.expect_object("default/devicemodel/m")
        assert content_of(model)["spec"]["protocol"] == "opcua"


# DC6


async def test_dc6_a_change_of_the_model_alone_reaches_every_node_that_has_a_device_of_it() -> None:
    async with cloud() as it:
        a, b, c = [await it.edge(node) for node in ("n1", "n2", "n3")]
        await make_model(it.client)
        await make_device(it.client, "d1")
        await make_device(it.client, "d2", node="n2")
        await settled(a)
        await it.client.patch(DEVICE_MODELS, "m", {"spec": {"protocol": "opcua"}}, "default")
        for edge in (a, b):
            message = await edge.expect_object("default/devicemodel/m", "update")
            assert message.route.source == "devicecontroller"
            assert content_of(message)["spec"]["protocol"] == "opcua"
        assert await settled(c) == []


async def test_dc6_another_model_comes_before_the_device_and_the_old_one_goes() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_model(it.client, "m2")
        await make_device(it.client)
        before = len(await settled(edge))
        await it.client.patch(DEVICES, "d", {"spec": {"deviceModelRef": {"name": "m2"}}}, "default")
        assert (await settled(edge))[before:] == [
            ("insert", "default/devicemodel/m2"),
            ("update", "default/device/d"),
            ("delete", "default/devicemodel/m"),
        ]


# DC7


async def test_dc7_devices_of_one_name_in_two_namespaces_do_not_collide() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.client.create(NAMESPACES, {"metadata": {"name": "other"}})
        for namespace, desired in (("default", "1"), ("other", "2")):
            await make_model(it.client, namespace=namespace)
            await make_device(it.client, namespace=namespace, desired=desired)
        for namespace, desired in (("default", "1"), ("other", "2")):
            message = await edge.expect_object(f"{namespace}/device/d")
            assert content_of(message)["spec"]["properties"][0]["desired"]["value"] == desired
        await it.client.delete(DEVICES, "d", "other")
        assert (await membership(edge, removed=True))["id"] == "other/d"
        await edge.expect_object("other/device/d", "delete")
        assert ("delete", "default/device/d") not in await settled(edge)


# Bad input


async def test_a_device_waits_for_a_model_that_is_missing_and_says_so() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_device(it.client)
        await make_device(it.client, "good", model="")
        found = await condition(it.client, "Accepted")
        assert (found["status"], found["reason"]) == ("False", "ModelNotFound")
        assert "default/m does not exist" in found["message"]
        assert ("insert", "default/device/good") in told(edge)
        assert ("insert", "default/device/d") not in told(edge)
        await make_model(it.client)
        await edge.expect_object("default/device/d")
        assert told(edge)[-2:] == [("insert", "default/devicemodel/m"), ("insert", "default/device/d")]
        assert (await condition(it.client, "Accepted"))["status"] == "True"
        assert "ModelNotFound" in [reason for reason, _ in await events(it)]


async def test_a_model_that_cannot_be_read_is_said_on_its_devices_and_the_rest_goes_on() -> None:
    """One of v1alpha2, as v1beta1 shows it."""
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client, "old", properties=[{"name": "t", "type": {"int": {"accessMode": "ReadOnly"}}}])
        await make_device(it.client, model="old")
        await edge.expect_object("default/device/d")
        found = await condition(it.client, "Accepted")
        assert (found["status"], found["reason"]) == ("False", "ModelUnreadable")
        assert "write it as devices.kubeedge.io/v1beta1" in found["message"]


async def test_a_device_without_a_node_or_of_an_unknown_one_says_so() -> None:
    async with cloud() as it:
        await make_model(it.client)
        await make_device(it.client, node="")
        assert (await condition(it.client, "Accepted"))["reason"] == "NoNode"
        await it.client.patch(DEVICES, "d", {"spec": {"nodeName": "n9"}}, "default")
        assert (await condition(it.client, "Accepted"))["reason"] == "NodeNotFound"
        assert [item.meta.name for item in (await it.client.list(OBJECT_SYNCS)).items] == []
        edge = await it.edge("n9")
        await edge.expect_object("default/device/d")
        assert (await condition(it.client, "Accepted"))["reason"] == "Told"
        await it.client.delete(NODES, "n9")
        assert (await condition(it.client, "Accepted"))["reason"] == "NodeNotFound"


async def test_an_object_of_the_version_before_is_left_as_it_is_and_told_in_an_event() -> None:
    """Written through v1beta1 it would lose all that v1beta1 does not know."""
    older = ApiResource("devices.kubeedge.io", "v1alpha2", "Device", "devices", True)
    spec = {
        "deviceModelRef": {"name": "m"},
        "nodeSelector": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "", "operator": "In", "values": ["n1"]}]}]
        },
        "protocol": {"bluetooth": {"macAddress": "BC:6A:29:AE:CC:96"}},
        "propertyVisitors": [{"propertyName": "t", "collectCycle": 500}],
    }
    options = ServerOptions(definitions=kubeedge_definitions())
    async with cloud(cluster=Cluster(options=options)) as it:
        made = await it.client.create(older, {"metadata": {"name": "old"}, "spec": spec}, "default")
        assert await condition(it.client, "Accepted", "old") is None
        found = await it.client.get(older, "old", "default")
        assert (found.to_dict()["spec"], found.meta.resource_version) == (spec, made.meta.resource_version)
        assert [reason for reason, _ in await events(it)] == ["NoNode"]


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ([{"name": "t", "desired": {"value": "warm"}}], "'warm' is no INT"),
        ([{"name": "t", "desired": {"value": "101"}}], "above the maximum 100"),
        ([{"name": "t", "desired": {"value": "9" * 10_000_000}}], "10000000 characters"),
        ([{"name": "humidity"}], "not in device model 'm'"),
        ([{"name": "t"}, {"name": "t"}], "is there 2 times"),
        ([{"name": "温度"}], "has a name that edges refuse"),
    ],
    ids=["type", "range", "10 MB", "unknown", "twice", "unicode"],
)
async def test_a_property_that_makes_no_sense_is_said_and_the_device_goes_on(properties: Any, said: str) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client)
        await make_device(it.client, properties=properties)
        await edge.expect_object("default/device/d")
        found = await condition(it.client, "Accepted")
        assert (found["status"], found["reason"]) == ("False", "InvalidProperties")
        assert said in found["message"]
        assert any(reason == "InvalidProperties" and said in text for reason, text in await events(it))


async def test_a_name_with_dots_is_as_good_as_any() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await make_model(it.client, "m.v1")
        await make_device(it.client, "press.4.hall", model="m.v1")
        await edge.expect_object("default/device/press.4.hall")
        await edge.send("update", "device/default/press.4.hall/twin/edge_updated", {"twin": {}}, source="twin")
        await edge.expect(lambda m: m.route.resource == "twin")


# DC10


async def test_dc10_a_device_of_more_than_a_mebibyte_and_a_list_of_thousands_arrive_whole() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        config = {"protocolName": "modbus", "configData": {"table": "x" * 1_200_000}}
        await make_device(it.client, model="", protocol=config)
        message = await edge.expect_object("default/device/d")
        assert len(content_of(message)["spec"]["protocol"]["configData"]["table"]) == 1_200_000
        for number in range(300):
            await make_device(it.client, f"d{number}", model="", labels={"description": "x" * 60})
        await asyncio.sleep(5)
        question = await edge.send("get", "membership/detail", "{}", source="twin")
        assert len(await members(edge, question)) == 301


# Helpers that look at what came


async def members(edge: ScriptedEdge, question: Message) -> Any:
    """The full list that follows a question, and its confirmation."""
    confirmed = await edge.expect(lambda m: m.header.parent_id == question.id)
    assert (confirmed.route.resource, content_of(confirmed)) == ("twin", "OK")
    detail = await edge.expect(lambda m: m.route.resource == "membership/detail")
    assert not detail.header.parent_id
    return content_of(detail)["devices"]


async def events(it: Cloud) -> list[tuple[str, str]]:
    listed = [item.to_dict() for item in (await it.client.list(EVENTS)).items]
    return [(event["reason"], event["message"]) for event in listed if event["involvedObject"]["kind"] == "Device"]


class _WithoutDevices:
    """A cluster that has no device kinds and lets nobody define them."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __getattr__(self, verb: str) -> Any:
        real = getattr(self._client, verb)
        if verb not in ("get", "list", "create"):
            return real

        async def ask(resource: Any, *args: Any, **more: Any) -> Any:
            if resource in (DEVICES, DEVICE_MODELS, DEVICE_STATUSES):
                raise NotFound("the server could not find the requested resource")
            if resource is CUSTOM_RESOURCE_DEFINITIONS:
                raise Forbidden("definitions are not yours")
            return await real(resource, *args, **more)

        return ask


async def test_a_cluster_without_the_kinds_of_devices_is_served_as_before() -> None:
    async with Cluster() as cluster, cloud(cluster=cluster, client=_WithoutDevices(cluster.client())) as it:
        edge = await it.edge("n1")
        await edge.close()
        await it.pod("web", "n1")
        edge = await it.edge("n1", register=False)
        await edge.expect_object("default/pod/web")
