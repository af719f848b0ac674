"""What a user sees in `kubectl get events` after something happened once, again, and far too often."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import EVENTS
from edgehive.kit.clock import FixedClock
from edgehive.kube.errors import Unreachable
from edgehive.kube.recorder import COMBINED, Recorder
from edgehive.testing.cluster import Cluster

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POD = Document.of(
    {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7"},
    }
)


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
async def client(clock: FixedClock) -> AsyncIterator[Any]:
    async with Cluster(clock=clock) as cluster:
        yield cluster.client()


async def events(client: Any) -> list[dict[str, Any]]:
    return [document.to_dict() for document in (await client.list(EVENTS)).items]


async def test_an_event_tells_what_happened_to_whom(client: Any, clock: FixedClock):
    await Recorder(client, "kubelet", "edge-1", clock).event(
        POD, "Warning", "BackOff", "restarting", field_path="spec.containers{web}"
    )
    (event,) = await events(client)
    assert event["involvedObject"] == {
        "kind": "Pod",
        "apiVersion": "v1",
        "namespace": "default",
        "name": "web",
        "uid": "u1",
        "resourceVersion": "7",
        "fieldPath": "spec.containers{web}",
    }
    assert event["metadata"]["name"].startswith("web.")
    assert event["source"] == {"component": "kubelet", "host": "edge-1"}
    told = {key: event[key] for key in ("type", "reason", "message", "count", "firstTimestamp", "lastTimestamp")}
    assert told == {
        "type": "Warning",
        "reason": "BackOff",
        "message": "restarting",
        "count": 1,
        "firstTimestamp": "2026-01-01T12:00:00Z",
        "lastTimestamp": "2026-01-01T12:00:00Z",
    }


async def test_an_object_with_the_longest_name_has_events(client: Any, clock: FixedClock):
    name = ".".join(["a" * 58] * 4 + ["b" * 17])
    assert len(name) == 253
    reference = {"kind": "Pod", "namespace": "default", "name": name}
    await Recorder(client, "kubelet", "edge-1", clock).event(reference, "Warning", "BackOff", "restarting")
    (event,) = await events(client)
    assert event["involvedObject"]["name"] == name
    assert len(event["metadata"]["name"]) <= 253


async def test_a_repeated_event_is_counted(client: Any, clock: FixedClock):
    recorder = Recorder(client, "kubelet", "edge-1", clock)
    for minute in range(3):
        clock.set(NOW + timedelta(minutes=minute))
        await recorder.event(POD, "Warning", "BackOff", "restarting")
    await recorder.event(POD, "Warning", "BackOff", "another text")
    counted, other = sorted(await events(client), key=lambda event: -event["count"])
    assert (counted["count"], counted["firstTimestamp"], counted["lastTimestamp"]) == (
        3,
        "2026-01-01T12:00:00Z",
        "2026-01-01T12:02:00Z",
    )
    assert other["message"] == "another text"


async def test_an_event_that_has_expired_meanwhile_is_told_anew(client: Any, clock: FixedClock):
    recorder = Recorder(client, "kubelet", "", clock)
    await recorder.event(POD, "Normal", "Pulled", "image")
    (first,) = await events(client)
    await client.delete(EVENTS, first["metadata"]["name"], "default")
    await recorder.event(POD, "Normal", "Pulled", "image")
    (second,) = await events(client)
    assert (second["count"], second["metadata"]["name"] != first["metadata"]["name"]) == (1, True)


async def test_many_similar_events_are_combined(client: Any, clock: FixedClock):
    recorder = Recorder(client, "scheduler", "", clock)
    for number in range(15):
        await recorder.event(POD, "Warning", "Failed", f"try {number}")
    found = await events(client)
    combined = [event for event in found if event["message"].startswith(COMBINED)]
    assert (len(found), [event["count"] for event in combined]) == (10, [6])
    assert combined[0]["message"] == COMBINED + "try 14"


async def test_a_flood_about_one_object_is_cut_off(client: Any, clock: FixedClock):
    recorder = Recorder(client, "kubelet", "", clock)
    for _ in range(100):
        await recorder.event(POD, "Warning", "BackOff", "restarting")
    (event,) = await events(client)
    assert event["count"] == 25
    clock.set(NOW + timedelta(minutes=6))
    await recorder.event(POD, "Warning", "BackOff", "restarting")
    (event,) = await events(client)
    assert event["count"] == 26, "five minutes buy one more"


async def test_cluster_scoped_objects_have_their_events_in_default(client: Any, clock: FixedClock):
    node = {"kind": "Node", "apiVersion": "v1", "name": "edge-1", "uid": "edge-1", "unknown": "dropped"}
    await Recorder(client, "kubelet", "edge-1", clock).event(node, "Normal", "Starting", "up")
    (event,) = await events(client)
    assert event["metadata"]["namespace"] == "default"
    assert "unknown" not in event["involvedObject"]


async def test_a_failing_api_never_fails_the_caller(clock: FixedClock, caplog: pytest.LogCaptureFixture):
    class Away:
        async def create(self, *_: Any, **__: Any) -> None:
            raise Unreachable("nobody there")

    await Recorder(Away(), "kubelet", "", clock).event(POD, "Normal", "Pulled", "image")  # type: ignore[arg-type]
    assert "nobody there" in caplog.text


async def test_in_the_background_the_caller_does_not_wait(client: Any, clock: FixedClock):
    gate = asyncio.Event()
    written = asyncio.Event()

    class Slow:
        async def create(self, *args: Any) -> None:
            await gate.wait()
            await client.create(*args)
            written.set()

    async with Recorder(Slow(), "kubelet", "", clock) as recorder:  # type: ignore[arg-type]
        await asyncio.wait_for(recorder.event(POD, "Normal", "Pulled", "image"), 1)
        assert await events(client) == []
        gate.set()
        await asyncio.wait_for(written.wait(), 1)
        assert len(await events(client)) == 1
