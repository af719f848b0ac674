"""The recorded Go cloud, MQTT client and mapper speak to our edge: it says what the recorded Go edge said.

Our hub, metamanager and devicetwin run on a real database; the cloud is scripted from the recording and confirms our
reports, as the recorded one did. Where ours differs on purpose, `_FORGIVEN` and `_told` say so and why.
"""

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from grpclib.exceptions import GRPCError

from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin
from edgehive.edgecore.edgehub.edgehub import EdgeHub
from edgehive.edgecore.metamanager.metamanager import MetaManager
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.protos import dmi_pb2 as dmi
from edgehive.testing.mapper import Manager, Mapper
from edgehive.wire import codec, payloads
from edgehive.wire.devices import confirmation
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
GOLDEN = SHARED / "golden"
NODE = "goedge"

pytestmark = pytest.mark.skipif(
    not GOLDEN.exists(), reason=f"no recorded traffic: {GOLDEN} is absent (EDGEHIVE_SHARED names its parent)"
)

#: What a Go edge says on the topic of no device at all (wire.md B16), ours says on the topic of the device.
_NOWHERE = "$hw/events/device//twin/update/result"
#: An equal value is no news for the cloud (DT3): the Go edge reports this one again.
_FORGIVEN = {("12-mqtt-device-twin", "u6")}


def lines(name: str, *, begin: float = 0.0, end: float = 1e9) -> Iterator[dict[str, Any]]:
    for line in next(GOLDEN.glob(f"{name}*.jsonl")).read_text().splitlines():
        entry = json.loads(line)
        if begin <= entry["t_rel"] < end:
            yield entry


def normal(value: Any, asked: frozenset[str]) -> Any:
    """Times and made-up ids are alike, versions only have to be there; ours adds `uid` and `local`."""
    if isinstance(value, list):
        return [normal(item, asked) for item in value]
    if not isinstance(value, dict):
        return value
    plain: dict[str, Any] = {}
    for key, item in value.items():
        if key == "timestamp" or key.endswith("_version"):
            plain[key] = 0
        elif key == "lastOnlineTime":
            plain[key] = "T"
        elif key == "event_id":
            plain[key] = item if item in asked else "made up"
        elif key not in ("uid", "local"):
            plain[key] = normal(item, asked)
    return plain


