"""Devices written at the edge with both halves whole, in virtual time: what an application writes while the cloud is
away is there afterwards, what both sides wrote ends as one object, and what lost is told (decision record 0023)."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, EVENTS, NODES, ApiResource
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metaclient import MetaClient
from edgehive.edgecore.metamanager.metamanager import LocalApi, MetaManager
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, Conflict, NotFound
from edgehive.testing.cloud import EDGE_LABEL, Cloud, cloud
from edgehive.testing.cluster import Cluster
from edgehive.testing.pair.disk import InlineDatabase
from edgehive.testing.virtual_time import LoopClock
from edgehive.wire.link import Link, LinkClosed, Peer

pytestmark = pytest.mark.looptime

NODE = "n1"
#: Longer than every pause between two attempts of either half.
QUIET = 120.0
Json = dict[str, Any]


class Wire:
    """The edge's end of a link; it may lose the cloud's answers to edits, or say everything twice."""

    def __init__(self, link: Link, both: "Pair") -> None:
        self._link, self._both = link, both
        self._again: list[Message] = []

    @property
    def peer(self) -> Peer:
        return self._link.peer

    async def send(self, message: Message) -> None:
        await self._link.send(message)
        if self._both.repeat and message.route.source == "metaserver":
            await self._link.send(message)

    async def receive(self) -> Message:
        while True:
            message = await self._link.receive()
            answer = message.header.parent_id and "/device" in message.route.resource
            if answer and self._both.lose_answers:
                self._both.lose_answers -= 1
                await self._link.close("the answer is lost")
                continue
            return message

    async def close(self, reason: str = "") -> None:
        await self._link.close(reason)


class Pair:
    """The test is the user in the cloud (`cloud`) and the application at the edge (`edge`)."""

    def __init__(self, it: Cloud) -> None:
        self.it, self.database, self.reachable = it, InlineDatabase(), True
        self.cloud: Client = it.client
        self.lose_answers, self.repeat = 0, False
        self._link: Link | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def edge(self) -> Client:
        assert self.manager.local_api is not None
        return self.manager.local_api.client()

    async def dial(self) -> Link:
        if not self.reachable:
            raise LinkClosed("the cable is cut")
        self._link = Wire(await self.it.network.dial(Peer(node=NODE, address="memory")), self)
        return self._link

    async def cut(self) -> None:
        self.reachable = False
        if self._link is not None:
            await self._link.close("the cable is cut")
        await asyncio.sleep(0.1)

    def restore(self) -> None:
        self.reachable = True

    async def start(self) -> None:
        bus, clock = Bus(), LoopClock()
        self.bus = bus
        self.database.recover()
        self.manager = MetaManager(bus, self.database, clock, NODE, client=MetaClient(bus, clock), local_api=LocalApi())
        modules = (
            self.manager,
            EdgeHub(bus, self.database, clock, self.dial, rate=1e6, burst=1000, backoff=Backoff(0.5, 2.0, 4.0)),
            DeviceTwin(bus, self.database, clock, NODE, client=MetaClient(bus, clock), local_api=True),
        )
        self._tasks = [spawn(module.run(lambda: None), name=module.name) for module in modules]
        await asyncio.sleep(1)

    async def crash(self) -> None:
        """The edge's processes are gone; what is on its disk stays."""
        if self._link is not None:
            await self._link.close("crash")
        self.database.bury()
        await cancel_and_join(*self._tasks)

    async def settle(self) -> None:
        self.restore()
        await asyncio.sleep(QUIET)
        for task in self._tasks:
            assert not task.done(), task

    async def report(self, name: str, value: str) -> None:
        """The mapper's word, over the topics of old."""
        content = f'{{"event_id":"","twin":{{"t":{{"actual":{{"value":"{value}"}}}}}}}}'
        topic = f"$hw/events/device/default/{name}/twin/update"
        message = Message.of(
            source="bus", group="user", operation="response", resource=topic, content=content, timestamp=1
        )
        await self.bus.send("twin", message)
        await asyncio.sleep(1)

    async def events(self, reason: str) -> list[str]:
        found = [item.to_dict() for item in (await self.cloud.list(EVENTS, "default")).items]
        return [event["message"] for event in found if event["reason"] == reason]

    async def pending(self) -> list[str]:
        return sorted(await self.manager._store.edits())

    async def same(self) -> Json:
        """The device, which both sides see alike."""
        there, here = await get(self.cloud), await get(self.edge)
        assert there["spec"] == here["spec"]
        assert there["metadata"]["uid"] == here["metadata"]["uid"]
        assert await self.pending() == []
        return there


async def get(client: Client, resource: ApiResource = DEVICES, name: str = "d") -> Json:
    return (await client.get(resource, name, "default")).to_dict()


