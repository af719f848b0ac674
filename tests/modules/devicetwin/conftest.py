"""devicetwin between a real bus, a real database and fakes with memory: a hub, an eventbus, metamanager's rows."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.devicetwin.devicetwin import DeviceTwin
from edgehive.edgecore.metaclient import MetaClient
from edgehive.kit.clock import FixedClock
from edgehive.kit.mailbox import Mailbox
from edgehive.kit.sqlite import Database
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire.payloads import connection_notice

START = datetime(2026, 1, 1, tzinfo=UTC)
DEVICE = "$hw/events/device/"


class Edge:
    """A node's devicetwin, and the test as everybody around it."""

    def __init__(self, bus: Bus, database: Database, clock: FixedClock, twin: DeviceTwin) -> None:
        self.bus, self.database, self.clock, self.twin = bus, database, clock, twin
        self.events: Mailbox[dict[str, Any]] = Mailbox("events")
        self.hub: Mailbox[Message] = bus.register("websocket", "hub", size=10_000)
        self.eventbus: Mailbox[Message] = bus.register("eventbus", "bus", size=100_000)
        self.metamanager: Mailbox[Message] = bus.register("metamanager", "meta")
        self.rows: dict[str, dict[str, Any]] = {}
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.confirming = True
        self.version = 0

    # An application

    async def publish(self, topic: str, content: object) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        message = Message.of(
            source="bus", group="user", operation="response", resource=topic, content=text, timestamp=1
        )  # fmt: skip
        await self.bus.send("twin", message)

    async def hear(self, topic: str = "") -> dict[str, Any]:
        """The next publication on a topic (any that ends so); others are kept for `heard`."""
        async with asyncio.timeout(5):
            while True:
                message = await self.eventbus.get()
                content = json.loads(message.content_bytes())
                self.published.append((message.route.resource, content))
                if message.route.resource.endswith(topic):
                    return content

    async def ask(self, topic: str, content: object, answer: str = "/result") -> dict[str, Any]:
        await self.publish(topic, content)
        return await self.hear(topic + answer)

    async def update(self, device: str = "default/d", event: str = "e", **twin: Any) -> dict[str, Any]:
        """`twin/update`; a plain value is a reported one of type string."""
        said = {name: {"actual": {"value": value}} if isinstance(value, str) else value for name, value in twin.items()}
        return await self.ask(f"{DEVICE}{device}/twin/update", {"event_id": event, "timestamp": 1, "twin": said})

    async def twins(self, device: str = "default/d") -> dict[str, Any]:
        return (await self.ask(f"{DEVICE}{device}/twin/get", {"event_id": "g"}))["twin"]

    # The cloud

    async def from_cloud(self, resource: str, content: object, operation: str = "update", **header: str) -> None:
        message = Message.of(
            source="devicecontroller", group="twin", operation=operation, resource=resource, content=content,
            timestamp=1, **header,
        )  # fmt: skip
        await self.bus.send("twin", message)

    async def add(self, *ids: str) -> None:
        members = [{"id": id, "name": id.rpartition("/")[2]} for id in ids]
        await self.from_cloud("membership", {"event_id": "m", "timestamp": 1, "added_devices": members})
        for _ in ids:
            await self.hear("membership/updated")

    async def remove(self, *ids: str) -> None:
        members = [{"id": id, "name": id.rpartition("/")[2]} for id in ids]
        await self.from_cloud("membership", {"event_id": "m", "timestamp": 1, "removed_devices": members})

    async def put(self, name: str, operation: str = "update", **options: Any) -> dict[str, Any]:
        """A Device object as metamanager hands it on."""
        object = device(name, version=self.next_version(), **options)
        await self._hand_on(f"default/device/{name}", object, operation)
        return object

    async def put_model(self, name: str, operation: str = "insert", **properties: str) -> None:
        items = [{"name": key, "type": type, "accessMode": "ReadWrite"} for key, type in properties.items()]
        meta = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": self.next_version()}
        object = {"kind": "DeviceModel", "metadata": meta, "spec": {"properties": items, "protocol": "modbus"}}
        await self._hand_on(f"default/devicemodel/{name}", object, operation)

    async def delete(self, name: str, type: str = "device") -> None:
        path = f"default/{type}/{name}"
        object = self.rows.pop(path)
        await self._tell(path, object, "delete")

    async def link(self, connected: bool) -> None:
        await self.bus.send("twin", connection_notice(connected, timestamp=1))

    async def reported(self, kind: str = "twin/edge_updated") -> Message:
        """The next report to the cloud, confirmed unless told otherwise."""
        async with asyncio.timeout(5):
            while True:
                message = await self.hub.get()
                if message.route.resource.endswith(kind):
                    if self.confirming:
                        await self.confirm(message)
                    return message

    async def confirm(self, report: Message, version: int | None = None) -> None:
        """As our cloud does, with the version of the Device; 0: as a Go cloud does, without."""
        version = self.version or 1 if version is None else version
        await self.from_cloud(
            "twin", "OK", "response", parent_id=report.id, resource_version=str(version) if version else ""
        )

    def next_version(self) -> str:
        self.version += 1
        return str(self.version)

    async def settled(self) -> None:
        """Everything said so far was taken."""
        await self.ask("$hw/events/node/n/membership/get", {})

    async def event(self) -> dict[str, Any]:
        """The next Event that was recorded."""
        async with asyncio.timeout(5):
            return await self.events.get()

    async def _hand_on(self, path: str, object: dict[str, Any], operation: str) -> None:
        self.rows[path] = object
        await self._tell(path, object, operation)

    async def _tell(self, path: str, object: dict[str, Any], operation: str) -> None:
        message = Message.of(
            source="metamanager", group="twin", operation=operation, resource=path, content=object, timestamp=1
        )
        await self.bus.send("twin", message)

    async def answer_questions(self) -> None:
        """metamanager: rows by path, or all of a type."""
        async for question in self.metamanager:
            if question.route.operation == "insert":
                self.events.put_nowait(question.read(dict))
                continue
            _, type, *name = question.route.resource.split("/")
            if name:
                found: Any = self.rows.get(question.route.resource)
            else:
                found = [row for path, row in self.rows.items() if path.split("/")[1] == type]
            reply = question.reply(found, operation="response" if found is not None else "error", timestamp=1)
            self.bus.reply(reply)


