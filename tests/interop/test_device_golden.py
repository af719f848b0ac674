"""What a Go devicecontroller told its edge and answered it, ours tells and answers: recordings of devices replayed.

The objects the recorded cloud sent are created, changed and deleted here; a scripted edge says what the Go edge said.
Compared are routes and contents but for what is generated. Where ours differs on purpose, the test says so.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, ApiResource
from edgehive.beehive.message import Message
from edgehive.kube.client import Client
from edgehive.testing.cloud import ScriptedEdge, cloud, content_of
from edgehive.wire.codec import decode

SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or Path(__file__).resolve().parents[3] / "shared")
GOLDEN = SHARED / "golden"
NODE = "goedge"
FILES = (
    "11-device-crud",
    "12-mqtt-device-twin",
    "13-dmi-mapper",
    "14-dmi-mapper-crash",
    "22-disconnect-reconnect",
    "23-restart-after-crash-device-resync",
)
KINDS: dict[str, ApiResource] = {"device": DEVICES, "devicemodel": DEVICE_MODELS}

pytestmark = [
    pytest.mark.looptime,
    pytest.mark.skipif(
        not GOLDEN.exists(), reason=f"no recorded traffic: {GOLDEN} is absent (EDGEHIVE_SHARED names its parent)"
    ),
]


class Said(NamedTuple):
    """One recorded message about devices."""

    down: bool
    message: Message


def recorded(stem: str) -> Iterator[Said]:
    for line in (GOLDEN / f"{stem}.jsonl").read_text().splitlines():
        entry = json.loads(line)
        body = entry["message"]
        if entry["channel"] == "hub" and isinstance(body.get("json"), dict):
            message = decode(body["text"].encode())
            if is_of_devices(message):
                yield Said(entry["direction"] == "cloud->edge", message)


def is_of_devices(message: Message) -> bool:
    route = message.route
    if route.source in ("devicecontroller", "twin"):
        return True
    return any(f"/{kind}/" in route.resource for kind in KINDS) and route.operation != "response"


def named(message: Message) -> tuple[ApiResource, str, str] | None:
    """The object a message carries: kind, namespace, name."""
    parts = message.route.resource.split("/")
    return (KINDS[parts[1]], parts[0], parts[2]) if len(parts) == 3 and parts[1] in KINDS else None


def essence(message: Message) -> Any:
    """Without what is generated."""
    route = message.route
    content = content_of(message)
    if route.resource == "membership":
        content = {key: value for key, value in content.items() if key not in ("event_id", "timestamp")}
    elif isinstance(content, dict):
        meta = content.get("metadata", {})
        kept = {key: meta[key] for key in ("name", "namespace", "labels") if meta.get(key)}
        content = {
            "metadata": kept,
            "spec": content["spec"],
            "kind": content["kind"],
            "apiVersion": content["apiVersion"],
        }
    return route.source, route.group, route.operation, route.resource, content


async def put(client: Client, message: Message) -> None:
    """Make the object be as the recorded cloud sent it."""
    found = named(message)
    assert found is not None
    kind, namespace, name = found
    body = content_of(message)
    wanted = {"metadata": {"name": name, "labels": body["metadata"].get("labels") or {}}, "spec": body["spec"]}
    if name in {item.meta.name for item in (await client.list(kind, namespace)).items}:
        await client.patch(kind, name, wanted, namespace)
    else:
        await client.create(kind, wanted, namespace)


async def prepare(client: Client, stem: str) -> None:
    """The thermometer of the first recording is there in the later ones."""
    if stem == FILES[0]:
        return
    for said in list(recorded(FILES[0]))[:3]:
        if named(said.message):
            await put(client, said.message)


@pytest.mark.parametrize("stem", FILES)
async def test_what_the_recorded_cloud_did_with_devices_is_done(stem: str) -> None:
    """[61, 62, 63]"""
    async with cloud() as it:
        edge = await it.edge(NODE)
        await prepare(it.client, stem)
        if stem != FILES[0]:
            await edge.expect_object("default/device/thermo-1")
        expected: list[Message] = []
        for said in recorded(stem):
            await edge.keepalive()
            if not said.down:
                await say(edge, said.message)
            elif said.message.header.parent_id:
                await confirmed(edge, said.message)
            else:
                await do(it.client, edge, said.message, expected)
        assert not edge.closed.is_set()
        await values_are_there(it.client, stem)


async def say(edge: ScriptedEdge, message: Message) -> None:
    if message.route.operation != "response":
        await edge.link.send(message)


async def confirmed(edge: ScriptedEdge, theirs: Message) -> None:
    ours = await edge.expect(lambda message: message.header.parent_id == theirs.header.parent_id)
    assert essence(ours) == essence(theirs)


async def do(client: Client, edge: ScriptedEdge, theirs: Message, before: list[Message]) -> None:
    """Do to the API what made the Go cloud say this, and hear ours say it; `before` waits for what makes it so."""
    route, found = theirs.route, named(theirs)
    if found is None or (route.operation == "insert" and found[0] is DEVICE_MODELS):
        before.append(theirs)
        if found is not None:
            await put(client, theirs)
        return
    if route.operation == "delete":
        before.append(theirs)
        if found[0] is DEVICES:
            await client.delete(DEVICES, found[2], found[1])
            await all_said(edge, before)
        return
    kind, namespace, name = found
    there = {item.meta.name: item for item in (await client.list(kind, namespace)).items}
    same_spec = name in there and there[name].to_dict()["spec"] == content_of(theirs)["spec"]
    await put(client, theirs)
    # A Go cloud's synccontroller also sends what changed in its labels alone, in a name its edge gives to no twin (B5).
    if not (same_spec and route.source == "edgecontroller"):
        before.append(theirs)
    if not (kind is DEVICE_MODELS and name not in there):
        await all_said(edge, before)


async def all_said(edge: ScriptedEdge, theirs: list[Message]) -> None:
    for message in theirs:
        wanted = essence(in_the_name_of_devices(message))
        await edge.expect(lambda ours, wanted=wanted: is_of_devices(ours) and essence_or_none(ours) == wanted)  # type: ignore[misc]
    theirs.clear()


def essence_or_none(message: Message) -> Any:
    try:
        return essence(message)
    except KeyError:
        return None


def in_the_name_of_devices(message: Message) -> Message:
    """On purpose: what a Go synccontroller resends comes from devicecontroller here, as new where it is new (B5)."""
    if message.route.source != "edgecontroller":
        return message
    content = content_of(message)
    kinds = {"kind": "DeviceModel" if "/devicemodel/" in message.route.resource else "Device"}
    whole = kinds | {"apiVersion": DEVICES.api_version} | content
    operation = "insert" if message.route.resource.endswith("9") else message.route.operation
    return Message.of(
        source="devicecontroller",
        group="resource",
        operation=operation,
        resource=message.route.resource,
        content=whole,
        timestamp=1,
    )


async def values_are_there(client: Client, stem: str) -> None:
    """The last value of each property the devices have, and the last state."""
    values: dict[tuple[str, str], str] = {}
    states: dict[str, str] = {}
    devices = {item.meta.name: item.to_dict()["spec"] for item in (await client.list(DEVICES)).items}
    for said in recorded(stem):
        parts = said.message.route.resource.split("/")
        if said.down or parts[0] != "device" or parts[2] not in devices:
            continue
        if parts[3] == "state":
            states[parts[2]] = json.loads(said.message.content_bytes())["device"]["state"]
            continue
        for name, twin in content_of(said.message)["twin"].items():
            if "value" in twin.get("actual", {}) and any(
                name == one["name"] for one in devices[parts[2]]["properties"]
            ):
                values[parts[2], name] = twin["actual"]["value"]
    for (device, name), value in values.items():
        status = (await client.get(DEVICE_STATUSES, device, "default")).to_dict()["status"]
        assert {twin["propertyName"]: twin["reported"]["value"] for twin in status["twins"]}[name] == value
    for device, state in states.items():
        assert (await client.get(DEVICE_STATUSES, device, "default")).to_dict()["status"]["state"] == state