async def merge(client: Client, patch: Json, resource: ApiResource = DEVICES, name: str = "d") -> None:
    await client.patch(resource, name, patch, "default", type=PatchType.MERGE)


def port(number: int) -> Json:
    return {"spec": {"protocol": {"configData": {"port": number}}}}


def report_cycle(number: int) -> Json:
    return {"spec": {"stateReport": {"reportCycle": number}}}


def port_of(device: Json) -> int:
    return int(device["spec"]["protocol"]["configData"]["port"])


def condition(device: Json) -> tuple[str, str] | None:
    found = (device.get("status") or {}).get("conditions") or ()
    return next(((one["status"], one["reason"]) for one in found if one["type"] == "DefinitionAgreed"), None)


def device(name: str = "d", **meta: Any) -> Json:
    spec = {
        "nodeName": NODE, "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "p", "configData": {"port": 1}},
        "properties": [{"name": "t", "desired": {"value": "1"}}],
    }  # fmt: skip
    return {"metadata": {"name": name, **meta}, "spec": spec}


@asynccontextmanager
async def pair(**annotations: str) -> AsyncIterator[Pair]:
    async with Cluster(clock=LoopClock()) as cluster, cloud(cluster=cluster) as it:
        for name in (NODE, "n2"):
            await it.client.create(NODES, {"metadata": {"name": name, "labels": {EDGE_LABEL: ""}}})
        model = {"protocol": "p", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite"}]}
        await it.client.create(DEVICE_MODELS, {"metadata": {"name": "m"}, "spec": model}, "default")
        await it.client.create(DEVICES, device(annotations=annotations), "default")
        both = Pair(it)
        await both.start()
        try:
            await both.settle()
            yield both
        finally:
            await both.crash()


async def test_a_definition_written_while_the_cloud_is_there() -> None:
    async with pair() as both:
        await merge(both.edge, port(2))
        await asyncio.sleep(5)
        assert port_of(await both.same()) == 2
        await merge(both.cloud, port(3))
        await asyncio.sleep(5)
        assert port_of(await both.same()) == 3
        assert await both.events("DefinitionConflict") == []


async def test_a_desired_value_written_during_an_outage() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, {"spec": {"properties": [{"name": "t", "desired": {"value": "7"}}]}})
        await both.settle()
        assert (await both.same())["spec"]["properties"][0]["desired"]["value"] == "7"
        assert await both.events("DesiredValueConflict") == []


async def test_two_definitions_written_one_after_the_other_during_an_outage_and_a_crash() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, port(2))
        await merge(both.edge, port(3))
        await both.crash()
        await both.start()
        assert port_of(await get(both.edge)) == 3
        assert condition(await get(both.edge)) == ("Unknown", "Pending")
        await merge(both.edge, report_cycle(5))
        await both.settle()
        found = await both.same()
        assert (port_of(found), found["spec"]["stateReport"]) == (3, {"reportCycle": 5})
        assert await both.events("DefinitionConflict") == []


async def test_other_parts_written_on_both_sides_stand_beside_each_other() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, port(2))
        await merge(both.cloud, report_cycle(5))
        await both.settle()
        found = await both.same()
        assert (port_of(found), found["spec"]["stateReport"]) == (2, {"reportCycle": 5})
        assert await both.events("DefinitionConflict") == []


async def test_a_part_written_on_both_sides_ends_as_the_clouds_and_the_loss_is_told() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, port(2))
        await merge(both.cloud, port(9))
        await both.settle()
        found = await both.same()
        assert port_of(found) == 9
        assert condition(found) == ("False", "DefinitionConflict")
        (told,) = await both.events("DefinitionConflict")
        assert "spec.protocol was made" in told
        assert '"port":2' in told
        # The next word of either side settles it.
        await merge(both.cloud, port(10))
        await both.settle()
        assert condition(await get(both.cloud)) == ("True", "Settled")


async def test_a_part_the_edge_owns_ends_as_the_edges_and_the_loss_is_told() -> None:
    async with pair(**{"edgehive.io/edge-owned-definition": "protocol"}) as both:
        await both.cut()
        await merge(both.edge, port(2))
        await merge(both.cloud, port(9))
        await both.settle()
        assert port_of(await both.same()) == 2
        (told,) = await both.events("DefinitionConflict")
        assert '"port":9' in told
        # And the cloud's next word counts.
        await merge(both.cloud, port(10))
        await both.settle()
        assert port_of(await both.same()) == 10


@pytest.mark.parametrize("answers", [1, 2])
async def test_answers_that_are_lost_change_nothing(answers: int) -> None:
    async with pair() as both:
        both.lose_answers = answers
        await merge(both.edge, port(2))
        await asyncio.sleep(0.2)
        await merge(both.edge, port(3))
        await both.settle()
        assert port_of(await both.same()) == 3
        assert await both.events("DefinitionConflict") == []


