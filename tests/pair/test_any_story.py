"""Whatever happens to the link, to either half and to the objects: at rest the edge holds what the API says.

Hypothesis tells the stories; a failing one is printed as a short program. Time is virtual.
"""

import asyncio
import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import looptime
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from edgehive.api.registry import CONFIG_MAPS, EVENTS, NODES, OBJECT_SYNCS, PODS, ApiResource
from edgehive.kit.tasks import cancel_and_join
from edgehive.kube.client import PatchType
from edgehive.kube.errors import AlreadyExists, NotFound
from edgehive.testing.pair import NODE, Pair

PODS_NAMED = st.sampled_from(["web", "my-podlist", "membership"])
MAPS_NAMED = st.sampled_from(["settings", "serviceaccounttoken-x"])
#: A night can afford more of them.
STORIES = int(os.environ.get("EDGEHIVE_STORIES", "25"))
MOSTLY = st.sampled_from([True, True, False])
FEW = st.integers(1, 4)


class Story(RuleBasedStateMachine):
    """Each rule is one event; what it disturbs goes on until `settle`."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop()
        self.versions = 0
        #: What has been on the edge's disk and so must arrive.
        self.events: set[str] = set()
        self.statuses_told: dict[str, str] = {}
        self.requests: list[asyncio.Future[Any]] = []
        self.pair: Pair = self.do(self._begin())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _begin(self) -> Pair:
        pair = await Pair().__aenter__()
        await asyncio.sleep(20)  # until the node is registered
        return pair

    # Objects

    @rule(name=PODS_NAMED, config_map=st.none() | MAPS_NAMED)
    def create_pod(self, name: str, config_map: str | None) -> None:
        volumes = [{"name": "v", "configMap": {"name": config_map}}] if config_map else []
        spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}], "volumes": volumes}
        self.create(PODS, {"metadata": {"name": name}, "spec": spec})

    @rule(name=PODS_NAMED)
    def change_pod(self, name: str) -> None:
        self.versions += 1
        self.patch(PODS, name, {"metadata": {"labels": {"n": str(self.versions)}}})

    @rule(name=PODS_NAMED, again=st.booleans())
    def delete_pod(self, name: str, again: bool) -> None:
        self.delete(PODS, name)
        if again:
            self.create_pod(name, None)

    @rule(name=MAPS_NAMED)
    def create_config_map(self, name: str) -> None:
        self.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"k": "0"}})

    @rule(name=MAPS_NAMED)
    def change_config_map(self, name: str) -> None:
        self.versions += 1
        self.patch(CONFIG_MAPS, name, {"data": {"k": str(self.versions)}})

    @rule(name=MAPS_NAMED, again=st.booleans())
    def delete_config_map(self, name: str, again: bool) -> None:
        self.delete(CONFIG_MAPS, name)
        if again:
            self.create_config_map(name)

    # Reports of the edge

    @precondition(lambda self: self.pair.edge is not None)
    @rule()
    def report_an_event(self) -> None:
        self.versions += 1
        name = f"event-{self.versions}"
        body = {"metadata": {"name": name, "namespace": "default"}, "involvedObject": {"kind": "Node", "name": NODE}}
        assert self.pair.edge is not None
        self.attempt(self.pair.edge.client.create(EVENTS, body, "default"))
        if name in self.do(self.pair.reports_waiting()):
            self.events.add(name)

    @precondition(lambda self: self.pair.edge is not None and self.pair.edge.edged.pods)
    @rule(number=st.integers(0, 5))
    def report_a_status(self, number: int) -> None:
        assert self.pair.edge is not None
        pods = [pod for _, pod in sorted(self.pair.edge.edged.pods.items())]
        meta = pods[number % len(pods)].meta
        self.versions += 1
        text = f"status {self.versions}"
        patch = msgspec.json.encode({"metadata": {"uid": meta.uid}, "status": {"message": text}})
        client = self.pair.edge.client
        self.attempt(client.patch(PODS, meta.name, patch, "default", type=PatchType.STRATEGIC, subresource="status"))
        if text in self.do(self.pair.reports_waiting()) or text in str(self.do(self.statuses())):
            self.statuses_told[meta.uid] = text

    def forgive_what_the_disk_held(self) -> None:
        self.events &= self.do(self.names(EVENTS))
        self.statuses_told = dict(self.do(self.statuses()))

    async def names(self, resource: ApiResource) -> set[str]:
        return {item.meta.name for item in (await self.pair.client.list(resource)).items}

    async def statuses(self) -> dict[str, str]:
        pods = (await self.pair.client.list(PODS)).items
        return {pod.meta.uid: pod.to_dict()["status"].get("message", "") for pod in pods}

    def attempt(self, request: Coroutine[Any, Any, Any]) -> None:
        """Begin a request of the edge and let a moment pass; its answer may never come."""

        async def begin() -> None:
            self.requests.append(asyncio.ensure_future(request))
            await asyncio.sleep(0.01)

        self.do(begin())

    @rule()
    def delete_node(self) -> None:
        with suppress(NotFound):
            self.do(self.pair.client.delete(NODES, NODE))

    @rule(number=st.integers(0, 5))
    def delete_a_record(self, number: int) -> None:
        """As the end of a namespace does."""
        records = self.do(self.pair.client.list(OBJECT_SYNCS)).items
        if records:
            with suppress(NotFound):
                self.do(self.pair.client.delete(OBJECT_SYNCS, records[number % len(records)].meta.name, "default"))

    # Disturbances

    @rule(seconds=st.sampled_from([0.0, 0.01, 1.0, 6.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.do(asyncio.sleep(seconds))

    @rule()
    def cut(self) -> None:
        self.do(self.pair.cut())

    @rule(plugged=MOSTLY)
    def cut_the_cable(self, plugged: bool) -> None:
        self.pair.plugged = plugged
        self.cut()

    @rule(lost=st.integers(0, 3), twice=st.integers(0, 2), held=st.integers(0, 2), foreign=st.integers(0, 2))
    def disturb_acknowledgements(self, lost: int, twice: int, held: int, foreign: int) -> None:
        faults = self.pair.faults
        faults.lose_acks, faults.repeat_acks, faults.hold_acks, faults.foreign_acks = lost, twice, held, foreign

    @rule(again=st.integers(0, 3), stale=st.integers(0, 3))
    def disturb_messages(self, again: int, stale: int) -> None:
        self.pair.faults.repeat_messages, self.pair.faults.stale_messages = again, stale

    @rule(back=MOSTLY)
    def crash_the_cloud(self, back: bool) -> None:
        self.do(self.pair.crash_cloud())
        # Between reading an event, which nothing answers, and writing it, a cloud may lose it (decision 0012).
        waiting, written = self.do(self.pair.reports_waiting()), self.do(self.names(EVENTS))
        self.events = {name for name in self.events if name in waiting or name in written}
        if back:
            self.do(self.started(self.pair.start_cloud))

    @rule(back=MOSTLY)
    def crash_the_edge(self, back: bool) -> None:
        self.do(self.pair.crash_edge())
        if back:
            self.do(self.started(self.pair.start_edge))

    @rule()
    def mend_everything(self) -> None:
        self.pair.plugged = True
        self.do(self.started(self.pair.start_cloud))
        if not self.pair.database.crashed.is_set():
            self.do(self.started(self.pair.start_edge))

    @rule()
    def replace_the_disk(self) -> None:
        self.do(self.pair.lose_database())
        self.forgive_what_the_disk_held()

    @precondition(lambda self: self.pair.edge is not None and not self.pair.database.crashed.is_set())
    @rule(writes=FEW, torn=st.booleans())
    def crash_the_edge_at_a_write(self, writes: int, torn: bool) -> None:
        self.pair.database.crash_after(writes, torn=torn)

    # What always holds

    def teardown(self) -> None:
        try:
            self.do(self.pair.settle())
            assert self.do(self.pair.difference()) == []
            assert self.events <= self.do(self.names(EVENTS))
            statuses = self.do(self.statuses())
            assert {uid: statuses[uid] for uid in self.statuses_told if uid in statuses} == {
                uid: text for uid, text in self.statuses_told.items() if uid in statuses
            }
            self.do(self.pair.crash_edge())
            assert self.pair.repeated == []
            assert self.pair.backwards == []
        finally:
            self.do(cancel_and_join(*self.requests))
            self.do(self.pair.__aexit__(None, None, None))
            self.loop.close()

    # Spelling

    @staticmethod
    async def started(start: Any) -> None:
        start()

    def create(self, resource: ApiResource, body: dict[str, Any]) -> None:
        with suppress(AlreadyExists):
            self.do(self.pair.client.create(resource, body, "default"))

    def patch(self, resource: ApiResource, name: str, patch: dict[str, Any]) -> None:
        with suppress(NotFound):
            self.do(self.pair.client.patch(resource, name, patch, "default"))

    def delete(self, resource: ApiResource, name: str) -> None:
        with suppress(NotFound):
            self.do(self.pair.client.delete(resource, name, "default", grace_period_seconds=0))


Story.TestCase.settings = settings(
    max_examples=STORIES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.timeout(300)
class TestAnyStory(Story.TestCase):  # type: ignore[name-defined, misc]
    """[35] Collected as one test."""
