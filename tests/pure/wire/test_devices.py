"""Device messages against what Go halves said on the wire, both ways."""

import json
from typing import Any

import msgspec
import pytest

from edgehive.beehive.message import Message
from edgehive.wire import devices, payloads
from edgehive.wire.devices import DeviceId, ReportKind, ReportPath
from edgehive.wire.names import Group, Source

THERMO = DeviceId("default", "thermo-1")
NOW = 1_795_412_511_880


def body(message: Message) -> Any:
    return json.loads(message.content_bytes())


def test_membership_is_told_as_go_tells_it() -> None:
    added = devices.membership_update(event_id="e", timestamp=NOW, added=[devices.member(THERMO, "hall")])
    assert (added.route.source, added.route.group, added.route.operation, added.route.resource) == (
        "devicecontroller",
        "twin",
        "update",
        "membership",
    )
    assert body(added) == {
        "event_id": "e",
        "timestamp": NOW,
        "added_devices": [{"id": "default/thermo-1", "name": "thermo-1", "description": "hall"}],
        "removed_devices": None,
    }
    removed = body(devices.membership_update(event_id="e", timestamp=NOW, removed=[devices.member(THERMO)]))
    assert removed["added_devices"] is None
    assert removed["removed_devices"] == [{"id": "default/thermo-1", "name": "thermo-1"}]
    assert not payloads.needs_ack(added)


def test_the_full_list_answers_nobody_and_gives_every_entry_twins() -> None:
    message = devices.membership_detail([devices.member(THERMO)], event_id="e", timestamp=NOW)
    assert not message.header.parent_id
    assert message.route.resource == "membership/detail"
    assert body(message)["devices"] == [{"id": "default/thermo-1", "name": "thermo-1", "twin": {}}]
    assert body(devices.membership_detail([], event_id="e", timestamp=NOW))["devices"] == []
    assert not payloads.needs_ack(message)


def test_a_go_report_is_read_and_built_alike() -> None:
    content = {
        "event_id": "762115e7",
        "timestamp": NOW,
        "twin": {
            "temperature": {
                "expected": {"value": "21", "metadata": {"timestamp": NOW}},
                "actual": {"value": "26", "metadata": {"timestamp": NOW}},
                "optional": True,
                "metadata": {"type": "int"},
                "expected_version": {"cloud": 0, "edge": 1},
                "actual_version": {"cloud": 0, "edge": 2},
            },
            "humidity": {"actual": {}, "optional": True, "metadata": {"type": "deleted"}},
            "gone": None,
        },
    }
    update = msgspec.json.decode(json.dumps(content), type=devices.TwinUpdate)
    assert update.twin is not None
    built = devices.twin_report(THERMO, update.twin, event_id="762115e7", timestamp=NOW)
    assert body(built) == content
    assert built.route.resource == "device/default/thermo-1/twin/edge_updated"
    assert (built.route.source, built.route.group) == (Source.TWIN, Group.RESOURCE)


def test_what_the_edge_set_itself_is_told_beside_what_go_reads() -> None:
    conflict = devices.Conflict("19", "edge", NOW)
    twin = devices.Twin(expected=devices.TwinValue("21"), local=devices.Local("20", conflict))
    report = devices.twin_report(THERMO, {"p": twin}, event_id="e", timestamp=NOW, uid="life")
    assert body(report) == {
        "event_id": "e",
        "timestamp": NOW,
        "uid": "life",
        "twin": {
            "p": {
                "expected": {"value": "21"},
                "local": {"base": "20", "conflict": {"value": "19", "winner": "edge", "timestamp": NOW}},
            }
        },
    }
    assert devices.read(report, devices.TwinUpdate).twin == {"p": twin}
    assert devices.confirmation(report, timestamp=NOW, resource_version="431").header.resourceversion == "431"


def test_a_state_is_text_that_holds_json() -> None:
    state = devices.DeviceState("thermo-1", "online", "2026-11-23T05:49:47Z")
    built = devices.state_report(THERMO, state, event_id="e", timestamp=NOW)
    assert built.content.__class__ is msgspec.Raw and bytes(built.content)[:1] == b'"'
    assert body(built) == {
        "event_id": "e",
        "timestamp": NOW,
        "device": {"name": "thermo-1", "state": "online", "lastOnlineTime": "2026-11-23T05:49:47Z"},
    }
    assert devices.read_state(built).device == state


def test_a_state_under_a_capital_key_is_read_too() -> None:
    content = {"event_id": "e", "timestamp": 1, "Device": {"name": "d", "state": "OFFLINE"}}
    message = Message.of(
        source="twin", group="resource", operation="update", resource="x", content=content, timestamp=1
    )
    assert devices.read_state(message).device == devices.DeviceState("d", "OFFLINE")


def test_the_question_is_text_that_holds_json() -> None:
    question = devices.membership_question("n1", event_id="e", timestamp=NOW)
    assert (question.route.operation, question.route.resource) == ("get", "membership/detail")
    assert body(question) == {
        "event_type": "group_membership_event",
        "event_id": "e",
        "group_id": "n1",
        "operation": "detail",
        "timestamp": NOW,
    }


def test_a_confirmation_names_the_report_it_answers() -> None:
    report = devices.twin_report(THERMO, {}, event_id="e", timestamp=NOW)
    answer = devices.confirmation(report, timestamp=NOW)
    assert answer.header.parent_id == report.id
    assert (answer.route.source, answer.route.group, answer.route.operation, answer.route.resource) == (
        "devicecontroller",
        "twin",
        "response",
        "twin",
    )
    assert bytes(answer.content) == b'"OK"'


@pytest.mark.parametrize("kind", list(ReportKind))
@pytest.mark.parametrize("node", ["", "edge-1.site"])
def test_paths_of_reports_are_read_as_they_are_written(kind: ReportKind, node: str) -> None:
    path = ReportPath(DeviceId("factory", "press.4"), kind, node)
    assert ReportPath.parse(str(path)) == path


@pytest.mark.parametrize(
    "path", ["", "device/default/d", "device/default//state/update", "device/a/b/c/d", "x/a/b/state/update"]
)
def test_other_paths_are_no_reports(path: str) -> None:
    with pytest.raises(ValueError, match="is not a report"):
        ReportPath.parse(path)


@pytest.mark.parametrize("text", ["", "d", "/d", "a/", "a/b/c"])
def test_a_device_has_a_namespace_and_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not <namespace>/<name>"):
        DeviceId.parse(text)