async def test_an_edit_said_again_does_not_undo_what_the_cloud_wrote_since() -> None:
    async with pair() as both:
        both.lose_answers = 1
        await merge(both.edge, port(2))
        async with asyncio.timeout(60):
            while port_of(await get(both.cloud)) != 2:
                await asyncio.sleep(0.01)
        await both.cut()
        await merge(both.cloud, port(1))  # as it was before
        await both.settle()
        assert port_of(await both.same()) == 1
        assert await both.events("DefinitionConflict") == []


async def test_edits_said_twice() -> None:
    async with pair() as both:
        both.repeat = True
        for number in range(2, 8):
            await merge(both.edge, port(number))
            await asyncio.sleep(0.05)
        await both.settle()
        assert port_of(await both.same()) == 7
        assert await both.events("DefinitionConflict") == []


async def test_a_device_and_its_model_made_during_an_outage() -> None:
    async with pair() as both:
        await both.cut()
        spec = {"protocol": "p", "properties": [{"name": "t", "type": "INT", "accessMode": "ReadWrite"}]}
        await both.edge.create(DEVICE_MODELS, {"metadata": {"name": "own"}, "spec": spec}, "default")
        body = device("made", labels={"room": "1"})
        body["spec"]["deviceModelRef"] = {"name": "own"}
        await both.edge.create(DEVICES, body, "default")
        desired = {"spec": {"properties": [{"name": "t", "desired": {"value": "5"}}]}}
        await merge(both.edge, desired, name="made")
        await both.report("made", "4")
        await both.crash()
        await both.start()
        await both.settle()
        there, here = await get(both.cloud, name="made"), await get(both.edge, name="made")
        assert there["spec"] == here["spec"]
        assert there["spec"]["nodeName"] == NODE
        assert there["spec"]["properties"][0]["desired"]["value"] == "5"
        assert there["metadata"]["labels"] == {"room": "1"}
        assert there["metadata"]["uid"] == here["metadata"]["uid"]
        assert (await get(both.cloud, DEVICE_MODELS, "own"))["spec"] == spec
        twins = (await get(both.cloud, DEVICE_STATUSES, "made"))["status"]["twins"]
        assert twins[0]["reported"]["value"] == "4"
        assert await both.pending() == []
        # From now on it is a device like any other.
        await merge(both.cloud, port(8), name="made")
        await both.settle()
        assert port_of(await get(both.edge, name="made")) == 8
        await both.cloud.delete(DEVICES, "made", "default")
        await both.settle()
        with pytest.raises(NotFound):
            await get(both.edge, name="made")


async def test_a_device_made_under_a_name_that_another_nodes_device_has() -> None:
    async with pair() as both:
        await both.cut()
        taken = device("taken")
        taken["spec"]["nodeName"] = "n2"
        await both.cloud.create(DEVICES, taken, "default")
        await both.edge.create(DEVICES, device("taken"), "default")
        await both.settle()
        assert (await get(both.cloud, name="taken"))["spec"]["nodeName"] == "n2"
        here = await get(both.edge, name="taken")
        assert condition(here) == ("False", "Refused")
        assert "bound to n2; take another name" in here["status"]["conditions"][0]["message"]
        await both.cloud.delete(DEVICES, "taken", "default")
        await both.cut()
        await both.settle()
        there = await get(both.cloud, name="taken")
        assert there["spec"]["nodeName"] == NODE
        assert await both.pending() == []


async def test_a_device_made_on_both_sides() -> None:
    async with pair() as both:
        await both.cut()
        mine, theirs = device("x"), device("x")
        mine["spec"]["protocol"]["configData"] = {"port": 2}
        mine["spec"]["stateReport"] = {"reportCycle": 5}
        await both.edge.create(DEVICES, mine, "default")
        await both.cloud.create(DEVICES, theirs, "default")
        await both.settle()
        there, here = await get(both.cloud, name="x"), await get(both.edge, name="x")
        assert there["spec"] == here["spec"]
        assert (port_of(there), there["spec"]["stateReport"]) == (1, {"reportCycle": 5})
        assert '"port":2' in (await both.events("DefinitionConflict"))[0]


async def test_a_device_deleted_during_an_outage() -> None:
    async with pair() as both:
        await both.cut()
        await both.edge.delete(DEVICES, "d", "default")
        await both.crash()
        await both.start()
        with pytest.raises(NotFound):
            await get(both.edge)
        await both.settle()
        for client in (both.cloud, both.edge):
            with pytest.raises(NotFound):
                await get(client)
        assert await both.pending() == []


