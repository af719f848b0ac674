"""What the cloud hears and says: reports until they are confirmed, desired values of both sides, lives of devices.

DT3 to DT6 of the acceptance list, and the rules of decision record 0021.
"""

import asyncio

import pytest

from edgehive.edgecore.devicetwin import devicetwin, reports


def expected(value: str, **more: object) -> dict[str, object]:
    return {"expected": {"value": value}, **more}


async def values(edge, side: str = "expected") -> dict[str, str]:
    return {name: twin[side]["value"] for name, twin in (await edge.twins()).items() if side in twin}


async def test_dt3_an_equal_value_is_answered_and_makes_no_traffic(edge):
    await edge.add("default/d")
    await edge.link(True)
    await edge.update(t="1")
    await edge.reported()
    for _ in range(5):
        assert (await edge.update(t="1"))["twin"]["t"]["actual"]["value"] == "1"
    await edge.update(u="2")
    # The next report is about the other property, and there was none in between.
    assert list((await edge.reported()).read(dict)["twin"]) == ["u"]


async def test_dt4_after_a_local_change_the_cloud_is_not_refused_for_ever(edge):
    """The cloud's first value after the change is above what it confirmed, and is taken; so are all others."""
    await edge.put("d", t="1")
    await edge.link(True)
    await edge.reported()
    edge.confirming = False
    await edge.update(t=expected("5"))
    while "local" not in (report := await edge.reported()).read(dict)["twin"]["t"]:
        await edge.confirm(report)
    assert report.read(dict)["twin"]["t"]["local"] == {"base": "1"}
    assert report.read(dict)["twin"]["t"]["expected_version"] == {"cloud": 1, "edge": 1}
    await edge.confirm(report, version=edge.version)
    edge.confirming = True
    for value in ("2", "3"):
        await edge.put("d", t=value)
        assert await values(edge) == {"t": value}


async def test_dt4_the_same_with_a_cloud_that_tells_no_version(edge):
    await edge.put("d", t="1")
    await edge.link(True)
    await edge.update(t=expected("5"))
    while (await edge.reported()).read(dict)["twin"]["t"].get("local") is None:
        pass
    await edge.settled()
    await edge.put("d", t="2")
    assert await values(edge) == {"t": "2"}


async def test_dt4_a_cloud_of_2019_that_always_sends_edge_0_is_not_refused(edge):
    await edge.add("default/d")
    await edge.update(t=expected("5"))
    twin = {"expected": {"value": "6"}, "expected_version": {"cloud": 9, "edge": 0}, "metadata": {"type": "string"}}
    await edge.from_cloud("device/default/d/twin/cloud_updated", {"twin": {"t": twin}})
    assert await values(edge) == {"t": "6"}
    old = {**twin, "expected": {"value": "4"}, "expected_version": {"cloud": 8, "edge": 0}}
    await edge.from_cloud("device/default/d/twin/cloud_updated", {"twin": {"t": old}})
    assert await values(edge) == {"t": "6"}


async def test_a_desired_value_of_the_cloud_reaches_applications_and_is_reported(edge):
    await edge.put_model("m", t="INT")
    await edge.put("d", t="21")
    delta = await edge.hear("$hw/events/device/default/d/twin/update/delta")
    assert delta["delta"] == {"t": "21"}
    assert delta["twin"]["t"]["metadata"] == {"type": "int"}
    await edge.link(True)
    report = (await edge.reported()).read(dict)
    assert report["uid"] == "uid-d"
    assert report["twin"]["t"]["expected"]["value"] == "21"
    assert "local" not in report["twin"]["t"]


async def test_both_sides_set_a_value_unknowing_and_the_clouds_stands_by_default(edge):
    await edge.put("d", t="1")
    await edge.update(t=expected("5"))
    await edge.put("d", t="9")
    assert await values(edge) == {"t": "9"}
    event = await edge.event()
    assert (event["reason"], event["involvedObject"]["name"]) == ("DesiredValueConflict", "d")
    assert "'5'" in event["message"]
    assert "'9' stands" in event["message"]
    await edge.link(True)
    twin = (await edge.reported()).read(dict)["twin"]["t"]
    assert twin["local"] == {"conflict": {"value": "5", "winner": "cloud", "timestamp": 1767225600000}}
    # Told once: the confirmation ends it.
    await edge.settled()
    await edge.update(t="1")
    assert "local" not in (await edge.reported()).read(dict)["twin"]["t"]


