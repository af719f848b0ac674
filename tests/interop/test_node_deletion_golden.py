"""A Go edge whose node is deleted and which registers again, as recorded (golden 27, 28), before our cloud."""

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import CLUSTER_OBJECT_SYNCS, LEASES, NODES, OBJECT_SYNCS, PODS
from edgehive.beehive.message import Message
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of
from edgehive.wire.codec import decode
from edgehive.wire.names import CloudModule, Operation
from edgehive.wire.payloads import is_empty

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
DELETION = SHARED / "golden" / "27-node-deletion.jsonl"
REGISTRATION = SHARED / "golden" / "28-node-registration-again.jsonl"
NODE = "goedge"
#: As in the recording: authorization on, debug off.
STRICT = msgspec.convert({"modules": {"cloudHub": {"authorization": {"enable": True, "debug": False}}}}, CloudCore)

pytestmark = [
    pytest.mark.looptime,
    pytest.mark.skipif(not DELETION.exists(), reason="no recorded traffic (EDGEHIVE_SHARED names its parent)"),
]


def recorded(file: Path, direction: str) -> list[Message]:
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return [
        decode(entry["message"]["text"].encode())
        for entry in entries
        if entry["direction"] == direction and "text" in entry["message"]
    ]


async def until_gone(it: Cloud) -> None:
    async with asyncio.timeout(30):
        for resource in (OBJECT_SYNCS, CLUSTER_OBJECT_SYNCS):
            while (await it.client.list(resource)).items:
                await asyncio.sleep(0.1)


async def test_a_deleted_node_is_let_go_and_may_come_back_unregistered() -> None:
    """[golden 27] No deletion is written; the session and the records end; a new session is held."""
    async with cloud(STRICT) as it:
        edge = await it.edge(NODE)
        await it.pod("web", NODE)
        await edge.expect_object("default/pod/web")
        await asyncio.sleep(2)
        await it.client.delete(PODS, "web", "default", grace_period_seconds=0)
        await it.client.delete(NODES, NODE)
        await asyncio.wait_for(edge.closed.wait(), 20)
        assert "delete" not in edge.pushed(f"null/node/{NODE}")
        await until_gone(it)

        again = await it.edge(NODE, register=False)
        for message in recorded(DELETION, "edge->cloud"):
            await again.link.send(message)
        assert is_empty(recorded(DELETION, "edge->cloud")[-1])
        await asyncio.sleep(10)
        assert not again.closed.is_set()
        # It asks for its devices, and has none; a Go cloud does not answer that.
        assert {message.route.source for message in again.received} == {CloudModule.DEVICE_CONTROLLER}
        detail = next(it for it in again.received if it.route.resource == "membership/detail")
        assert not content_of(detail)["devices"]
        await until_gone(it)


async def test_it_registers_again_as_recorded() -> None:
    """[43, 44, 45, 46, 47; golden 28] Each request is answered in the recorded envelope, the node is told of itself."""
    async with cloud(STRICT) as it:
        said = await with_our_uids(it, recorded(REGISTRATION, "edge->cloud"))
        answers = {m.header.parent_id: m for m in recorded(REGISTRATION, "cloud->edge") if m.header.parent_id}
        edge = await it.edge(NODE, register=False)
        for spoken in said:
            message = await with_our_lease(it, spoken)
            await edge.link.send(message)
            if message.id in answers:
                await compare(edge, message, answers[message.id])
        node = await it.client.get(NODES, NODE)
        assert (node.meta.labels or {})["node-role.kubernetes.io/edge"] == ""
        assert "cloudcore" in (node.meta.annotations or {})
        await it.client.get(LEASES, NODE, "kube-node-lease")
        assert edge.pushed(f"null/node/{NODE}")[:1] == ["update"]
        # Its pods, bound to it all the time, are its own again.
        for pod in (await it.client.list(PODS)).items:
            assert edge.pushed(f"default/pod/{pod.meta.name}")
            assert await recorded_version(it, pod.meta.uid)


async def with_our_uids(it: Cloud, said: list[Message]) -> list[Message]:
    """The messages with the uids of the pods of this API, which are made here."""
    uids: dict[str, str] = {}
    for message in said:
        found = re.search(rb'uid\\": *\\"([^\\]+)\\"', bytes(message.content))
        name = message.route.resource.removeprefix("default/podpatch/")
        if found and name != message.route.resource and found[1].decode() not in uids:
            uids[found[1].decode()] = (await it.pod(name, NODE)).meta.uid
    assert len(uids) == 2
    return [Message(m.header, m.route, msgspec.Raw(replaced(bytes(m.content), uids))) for m in said]


async def with_our_lease(it: Cloud, message: Message) -> Message:
    """An update of the lease names the life and version of the one that was answered before."""
    if message.route.operation != Operation.UPDATE or "/lease/" not in message.route.resource:
        return message
    meta = (await it.client.get(LEASES, NODE, "kube-node-lease")).meta
    lease = content_of(message)
    lease["metadata"] |= {"uid": meta.uid, "resourceVersion": meta.resource_version}
    return Message(message.header, message.route, msgspec.Raw(msgspec.json.encode(lease)))


def replaced(content: bytes, uids: dict[str, str]) -> bytes:
    for old, new in uids.items():
        content = content.replace(old.encode(), new.encode())
    return content


async def compare(edge: ScriptedEdge, asked: Message, expected: Message) -> None:
    answer = await edge.expect(lambda message: message.header.parent_id == asked.id)
    assert answer.route == expected.route
    ours, theirs = content_of(answer), content_of(expected)
    assert set(ours) == set(theirs)
    assert (ours["Err"] is None) == (theirs["Err"] is None), asked.route
    assert (ours["Object"] is None) == (theirs["Object"] is None), asked.route
    if ours["Err"] is not None:
        for key in ("status", "reason", "code"):
            assert ours["Err"]["ErrStatus"][key] == theirs["Err"]["ErrStatus"][key]
    assert bool(answer.header.resourceversion) == bool(expected.header.resourceversion), asked.route
    assert answer.route.operation == Operation.RESPONSE


async def recorded_version(it: Cloud, uid: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            try:
                sync = (await it.client.get(OBJECT_SYNCS, f"{NODE}.{uid}", "default")).to_dict()
            except NotFound:
                sync = {}
            if version := (sync.get("status") or {}).get("objectResourceVersion"):
                return version
            await asyncio.sleep(0.1)
