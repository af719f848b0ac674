"""Each defect seen on the Go pair that concerns delivery (wire.md §15), and checklist rows both halves share."""

import asyncio
import sqlite3
from typing import Any

import pytest

from edgehive.api.registry import CONFIG_MAPS, DEVICES, EVENTS, OBJECT_SYNCS, PODS, SECRETS
from edgehive.beehive.message import Message
from edgehive.kube.client import PatchType
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import cloud, content_of
from edgehive.testing.pair import NODE, Pair
from edgehive.wire.link import Peer
from edgehive.wire.memory import pair as link_pair
from edgehive.wire.names import CLOUD_ONLY_SOURCES, Operation

pytestmark = pytest.mark.looptime

UNLUCKY = ("my-podlist", "membership", "membership-config", "serviceaccounttoken-x", "podlist", "twin")


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "localhost/busybox:1"}]
    return {"metadata": {"name": name}, "spec": {"nodeName": NODE, "containers": containers} | spec}


def reading_secret(name: str) -> dict[str, Any]:
    return {"volumes": [{"name": "v", "secret": {"secretName": name}}]}


async def test_b1_each_of_several_identical_queries_is_answered() -> None:
    """[78; B1] In Go the second answer replaces the first, whose pod then waits for a minute."""
    async with cloud() as it:
        await it.client.create(SECRETS, {"metadata": {"name": "s"}, "stringData": {"k": "v"}}, "default")
        edge = await it.edge("n1")
        await it.pod("web", "n1", **reading_secret("s"))
        await edge.expect_object("default/pod/web")
        asked = [await edge.send("query", "default/secret/s") for _ in range(10)]
        for question in asked:
            answer = await edge.expect(lambda m, id=question.id: m.header.parent_id == id, patience=1)
            assert content_of(answer)["metadata"]["name"] == "s"


async def test_b2_an_error_that_a_go_edge_stored_as_an_object_is_not_served() -> None:
    """[79; B2] A database that comes from Go holds such rows: they count as missing, on both sides."""
    async with Pair() as pair:
        await pair.settle(20)
        await pair.crash_edge()

        def poison(connection: sqlite3.Connection) -> None:
            error = '{"ErrStatus":{"metadata":{},"status":"Failure","reason":"NotFound","code":404}}'
            connection.execute(
                "INSERT INTO meta (key, type, value) VALUES ('default/configmap/cm', 'configmap', ?)", (error,)
            )

        await pair.database.write(poison)
        pair.plugged = False
        pair.start_edge()
        await asyncio.sleep(1)
        assert pair.edge is not None
        with pytest.raises(NotFound):
            await pair.edge.client.get(CONFIG_MAPS, "cm", "default")
        assert await pair.edge.store.all_of("configmap") == []
        await pair.client.create(CONFIG_MAPS, {"metadata": {"name": "cm"}, "data": {"k": "v"}}, "default")
        volumes = [{"name": "v", "configMap": {"name": "cm"}}]
        await pair.client.create(PODS, pod("web", volumes=volumes), "default")
        await pair.settle(40)
        assert await pair.difference() == []


async def test_b5_devices_that_changed_while_their_node_was_away_are_told_as_devices() -> None:
    """[80; B5] In devicecontroller's name, so that a Go edge hands them to its twin as well."""
    async with cloud() as it:
        device = {"metadata": {"name": "thermo", "namespace": "default"}, "spec": {"nodeName": "n1"}}
        edge = await it.edge("n1")
        await edge.close()
        await asyncio.sleep(1)
        await it.client.create(DEVICES, device, "default")
        edge = await it.edge("n1", register=False)
        message = await edge.expect_object("default/device/thermo")
        assert message.route.source == "devicecontroller"
        assert content_of(message)["kind"] == "Device"


@pytest.mark.parametrize("source", ["edgecontroller", "devicecontroller"])
async def test_b5_our_edge_tells_its_twin_of_a_device_whoever_sends_it(source: str) -> None:
    """[32, 80; B5] Also one without kind and apiVersion, as a Go synccontroller sends it."""
    async with Pair() as pair:
        await pair.settle(5)
        await pair.crash_cloud()
        await pair.crash_edge()
        here, there = link_pair(Peer(node=""), Peer(node=NODE), clock=pair.cluster.clock)
        pair.network.dial = lambda peer: _ready(here)  # type: ignore[method-assign, assignment, misc]
        pair.start_edge()
        assert pair.edge is not None
        twin = pair.edge.bus.register("twin", "twin")
        content = {"metadata": {"name": "d", "namespace": "default", "uid": "u", "resourceVersion": "7"}, "spec": {}}
        message = Message.of(
            source=source, group="resource", operation="update", resource="default/device/d", content=content,
            timestamp=1,
        )  # fmt: skip
        await there.send(message)
        while (told := await twin.get()).route.resource != "default/device/d":
            continue
        assert told.read(dict)["kind"] == "Device"
        while (ack := await there.receive()).header.parent_id != message.id:
            continue
        assert ack.content_bytes() == b"OK"
        await there.close()