async def test_both_sides_set_a_value_unknowing_and_the_edges_stands_where_it_owns_it(edge):
    owned = {"edgehive.io/edge-owned-desired": "other, t"}
    await edge.put("d", t="1", annotations=owned)
    await edge.update(t=expected("5"))
    await edge.put("d", t="9", annotations=owned)
    assert await values(edge) == {"t": "5"}
    assert "'5' stands" in (await edge.event())["message"]
    await edge.link(True)
    twin = (await edge.reported()).read(dict)["twin"]["t"]
    assert twin["local"]["base"] == "9"
    assert twin["local"]["conflict"]["winner"] == "edge"
    # The cloud takes it over, and all is settled.
    await edge.put("d", t="5", annotations=owned)
    await edge.put("d", t="10", annotations=owned)
    assert await values(edge) == {"t": "10"}


async def test_a_cloud_write_made_before_the_confirmation_had_not_seen_the_local_one(edge):
    """It comes later, as after a cut, but its version is below that of the confirmation."""
    owned = {"edgehive.io/edge-owned-desired": "*"}
    await edge.put("d", t="1", annotations=owned)
    edge.confirming = False
    await edge.link(True)
    await edge.update(t=expected("5"))
    while "local" not in (report := await edge.reported()).read(dict)["twin"]["t"]:
        await edge.confirm(report)
    await edge.confirm(report, version=100)
    await edge.put("d", t="9", annotations=owned)
    assert await values(edge) == {"t": "5"}


async def test_a_value_both_sides_agree_on_is_no_conflict(edge):
    await edge.put("d", t="1")
    await edge.update(t=expected("5"))
    await edge.put("d", t="5")
    await edge.put("d", t="6")
    assert await values(edge) == {"t": "6"}
    assert not len(edge.events)


async def test_a_device_that_comes_again_unchanged_takes_back_no_local_value(edge):
    await edge.put("d", t="1")
    await edge.update(t=expected("5"))
    await edge.put("d", t="1")
    assert await values(edge) == {"t": "5"}


async def test_a_desired_value_that_the_cloud_takes_away_is_gone(edge):
    await edge.put("d", t="1")
    await edge.put("d", t=None)
    assert await values(edge) == {}


@pytest.mark.parametrize("source", ["insert", "update"])
async def test_a_device_is_added_by_its_object_whatever_brought_it(edge, source):
    """[80] B5: a Go cloud resends devices without membership, as updates of another controller."""
    await edge.put("d", source, t="1")
    assert (await edge.hear("membership/updated"))["added_devices"] == [{"id": "default/d", "name": "d"}]
    assert await values(edge) == {"t": "1"}
    await edge.delete("d")
    assert (await edge.hear("membership/updated"))["removed_devices"] == [{"id": "default/d", "name": "d"}]


async def test_dt5_an_outage_costs_nothing_and_the_last_values_are_told_once(edge):
    await edge.add("default/d", "default/e")
    for number in range(200):
        await edge.update(a=str(number), b=str(-number))
        await edge.update("default/e", c=str(number))
    assert not len(edge.hub)
    await edge.link(True)
    reports = [await edge.reported(), await edge.reported()]
    told = {report.route.resource.split("/")[2]: report.read(dict)["twin"] for report in reports}
    assert {name: twin["actual"]["value"] for name, twin in told["d"].items()} == {"a": "199", "b": "-199"}
    assert told["e"]["c"]["actual"]["value"] == "199"
    await edge.settled()
    assert not [message for message in drained(edge.hub) if "twin/edge_updated" in message.route.resource]


async def test_dt5_one_report_a_device_is_on_its_way_however_fast_it_changes(edge):
    edge.confirming = False
    await edge.add("default/d")
    await edge.link(True)
    for number in range(500):
        await edge.update(a=str(number))
    first = await edge.reported()
    assert not [message for message in drained(edge.hub) if "edge_updated" in message.route.resource]
    await edge.confirm(first)
    assert (await edge.reported()).read(dict)["twin"]["a"]["actual"]["value"] == "499"


def values_told(report):
    return {name: (twin.get("actual") or {}).get("value") for name, twin in report.read(dict)["twin"].items()}


