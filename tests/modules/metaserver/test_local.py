"""What an application of a node reads and writes at MetaServer while the cloud is away."""

import asyncio
import gc
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from metaserver_rig import NODE, Site, device, model

from edgehive.api.registry import DEVICE_MODELS, DEVICES, NODES, PODS, SECRETS, SERVICES
from edgehive.edgecore.metamanager import edge_writes
from edgehive.edgecore.metamanager.metaserver import WATCH_LIMIT, NotServed, address
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import EventType, PatchType
from edgehive.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    TooManyRequests,
    Unreachable,
)

Start = Callable[[], AbstractAsyncContextManager[Site]]


def pod(name: str, version: int = 3) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "resourceVersion": str(version), "labels": {"app": name},
        },
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
    }  # fmt: skip


def desired(obj: dict[str, Any]) -> str:
    return str(obj["spec"]["properties"][0]["desired"]["value"])


async def test_lists_what_the_node_holds(site: Site) -> None:
    await site.push(pod("a"), source="edgecontroller")
    await site.push(pod("b"), source="edgecontroller")
    await site.push(model())
    await site.push(device())
    assert [item.meta.name for item in (await site.client.list(PODS)).items] == ["a", "b"]
    chosen = await site.client.list(PODS, label_selector="app=b")
    assert [item.meta.name for item in chosen.items] == ["b"]
    chosen = await site.client.list(PODS, field_selector="metadata.name=a")
    assert [item.meta.name for item in chosen.items] == ["a"]
    assert [item.meta.name for item in (await site.client.list(DEVICES, "default")).items] == ["d"]
    assert (await site.client.get(DEVICE_MODELS, "m", "default")).meta.uid == "m1"


async def test_shows_it_again_after_a_restart(start: Start) -> None:
    async with start() as site:
        await site.push(device())
    async with start() as site:
        assert desired(await site.device()) == "20"


async def test_shows_how_a_pod_is_while_the_cloud_does_not_know(start: Start) -> None:
    async def phase(site: Site) -> str:
        return str((await site.client.get(PODS, "a", "default")).to_dict()["status"]["phase"])

    async with start() as site:
        await site.push(pod("a"), source="edgecontroller")
        patch = b'{"status": {"phase": "Running"}}'
        with pytest.raises(Unreachable):
            await site.own.patch(PODS, "a", patch, "default", type=PatchType.STRATEGIC, subresource="status")
        assert await phase(site) == "Running"
    async with start() as site:
        assert await phase(site) == "Running"


async def test_says_that_it_does_not_hold_something(site: Site) -> None:
    with pytest.raises(NotFound, match=r"node edge-1 holds no services: .* ask the API server in the cloud"):
        await site.client.list(SERVICES, "default")
    with pytest.raises(NotFound, match="not found on node edge-1; the cloud was not asked"):
        await site.client.get(SECRETS, "s", "default")
    async with aiohttp.ClientSession() as session, session.get(f"{site.url}/api/v1/secrets") as answer:
        assert answer.status == 200
        assert "holds no such secrets; there may be some in the cloud" in answer.headers["Warning"]


async def test_what_is_not_written_here_is_said(site: Site) -> None:
    await site.push(pod("a"), source="edgecontroller")
    with pytest.raises(MethodNotAllowed):
        await site.client.delete(PODS, "a", "default")
    with pytest.raises(MethodNotAllowed):
        await site.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "x"}})


async def test_a_watch_sees_changes_of_the_cloud_and_of_the_edge(site: Site) -> None:
    await site.push(model())
    await site.push(device())
    seen = []
    async with asyncio.timeout(10):
        async for event in site.client.watch(DEVICES, "default", resource_version="0"):
            seen.append((event.type, desired(event.object.to_dict())))
            if len(seen) == 1:
                await site.push(device(11, properties=[{"name": "t", "desired": {"value": "21"}}]), "update")
            elif len(seen) == 2:
                await site.client.patch(
                    DEVICES, "d", [{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "22"}],
                    "default", type=PatchType.JSON,
                )  # fmt: skip
            elif len(seen) == 3:
                await site.client.delete(DEVICES, "d", "default")
            else:
                break
    assert seen == [
        (EventType.ADDED, "20"), (EventType.MODIFIED, "21"), (EventType.MODIFIED, "22"), (EventType.DELETED, "22"),
    ]  # fmt: skip