def device(name: str, *, uid: str = "", version: str = "1", node: str = "n", **desired: Any) -> dict[str, Any]:
    """A Device; `desired` by property, `annotations`, `labels`, `protocol` and `state_report` on request."""
    marks = {key: desired.pop(key) for key in ("annotations", "labels") if key in desired}
    protocol = desired.pop("protocol", "modbus")
    state_report = {"reportToCloud": True, "reportCycle": 1000} if desired.pop("state_report", False) else None
    properties = [
        {"name": key, **({"desired": {"value": value}} if value is not None else {})} for key, value in desired.items()
    ]
    meta = {"name": name, "namespace": "default", "uid": uid or f"uid-{name}", "resourceVersion": version}
    return {
        "kind": "Device",
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "metadata": {**meta, **marks},
        "spec": {
            "deviceModelRef": {"name": "m"},
            "nodeName": node,
            "protocol": {"protocolName": protocol},
            "properties": properties,
            "stateReport": state_report,
        },
    }


@asynccontextmanager
async def running_edge(path: Path, rows: dict[str, Any] | None = None, dmi: str = "") -> AsyncIterator[Edge]:
    clock = FixedClock(START)
    async with edge_database(path, clock) as database:
        bus = Bus()
        twin = DeviceTwin(bus, database, clock, "n", client=MetaClient(bus, clock), dmi_folder=dmi)
        edge = Edge(bus, database, clock, twin)
        edge.rows = rows if rows is not None else {}
        ready = asyncio.Event()
        tasks = [spawn(edge.answer_questions(), name="rows"), spawn(twin.run(ready.set), name="devicetwin under test")]
        try:
            async with asyncio.timeout(10):
                await ready.wait()
            yield edge
            assert not tasks[1].done(), tasks[1].exception()
        finally:
            await cancel_and_join(*tasks)


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with running_edge(tmp_path / "edgecore.db") as running:
        yield running


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., AbstractAsyncContextManager[Edge]]:
    return lambda **options: running_edge(tmp_path / "edgecore.db", **options)
