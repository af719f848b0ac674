"""Devices with both halves whole: a desired value set on either side, or on both during an outage, ends as one value
that everybody sees, and what lost is told (decision record 0021)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, EVENTS, NODES
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.errors import NotFound
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud
from edgehive.testing.cluster import Cluster
from edgehive.wire.link import Link, LinkClosed, Peer

NODE = "n1"
OWNED = {"edgehive.io/edge-owned-desired": "t"}


class Pair:
    """Both halves; the test is the user in the cloud and the application at the edge."""

    def __init__(self, it: Cloud, bus: Bus) -> None:
        self.it, self.bus = it, bus
        self.client = it.client
        self.eventbus = bus.register("eventbus", "bus", size=10_000)
        self.deltas: list[dict[str, str]] = []
        self.reachable = True
        self._link: Link | None = None

    async def dial(self) -> Link:
        if not self.reachable:
            raise LinkClosed("the cable is cut")
        self._link = await self.it.network.dial(Peer(node=NODE, address="memory"))
        return self._link

    async def cut(self) -> None:
        self.reachable = False
        assert self._link is not None
        await self._link.close("the cable is cut")

    def restore(self) -> None:
        self.reachable = True

    async def listen(self) -> None:
        async for message in self.eventbus:
            if message.route.resource.endswith("/delta"):
                self.deltas.append(json.loads(message.content_bytes())["delta"])

    async def set_in_cloud(self, value: str) -> None:
        patch = [{"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}]
        await self.client.patch(DEVICES, "d", patch, "default", type=PatchType.JSON)

    async def at_edge(self, **sides: str) -> None:
        twin = {side: {"value": value} for side, value in sides.items()}
        message = Message.of(
            source="bus", group="user", operation="response", resource="$hw/events/device/default/d/twin/update",
            content=json.dumps({"event_id": "", "twin": {"t": twin}}), timestamp=1,
        )  # fmt: skip
        await self.bus.send("twin", message)

    async def desired(self) -> str:
        found = (await self.client.get(DEVICES, "d", "default")).to_dict()
        value: str = found["spec"]["properties"][0]["desired"]["value"]
        return value

    async def status(self, side: str) -> str | None:
        try:
            found = (await self.client.get(DEVICE_STATUSES, "d", "default")).to_dict()["status"]
        except NotFound:
            return None
        twins = [twin for twin in found.get("twins") or () if twin["propertyName"] == "t"]
        return twins[0].get(side, {}).get("value") if twins else None

    async def conflicts(self) -> list[str]:
        events = [item.to_dict() for item in (await self.client.list(EVENTS, "default")).items]
        return [event["message"] for event in events if event["reason"] == "DesiredValueConflict"]

    async def until(self, what: Any, wanted: Any) -> None:
        found = None
        try:
            async with asyncio.timeout(20):
                while (found := await what()) != wanted:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it is {found!r}, and not {wanted!r}") from None


@asynccontextmanager
async def pair(path: Path, **annotations: str) -> AsyncIterator[Pair]:
    clock = SystemClock()
    async with Cluster(clock=clock) as cluster, cloud(cluster=cluster) as it, edge_database(path, clock) as database:
        await it.client.create(NODES, {"metadata": {"name": NODE, "labels": {EDGE_LABEL: ""}}})
        model = {"protocol": "p", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite"}]}
        await it.client.create(DEVICE_MODELS, {"metadata": {"name": "m"}, "spec": model}, "default")
        spec = {
            "nodeName": NODE, "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "p"},
            "properties": [{"name": "t", "desired": {"value": "1"}}],
        }  # fmt: skip
        meta = {"name": "d", "annotations": annotations}
        await it.client.create(DEVICES, {"metadata": meta, "spec": spec}, "default")
        bus = Bus()
        both = Pair(it, bus)
        modules = (
            MetaManager(bus, database, clock, NODE),
            EdgeHub(bus, database, clock, both.dial, rate=1e6, burst=1000, backoff=Backoff(0.02, 1.0, 0.02)),
            DeviceTwin(bus, database, clock, NODE, client=MetaClient(bus, clock)),
        )
        tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]
        tasks.append(spawn(both.listen(), name="application"))
        try:
            await both.until(lambda: both.status("observedDesired"), "1")
            yield both
        finally:
            await cancel_and_join(*tasks)


async def test_a_value_goes_down_and_one_comes_up(tmp_path: Path) -> None:
    async with pair(tmp_path / "edgecore.db") as both:
        await both.set_in_cloud("2")
        await both.until(lambda: both.status("observedDesired"), "2")
        assert both.deltas[-1] == {"t": "2"}
        await both.at_edge(actual="2")
        await both.until(lambda: both.status("reported"), "2")


async def test_a_value_set_at_the_edge_becomes_the_desired_one_of_the_cloud(tmp_path: Path) -> None:
    async with pair(tmp_path / "edgecore.db") as both:
        await both.at_edge(expected="7")
        await both.until(both.desired, "7")
        await both.until(lambda: both.status("observedDesired"), "7")
        await both.set_in_cloud("8")
        await both.until(lambda: both.status("observedDesired"), "8")
        assert await both.conflicts() == []


async def test_a_value_set_at_the_edge_during_an_outage_is_taken_over_afterwards(tmp_path: Path) -> None:
    """users.md row 21"""
    async with pair(tmp_path / "edgecore.db") as both:
        await both.cut()
        for value in ("5", "6", "7"):
            await both.at_edge(expected=value, actual=value)
        both.restore()
        await both.until(both.desired, "7")
        await both.until(lambda: both.status("reported"), "7")
        assert await both.conflicts() == []


async def test_values_set_on_both_sides_during_an_outage_end_as_the_clouds_and_the_loss_is_told(tmp_path: Path) -> None:
    async with pair(tmp_path / "edgecore.db") as both:
        await both.cut()
        await both.at_edge(expected="5")
        await both.set_in_cloud("9")
        both.restore()
        await both.until(lambda: both.status("observedDesired"), "9")
        assert await both.desired() == "9"
        await both.until(lambda: _told(both, "'5'"), True)


async def test_values_set_on_both_sides_end_as_the_edges_where_it_owns_them(tmp_path: Path) -> None:
    async with pair(tmp_path / "edgecore.db", **OWNED) as both:
        await both.cut()
        await both.at_edge(expected="5")
        await both.set_in_cloud("9")
        both.restore()
        await both.until(both.desired, "5")
        await both.until(lambda: both.status("observedDesired"), "5")
        await both.until(lambda: _told(both, "'9'"), True)
        # And the cloud's next word counts.
        await both.set_in_cloud("10")
        await both.until(lambda: both.status("observedDesired"), "10")


async def test_a_device_made_again_during_an_outage_shows_nothing_of_its_old_life(tmp_path: Path) -> None:
    """users.md row 20"""
    async with pair(tmp_path / "edgecore.db") as both:
        await both.at_edge(actual="3")
        await both.until(lambda: both.status("reported"), "3")
        await both.cut()
        await both.at_edge(actual="4")
        device = (await both.client.get(DEVICES, "d", "default")).to_dict()
        await both.client.delete(DEVICES, "d", "default")
        await both.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": device["spec"]}, "default")
        both.restore()
        await both.until(lambda: both.status("reported"), None)
        await both.until(lambda: both.status("observedDesired"), "1")
        assert await both.status("reported") is None
        await both.at_edge(actual="5")
        await both.until(lambda: both.status("reported"), "5")


async def _told(both: Pair, lost: str) -> bool:
    """Whether an Event names the value that lost. Under a cloud of ours it is the cloud's own."""
    return any(lost in message for message in await both.conflicts())


@pytest.mark.parametrize("pause", [0.0, 0.02, 0.25])
async def test_values_set_at_the_edge_in_quick_succession_do_not_meet_their_own_echo(
    tmp_path: Path, pause: float
) -> None:
    """The cloud takes over one after the other, and shows each while the next is set."""
    async with pair(tmp_path / "edgecore.db") as both:
        for value in range(10, 30):
            await both.at_edge(expected=str(value))
            await asyncio.sleep(pause)
        await both.until(both.desired, "29")
        await both.until(lambda: both.status("observedDesired"), "29")
        assert await both.conflicts() == []
        await both.set_in_cloud("1")
        await both.until(lambda: both.status("observedDesired"), "1")
