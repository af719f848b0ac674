"""metrics.k8s.io: CPU and memory from what kubelets count, asked for only when somebody wants to know."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS
from edgehive.kit import http as doors
from edgehive.kit.clock import FixedClock, rfc3339
from edgehive.kube import node_usage, usage
from edgehive.kube.server.app import ApiServer, ServerOptions
from edgehive.kube.server.identity import AUTHENTICATED, User
from edgehive.kube.store import memory_store

START = datetime(2026, 1, 1, tzinfo=UTC)
METRICS = "/apis/metrics.k8s.io/v1beta1"


class Kubelet:
    """Counts 250 millicores for the node and 100 for a container, on the clock of the test."""

    def __init__(self, clock: FixedClock) -> None:
        self.clock = clock
        self.url = ""
        self.asked = 0
        self.broken = False

    def address(self, node: Document) -> str | None:
        return self.url if node.meta.name != "lost" else "http://127.0.0.1:1"

    async def summary(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.broken:
            return web.Response(text="{")
        seconds = (self.clock.now() - START).total_seconds() + 1000
        self.clock.set(self.clock.now() + timedelta(seconds=1))
        container = {"name": "c", **counters(seconds * 100e6, 3 * 2**20)}
        references = [{"name": name, "namespace": "default", "uid": name} for name in ("p", "q")]
        pods = [{"podRef": reference, "containers": [container]} for reference in references]
        young = {"name": "c", "startTime": rfc3339(self.clock.now()), "cpu": {}, "memory": {}}
        pods.append({"podRef": {"name": "young", "namespace": "default"}, "containers": [young]})
        return web.json_response({"node": counters(seconds * 250e6, 2**30), "pods": pods, "system": {}})


def counters(cpu: float, memory: int) -> dict[str, Any]:
    return {"cpu": {"usageCoreNanoSeconds": round(cpu)}, "memory": {"workingSetBytes": memory}}


@pytest.fixture
async def kubelet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Kubelet]:
    monkeypatch.setattr(node_usage, "MOMENT", 0.0)
    kubelet = Kubelet(FixedClock(START))
    application = web.Application()
    application.router.add_get("/stats/summary", kubelet.summary)
    async with doors.serve(application, host="127.0.0.1", port=0) as (host, port):
        kubelet.url = f"http://{host}:{port}"
        yield kubelet


@pytest.fixture
async def api(kubelet: Kubelet) -> AsyncIterator[aiohttp.ClientSession]:
    server = ApiServer(memory_store(), clock=kubelet.clock, options=ServerOptions(node_metrics=True))
    await server.start()
    client = server.client()
    for name in ("n1", "lost"):
        await client.create(NODES, {"metadata": {"name": name, "labels": {"zone": name}}})
    for name in ("p", "q", "young", "waiting"):
        spec = {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}
        await client.create(PODS, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}, "default")
        if name != "waiting":
            await client.patch(PODS, name, {"status": {"phase": "Running"}}, "default", subresource="status")
    user = User("someone", (AUTHENTICATED,))
    serving = server.serve("127.0.0.1", 0, without_credentials=user, kubelet=kubelet.address)
    async with serving as (host, port), aiohttp.ClientSession(base_url=f"http://{host}:{port}") as session:
        yield session
    await server.stop()


async def get(api: aiohttp.ClientSession, path: str, **query: str) -> Any:
    async with api.get(METRICS + path, params=query) as response:
        return await response.json()


async def test_a_node_is_told_of_and_one_that_does_not_answer_left_out(api: aiohttp.ClientSession) -> None:
    found = await get(api, "/nodes")
    assert (found["kind"], found["apiVersion"]) == ("NodeMetricsList", "metrics.k8s.io/v1beta1")
    assert found["items"] == [{
        "kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": "n1", "creationTimestamp": "2026-01-01T00:00:02Z", "labels": {"zone": "n1"}},
        "timestamp": "2026-01-01T00:00:02Z", "window": "1s",
        "usage": {"cpu": "250000000n", "memory": "1048576Ki"},
    }]  # fmt: skip
    assert await get(api, "/nodes/n1") == found["items"][0]
    missing = await get(api, "/nodes/lost")
    assert (missing["code"], missing["message"]) == (404, 'nodes.metrics.k8s.io "lost" not found')


async def test_pods_are_told_of_when_they_run_and_have_been_counted(api: aiohttp.ClientSession) -> None:
    found = await get(api, "/namespaces/default/pods")
    assert [item["metadata"]["name"] for item in found["items"]] == ["p", "q"]
    assert found["items"][0]["containers"] == [{"name": "c", "usage": {"cpu": "100000000n", "memory": "3072Ki"}}]
    assert await get(api, "/namespaces/default/pods/p") == found["items"][0]
    assert [item["metadata"]["name"] for item in (await get(api, "/pods", labelSelector="app=q"))["items"]] == ["q"]
    selected = await get(api, "/pods", fieldSelector="metadata.name=p")
    assert [item["metadata"]["name"] for item in selected["items"]] == ["p"]
    assert (await get(api, "/namespaces/other/pods"))["items"] == []
    assert (await get(api, "/namespaces/default/pods/young"))["code"] == 404


async def test_many_askers_cost_the_kubelet_two_questions(api: aiohttp.ClientSession, kubelet: Kubelet) -> None:
    for path in ("/nodes", "/pods", "/nodes/n1", "/namespaces/default/pods"):
        await get(api, path)
    assert kubelet.asked == 2


async def test_nonsense_from_a_kubelet_is_no_answer(api: aiohttp.ClientSession, kubelet: Kubelet) -> None:
    kubelet.broken = True
    assert (await get(api, "/nodes"))["items"] == []


async def test_metrics_are_read_alone_and_shown_as_tables(api: aiohttp.ClientSession) -> None:
    async with api.delete(f"{METRICS}/nodes/n1") as response:
        assert response.status == 405
    async with api.get(f"{METRICS}/nodes", params={"watch": "1"}) as response:
        assert response.status == 405
    async with api.get(METRICS) as response:
        resources = {item["name"]: (item["kind"], item["verbs"]) for item in (await response.json())["resources"]}
    assert resources == {"nodes": ("NodeMetrics", ["get", "list"]), "pods": ("PodMetrics", ["get", "list"])}
    headers = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    for path, row in (
        ("/nodes", ["n1", "250000000n", "1048576Ki", "1s"]),
        ("/pods", ["p", "100000000n", "3072Ki", "1s"]),
    ):
        async with api.get(METRICS + path, headers=headers) as response:
            assert (await response.json())["rows"][0]["cells"] == row


def reading(seconds: float, **containers: tuple[int, int, float | None]) -> usage.Reading:
    """Containers by name: CPU nanoseconds, memory, and when they started."""
    rows = [
        {"name": name, **counters(cpu, memory)}
        | ({"startTime": rfc3339(START + timedelta(seconds=since))} if since is not None else {})
        for name, (cpu, memory, since) in containers.items()
    ]
    pods = [{"podRef": {"name": row["name"], "namespace": "ns"}, "containers": [row]} for row in rows]
    body = json.dumps({"node": counters(seconds * 1e9, 5), "pods": pods}).encode()
    return usage.read(body, START + timedelta(seconds=seconds))


def test_a_container_counts_from_the_reading_before_else_from_its_start() -> None:
    before = reading(100, old=(5_000_000_000, 1, None), again=(9_000_000_000, 1, 10))
    after = reading(
        160, old=(11_000_000_000, 4096, None), again=(1_000_000_000, 0, 140), new=(500_000_000, 0, 135),
        fresh=(500_000_000, 0, 155),
    )  # fmt: skip
    found = usage.between(before, after)
    assert {name: rates[name] for (_, name), rates in found.pods.items()} == {
        "old": usage.Rate(100_000_000, 4096),
        "again": usage.Rate(50_000_000, 0),
        "new": usage.Rate(20_000_000, 0),
    }
    assert (found.node, found.seconds) == (usage.Rate(1_000_000_000, 5), 60.0)
    told = usage.pod_metrics("ns", "old", {}, found)
    assert told is not None
    assert told["window"] == "1m0s"


def counted(seconds: float, at: float, cpu: int, nanocores: int | None = None) -> usage.Reading:
    """A reading whose container was counted at another time than it was read."""
    time = rfc3339(START + timedelta(seconds=at))
    used: dict[str, Any] = {"time": time, "usageCoreNanoSeconds": cpu}
    if nanocores is not None:
        used["usageNanoCores"] = nanocores
    row = {"name": "c", "cpu": used, "memory": {"workingSetBytes": 1}}
    pods = [{"podRef": {"name": "p", "namespace": "ns"}, "containers": [row]}]
    body = json.dumps({"node": counters(0, 0), "pods": pods}).encode()
    return usage.read(body, START + timedelta(seconds=seconds))


def test_kept_counters_count_over_the_time_at_which_they_were_counted() -> None:
    def rate(before: usage.Reading, after: usage.Reading) -> int | None:
        found = usage.between(before, after).pods.get(("ns", "p"))
        return found["c"].nanocores if found else None

    assert rate(counted(100, 92, 10**9), counted(115, 112, 3 * 10**9)) == 100_000_000
    # Whole seconds are no measure of a moment.
    assert rate(counted(100, 99, 10**9), counted(101, 101, 2 * 10**9)) == 1_000_000_000
    # Nothing was counted in between.
    assert rate(counted(100, 92, 10**9), counted(101, 92, 10**9, nanocores=70_000_000)) == 70_000_000
