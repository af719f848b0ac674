"""Events in both forms: what is written through one is read through the other."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from edgehive.api.registry import EVENTS, EVENTS_V1
from edgehive.kube.client import PatchType
from edgehive.kube.errors import BadRequest, Invalid
from edgehive.testing.cluster import Cluster

POD = {"kind": "Pod", "namespace": "default", "name": "web", "uid": "u", "apiVersion": "v1"}
OLD: dict[str, Any] = {
    "metadata": {"name": "web.1", "namespace": "default"},
    "involvedObject": POD, "reason": "Started", "message": "Started container", "type": "Normal",
    "source": {"component": "kubelet", "host": "n1"}, "firstTimestamp": "2026-01-01T00:00:00Z",
    "lastTimestamp": "2026-01-01T00:05:00Z", "count": 3,
}  # fmt: skip
NEW: dict[str, Any] = {
    "metadata": {"name": "web.2", "namespace": "default"},
    "regarding": POD, "reason": "Scaled", "note": "Scaled it", "type": "Warning", "action": "Scale",
    "eventTime": "2026-01-01T00:00:00.000001Z", "reportingController": "example.com/scaler",
    "reportingInstance": "scaler-1",
}  # fmt: skip


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        yield running


async def test_an_old_event_is_read_in_the_new_form(cluster: Cluster) -> None:
    await cluster.client().create(EVENTS, OLD, "default")
    found = (await cluster.client().get(EVENTS_V1, "web.1", "default")).to_dict()
    assert (found["apiVersion"], found["kind"], found["regarding"]) == ("events.k8s.io/v1", "Event", POD)
    assert (found["note"], found["deprecatedCount"]) == ("Started container", 3)
    assert found["deprecatedSource"] == {"component": "kubelet", "host": "n1"}
    assert found["deprecatedLastTimestamp"] == "2026-01-01T00:05:00Z"
    assert not {"message", "involvedObject", "count", "source", "reportingComponent", "reportingController"} & set(
        found
    )


async def test_a_new_event_is_read_in_the_old_form_and_back(cluster: Cluster) -> None:
    made = (await cluster.client().create(EVENTS_V1, NEW, "default")).to_dict()
    assert {key: made[key] for key in NEW if key != "metadata"} == {
        key: value for key, value in NEW.items() if key != "metadata"
    }
    found = (await cluster.client().get(EVENTS, "web.2", "default")).to_dict()
    assert (found["apiVersion"], found["involvedObject"], found["message"]) == ("v1", POD, "Scaled it")
    assert (found["reportingComponent"], found["reportingInstance"]) == ("example.com/scaler", "scaler-1")
    assert cluster.store.revision == int(found["metadata"]["resourceVersion"])


async def test_a_series_grows_by_patches_of_the_new_form(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(EVENTS_V1, NEW, "default")
    series = {"count": 2, "lastObservedTime": "2026-01-01T00:10:00.000000Z"}
    await client.patch(EVENTS_V1, "web.2", {"series": series}, "default", type=PatchType.STRATEGIC)
    assert (await client.get(EVENTS, "web.2", "default")).to_dict()["series"] == series
    with pytest.raises(Invalid, match=r"message: Invalid value: .*field is immutable"):
        await client.patch(EVENTS_V1, "web.2", {"note": "something else"}, "default")
    with pytest.raises(Invalid, match=r"series\.count: Invalid value"):
        await client.patch(EVENTS_V1, "web.2", {"series": {"count": 1}}, "default")


async def test_watches_and_selectors_speak_their_own_form(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(EVENTS, OLD, "default")
    await client.create(EVENTS_V1, NEW, "default")
    for resource, selector in ((EVENTS_V1, "regarding.name=web,reportingController="),
                               (EVENTS, "involvedObject.name=web,reportingComponent=")):  # fmt: skip
        found = await client.list(resource, "default", field_selector=selector)
        assert [item.meta.name for item in found.items] == ["web.1"]
    with pytest.raises(BadRequest, match=r"field label not supported: involvedObject\.name"):
        await client.list(EVENTS_V1, field_selector="involvedObject.name=web")
    async with asyncio.timeout(5):
        event = await anext(client.watch(EVENTS_V1, field_selector="type=Warning"))
    assert (event.object.meta.name, event.object.to_dict()["note"]) == ("web.2", "Scaled it")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"action": ""}, "action: Required value"),
        ({"eventTime": None}, "eventTime: Required value"),
        ({"type": "Odd"}, "type: Invalid value: .*has invalid value: Odd"),
        ({"reportingController": ""}, "reportingController: Required value"),
        ({"deprecatedCount": 2}, "count: Invalid value: .*needs to be unset"),
        ({"note": "x" * 1025}, "message: Invalid value: .*can have at most 1024 characters"),
        ({"regarding": POD | {"namespace": "other"}, "eventTime": None}, "does not match event.namespace"),
    ],
)
async def test_the_new_form_is_strict(cluster: Cluster, change: dict[str, Any], told: str) -> None:
    with pytest.raises(Invalid, match=told):
        await cluster.client().create(EVENTS_V1, NEW | change, "default")


async def test_both_forms_print_the_same_table(cluster: Cluster) -> None:
    await cluster.client().create(EVENTS, OLD, "default")
    await cluster.client().create(EVENTS_V1, NEW, "default")
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    async with cluster.serve() as url, aiohttp.ClientSession(base_url=url, headers=headers) as http:
        tables = []
        for path in ("/api/v1", "/apis/events.k8s.io/v1"):
            async with http.get(f"{path}/namespaces/default/events") as response:
                tables.append(await response.json())
    cells = [[row["cells"] for row in table["rows"]] for table in tables]
    assert cells[0] == cells[1]
    assert tables[0]["columnDefinitions"] == tables[1]["columnDefinitions"]


async def test_a_delete_through_the_new_form_takes_the_one_event(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(EVENTS, OLD, "default")
    await client.delete(EVENTS_V1, "web.1", "default")
    assert (await client.list(EVENTS)).items == []
