"""Every topic of devices and nodes with the payloads applications know (DT1), and what a bad request is told (DT2)."""

import json

import pytest

NOW = 1767225600000
AT = {"timestamp": NOW}


def typed(value: str, type: str = "string", **more: object) -> dict[str, object]:
    return {"actual": {"value": value}, "metadata": {"type": type}, **more}


async def test_dt1_the_devices_of_a_node_are_told_to_who_asks(edge):
    await edge.add("default/d")
    answer = await edge.ask("$hw/events/node/n/membership/get", {"event_id": "m1", "timestamp": 5})
    assert answer == {"event_id": "m1", "timestamp": NOW, "devices": [{"id": "default/d", "name": "d"}]}


async def test_dt1_devices_that_come_and_go_are_told_one_by_one(edge):
    members = [{"id": "default/a", "name": "a", "description": "first"}, {"id": "default/b", "name": "b"}]
    await edge.from_cloud("membership", {"event_id": "x", "timestamp": 1, "added_devices": members})
    first, second = await edge.hear("$hw/events/node/n/membership/updated"), await edge.hear("membership/updated")
    assert first["added_devices"] == [members[0]]
    assert first["removed_devices"] is None
    assert second["added_devices"] == [members[1]]
    await edge.remove("default/a")
    gone = await edge.hear("membership/updated")
    assert (gone["added_devices"], gone["removed_devices"]) == (None, [members[0]])
    assert gone["event_id"] != first["event_id"]


async def test_a_device_whose_membership_was_lost_is_told_with_its_description(edge):
    await edge.put("d", labels={"description": "hall"})
    came = await edge.hear("membership/updated")
    assert came["added_devices"] == [{"id": "default/d", "name": "d", "description": "hall"}]


async def test_dt1_an_update_has_a_result_a_document_and_a_delta(edge):
    await edge.add("default/d")
    await edge.publish(
        "$hw/events/device/default/d/twin/update",
        {"event_id": "u", "timestamp": 1, "twin": {"t": typed("26", "int", expected={"value": "21"})}},
    )
    shown = {
        "expected": {"value": "21", "metadata": AT}, "actual": {"value": "26", "metadata": AT}, "optional": True,
        "metadata": {"type": "int"},
    }  # fmt: skip
    prefix = "$hw/events/device/default/d/twin/update"
    assert await edge.hear(f"{prefix}/result") == {"event_id": "u", "timestamp": NOW, "twin": {"t": shown}}
    document = await edge.hear(f"{prefix}/document")
    assert document == {"event_id": "u", "timestamp": NOW, "twin": {"t": {"last": None, "current": shown}}}
    delta = await edge.hear(f"{prefix}/delta")
    assert (delta["twin"], delta["delta"]) == ({"t": shown}, {"t": "21"})
    assert delta["event_id"] not in ("", "u")


async def test_dt1_a_result_shows_what_was_said_and_a_document_all_of_it(edge):
    await edge.add("default/d")
    await edge.update(t=typed("26", "int", expected={"value": "26"}))
    result = await edge.update(t="27")
    assert result["twin"]["t"] == {
        "actual": {"value": "27", "metadata": AT}, "optional": True, "metadata": {"type": "int"}
    }  # fmt: skip
    current = (await edge.hear("/document"))["twin"]["t"]["current"]
    assert current["expected"]["value"] == "26"


async def test_dt1_nothing_differs_no_delta(edge):
    await edge.add("default/d")
    await edge.update(t=typed("1", expected={"value": "1"}))
    await edge.settled()
    assert not [topic for topic, _ in edge.published if topic.endswith("/delta")]


async def test_dt1_a_state_is_answered_and_reported(edge):
    await edge.add("default/d")
    await edge.link(True)
    answer = await edge.ask("$hw/events/device/default/d/state/update", {"event_id": "s", "state": "online"})
    assert answer["device"] == {"name": "d", "state": "online", "lastOnlineTime": "2026-01-01T00:00:00Z"}
    assert answer["event_id"] not in ("", "s")
    report = await edge.reported("device/default/d/state/update")
    assert json.loads(report.read(str))["device"] == answer["device"]
    answer = await edge.ask("$hw/events/device/default/d/state/update", {"event_id": "s", "state": "OFFLINE"})
    assert answer["device"] == {"name": "d", "state": "OFFLINE"}