def _connections() -> int:
    """Connections of which something is still in memory."""
    gc.collect()
    return sum(isinstance(one, web.RequestHandler) for one in gc.get_objects())


async def test_watches_are_bounded_and_leave_nothing_behind(site: Site) -> None:
    await site.push(device())

    async def once() -> None:
        async for _ in site.client.watch(DEVICES, "default", resource_version="0"):
            return

    for _ in range(3):
        await asyncio.gather(*(once() for _ in range(20)))
    store = site.manager._shown
    assert store is not None
    async with asyncio.timeout(10):
        while store._objects._logs["devices.devices.kubeedge.io"].watches:
            await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        while _connections() > 5:
            await asyncio.sleep(0.05)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        url = f"{site.url}/apis/devices.kubeedge.io/v1beta1/devices?watch=true"
        open_ones = [await session.get(url) for _ in range(WATCH_LIMIT)]
        refused = await session.get(url)
        assert refused.status == TooManyRequests.code
        for answer in (*open_ones, refused):
            answer.close()


async def test_a_desired_value_is_set_and_survives_a_restart(start: Start) -> None:
    async with start() as site:
        await site.push(model())
        await site.push(device())
        await site.merge(DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "25"}}]}})
        assert desired(await site.device()) == "25"
    async with start() as site:
        async with asyncio.timeout(10):
            while desired(await site.device()) != "25":
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("deleted", [True, False])
async def test_a_device_that_is_made_anew_in_the_cloud_shows_nothing_of_its_earlier_life(
    site: Site, deleted: bool
) -> None:
    async def shows(value: str) -> None:
        async with asyncio.timeout(10):
            while desired(await site.device()) != value:
                await asyncio.sleep(0.01)

    await site.push(model())
    await site.push(device())
    await site.merge(DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "25"}}]}})
    if deleted:
        await site.push(device(11), "delete")
    await site.push(device(12, "u2"))
    await shows("20")
    await site.publish("$hw/events/device/default/d/twin/update", {"twin": {"t": {"expected": {"value": "25"}}}})
    await shows("25")


async def test_a_value_of_another_type_is_refused(site: Site) -> None:
    await site.push(model())
    await site.push(device())
    with pytest.raises(BadRequest, match="'hot' is no INT"):
        await site.merge(DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "hot"}}]}})
    assert desired(await site.device()) == "20"


async def test_a_model_of_an_older_version_forbids_no_value(site: Site) -> None:
    old = model()
    old["apiVersion"] = "devices.kubeedge.io/v1alpha2"
    old["spec"] = {"properties": [{"name": "t", "type": {"int": {"accessMode": "ReadWrite", "maximum": 30}}}]}
    await site.push(old)
    await site.push(device())
    await site.merge(DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "25"}}]}})
    assert desired(await site.device()) == "25"


async def test_no_value_that_the_model_forbids_reaches_a_mapper(site: Site) -> None:
    described = model()
    described["spec"]["properties"][0] |= {"maximum": "30"}
    described["spec"]["properties"].append({"name": "fixed", "type": "INT", "accessMode": "ReadOnly"})
    await site.push(described)
    await site.push(device(properties=[{"name": "t", "desired": {"value": "20"}}, {"name": "fixed"}]))
    for index, value, text in ((0, "31", "'31' is above the maximum 30"), (1, "1", "'fixed' is ReadOnly in model 'm'")):
        listed = (await site.device())["spec"]["properties"]
        listed[index]["desired"] = {"value": value}
        with pytest.raises(BadRequest, match=text):
            await site.merge(DEVICES, "d", {"spec": {"properties": listed}})
    made = device(name="e", properties=[{"name": "t", "desired": {"value": "31"}}])
    del made["metadata"]["resourceVersion"]
    with pytest.raises(BadRequest, match="above the maximum"):
        await site.client.create(DEVICES, made, "default")
    assert desired(await site.device()) == "20"


