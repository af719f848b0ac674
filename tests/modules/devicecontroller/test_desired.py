"""Desired values that were set at the edge (decision 0021): taken where the cloud said nothing else, never unseen."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.devices import Device
from edgehive.api.registry import DEVICES
from edgehive.beehive.message import Message
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of
from edgehive.wire import devices
from edgehive.wire.devices import Conflict, DeviceId, Local, Twin, TwinValue, TwinVersion

pytestmark = pytest.mark.looptime

D = DeviceId("default", "d")


@asynccontextmanager
async def rig(desired: str | None = "20") -> AsyncIterator[tuple[Cloud, ScriptedEdge]]:
    async with cloud() as it:
        edge = await it.edge("n1")
        value = {"desired": {"value": desired, "metadata": {"unit": "C"}}} if desired is not None else {}
        spec = {"nodeName": "n1", "properties": [{"name": "t", "reportCycle": 5} | value, {"name": "u"}]}
        await it.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
        await edge.expect_object("default/device/d")
        await asyncio.sleep(10)
        yield it, edge


async def say(it: Cloud, edge: ScriptedEdge, value: str, local: Local | None, *, edge_count: int = 1) -> Message:
    """Report a desired value; gives the confirmation."""
    uid = (await it.client.get(DEVICES, "d", "default")).meta.uid
    twin = Twin(
        expected=TwinValue(value, devices.ValueMetadata(edge_count)),
        local=local,
        expected_version=TwinVersion(0, edge_count),
    )
    report = devices.twin_report(D, {"t": twin}, event_id="e", timestamp=1, uid=uid)
    await edge.link.send(report)
    return await edge.expect(lambda m: m.header.parent_id == report.id)


async def desired(it: Cloud) -> Any:
    device = (await it.client.get(DEVICES, "d", "default")).read(Device)
    return [one.desired.value if one.desired else None for one in device.spec.properties or ()]


async def test_a_value_set_at_the_edge_is_taken_and_nothing_else_changes() -> None:
    async with rig() as (it, edge):
        answer = await say(it, edge, "21", Local("20"))
        device = await it.client.get(DEVICES, "d", "default")
        assert device.to_dict()["spec"]["properties"] == [
            {"name": "t", "reportCycle": 5, "desired": {"value": "21", "metadata": {"unit": "C"}}},
            {"name": "u"},
        ]
        assert answer.header.resourceversion == device.meta.resource_version
        told = await edge.expect_object("default/device/d", "update")
        assert content_of(told)["spec"]["properties"][0]["desired"]["value"] == "21"


async def test_a_value_for_what_had_none_is_taken() -> None:
    async with rig(None) as (it, edge):
        await say(it, edge, "21", Local(None))
        assert await desired(it) == ["21", None]


@pytest.mark.parametrize(
    "local",
    [None, Local("19"), Local(None), Local("20", Conflict("21", "cloud", 1))],
    ids=["observed only", "the cloud says something else", "the cloud says something", "lost"],
)
async def test_what_the_cloud_said_meanwhile_is_not_overwritten(local: Local | None) -> None:
    async with rig() as (it, edge):
        answer = await say(it, edge, "21", local)
        assert await desired(it) == ["20", None]
        assert answer.header.resourceversion


async def test_an_edge_that_does_not_say_of_which_life_it_speaks_changes_no_device() -> None:
    async with rig() as (it, edge):
        twin = {"expected": {"value": "21"}, "local": {"base": "20"}}
        report = await edge.send("update", "device/default/d/twin/edge_updated", {"twin": {"t": twin}}, source="twin")
        answer = await edge.expect(lambda m: m.header.parent_id == report.id)
        assert not answer.header.resourceversion
        assert await desired(it) == ["20", None]


async def test_an_edge_that_goes_on_before_it_sees_that_its_value_was_taken_is_followed() -> None:
    async with rig() as (it, edge):
        await say(it, edge, "21", Local("20"))
        await say(it, edge, "22", Local("20"), edge_count=2)
        assert await desired(it) == ["22", None]
        await it.client.patch(
            DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "5"}}]}}, "default"
        )
        await asyncio.sleep(1)
        await say(it, edge, "23", Local("20"), edge_count=3)
        assert await desired(it) == ["5"]


async def test_of_many_values_the_last_is_taken() -> None:
    async with rig() as (it, edge):
        await say(it, edge, "21", Local("20"))
        for number in range(2, 12):
            await say(it, edge, str(20 + number), Local(str(19 + number)), edge_count=number)
        assert await desired(it) == ["31", None]


async def test_a_conflict_is_shown_on_the_device_until_somebody_changes_it() -> None:
    async with rig() as (it, edge):
        await say(it, edge, "21", Local("20", Conflict("19", "edge", 7)))
        assert await desired(it) == ["21", None]
        await asyncio.sleep(10)
        device = (await it.client.get(DEVICES, "d", "default")).to_dict()
        annotation = json.loads(device["metadata"]["annotations"]["edgehive.io/desired-conflict"])
        assert annotation == {"t": {"value": "19", "winner": "edge", "timestamp": 7}}
        assert condition(device) == ("False", "DesiredValueConflict")
        await edge.keepalive()
        await it.client.patch(DEVICES, "d", {"spec": {"properties": [{"name": "t"}]}}, "default")
        await asyncio.sleep(10)
        await edge.keepalive()
        device = (await it.client.get(DEVICES, "d", "default")).to_dict()
        assert condition(device) == ("True", "Settled")
        assert "edgehive.io/desired-conflict" not in device["metadata"].get("annotations", {})
        # The next one is shown like the first.
        await say(it, edge, "22", Local(None, Conflict("18", "edge", 9)), edge_count=2)
        await asyncio.sleep(10)
        device = (await it.client.get(DEVICES, "d", "default")).to_dict()
        assert '"18"' in device["metadata"]["annotations"]["edgehive.io/desired-conflict"]
        assert condition(device) == ("False", "DesiredValueConflict")


async def test_an_annotation_whose_condition_is_gone_goes_too() -> None:
    """As after the end of a cloudcore between the two writes."""
    async with rig() as (it, edge):
        left = {"metadata": {"annotations": {"edgehive.io/desired-conflict": "{}", "mine": "stays"}}}
        await it.client.patch(DEVICES, "d", left, "default")
        await it.client.patch(DEVICES, "d", {"spec": {"properties": [{"name": "t"}]}}, "default")
        await edge.expect_object("default/device/d", "update")
        await asyncio.sleep(10)
        assert (await it.client.get(DEVICES, "d", "default")).meta.annotations == {"mine": "stays"}


def condition(device: Any) -> tuple[str, str]:
    (found,) = [one for one in device["status"]["conditions"] if one["type"] == "DesiredAgreed"]
    return found["status"], found["reason"]


async def test_a_change_in_the_cloud_at_the_same_moment_is_not_lost() -> None:
    async with rig() as (it, edge):
        await asyncio.gather(
            say(it, edge, "21", Local("20")),
            it.client.patch(
                DEVICES, "d", {"spec": {"properties": [{"name": "t", "desired": {"value": "5"}}]}}, "default"
            ),
        )
        assert await desired(it) == ["5"]