async def test_dt1_attributes_of_membership_are_told(edge):
    color = {"value": "red", "optional": True, "metadata": {"type": "string"}}
    member = {"id": "default/d", "name": "d", "attributes": {"color": color}}
    await edge.from_cloud("membership", {"event_id": "m", "timestamp": 1, "added_devices": [member]})
    told = await edge.hear("$hw/events/device/default/d/updated")
    assert told["attributes"] == {"color": color}
    devices = (await edge.ask("$hw/events/node/n/membership/get", {}))["devices"]
    assert devices[0]["attributes"] == {"color": color}
    await edge.publish("$hw/events/device/default/d/updated", {"event_id": "a", "attributes": {"color": None}})
    assert (await edge.hear("/d/updated"))["attributes"] == {"color": None}


async def test_dt1_a_cloud_of_2019_sets_a_desired_value(edge):
    await edge.add("default/d")
    twin = {"expected": {"value": "1"}, "expected_version": {"cloud": 7, "edge": 0}, "metadata": {"type": "int"}}
    await edge.from_cloud("device/default/d/twin/cloud_updated", {"event_id": "c", "timestamp": 1, "twin": {"t": twin}})
    assert (await edge.hear("/delta"))["delta"] == {"t": "1"}
    gone = {"metadata": {"type": "deleted"}, "expected_version": {"cloud": 8, "edge": 0}}
    await edge.from_cloud("device/default/d/twin/cloud_updated", {"event_id": "c", "timestamp": 1, "twin": {"t": gone}})
    assert await edge.twins() == {}


async def test_dt1_the_form_of_2019_is_answered_in_that_form(edge):
    await edge.add("default/d")
    answer = await edge.ask(
        "$hw/events/device/d/twin/update", {"event_id": "u", "twin": {"t": typed("1", expected={"value": "2"})}}
    )
    assert answer["event_id"] == "u"
    await edge.hear("$hw/events/device/d/twin/update/document")
    await edge.hear("$hw/events/device/default/d/twin/update/delta")
    assert (await edge.hear("$hw/events/device/d/twin/update/delta"))["delta"] == {"t": "2"}
    assert (await edge.ask("$hw/events/device/d/twin/get", {"event_id": "g"}))["twin"]["t"]["actual"]["value"] == "1"


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ('{"x":' + "[" * 100_000, 400, "Unmarshal update request body failed, please check the request"),
        ("{not json", 400, "Unmarshal update request body failed, please check the request"),
        ({"event_id": "e", "twin": {"t": 5}}, 400, "Unmarshal update request body failed, please check the request"),
        ({"event_id": "e"}, 400, "Update twin error, key:twin does not exist"),
        ({"event_id": "e", "twin": {"t": typed("abc", "int")}}, 400, "the value is not int or integer"),
        ({"event_id": "e", "twin": {"t": typed("9" * 30, "int")}}, 400, "the value is not int or integer"),
        ({"event_id": "e", "twin": {"t": typed("1_0", "int")}}, 400, "the value is not int or integer"),
        ({"event_id": "e", "twin": {"t": typed("x", "float")}}, 400, "the value is not float"),
        ({"event_id": "e", "twin": {"t": typed("yes", "boolean")}}, 400, "the bool value must be true or false"),
        ({"event_id": "e", "twin": {"t": typed("4.5", "double")}}, 400, "the value type is not allowed"),
        ({"event_id": "e", "twin": {"t": None}}, 400, "the request body is wrong"),
        ({"event_id": "e", "twin": {"a b": typed("1")}}, 400, "the name 'a b' is not"),
        ({"event_id": "e", "twin": {"t": typed("x" * 513)}}, 400, "the value holds something else"),
        ({"event_id": "e", "twin": {f"t{n}": typed("1") for n in range(600)}}, 400, "at most 512 properties"),
    ],
)
async def test_dt2_a_bad_update_is_refused_as_a_whole_with_its_reason(edge, payload, code, reason):
    await edge.add("default/d")
    await edge.update(good="1")
    answer = await edge.ask("$hw/events/device/default/d/twin/update", payload)
    assert answer["code"] == code
    assert reason in answer["reason"]
    assert set(await edge.twins()) == {"good"}
    event = await edge.event()
    assert (event["reason"], event["involvedObject"]["name"]) == ("ValueRefused", "d")
    assert reason in event["message"]