async def test_web_pages_get_nothing(site: Site) -> None:
    async with aiohttp.ClientSession() as session:
        for headers in (
            {"Host": "evil.example:10550"}, {"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"},
        ):  # fmt: skip
            async with session.get(f"{site.url}/api/v1/pods", headers=headers) as answer:
                assert answer.status == Forbidden.code
                assert "no web pages" in await answer.text()
        port = site.url.rpartition(":")[2]
        async with session.get(f"{site.url}/api/v1/pods", headers={"Host": f"[::1]:{port}"}) as answer:
            assert answer.status == 200


async def test_under_a_go_cloud_definitions_stay_and_that_is_said(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(edge_writes, "KNOWN_SECONDS", 0.02)
    await site.push(device())
    await site.merge(DEVICES, "d", {"spec": {"protocol": {"configData": {"port": 2}}}})
    await site.connect()
    async with asyncio.timeout(10):
        while "this cloud takes no definitions from edges" not in caplog.text:
            await asyncio.sleep(0.01)
    told = []
    while len(site.hub):
        told.append((await site.hub.get()).route)
    assert [route for route in told if route.source == "metaserver"] == []
    assert (await site.device())["spec"]["protocol"]["configData"] == {"port": 2}


async def test_a_definition_is_changed_and_survives_a_restart(start: Start) -> None:
    async with start() as site:
        await site.push(model())
        await site.push(device())
        after = await site.merge(DEVICES, "d", {"spec": {"protocol": {"configData": {"port": 2}}}})
        assert after["spec"]["protocol"] == {"protocolName": "virtual", "configData": {"port": 2}}
        assert after["status"]["conditions"][0]["reason"] == "Pending"
    async with start() as site:
        found = await site.device()
        assert found["spec"]["protocol"]["configData"] == {"port": 2}
        # What the cloud changes elsewhere is taken beside it.
        await site.push(
            device(11, protocol={"protocolName": "virtual", "configData": {"port": 1}}, methods=[]), "update"
        )
        found = await site.device()
        assert found["spec"]["protocol"]["configData"] == {"port": 2}
        assert found["spec"]["methods"] == []


async def test_who_leaves_before_the_answer_leaves_nothing_half_done(start: Start) -> None:
    """An HTTP client that goes away cancels what it asked for, wherever that is just then."""
    async with start() as site:
        await site.push(model())
        await site.push(device())
        assert site.manager.local_api is not None
        local, told = site.manager.local_api.client(), site.bus.register("listening", "twin", size=10_000)
        for steps in range(60):
            patch = {"spec": {"protocol": {"configData": {"port": 2 + steps}}}}
            asked = spawn(local.patch(DEVICES, "d", patch, "default", type=PatchType.MERGE), name="who leaves")
            for _ in range(steps):
                await asyncio.sleep(0)
            await cancel_and_join(asked)
            async with site.manager._turn("default/device/d"):
                before = await site.device()
            kept = await site.manager._store.get("default/device/d")
            assert kept is not None
            assert kept.to_dict()["spec"] == before["spec"]
        heard = [await told.get() for _ in range(len(told))]
        assert heard[-1].read(dict)["spec"] == before["spec"]
    async with start() as site:
        assert (await site.device())["spec"] == before["spec"]


async def test_a_device_is_made_and_taken_away_again(site: Site) -> None:
    body = device()
    del body["metadata"]["uid"], body["metadata"]["resourceVersion"], body["spec"]["nodeName"]
    made = (await site.client.create(DEVICES, body, "default")).to_dict()
    assert made["spec"]["nodeName"] == NODE
    with pytest.raises(AlreadyExists):
        await site.client.create(DEVICES, body, "default")
    await site.client.delete(DEVICES, "d", "default")
    with pytest.raises(NotFound):
        await site.device()
    assert await site.manager._store.edits() == {}


async def test_what_is_the_clouds_is_refused_with_the_field(site: Site) -> None:
    await site.push(model())
    await site.push(device())
    refused: list[tuple[type[ApiError], str, dict[str, Any]]] = [
        (Forbidden, "spec.nodeName is written in the cloud only", {"spec": {"nodeName": "other"}}),
        (Forbidden, "status of a Device is written by cloudcore", {"status": {"x": 1}}),
        (Forbidden, "annotation edgehive.io/edge-owned-desired", {
            "metadata": {"annotations": {"edgehive.io/edge-owned-desired": "*"}}}),
        (Forbidden, "metadata.finalizers", {"metadata": {"finalizers": ["a/b"]}}),
        (BadRequest, "desired value of property 't' is taken away", {"spec": {"properties": [{"name": "t"}]}}),
        (BadRequest, "one without a name", {"spec": {"properties": [{"reportCycle": 1}]}}),
        (Invalid, "spec.protocol", {"spec": {"protocol": "text"}}),
        (Conflict, "the object has been modified", {"metadata": {"resourceVersion": "1"}, "spec": {"methods": []}}),
    ]  # fmt: skip
    for error, text, patch in refused:
        with pytest.raises(error, match=text):
            await site.merge(DEVICES, "d", patch)
    with pytest.raises(Forbidden, match="was not made at node edge-1 and may serve other nodes"):
        await site.client.delete(DEVICE_MODELS, "m", "default")
    elsewhere = device(name="e", node="other")
    del elsewhere["metadata"]["resourceVersion"]
    with pytest.raises(Forbidden, match=r"spec\.nodeName is 'other'"):
        await site.client.create(DEVICES, elsewhere, "default")


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": "text"}, {"spec": {"properties": 5}}, {"spec": {"properties": ["t"]}},
        {"spec": {"properties": [{"name": 5}]}}, {"spec": {"properties": [{"name": "t", "desired": "x"}]}},
        {"spec": {"deviceModelRef": "m"}}, {"spec": {"nodeName": 5}}, {"metadata": {"annotations": ["x"]}},
        {"metadata": {"annotations": {"x": 5}}}, {"metadata": {"labels": "x"}}, {"metadata": {"finalizers": "x"}},
        {"status": "x"}, {"metadata": {"name": "other"}},
    ],
    ids=str,
)  # fmt: skip
async def test_bad_input_is_one_sentence(site: Site, wrong: dict[str, Any]) -> None:
    await site.push(model())
    await site.push(device())
    body = device(name="new")
    del body["metadata"]["resourceVersion"], body["metadata"]["uid"]
    body["metadata"] |= wrong.get("metadata", {})
    body["spec"] = (
        body["spec"] | wrong["spec"] if isinstance(wrong.get("spec"), dict) else wrong.get("spec", body["spec"])
    )
    for request in (site.merge(DEVICES, "d", wrong), site.client.create(DEVICES, body, "default")):
        try:
            await request
        except ApiError as error:
            assert error.code < 500
            assert str(error)
    assert desired(await site.device()) == "20"