async def _ready(value: Any) -> Any:
    return value


async def test_b6_reports_about_one_object_take_effect_in_the_order_they_came() -> None:
    """[82; B6] In Go they are processed side by side and the last word may be an old one."""
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        for number in range(50):
            await edge.send("patch", "default/podpatch/web", f'{{"status":{{"message":"{number}"}}}}')
        answers = [await edge.expect(lambda m: m.route.resource == "default/podpatch/web") for _ in range(50)]
        seen = [content_of(answer)["Object"]["status"]["message"] for answer in answers]
        assert seen == [str(number) for number in range(50)]
        assert (await it.client.get(PODS, "web", "default")).to_dict()["status"]["message"] == "49"


@pytest.mark.parametrize("name", UNLUCKY)
async def test_an_unlucky_name_is_delivered_like_any_other(name: str) -> None:
    """[76] Recorded, acknowledged, repeated when its acknowledgement is lost, and told once."""
    async with Pair() as pair:
        await pair.settle(20)
        pair.faults.lose_acks = 1
        await pair.client.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"k": "v"}}, "default")
        created = await pair.client.create(
            PODS, pod(name, volumes=[{"name": "v", "configMap": {"name": name}}]), "default"
        )
        await asyncio.sleep(20)
        assert await pair.difference() == []
        record = (await pair.client.get(OBJECT_SYNCS, f"{NODE}.{created.meta.uid}", "default")).to_dict()
        assert record["status"]["objectResourceVersion"] == created.meta.resource_version
        assert pair.edge is not None
        assert set(pair.edge.edged.told.values()) == {1}


async def test_what_a_go_cloud_sends_only_once_is_taken_the_first_time() -> None:
    """[76] It does not wait for an acknowledgement of such a name; one comes all the same and harms nobody."""
    async with Pair() as pair:
        await pair.settle(5)
        await pair.crash_cloud()
        await pair.crash_edge()
        here, there = link_pair(Peer(node=""), Peer(node=NODE), clock=pair.cluster.clock)
        pair.network.dial = lambda peer: _ready(here)  # type: ignore[method-assign, assignment, misc]
        pair.start_edge()
        content = pod("my-podlist") | {"kind": "Pod", "apiVersion": "v1"}
        content["metadata"] |= {"namespace": "default", "uid": "u", "resourceVersion": "7"}
        message = Message.of(
            source="edgecontroller", group="resource", operation="insert", resource="default/pod/my-podlist",
            content=content, timestamp=1,
        )  # fmt: skip
        await there.send(message)
        await asyncio.sleep(1)
        assert pair.edge is not None
        assert [row.meta.name for row in await pair.edge.store.all_of("pod")] == ["my-podlist"]
        assert set(pair.edge.edged.pods) == {"my-podlist"}
        await there.close()


async def test_our_edge_speaks_as_a_go_cloud_listens() -> None:
    """[25, 27, 33, 47] No node prefix, no source of the cloud's own but in acknowledgements, times in milliseconds."""
    async with Pair() as pair:
        await pair.settle(20)
        await pair.client.create(PODS, pod("web"), "default")
        await asyncio.sleep(5)
        assert pair.edge is not None
        event = {"metadata": {"name": "e", "namespace": "default"}, "involvedObject": {"kind": "Node", "name": NODE}}
        await pair.edge.client.create(EVENTS, event, "default")
        await pair.edge.client.patch(
            PODS, "web", b'{"status":{"phase":"Running"}}', "default", type=PatchType.STRATEGIC, subresource="status"
        )
        await asyncio.sleep(5)
        said = list(pair.faults.sent)
        assert {"insert", "patch", "query", "keepalive", "response"} <= {m.route.operation for m in said}
        for message in said:
            assert not message.route.resource.startswith("node/"), message
            assert isinstance(message.header.timestamp, int)
            assert message.header.timestamp > 10**12
            if message.route.operation != Operation.RESPONSE:
                assert message.route.source not in CLOUD_ONLY_SOURCES, message
        (patch,) = [m for m in said if m.route.resource == "default/podpatch/web"]
        assert bytes(patch.content).startswith(b'"{')