async def test_dt2_a_part_that_is_bad_spoils_the_whole_update(edge):
    await edge.add("default/d")
    answer = await edge.update(a="1", b=typed("x", "int"))
    assert (answer["event_id"], answer["code"]) == ("e", 400)
    assert await edge.twins() == {}


async def test_dt2_an_unknown_device_is_404(edge):
    answer = await edge.update("default/nosuch", x="1")
    assert (answer["code"], answer["reason"]) == (404, "update rejected due to the device is not existed")
    answer = await edge.ask("$hw/events/device/default/nosuch/twin/get", {"event_id": "n"})
    assert answer["code"] == 404
    assert answer["reason"] == "Device default/nosuch not found while getting twin"


async def test_dt7_null_deletes_an_optional_twin_only(edge):
    await edge.add("default/d")
    await edge.update(a="1", b=typed("2", optional=False))
    await edge.link(True)
    await edge.reported()
    assert (await edge.update(a=None))["twin"] == {"a": None}
    assert (await edge.hear("/document"))["twin"]["a"]["current"] is None
    assert "code" not in await edge.update(b=None)
    assert set(await edge.twins()) == {"b"}
    told = (await edge.reported()).read(dict)["twin"]["a"]
    assert (told["metadata"]["type"], told["actual"], told["actual_version"]["edge"]) == ("deleted", {}, 2)
    # A deleted one comes back, with another type if it likes.
    assert (await edge.update(a=typed("7", "int")))["twin"]["a"]["metadata"] == {"type": "int"}


async def test_dt7_optional_never_becomes_true_again_and_a_type_stays(edge):
    await edge.add("default/d")
    await edge.update(a=typed("1", "int", optional=False))
    shown = (await edge.update(a=typed("2", "string", optional=True)))["twin"]["a"]
    assert (shown["optional"], shown["metadata"]["type"]) == (False, "int")


async def test_dt8_an_unknown_state_is_ignored(edge):
    await edge.add("default/d")
    await edge.publish("$hw/events/device/default/d/state/update", {"event_id": "s", "state": "bogus"})
    await edge.settled()
    assert not [topic for topic, _ in edge.published if "state" in topic]


@pytest.mark.parametrize("value", ["two words", "ü", "50%", "a\nb"])
async def test_dt10_over_mqtt_values_keep_to_the_alphabet_of_the_go_edge(edge, value):
    await edge.add("default/d")
    assert (await edge.update(t=value))["code"] == 400
    assert await edge.twins() == {}


async def test_dt10_a_desired_value_of_the_cloud_may_be_any_text(edge):
    await edge.put("d", t="zwei Wörter")
    assert (await edge.hear("/delta"))["delta"] == {"t": "zwei Wörter"}


@pytest.mark.parametrize(
    "topic",
    ["$hw/events/device/", "$hw/events/device/a/b/c/d/e", "$hw/events/device//x/twin/get", "$hw/events/node//", "x"],
)
async def test_topics_that_mean_nothing_are_ignored(edge, topic):
    await edge.publish(topic, "{}")
    await edge.settled()


async def test_what_cannot_be_read_ends_nothing(edge):
    await edge.from_cloud("membership", "{broken")
    await edge.from_cloud("membership", '{"x":' + "[" * 100_000)
    await edge.from_cloud("membership/detail", {"devices": 5})
    await edge.from_cloud("nonsense", 5)
    await edge.from_cloud("membership", {"added_devices": [{"name": "no id"}]})
    await edge.publish("$hw/events/device/default/d/twin/cloud_updated", "[]")
    await edge.add("default/d")
    assert await edge.twins() == {}