class GoCloud:
    """What a Go cloud shows of reports, as recorded: the first of a property leaves its name alone (B14)."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}

    def take(self, told: dict[str, str]) -> None:
        self.shown |= {name: value if name in self.shown else "" for name, value in told.items()}


async def test_a_go_cloud_is_told_the_first_value_of_a_property_twice_and_the_others_once(edge, monkeypatch):
    """Its confirmations name no version."""
    monkeypatch.setattr(reports, "PACE", 0.0)
    edge.confirming = False
    cloud = GoCloud()

    async def hears() -> dict[str, str]:
        report = await edge.reported()
        told = values_told(report)
        cloud.take(told)
        await edge.confirm(report, version=0)
        return told

    await edge.put("d", t="1")
    await edge.link(True)
    await edge.update(t="20", u="x")
    assert [await hears(), await hears()] == [{"t": "20", "u": "x"}] * 2
    assert cloud.shown == {"t": "20", "u": "x"}
    await edge.update(t="21")
    assert await hears() == {"t": "21"}
    assert cloud.shown == {"t": "21", "u": "x"}
    await nothing_is_told(edge)


async def test_a_cloud_of_ours_is_told_nothing_twice(edge, monkeypatch):
    monkeypatch.setattr(reports, "PACE", 0.0)
    await edge.put("d", t="1")
    await edge.link(True)
    await edge.update(t="20")
    assert values_told(await edge.reported()) == {"t": "20"}
    await nothing_is_told(edge)


async def nothing_is_told(edge):
    await edge.settled()
    await edge.settled()
    assert not [message for message in drained(edge.hub) if "twin/edge_updated" in message.route.resource]


async def test_an_unconfirmed_report_is_overtaken_by_one_that_holds_it_all(edge, monkeypatch):
    """A Go cloud does not answer about a device it does not know (yet)."""
    edge.confirming = False
    await edge.add("default/d")
    await edge.link(True)
    await edge.update(a="1")
    await edge.reported()
    monkeypatch.setattr(reports, "PATIENCE", 0.0)
    await edge.update(b="2")
    assert set((await edge.reported()).read(dict)["twin"]) == {"a", "b"}


async def test_devices_the_cloud_never_answers_about_hold_back_no_others(edge, monkeypatch):
    monkeypatch.setattr(reports, "WINDOW", 1)
    monkeypatch.setattr(reports, "PATIENCE", 0.1)
    edge.confirming = False
    await edge.add("default/d", "default/e")
    await edge.link(True)
    await edge.update(a="1")
    await edge.update("default/e", a="2")
    told = [(await edge.reported()).route.resource for _ in range(2)]
    assert told == ["device/default/d/twin/edge_updated", "device/default/e/twin/edge_updated"]


async def test_dt6_a_restart_keeps_devices_twins_versions_and_what_is_still_to_be_told(start):
    async with start() as edge:
        await edge.put("d", t="1")
        await edge.update(t={"expected": {"value": "5"}, "actual": {"value": "4"}}, u="x")
        await edge.ask("$hw/events/device/default/d/state/update", {"state": "online"})
        rows, version = edge.rows, edge.version
    async with start(rows=rows) as edge:
        edge.version = version
        twins = await edge.twins()
        assert (twins["t"]["expected"]["value"], twins["t"]["actual"]["value"]) == ("5", "4")
        assert twins["u"]["actual"] == {"value": "x", "metadata": {"timestamp": 1767225600000}}
        devices = (await edge.ask("$hw/events/node/n/membership/get", {}))["devices"]
        assert devices[0]["state"] == "online"
        await edge.link(True)
        told = (await edge.reported()).read(dict)["twin"]
        assert told["t"]["expected_version"] == {"cloud": 1, "edge": 1}
        assert told["t"]["local"] == {"base": "1"}
        await edge.reported("state/update")
        await edge.settled()
    async with start(rows=rows) as edge:
        await edge.link(True)
        await edge.settled()
        assert [message.route.resource for message in drained(edge.hub)] == ["membership/detail"]


async def test_devices_that_came_while_devicetwin_was_away_are_there_when_it_starts(start):
    async with start() as edge:
        await edge.put("d", t="1")
        rows = edge.rows
    meta = {"name": "e", "namespace": "default", "uid": "u", "resourceVersion": "5"}
    rows["default/device/e"] = {**rows["default/device/d"], "metadata": meta}
    async with start(rows=rows) as edge:
        assert await values(edge) == {"t": "1"}
        assert await edge.twins("default/e") == await edge.twins()


async def test_another_life_of_a_device_knows_nothing_of_the_old(edge):
    """users.md row 20: stale values do not come back after a deletion."""
    await edge.put("d", uid="one", t="1")
    await edge.update(t="7", w="8")
    await edge.put("d", uid="two", t="2")
    assert await values(edge) == {"t": "2"}
    assert await values(edge, "actual") == {}
    await edge.link(True)
    report = (await edge.reported()).read(dict)
    assert (report["uid"], set(report["twin"])) == ("two", {"t"})


async def test_a_detail_removes_strays_and_an_empty_one_nothing(edge):
    """DC9"""
    await edge.add("default/a", "default/b")
    await edge.from_cloud("membership/detail", {"event_id": "", "timestamp": 1, "devices": []})
    await edge.from_cloud("membership/detail", {"event_id": "", "timestamp": 1})
    await edge.settled()
    await edge.from_cloud("membership/detail", {"devices": [{"id": "default/b", "name": "b", "twin": {}}]})
    assert (await edge.hear("membership/updated"))["removed_devices"] == [{"id": "default/a", "name": "a"}]
    devices = (await edge.ask("$hw/events/node/n/membership/get", {}))["devices"]
    assert [device["id"] for device in devices] == ["default/b"]


async def test_the_cloud_is_asked_for_the_devices_at_every_connection(edge):
    await edge.link(True)
    async with asyncio.timeout(5):
        question = await edge.hub.get()
    assert (question.route.operation, question.route.resource) == ("get", "membership/detail")
    assert '"group_id":"n"' in question.read(str)


async def test_an_update_is_on_disk_when_its_result_is_told(edge):
    await edge.add("default/d")
    await edge.update(t="1")
    rows = await edge.database.read(
        lambda connection: connection.execute("SELECT deviceid, name, actual FROM device_twin").fetchall()
    )
    assert rows == [("default/d", "t", "1")]


async def test_where_the_disk_refuses_the_result_says_so_and_nothing_else_is_told(start, monkeypatch):
    monkeypatch.setattr(devicetwin, "WRITE_PAUSE", 0.0)
    async with start() as edge:
        await edge.add("default/d")
        await edge.update(t="1")
        await edge.database.write(lambda connection: connection.execute("DROP INDEX device_twin_by_name") and None)
        await edge.database.write(
            lambda connection: (
                connection.execute(
                    "CREATE TRIGGER full BEFORE UPDATE ON device_twin BEGIN SELECT RAISE(ABORT, 'disk full'); END"
                )
                and None
            )
        )
        await edge.publish(
            "$hw/events/device/default/d/twin/update", {"event_id": "e", "twin": {"t": {"actual": {"value": "2"}}}}
        )
        async with asyncio.timeout(60):
            message = await edge.eventbus.get()
            while not message.route.resource.endswith("/result") or b'"code"' not in message.content_bytes():
                message = await edge.eventbus.get()
        assert message.read(dict)["code"] == 500
        assert (await values(edge, "actual")) == {"t": "1"}


async def test_dt9_a_thousand_devices_of_ten_properties(edge):
    """Loaded and updated; the figures are those of `scripts/bench twins`."""
    await edge.add(*(f"default/d{number}" for number in range(1000)))
    for number in range(1000):
        await edge.publish(
            f"$hw/events/device/default/d{number}/twin/update",
            {"event_id": str(number), "twin": {f"p{at}": {"actual": {"value": str(at)}} for at in range(10)}},
        )
    await edge.settled()
    count = await edge.database.read(
        lambda connection: connection.execute("SELECT COUNT(*) FROM device_twin").fetchone()
    )
    assert count == (10_000,)


def drained(mailbox) -> list:
    return [mailbox.get_nowait() for _ in range(len(mailbox))]


async def test_a_device_that_overtakes_a_confirmation_wins_all_the_same(edge):
    """The cloud said something else, took no local value, and went back; only the last of it came, and came first."""
    await edge.put("d", t="1")
    edge.confirming = False
    await edge.link(True)
    await edge.update(t=expected("5"))
    while "local" not in (report := await edge.reported()).read(dict)["twin"]["t"]:
        await edge.confirm(report)
    judged = edge.version + 1
    edge.version += 1
    await edge.put("d", t="1")
    assert await values(edge) == {"t": "5"}
    await edge.confirm(report, version=judged)
    assert "'1' stands" in (await edge.event())["message"]
    assert await values(edge) == {"t": "1"}
    await edge.settled()
    assert [body for topic, body in edge.published if topic.endswith("twin/update/delta")][-1]["delta"] == {"t": "1"}
