"""What a node may write of Devices and DeviceModels (decision 0023), told by nodes that write too much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICES
from edgehive.beehive.message import Message
from edgehive.cloudcore.devicecontroller import edit_rules
from edgehive.cloudcore.devicecontroller.edge_edits import SIZE_LIMIT
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud
from edgehive.wire.device_edits import Edit
from edgehive.wire.payloads import read_reply

pytestmark = pytest.mark.looptime

Json = dict[str, Any]


def device(node: str = "n1", port: int = 1) -> Json:
    return {"nodeName": node, "protocol": {"protocolName": "p", "configData": {"port": port}}}


@asynccontextmanager
async def rig() -> AsyncIterator[tuple[Cloud, ScriptedEdge]]:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.edge("n2")
        await it.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": device()}, "default")
        await it.client.create(DEVICES, {"metadata": {"name": "foreign"}, "spec": device("n2")}, "default")
        await it.client.create(DEVICE_MODELS, {"metadata": {"name": "m"}, "spec": {"protocol": "p"}}, "default")
        await edge.expect_object("default/device/d")
        yield it, edge


async def say(edge: ScriptedEdge, content: Edit | Json, path: str = "default/device/d") -> Message:
    return await edge.request("patch", path, content, source="metaserver")


async def found(it: Cloud, name: str = "d") -> Json:
    return (await it.client.get(DEVICES, name, "default")).to_dict()


async def refusal(edge: ScriptedEdge, content: Edit | Json, path: str = "default/device/d") -> str:
    error = read_reply(await say(edge, content, path)).error
    assert error is not None
    return f"{error.code} {error.message}"


def wanted(before: Json | None, spec: Json, **metadata: Any) -> Json:
    return {**(before or {}), "metadata": {**((before or {}).get("metadata") or {}), **metadata}, "spec": spec}


async def test_an_edit_is_taken_and_answered_with_the_object() -> None:
    async with rig() as (it, edge):
        before = await found(it)
        answer = await say(edge, Edit(before["metadata"]["uid"], 1, before, wanted(before, device(port=2))))
        after = await found(it)
        assert after["spec"] == device(port=2)
        assert after["metadata"]["annotations"] == {"edgehive.io/edge-version": "1"}
        said = read_reply(answer).object
        assert said is not None
        assert said.meta.resource_version == answer.header.resourceversion != ""


async def test_an_edit_that_comes_again_late_changes_nothing() -> None:
    async with rig() as (it, edge):
        before = await found(it)
        edit = Edit(before["metadata"]["uid"], 1, before, wanted(before, device(port=2)))
        await say(edge, edit)
        await it.client.patch(DEVICES, "d", {"spec": device(port=1)}, "default")
        await say(edge, edit)
        assert (await found(it))["spec"] == device(port=1)


async def test_a_node_writes_only_devices_bound_to_it() -> None:
    async with rig() as (it, edge):
        before = await found(it, "foreign")
        uid, path = before["metadata"]["uid"], "default/device/foreign"
        steal = Edit(uid, 1, before, wanted(before, device("n1", 2)))
        assert "403 node n1 may not write Device default/foreign, which is bound to n2" in await refusal(
            edge, steal, path
        )
        assert "403 node n1 may not write" in await refusal(edge, Edit(uid, 1, before, None), path)
        given_away = Edit(uid, 1, before, wanted(before, device("n2", 2)))
        assert "403 node n1 may not give a Device to n2" in await refusal(edge, given_away, path)
        made = Edit("u", 1, None, wanted(None, device("n1", 2)))
        assert "409 Device default/foreign exists already and is bound to n2" in await refusal(edge, made, path)
        assert await found(it, "foreign") == before


@pytest.mark.parametrize("uid", ["its own", "another", ""])
async def test_no_edit_is_answered_with_an_object_of_another_node(uid: str) -> None:
    async with rig() as (it, edge):
        other = {"metadata": {"name": "other"}, "spec": {"protocol": "p"}}
        await it.client.create(DEVICE_MODELS, other, "default")
        for kind, path in ((DEVICES, "default/device/foreign"), (DEVICE_MODELS, "default/devicemodel/other")):
            name = path.rpartition("/")[2]
            now = (await it.client.get(kind, name, "default")).to_dict()
            named = now["metadata"]["uid"] if uid == "its own" else uid
            for number in (0, 1):
                bases: list[Json | None] = [{}, None]
                for base in bases:
                    reply = read_reply(await say(edge, Edit(named, number, base, None), path))
                    assert reply.object is None, (path, number, base)
            assert (await it.client.get(kind, name, "default")).to_dict() == now


async def test_an_edit_of_a_model_that_was_made_anew_is_answered_with_that_where_the_node_needs_it() -> None:
    async with rig() as (it, edge):
        spec = device() | {"deviceModelRef": {"name": "m"}}
        await it.client.patch(DEVICES, "d", {"spec": spec}, "default")
        await edge.keepalive()
        now = (await it.client.get(DEVICE_MODELS, "m", "default")).to_dict()
        earlier = wanted(now, {"protocol": "p"}, uid="earlier")
        edit = Edit("earlier", 1, earlier, wanted(earlier, {"protocol": "q"}))
        said = read_reply(await say(edge, edit, "default/devicemodel/m")).object
        assert said is not None
        assert said.to_dict()["spec"] == {"protocol": "p"}


async def test_a_node_gives_its_devices_away_to_nobody() -> None:
    async with rig() as (it, edge):
        before = await found(it)
        edit = Edit(before["metadata"]["uid"], 1, before, wanted(before, device("n2", 2)))
        assert "403 node n1 may not give a Device to n2" in await refusal(edge, edit)
        assert await found(it) == before


async def test_a_node_gives_itself_no_rights() -> None:
    async with rig() as (it, edge):
        before = await found(it)
        notes = {"edgehive.io/edge-owned-definition": "*", "note": "1"}
        owner = [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "1"}]
        local = wanted(before, device(port=2), annotations=notes, finalizers=["a/b"], ownerReferences=owner)
        await say(edge, Edit(before["metadata"]["uid"], 1, before, local))
        after = (await found(it))["metadata"]
        assert after["annotations"] == {"note": "1", "edgehive.io/edge-version": "1"}
        assert "finalizers" not in after
        assert "ownerReferences" not in after


async def test_models_of_the_cloud_are_not_a_nodes_to_write() -> None:
    async with rig() as (it, edge):
        before = (await it.client.get(DEVICE_MODELS, "m", "default")).to_dict()
        uid, path = before["metadata"]["uid"], "default/devicemodel/m"
        edit = Edit(uid, 1, before, wanted(before, {"protocol": "q"}))
        assert "403 node n1 may not write DeviceModel default/m" in await refusal(edge, edit, path)
        assert "403 node n1" in await refusal(edge, Edit(uid, 1, before, None), path)
        made = Edit("u", 1, None, wanted(None, {"protocol": "q"}))
        assert "409 DeviceModel default/m exists already" in await refusal(edge, made, path)


async def test_a_model_made_at_a_node_is_its_own_until_others_use_it() -> None:
    async with rig() as (it, edge):
        path = "default/devicemodel/own"
        await say(edge, Edit("u", 1, None, wanted(None, {"protocol": "q"})), path)
        made = (await it.client.get(DEVICE_MODELS, "own", "default")).to_dict()
        await say(edge, Edit(made["metadata"]["uid"], 2, made, wanted(made, {"protocol": "r"})), path)
        made = (await it.client.get(DEVICE_MODELS, "own", "default")).to_dict()
        assert made["spec"] == {"protocol": "r"}
        spec = device("n2") | {"deviceModelRef": {"name": "own"}}
        await it.client.patch(DEVICES, "foreign", {"spec": spec}, "default")
        await edge.keepalive()
        edit = Edit(made["metadata"]["uid"], 3, made, wanted(made, {"protocol": "s"}))
        assert "devices of other nodes have it" in await refusal(edge, edit, path)
        again = Edit(made["metadata"]["uid"], 2, made, wanted(made, {"protocol": "s"}))
        assert read_reply(await say(edge, again, path)).object is not None, "it is in the model already"


async def test_a_node_makes_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edit_rules, "DEVICE_LIMIT", 3)
    monkeypatch.setattr(edit_rules, "MODEL_LIMIT", 2)
    async with rig() as (it, edge):
        for number in range(2):
            for kind, spec in (("device", device()), ("devicemodel", {"protocol": "p"})):
                made = Edit(f"{kind}{number}", 1, None, wanted(None, spec))
                said = read_reply(await say(edge, made, f"default/{kind}/new{number}"))
                assert said.object is not None
            await edge.keepalive()
        one_more = Edit("u", 1, None, wanted(None, device()))
        assert "403 node n1 has 3 devices already" in await refusal(edge, one_more, "default/device/x")
        one_more = Edit("u", 1, None, wanted(None, {"protocol": "p"}))
        assert "403 2 models were made at node n1 already" in await refusal(edge, one_more, "default/devicemodel/x")
        assert len((await it.client.list(DEVICE_MODELS)).items) == 3


async def test_what_makes_no_sense_is_refused_and_the_rest_goes_on() -> None:
    async with rig() as (it, edge):
        for content in (
            {}, {"uid": 1}, {"uid": "u", "number": 1, "base": [], "local": {}}, {"uid": "u", "number": 1, "local": {}},
            {"uid": "u", "number": 1, "local": {"metadata": {}, "spec": {"nodeName": "n1", "properties": 5}}},
        ):  # fmt: skip
            assert read_reply(await say(edge, content)).error is not None
        assert "cannot be read" in await refusal(edge, {}, "default/pod/x")
        endless = Edit("u", 1, None, wanted(None, device() | {"methods": [{"name": "x" * SIZE_LIMIT}]}))
        assert f"413 an edit has at most {SIZE_LIMIT} bytes" in await refusal(edge, endless)
        before = await found(it)
        await say(edge, Edit(before["metadata"]["uid"], 2, before, wanted(before, device(port=3))))
        assert (await found(it))["spec"] == device(port=3)
