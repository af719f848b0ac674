"""Every hub message recorded from a live Go pair: decoded, encoded again to an equal document, and recognised."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from edgehive.api import registry
from edgehive.wire import codec, names, payloads
from edgehive.wire.link import ProtocolError
from edgehive.wire.resource import Resource

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or CHECKOUT.parent / "shared")
FILES = sorted((SHARED / "golden").glob("*.jsonl"))

#: What the scripted edge of the recording sent on purpose to see it fail.
DELIBERATE = {"source": {"x"}, "operation": {"frobnicate"}, "resource": {"short", "default/frob/x"}}
#: Recordings in which the link is cut or a scripted edge withholds its acks.
WITHOUT_ALL_ACKS = ("22-", "24-", "25-", "27-", "29-", "30-", "31-")
#: Messages with nothing in them end an edge's connection.
SHUTDOWN = {"header": {"msg_id": "", "timestamp": 0}, "route": {}, "content": None}

pytestmark = pytest.mark.skipif(
    not FILES, reason=f"no recorded traffic: {SHARED / 'golden'} is absent (EDGEHIVE_SHARED names its parent)"
)


class Recorded(NamedTuple):
    place: str
    direction: str
    text: str


def recorded(file: Path) -> Iterator[Recorded]:
    with file.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["channel"] in ("hub", "hub-direct") and "text" in entry["message"]:
                yield Recorded(f"{file.name} seq {entry['seq']}", entry["direction"], entry["message"]["text"])


def well_formed(file: Path) -> Iterator[tuple[Recorded, dict[str, Any]]]:
    for message in recorded(file):
        if message.text != "not json":
            yield message, json.loads(message.text)


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def with_go_case(document: dict[str, Any]) -> dict[str, Any]:
    """The same document with the keys of its three parts in the case Go writes."""
    folded = {key.lower(): value for key, value in document.items()}
    for part in ("header", "route"):
        folded[part] = {key.lower(): value for key, value in (folded.get(part) or {}).items()}
    return {part: folded.get(part) for part in ("header", "route", "content")}


def test_decodes_and_encodes_to_an_equal_document(file: Path):
    """[24, 25]"""
    for message, document in well_formed(file):
        again = json.loads(codec.encode(codec.decode(message.text.encode())))
        expected = with_go_case(document)
        # wire: Go writes false and "" nowhere, a scripted edge may: absent and empty are the same.
        for part in ("header", "route"):
            expected[part] = {
                key: value for key, value in expected[part].items() if value or key in ("msg_id", "timestamp")
            }
        assert again == expected, message.place


def test_what_is_not_json_is_refused(file: Path):
    for message in recorded(file):
        if message.text == "not json":
            with pytest.raises(ProtocolError, match="not one JSON document"):
                codec.decode(message.text.encode())


def test_module_and_operation_are_recognised(file: Path):
    for message, document in well_formed(file):
        if document == SHUTDOWN:
            continue
        route = codec.decode(message.text.encode()).route
        if route.source not in DELIBERATE["source"]:
            assert names.recognise_module(route.source, route.group), (message.place, route)
        if route.operation not in DELIBERATE["operation"]:
            assert names.is_operation(route.operation), (message.place, route)


def recognised(path: str) -> bool:
    if path in set(names.Path):
        return True
    if path.startswith("operations.kubeedge.io/v1alpha2/"):
        return path.split("/")[4] == "node"
    if path.startswith(("device/", "membership/")):
        return True
    resource = Resource.parse(path)
    return resource.type in set(names.ResourceType) or registry.by_edge_type(resource.type) is not None


def test_resource_is_recognised(file: Path):
    """[27]"""
    unknown = []
    for message, document in well_formed(file):
        route = codec.decode(message.text.encode()).route
        # User messages carry topics and URLs; theirs is no object path.
        if document == SHUTDOWN or route.group == "user" or route.source == "x":
            continue
        assert not route.resource.startswith("node/"), f"{message.place}: the wire has no node prefix"
        try:
            known = recognised(route.resource)
        except ValueError:
            known = False
        if not known and route.resource not in DELIBERATE["resource"]:
            unknown.append((message.place, route.source, route.resource))
    assert unknown == []


@pytest.mark.parametrize(
    "file", [file for file in FILES if not file.name.startswith(WITHOUT_ALL_ACKS)], ids=lambda file: file.stem
)
def test_go_acknowledged_whatever_we_say_needs_it(file: Path):
    downstream, acknowledged = {}, set()
    for message, _ in well_formed(file):
        decoded = codec.decode(message.text.encode())
        if message.direction == "cloud->edge":
            downstream[decoded.id] = decoded
        elif decoded.route.operation == "response" and bytes(decoded.content) == b'"OK"':
            acknowledged.add(decoded.header.parent_id)
    missing = [
        (decoded.route.source, decoded.route.operation, decoded.route.resource)
        for id, decoded in downstream.items()
        if payloads.needs_ack(decoded) and id not in acknowledged
    ]
    assert missing == []


def test_every_answer_of_the_cloud_is_read_as_success_or_failure(file: Path):
    for message, document in well_formed(file):
        route = codec.decode(message.text.encode()).route
        if message.direction != "cloud->edge" or route.operation != "response" or route.source == "x":
            continue
        answer = payloads.read_reply(codec.decode(message.text.encode()))
        content = document["content"]
        failed = '"ErrStatus"' in message.text or content == {}
        if isinstance(content, str) and content not in ("OK",):
            continue  # text of its own: a CA certificate, an old edge's error
        assert (answer.error is not None) == failed, message.place
        if isinstance(content, dict) and not failed:
            assert answer.object is not None, message.place
            assert answer.object.to_dict() == content.get("Object", content), message.place
        if answer.error is not None:
            assert answer.error.code, message.place