class Edge:
    """Our edge as its cloud, its applications and its mapper see it."""

    def __init__(self, bus: Bus, link: Link, door: Path, mapper: Mapper) -> None:
        self.bus, self.link, self.door, self.mapper = bus, link, door, mapper
        self.eventbus = bus.register("eventbus", "bus", size=100_000)
        self.manager = Manager(door)
        self.acknowledged: set[str] = set()
        self.published: list[tuple[str, Any]] = []
        self.reports: list[Message] = []
        self.asked: set[str] = set()
        self.last_asked = ""

    async def listen_as_cloud(self) -> None:
        while True:
            message = await self.link.receive()
            if message.header.parent_id:
                self.acknowledged.add(message.header.parent_id)
            elif message.route.source == "twin" and message.route.operation == "update":
                self.reports.append(message)
                await self.link.send(confirmation(message, timestamp=1))

    async def listen_as_application(self) -> None:
        async for message in self.eventbus:
            self.published.append((message.route.resource, json.loads(message.content_bytes())))

    async def replay(self, name: str, entries: Iterator[dict[str, Any]], *, desired: bool = True) -> None:
        """Say what was said to the recorded edge, and see it say what that one said."""
        for entry in entries:
            direction, channel, said = entry["direction"], entry["channel"], entry["message"]
            if channel == "hub" and "text" in said:
                await self._hub(name, direction, codec.decode(said["text"].encode()), desired)
            elif channel == "mqtt" and direction == "app->edge":
                await self._publish(said["topic"], said["payload_text"])
            elif channel == "mqtt":
                await self._published(said["topic"], json.loads(said["payload_text"]))
            elif channel == "dmi-grpc" and direction == "mapper->edge":
                await self._report(said)
            elif channel == "dmi-grpc":
                await self._called(said)

    async def _hub(self, name: str, direction: str, message: Message, desired: bool) -> None:
        route = message.route
        if direction == "edge->cloud":
            if route.source == "twin" and route.operation == "update" and (name, self.last_asked) not in _FORGIVEN:
                await self._reported(message)
        elif not message.header.parent_id and ("device" in route.resource or route.resource.startswith("membership")):
            await self.link.send(message if desired else without_desired(message))
            if payloads.needs_ack(message):
                await self._until(lambda: message.id in self.acknowledged, route.resource)

    async def _publish(self, topic: str, payload: str) -> None:
        try:
            said = json.loads(payload)
            self.last_asked = said.get("event_id", "")
            self.asked.add(self.last_asked)
        except ValueError:
            self.last_asked = ""
        self.asked.add("")
        # What eventbus does not subscribe to never comes here (attributes, wire.md §6.6).
        if topic.startswith("$hw/events/") and not topic.endswith("/updated") and "upload" not in topic:
            message = Message.of(
                source="bus", group="user", operation="response", resource=topic, content=payload, timestamp=1
            )
            await self.bus.send("twin", message)
        self.topic = topic

    async def _published(self, topic: str, content: Any) -> None:
        wanted = (f"{self.topic}/result" if topic == _NOWHERE else topic, self._normal(content))

        def there() -> bool:
            for index, (found, body) in enumerate(self.published):
                if (found, self._normal(body)) == wanted:
                    del self.published[index]
                    return True
            return False

        await self._until(there, f"{wanted} among {self.published}")

    async def _reported(self, message: Message) -> None:
        """The newest values count: ours tells several at once where the Go edge tells each."""
        wanted = self._normal(json.loads(message.content_bytes()))

        def there() -> bool:
            return any(
                report.route.resource == message.route.resource and self._covers(report, wanted)
                for report in self.reports
            )

        await self._until(there, f"{wanted} among {[report.content_bytes() for report in self.reports]}")

    def _covers(self, report: Message, wanted: Any) -> bool:
        told = self._normal(json.loads(report.content_bytes()))
        if "twin" not in wanted:
            return bool(told == wanted)
        return all(_told(told["twin"].get(name), twin) for name, twin in wanted["twin"].items())

    async def _report(self, said: dict[str, Any]) -> None:
        request_type, reply_type = (getattr(dmi, said["method"] + end) for end in ("Request", "Response"))
        if said["method"] == "MapperRegister":
            # Its address was replaced in the recording, which left the bytes unreadable.
            request = json_format.ParseDict(said["request"], request_type())
            if request.HasField("mapper"):
                request.mapper.address = str(self.mapper.path).encode()
        else:
            request = request_type.FromString(bytes.fromhex(said["request_hex"]))
        try:
            reply = await self.manager.call(said["method"], request, reply_type)
        except GRPCError as error:
            code, _, text = (said["grpc_error"] or "").partition(" ")
            if "UNAVAILABLE" in code:
                # B4: the Go edge had died of the request before; ours says what is wrong with it.
                assert "no mapper" in str(error.message), error
            else:
                assert (code, text) == (f"StatusCode.{error.status.name}", error.message)
            return
        if said["response_hex"] is not None:
            assert reply == reply_type.FromString(bytes.fromhex(said["response_hex"]))

    async def _called(self, said: dict[str, Any]) -> None:
        name, request = await self.mapper.called()
        assert name == said["method"]
        assert request == type(request).FromString(bytes.fromhex(said["request_hex"]))

    def _normal(self, content: Any) -> Any:
        return normal(content, frozenset(self.asked))

    async def _until(self, condition: Any, what: str) -> None:
        try:
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.001)
        except TimeoutError:
            raise AssertionError(f"never: {what}") from None


def _told(ours: Any, theirs: Any) -> bool:
    """Ours tells both sides of a twin where the Go edge tells the one that changed."""
    return ours is not None and all(ours.get(key) == value for key, value in theirs.items())


def without_desired(message: Message) -> Message:
    """A Go edge does not show applications what the cloud desires, ours does (decision 0021)."""
    content = json.loads(bytes(message.content))
    for item in (content.get("spec") or {}).get("properties") or ():
        item.pop("desired", None)
    route, header = message.route, message.header
    return Message.of(
        source=route.source, group=route.group, operation=route.operation, resource=route.resource, content=content,
        timestamp=1, id=message.id, resource_version=header.resourceversion,
    )  # fmt: skip


@asynccontextmanager
async def edge(path: Path) -> AsyncIterator[Edge]:
    clock, network = SystemClock(), MemoryNetwork()
    with tempfile.TemporaryDirectory(prefix="dmi-") as sockets:
        async with (
            edge_database(path, clock) as database,
            network.acceptor() as accepted,
            Mapper(Path(sockets) / "m.sock") as mapper,
        ):
            bus = Bus()

            async def dial() -> Link:
                return await network.dial(Peer(node=NODE))

            modules = (
                MetaManager(bus, database, clock, NODE),
                EdgeHub(bus, database, clock, dial, rate=1e6, burst=1000),
                DeviceTwin(bus, database, clock, NODE, dmi_folder=sockets),
            )
            tasks = [spawn(modules[0].run(lambda: None), name="metamanager")]
            for module in modules[1:]:
                ready = asyncio.Event()
                tasks.append(spawn(module.run(ready.set), name=module.name))
                await ready.wait()
            link = await anext(aiter(accepted))
            found = Edge(bus, link, Path(sockets) / "dmi.sock", mapper)
            tasks += [spawn(found.listen_as_cloud(), name="cloud"), spawn(found.listen_as_application(), name="app")]
            try:
                yield found
                for task in tasks:
                    assert not task.done(), task.exception()
            finally:
                found.manager.close()
                await cancel_and_join(*tasks)