async def test_a_device_deleted_at_the_edge_and_changed_in_the_cloud_stays_and_that_is_told() -> None:
    async with pair() as both:
        await both.cut()
        await both.edge.delete(DEVICES, "d", "default")
        await merge(both.cloud, port(9))
        await both.settle()
        found = await both.same()
        assert port_of(found) == 9
        assert condition(found) == ("False", "DeletionConflict")
        assert "it is kept" in (await both.events("DeletionConflict"))[0]


@pytest.mark.parametrize("answers", [0, 1])
async def test_a_device_that_came_back_is_deleted_for_good(answers: int) -> None:
    async with pair() as both:
        await both.cut()
        await both.edge.delete(DEVICES, "d", "default")
        await merge(both.cloud, port(9))
        both.lose_answers = answers
        both.restore()
        async with asyncio.timeout(60):
            while not (await both.edge.list(DEVICES, "default")).items:
                await asyncio.sleep(0.01)
        await both.edge.delete(DEVICES, "d", "default")
        assert (await both.edge.list(DEVICES, "default")).items == []
        await both.settle()
        for client in (both.cloud, both.edge):
            with pytest.raises(NotFound):
                await get(client)
        assert await both.pending() == []


async def test_a_device_deleted_and_made_again_during_an_outage() -> None:
    async with pair() as both:
        await both.cut()
        await both.edge.delete(DEVICES, "d", "default")
        again = device()
        again["spec"]["protocol"]["configData"] = {"port": 4}
        await both.edge.create(DEVICES, again, "default")
        await both.settle()
        assert port_of(await both.same()) == 4


async def test_a_device_written_at_the_edge_and_deleted_in_the_cloud_is_gone() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, port(2))
        await both.cloud.delete(DEVICES, "d", "default")
        await both.settle()
        with pytest.raises(NotFound):
            await get(both.edge)
        assert await both.pending() == []


async def test_a_property_added_at_the_edge_is_reported_once_the_cloud_knows_it() -> None:
    async with pair() as both:
        await both.cut()
        listed = (await get(both.edge))["spec"]["properties"]
        await merge(both.edge, {"spec": {"properties": [*listed, {"name": "u", "desired": {"value": "3"}}]}})
        await merge(both.edge, {"spec": {"properties": [*listed, {"name": "u", "desired": {"value": "4"}}]}})
        await both.settle()
        found = await both.same()
        assert [one["name"] for one in found["spec"]["properties"]] == ["t", "u"]
        assert found["spec"]["properties"][1]["desired"]["value"] == "4"
        twins = (await get(both.cloud, DEVICE_STATUSES))["status"]["twins"]
        assert {one["propertyName"]: one["observedDesired"]["value"] for one in twins} == {"t": "1", "u": "4"}


async def test_a_device_given_to_another_node_is_no_longer_written_here() -> None:
    async with pair() as both:
        await both.cut()
        await merge(both.edge, port(2))
        await merge(both.cloud, {"spec": {"nodeName": "n2"}})
        await both.settle()
        assert port_of(await get(both.cloud)) == 1
        with pytest.raises(NotFound):
            await get(both.edge)
        assert await both.pending() == []


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_both_sides_end_alike(seed: int) -> None:
    """Everybody writes, deletes and makes anew while links break, answers get lost and the edge crashes."""
    luck = random.Random(seed)
    async with pair() as both:

        async def write(client: Client) -> None:
            await merge(client, luck.choice([port, report_cycle])(luck.randint(1, 9)))

        async def remove(client: Client) -> None:
            await client.delete(DEVICES, "d", "default")

        async def make(client: Client) -> None:
            await client.create(DEVICES, device(), "default")

        async def desire(client: Client) -> None:
            value = {"value": str(luck.randint(1, 99))}
            await merge(client, {"spec": {"properties": [{"name": "t", "desired": value}]}})

        for _ in range(30):
            deeds: list[str | Callable[[Client], Awaitable[None]]] = [write, write, write, desire, remove, make]
            what = luck.choice([*deeds, "cut", "restore", "crash", "lose", "repeat"])
            if what == "cut":
                await both.cut()
            elif what == "restore":
                both.restore()
            elif what == "crash":
                await both.crash()
                await both.start()
            elif what == "lose":
                both.lose_answers = 1
            elif what == "repeat":
                both.repeat = not both.repeat
            else:
                assert not isinstance(what, str)
                with contextlib.suppress(NotFound, AlreadyExists, Conflict):
                    await what(luck.choice([both.cloud, both.edge]))
            await asyncio.sleep(luck.choice([0.0, 0.01, 0.3, 3, 30]))
        both.lose_answers = 0
        await both.settle()
        await both.settle()
        try:
            await both.same()
        except NotFound:
            for client in (both.cloud, both.edge):
                assert (await client.list(DEVICES, "default")).items == []
            assert await both.pending() == []
