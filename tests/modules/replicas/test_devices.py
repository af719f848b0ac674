"""Devices with two cloudcores: the one that has the node tells it of its devices and writes down what it reports.

Issue 4, "Several cloudcores".
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES
from edgehive.beehive.message import Message
from edgehive.kube.client import PatchType
from edgehive.testing.cloud import ScriptedEdge
from edgehive.testing.replicas import Replicas, name_of, replicas

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def two_with_a_device(*, holder: int) -> AsyncIterator[tuple[Replicas, ScriptedEdge]]:
    """Node n1 at one of two cloudcores, with device `default/d` of one property."""
    async with replicas(2) as them:
        await asyncio.sleep(20)
        edge = await them.connect("n1", to=holder)
        model = {"metadata": {"name": "m"}, "spec": {"properties": [{"name": "t", "type": "INT"}]}}
        await them.client.create(DEVICE_MODELS, model, "default")
        spec = {"nodeName": "n1", "deviceModelRef": {"name": "m"}, "properties": [{"name": "t"}]}
        await them.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
        await edge.expect_object("default/device/d")
        await asyncio.sleep(10)
        yield them, edge


async def report(edge: ScriptedEdge, value: int) -> Message:
    twin = {
        "actual": {"value": str(value), "metadata": {"timestamp": 1000 * value}},
        "actual_version": {"cloud": 0, "edge": value},
    }
    resource = "device/default/d/twin/edge_updated"
    return await edge.send("update", resource, {"twin": {"t": twin}}, source="twin")


def is_confirmed(edge: ScriptedEdge, report: Message) -> bool:
    return any(message.header.parent_id == report.id for message in edge.received)


async def reported(them: Replicas) -> str:
    status: Any = (await them.client.get(DEVICE_STATUSES, "d", "default")).to_dict()["status"]
    value: str = status["twins"][0]["reported"]["value"]
    return value


def devices_told(edge: ScriptedEdge) -> list[str]:
    return [f"{operation} {path}" for path in ("default/devicemodel/m", "default/device/d")
            for operation in edge.pushed(path)]  # fmt: skip


def writers(them: Replicas) -> list[int]:
    """Which replica wrote a value, for each write."""
    return [write.replica for write in them.writes(kind="DeviceStatus", verb="patch")]


@pytest.mark.parametrize("holder", range(2))
async def test_a_device_reaches_its_node_once_and_its_report_is_written_once(holder: int) -> None:
    async with two_with_a_device(holder=holder) as (them, edge):
        sent = await report(edge, 26)
        for _ in range(10):
            await edge.keepalive()
            await asyncio.sleep(10)
        assert devices_told(edge) == ["insert default/devicemodel/m", "insert default/device/d"]
        assert sum("membership" in message.route.resource for message in edge.received) == 1
        assert is_confirmed(edge, sent)
        assert await reported(them) == "26"
        assert writers(them) == [holder]
        assert len(them.writes(kind="DeviceStatus", verb="create")) == 1
        assert them.repeated() == []


async def test_a_device_follows_its_node_and_is_not_told_again() -> None:
    async with two_with_a_device(holder=0) as (them, left):
        await left.close()
        edge = await them.connect("n1", to=1)
        await asyncio.sleep(10)
        sent = await report(edge, 27)
        await asyncio.sleep(10)
        assert is_confirmed(edge, sent)
        assert devices_told(edge) == []
        assert writers(them) == [1]
        desired = {"spec": {"properties": [{"name": "t", "desired": {"value": "5"}}]}}
        await edge.keepalive()
        await them.client.patch(DEVICES, "d", desired, "default")
        await asyncio.sleep(20)
        assert devices_told(edge) == ["update default/device/d"]


async def test_a_report_over_a_session_that_another_has_replaced_is_neither_written_nor_confirmed() -> None:
    async with two_with_a_device(holder=0) as (them, stale):
        gate = them.hold_up_nodes(1)
        edge = await them.connect("n1", to=1)
        sending = [await report(stale, 26)]
        await asyncio.sleep(1)
        gate.set()
        while (await them.claim("n1")).replica != name_of(1):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        marked = len(writers(them))
        for value in range(30, 60):
            if not stale.closed.is_set():
                sending.append(await report(stale, value))
            await asyncio.sleep(0.05)
        assert len(sending) > 1
        assert writers(them)[marked:] == []
        assert not any(is_confirmed(stale, sent) for sent in sending[1:])
        sent = await report(edge, 40)
        await asyncio.sleep(5)
        assert is_confirmed(edge, sent)
        assert await reported(them) == "40"
        assert writers(them)[marked:] == [1]


async def test_the_end_of_a_conflict_is_said_by_the_one_that_has_the_node() -> None:
    """The other one does not know what that one has written itself, and would take it for the user's word."""
    async with two_with_a_device(holder=1) as (them, edge):
        conflict = {"type": "DesiredAgreed", "status": "False", "reason": "DesiredValueConflict", "message": "it lost"}
        await them.client.patch(DEVICES, "d", {"status": {"conditions": [conflict]}}, "default", type=PatchType.MERGE)
        await edge.keepalive()
        await asyncio.sleep(10)
        desired = [{"op": "add", "path": "/spec/properties/0/desired", "value": {"value": "5"}}]
        await them.client.patch(DEVICES, "d", desired, "default", type=PatchType.JSON)
        await asyncio.sleep(15)
        said = {write.replica for write in them.writes(kind="Device") if "Settled" in str(write.body)}
        assert said == {1}