#: Whether it goes, and who.
_COMING = ((0, "d2"), (0, "d3"), (1, "d3"), (1, "d2"))


async def test_devices_that_come_change_and_go(tmp_path: Path) -> None:
    """[61, 64] Recording 11."""
    async with edge(tmp_path / "edgecore.db") as it:
        await it.replay("11-device-crud", _only_hub(lines("11")), desired=False)
        coming = [
            (key[0], body[key][0]["id"])
            for topic, body in it.published
            if topic.endswith("membership/updated")
            for key in ("added_devices", "removed_devices")
            if body[key]
        ]
        assert coming == [("a", "default/thermo-1"), *(("ar"[at], f"default/{id}") for at, id in _COMING)]


async def test_twins_states_and_membership_over_mqtt(tmp_path: Path) -> None:
    """[62, 63, 64] Recording 12."""
    async with edge(tmp_path / "edgecore.db") as it:
        await it.replay("11-device-crud", lines("11", end=1), desired=False)
        await it.replay("12-mqtt-device-twin", lines("12"))


async def test_a_mapper_over_dmi(tmp_path: Path) -> None:
    """[65] Recording 13: registration, reports, callbacks byte for byte."""
    async with edge(tmp_path / "edgecore.db") as it:
        await it.replay("11-device-crud", lines("11", end=1))
        known = {"event_id": "", "twin": {"temperature": {"actual": {"value": "26"}, "expected": {"value": "21"}}}}
        await it._publish("$hw/events/device/default/thermo-1/twin/update", json.dumps(known))
        await it._until(lambda: any("delta" in topic for topic, _ in it.published), "the state of the recording")
        await it.replay("13-dmi-mapper", _recorded_calls())


def _recorded_calls() -> Iterator[dict[str, Any]]:
    """Up to where the recorded mapper gets a nested configuration, which the Go edge cannot tell it.

    The document before the first report shows times of recording 12.
    """
    for entry in lines("13", end=15.4):
        topic = entry["message"].get("topic", "")
        if not topic.endswith("/document"):
            yield entry


async def test_a_registration_without_its_mapper_ends_nothing(tmp_path: Path) -> None:
    """[80] Recording 14, B4."""
    async with edge(tmp_path / "edgecore.db") as it:
        await it.replay("11-device-crud", lines("11", end=1))
        await it.replay("14-dmi-mapper-crash", lines("14"))
        await it._until(lambda: any(b'"30"' in report.content_bytes() for report in it.reports), "the last report")


async def test_devices_changed_during_an_outage_reach_twins_and_mappers(tmp_path: Path) -> None:
    """[80] Recordings 22 and 23, B5: they come from edgecontroller, and the Go edge only stores them."""
    async with edge(tmp_path / "edgecore.db") as it:
        await it.replay("11-device-crud", lines("11", end=1))
        await it.mapper.register(it.door)
        await it.replay("22-disconnect-reconnect", _only_hub(lines("22")))
        await it.replay("23-restart-after-crash-device-resync", _only_hub(lines("23")))
        calls = [await it.mapper.called() for _ in range(3)]
        told = {(name, (getattr(said, "device", None) or said.model).name) for name, said in calls}
        assert told == {("UpdateDevice", "thermo-1"), ("CreateDeviceModel", "m9"), ("RegisterDevice", "d9")}
        added = [body["added_devices"][0]["id"] for topic, body in it.published if topic.endswith("membership/updated")]
        assert added == ["default/thermo-1", "default/d9"]


async def test_what_was_written_offline_is_told_after_a_restart(tmp_path: Path) -> None:
    """[56] Recordings 22 and 24: the Go edge keeps the twin of `off1` and never tells it."""
    path = tmp_path / "edgecore.db"
    async with edge(path) as it:
        await it.replay("11-device-crud", lines("11", end=1))
        await it.bus.send("twin", payloads.connection_notice(False, timestamp=1))
        for entry in lines("22"):
            if entry["channel"] == "mqtt" and entry["direction"] == "app->edge":
                await it._publish(entry["message"]["topic"], entry["message"]["payload_text"])
        await it._until(lambda: any(topic.endswith("/result") for topic, _ in it.published), "the result")
        assert not any(b'"44"' in report.content_bytes() for report in it.reports)
    async with edge(path) as it:
        await it.replay("24-edgecore-restart", _only_hub(lines("24")))
        await it._until(lambda: any(b'"44"' in report.content_bytes() for report in it.reports), "the value of off1")


def _only_hub(entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    return (entry for entry in entries if entry["channel"] == "hub" and entry["direction"] == "cloud->edge")
