"""What devices report: into DeviceStatus, confirmed once it is there, whatever the API does. DC4, DC8, DC9."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, EVENTS, ApiResource
from edgehive.beehive.message import Message
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, Forbidden, NotFound, RequestTooLarge, Unreachable
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud, content_of
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime

MODEL = {
    "properties": [
        {"name": "t", "type": "INT", "minimum": "0", "maximum": "100", "unit": "C"},
        {"name": "on", "type": "BOOLEAN"},
        {"name": "text", "type": "STRING"},
    ]
}


class Troubled:
    """A client that does to patches of DeviceStatus what `trouble` says, and counts them."""

    def __init__(self, client: Client, kind: ApiResource = DEVICE_STATUSES) -> None:
        self._client = client
        self._kind = kind
        self.trouble: Callable[[], ApiError | None] = lambda: None
        self.patches = 0
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def patch(self, resource: ApiResource, *args: Any, **more: Any) -> Any:
        if resource is not self._kind:
            return await self._client.patch(resource, *args, **more)
        self.patches += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
            if (error := self.trouble()) is not None:
                raise error
            return await self._client.patch(resource, *args, **more)
        finally:
            self.at_once -= 1


class Rig:
    """A cloud with device `default/d` on node n1."""

    def __init__(self, it: Cloud, edge: ScriptedEdge, api: Troubled) -> None:
        self.it = it
        self.edge = edge
        self.api = api
        self._versions: dict[str, int] = {}

    async def report(self, value: str, name: str = "t", *, device: str = "default/d", **more: Any) -> Message:
        """Say a reported value as a Go edge would; `more` goes into the content."""
        version = self._versions[name] = self._versions.get(name, 0) + 1
        twin = twin_of(value, 1000 * version, version)
        return await self.send(f"device/{device}/twin/edge_updated", {"twin": {name: twin}} | more)

    async def send(self, resource: str, content: Any, operation: str = "update") -> Message:
        return await self.edge.send(operation, resource, content, source="twin")

    async def confirmed(self, report: Message, patience: float = 60.0) -> Message:
        answer = await self.edge.expect(lambda m: m.header.parent_id == report.id, patience=patience)
        assert (answer.route.source, answer.route.group) == ("devicecontroller", "twin")
        assert (answer.route.operation, answer.route.resource) == ("response", "twin")
        assert content_of(answer) == "OK"
        return answer

    def is_confirmed(self, report: Message) -> bool:
        return any(message.header.parent_id == report.id for message in self.edge.received)

    async def status(self) -> Any:
        return (await self.it.client.get(DEVICE_STATUSES, "d", "default")).to_dict()["status"]

    async def value(self, name: str = "t", kind: str = "reported") -> str | None:
        found = [twin for twin in (await self.status()).get("twins", []) if twin["propertyName"] == name]
        value: str | None = found[0][kind]["value"] if found and kind in found[0] else None
        return value

    async def condition(self, type: str = "ReportsValid") -> Any:
        await asyncio.sleep(8)
        status = (await self.it.client.get(DEVICES, "d", "default")).to_dict().get("status", {})
        return next((one for one in status.get("conditions", ()) if one["type"] == type), None)


def twin_of(value: str, timestamp: int, version: int) -> dict[str, Any]:
    return {
        "actual": {"value": value, "metadata": {"timestamp": timestamp}},
        "optional": True,
        "metadata": {"type": "int"},
        "actual_version": {"cloud": 0, "edge": version},
    }


@asynccontextmanager
async def rig() -> AsyncIterator[Rig]:
    async with Cluster() as cluster:
        api = Troubled(cluster.client())
        async with cloud(cluster=cluster, client=api) as it:
            edge = await it.edge("n1")
            await it.client.create(DEVICE_MODELS, {"metadata": {"name": "m"}, "spec": MODEL}, "default")
            spec = {
                "nodeName": "n1",
                "deviceModelRef": {"name": "m"},
                "properties": [{"name": name} for name in ("t", "on", "text")],
            }
            await it.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
            await edge.expect_object("default/device/d")
            await asyncio.sleep(10)
            yield Rig(it, edge, api)


# DC4


async def test_dc4_the_first_report_is_stored_with_both_values_their_times_and_types() -> None:
    """[B14] In Go the first report of a property leaves its name alone."""
    async with rig() as it:
        twin = twin_of("26", 1795412974900, 2)
        twin["expected"] = {"value": "21", "metadata": {"timestamp": 1795412974800}}
        report = await it.send("device/default/d/twin/edge_updated", {"event_id": "e", "twin": {"t": twin}})
        await it.confirmed(report)
        assert (await it.status())["twins"] == [
            {
                "propertyName": "t",
                "reported": {"value": "26", "metadata": {"timestamp": "1795412974900", "type": "int"}},
                "observedDesired": {"value": "21", "metadata": {"timestamp": "1795412974800", "type": "int"}},
            }
        ]


async def test_dc4_only_what_the_device_has_is_stored_in_its_order() -> None:
    async with rig() as it:
        twins = {name: twin_of("1", 1, 1) for name in ("text", "humidity", "t")} | {"on": None}
        await it.confirmed(await it.send("device/default/d/twin/edge_updated", {"twin": twins}))
        assert [twin["propertyName"] for twin in (await it.status())["twins"]] == ["t", "text"]


async def test_dc4_a_deleted_twin_leaves_the_last_value() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("7"))
        gone = {"t": {"actual": {}, "optional": True, "metadata": {"type": "deleted"}}}
        await it.confirmed(await it.send("device/default/d/twin/edge_updated", {"twin": gone}))
        assert await it.value() == "7"


async def test_under_load_every_report_is_confirmed_few_are_written_and_the_newest_is_there_at_once() -> None:
    async with rig() as it:
        it.api.seconds = 0.1
        reports = [await it.report(str(number)) for number in range(2000)]
        await asyncio.sleep(1)
        assert await it.value() == "1999"
        assert all(it.is_confirmed(report) for report in reports)
        assert it.api.patches < 10
        assert it.api.most_at_once == 1


async def test_devices_are_written_side_by_side() -> None:
    async with rig() as it:
        for number in range(20):
            spec = {"nodeName": "n1", "properties": [{"name": "t"}]}
            await it.it.client.create(DEVICES, {"metadata": {"name": f"e{number}"}, "spec": spec}, "default")
        await asyncio.sleep(5)
        it.api.seconds = 1.0
        for number in range(20):
            await it.report("1", device=f"default/e{number}")
        await asyncio.sleep(1.5)
        assert it.api.most_at_once == 20


async def test_an_old_report_that_comes_again_changes_nothing_and_is_confirmed() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1"))
        await it.confirmed(await it.report("2"))
        old = {"twin": {"t": twin_of("1", 1000, 1)}}
        await it.confirmed(await it.send("device/default/d/twin/edge_updated", old))
        assert await it.value() == "2"
        # A clock that was set back does not silence a device.
        later = {"twin": {"t": twin_of("3", 500, 3)}}
        await it.confirmed(await it.send("device/default/d/twin/edge_updated", later))
        assert await it.value() == "3"


# The API in trouble


async def test_nothing_is_confirmed_while_the_api_cannot_be_reached_and_nothing_is_lost() -> None:
    async with rig() as it:
        it.api.trouble = lambda: Unreachable("the API is away")
        reports = [await it.report(str(number)) for number in range(5)]
        reports.append(await it.report("true", "on"))
        await asyncio.sleep(8)
        assert not any(it.is_confirmed(report) for report in reports)
        it.api.trouble = lambda: None
        for report in reports:
            await it.confirmed(report)
        assert (await it.value(), await it.value("on")) == ("4", "true")


async def test_a_status_that_was_deleted_is_made_again() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1"))
        await it.it.client.delete(DEVICE_STATUSES, "d", "default")
        await it.confirmed(await it.report("2"))
        assert await it.value() == "2"
        owners = (await it.it.client.get(DEVICE_STATUSES, "d", "default")).meta.owner_references
        assert owners is not None and owners[0].kind == "Device"


async def test_what_somebody_else_wrote_stays() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1"))
        foreign = {"status": {"extensions": {"note": "x"}}}
        await it.it.client.patch(DEVICE_STATUSES, "d", foreign, "default")
        twins = [*(await it.status())["twins"], {"propertyName": "on", "reported": {"value": "true"}}]
        await it.it.client.patch(DEVICE_STATUSES, "d", {"status": {"twins": twins}}, "default")
        await it.confirmed(await it.report("2"))
        assert (await it.value(), await it.value("on")) == ("2", "true")
        assert (await it.status())["extensions"] == {"note": "x"}


async def test_the_status_of_an_earlier_device_of_that_name_is_not_taken_over() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1"))
        old = await it.it.client.get(DEVICE_STATUSES, "d", "default")
        spec = (await it.it.client.get(DEVICES, "d", "default")).to_dict()["spec"]
        await it.it.client.delete(DEVICES, "d", "default")
        device = await it.it.client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
        await asyncio.sleep(5)
        new = await it.it.client.get(DEVICE_STATUSES, "d", "default")
        assert new.meta.uid != old.meta.uid
        assert new.meta.controller_ref is not None and new.meta.controller_ref.uid == device.meta.uid
        assert not new.to_dict()["status"].get("twins")


async def test_what_the_api_refuses_for_good_is_said_and_not_repeated() -> None:
    async with rig() as it:
        it.api.trouble = lambda: RequestTooLarge("etcdserver: request is too large")
        await it.confirmed(await it.report("1"))
        found = await it.condition()
        assert (found["status"], found["reason"]) == ("False", "StatusRefused")
        assert "request is too large" in found["message"]
        it.api.trouble = lambda: None
        await it.confirmed(await it.report("2"))
        assert await it.value() == "2"


async def test_a_cloudcore_that_may_not_write_to_devices_serves_them_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Cluster() as cluster:
        api = Troubled(cluster.client(), DEVICES)
        api.trouble = lambda: Forbidden("devices is forbidden")
        async with cloud(cluster=cluster, client=api) as it:
            edge = await it.edge("n1")
            for number in range(20):
                spec = {"nodeName": "n1", "properties": [{"name": "t"}]}
                await it.client.create(DEVICES, {"metadata": {"name": f"d{number}"}, "spec": spec}, "default")
            await edge.expect_object("default/device/d19")
            await asyncio.sleep(20)
            assert api.patches == 20
            assert len([record for record in caplog.records if "devices is forbidden" in record.message]) == 1


# Who may report what


async def test_a_node_may_not_report_of_a_device_of_another(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1"))
        other = await it.it.edge("n2")
        content = {"twin": {"t": twin_of("666", 99_000, 99)}}
        for _ in range(10):
            await other.send("update", "device/default/d/twin/edge_updated", content, source="twin")
            await other.send("update", "device/default/d/state/update", '{"device":{"state":"x"}}', source="twin")
        await asyncio.sleep(5)
        assert await it.value() == "1"
        assert "state" not in await it.status()
        said = [record for record in caplog.records if "may not report of device default/d" in record.message]
        assert len(said) == 1


async def test_reports_of_unknown_devices_are_dropped_and_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with rig() as it:
        reports = [await it.report("1", device="default/nosuch") for _ in range(50)]
        await asyncio.sleep(5)
        assert not any(it.is_confirmed(report) for report in reports)
        assert len([record for record in caplog.records if "does not exist" in record.message]) == 1
        with pytest.raises(NotFound):
            await it.it.client.get(DEVICE_STATUSES, "nosuch", "default")
        await it.confirmed(await it.report("1"))


@pytest.mark.parametrize(
    ("resource", "content"),
    [
        ("device/default/d/twin/edge_updated", "{not json"),
        ("device/default/d/twin/edge_updated", {"twin": "x"}),
        ("device/default/d/twin/edge_updated", {"twin": {"t": {"actual": {"value": 5}}}}),
        ("device/default/d/state/update", "[]"),
        ("device/default/d/state/update", {"device": {"name": "d"}}),
        ("device/default/d/state/update", {"device": {"state": "x" * 1000}}),
        ("device/default", {}),
    ],
)
async def test_what_makes_no_sense_is_confirmed_and_changes_nothing(resource: str, content: Any) -> None:
    async with rig() as it:
        await it.confirmed(await it.send(resource, content))
        assert not (await it.status()).get("twins")
        await it.confirmed(await it.report("1"))
        assert await it.value() == "1"


async def test_a_report_of_an_earlier_life_is_confirmed_and_dropped() -> None:
    async with rig() as it:
        await it.confirmed(await it.report("1", uid="another"))
        assert await it.value() is None
        device = await it.it.client.get(DEVICES, "d", "default")
        answer = await it.confirmed(await it.report("2", uid=device.meta.uid))
        assert await it.value() == "2"
        assert answer.header.resourceversion == device.meta.resource_version


# Values that do not fit the model


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("t", "warm", "'warm' is no INT"), ("t", "101", "above the maximum 100 C"), ("on", "1", "is no BOOLEAN")],
)
async def test_a_value_that_does_not_fit_is_stored_and_said_until_it_fits(name: str, value: str, said: str) -> None:
    async with rig() as it:
        await it.confirmed(await it.report(value, name))
        assert await it.value(name) == value
        found = await it.condition()
        assert (found["status"], found["reason"]) == ("False", "InvalidReport")
        assert said in found["message"]
        listed = [item.to_dict() for item in (await it.it.client.list(EVENTS)).items]
        assert [event["reason"] for event in listed if event["involvedObject"]["name"] == "d"] == ["InvalidReport"]
        await it.confirmed(await it.report("true" if name == "on" else "20", name))
        assert (await it.condition())["status"] == "True"


async def test_a_value_of_ten_megabytes_is_said_and_not_stored_and_the_rest_goes_on() -> None:
    async with rig() as it:
        twins = {"text": twin_of("x" * 10_000_000, 1, 1), "t": twin_of("20", 1, 1)}
        await it.confirmed(await it.send("device/default/d/twin/edge_updated", {"twin": twins}))
        assert (await it.value("text"), await it.value("t")) == (None, "20")
        assert "10000000 characters" in (await it.condition())["message"]


# DC8


async def test_dc8_a_state_is_seen_with_the_time_it_was_last_online() -> None:
    async with rig() as it:
        for state, since in (("online", "2026-11-23T05:49:47Z"), ("OFFLINE", "")):
            told = {"name": "d", "state": state} | ({"lastOnlineTime": since} if since else {})
            await it.confirmed(await it.send("device/default/d/state/update", text_of({"device": told})))
            status = await it.status()
            assert (status["state"], status["lastOnlineTime"]) == (state, "2026-11-23T05:49:47Z")


async def test_dc8_trouble_is_a_condition_that_the_edge_tells_events_of() -> None:
    async with rig() as it:
        seen = []
        for state in ("online", "unknown", "Unhealthy", "online"):
            told = text_of({"device": {"name": "d", "state": state}})
            await it.confirmed(await it.send("device/default/d/state/update", told))
            await it.edge.keepalive()
            found = await it.condition("Healthy")
            seen.append(found and (found["status"], found["reason"]))
        assert seen == [
            None, ("False", "DeviceUnknown"), ("False", "DeviceUnhealthy"), ("True", "StateReported"),
        ]  # fmt: skip
        assert [item.to_dict()["reason"] for item in (await it.it.client.list(EVENTS)).items] == []


def text_of(content: Any) -> str:
    return json.dumps(content)


# DC9


async def test_dc9_a_node_that_asks_is_confirmed_and_told_all_its_devices_and_no_others() -> None:
    async with rig() as it:
        spec = {"nodeName": "n2", "properties": []}
        await it.it.client.create(DEVICES, {"metadata": {"name": "elsewhere"}, "spec": spec}, "default")
        await asyncio.sleep(2)
        asked = text_of({"event_type": "group_membership_event", "group_id": "n1", "operation": "detail"})
        await it.confirmed(await it.send("membership/detail", asked, "get"))
        detail = await it.edge.expect(lambda m: m.route.resource == "membership/detail")
        assert not detail.header.parent_id
        assert (detail.route.source, detail.route.group) == ("devicecontroller", "twin")
        assert content_of(detail)["devices"] == [{"id": "default/d", "name": "d", "twin": {}}]


async def test_dc9_a_node_without_devices_is_told_that_it_has_none() -> None:
    async with rig() as it:
        other = await it.it.edge("n2")
        await other.send("get", "membership/detail", "{}", source="twin")
        detail = await other.expect(lambda m: m.route.resource == "membership/detail")
        assert content_of(detail)["devices"] == []


async def test_values_count_where_the_model_cannot_be_read() -> None:
    async with rig() as it:
        older = {"spec": {"properties": [{"name": "t", "type": {"int": {"accessMode": "ReadOnly"}}}]}}
        await it.it.client.patch(DEVICE_MODELS, "m", older, "default")
        await asyncio.sleep(1)
        await it.confirmed(await it.report("21"))
        assert await it.value() == "21"
        assert (await it.condition("Accepted"))["reason"] == "ModelUnreadable"