async def test_only_a_loopback_address_is_served() -> None:
    assert address("127.0.0.1:10550", authorized=False) == ("127.0.0.1", 10550)
    assert address("[::1]:10550", authorized=False) == ("::1", 10550)
    for server in ("0.0.0.0:10550", "10550", "edge.example:10550", "127.0.0.1:99999"):
        with pytest.raises(NotServed, match="MetaServer is not started"):
            address(server, authorized=False)
    with pytest.raises(NotServed, match="requireAuthorization"):
        address("127.0.0.1:10550", authorized=True)


@pytest.mark.kubectl
async def test_kubectl(site: Site, tmp_path: Any) -> None:
    await site.push(pod("a"), source="edgecontroller")
    await site.push(model())
    await site.push(device())

    async def kubectl(*words: str) -> tuple[str, str]:
        process = await asyncio.create_subprocess_exec(
            "kubectl", "--server", site.url, "--cache-dir", str(tmp_path), *words,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        out, err = await process.communicate()
        return out.decode(), err.decode()

    out, err = await kubectl("get", "pods", "-A")
    assert "default" in out, err
    out, err = await kubectl("get", "devices")
    assert out.split()[:4] == ["NAME", "NODE", "MODEL", "PROTOCOL"], err
    assert "edge-1" in out
    patch = '[{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "23"}]'
    out, err = await kubectl("patch", "device", "d", "--type=json", "-p", patch)
    assert "patched" in out, err
    assert desired(await site.device()) == "23"
    out, err = await kubectl("get", "device", "d", "-o", "jsonpath={.spec.properties[0].desired.value}")
    assert out == "23"
    out, err = await kubectl("get", "services")
    assert "the server doesn't have a resource type" in err
    out, err = await kubectl("delete", "device", "d")
    assert "deleted" in out, err
