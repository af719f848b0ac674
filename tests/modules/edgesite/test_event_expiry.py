"""Events an hour old go; younger, repeated and unreadable ones stay."""

from datetime import timedelta
from typing import Any

from edgehive.api.registry import EVENTS
from edgehive.edgesite.controllers.events import EventExpiry
from edgehive.kit.clock import FixedClock, rfc3339
from edgehive.testing.cluster import EPOCH, Cluster


def event(name: str, minutes_ago: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "web", "namespace": "default"},
        "reason": "Pulled",
        "type": "Normal",
        "lastTimestamp": rfc3339(EPOCH - timedelta(minutes=minutes_ago)),
    }


async def test_only_old_events_go() -> None:
    clock = FixedClock(EPOCH)
    async with Cluster(clock=clock) as cluster:
        client = cluster.client()
        for name, age in (("old", 61), ("young", 59), ("new", 0)):
            await client.create(EVENTS, event(name, age), "default")
        await EventExpiry(client, clock).sweep()
        assert sorted(item.meta.name for item in (await client.list(EVENTS)).items) == ["new", "young"]
        clock.set(EPOCH + timedelta(hours=2))
        await EventExpiry(client, clock).sweep()
        assert (await client.list(EVENTS)).items == []
