"""The same API through every client: in the process and over HTTP a caller must not be able to tell them apart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from edgehive.api.registry import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from edgehive.kube import errors
from edgehive.kube.client import Client, EventType, PatchType
from edgehive.kube.http_client import HttpClient
from edgehive.kube.informer import Informers
from edgehive.kube.kubeconfig import ClusterAccess
from edgehive.kube.server.identity import MASTERS, User
from edgehive.kube.store import VersionedStore
from edgehive.testing.cluster import Cluster

ADMIN = User("admin", (MASTERS,))


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(store=VersionedStore(window=64)) as cluster:
        yield cluster


@asynccontextmanager
async def over_http(cluster: Cluster, token: str = "secret") -> AsyncIterator[HttpClient]:
    async with (
        cluster.server.serve("127.0.0.1", 0, static_tokens={"secret": ADMIN}) as (host, port),
        HttpClient(ClusterAccess(f"http://{host}:{port}", token=token), page_size=3) as client,
    ):
        yield client


@pytest.fixture(params=["in process", "over HTTP"])
async def client(request: pytest.FixtureRequest, cluster: Cluster) -> AsyncIterator[Client]:
    if request.param == "in process":
        yield cluster.client()
        return
    async with over_http(cluster) as client:
        yield client


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": {"app": name}}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


async def test_created_objects_are_read_back_complete(client: Client):
    created = await client.create(CONFIG_MAPS, config_map("a", x="1"), "default")
    assert (created.kind, created.api_version, created.meta.namespace) == ("ConfigMap", "v1", "default")
    assert created.meta.uid
    assert created.meta.resource_version
    assert (await client.get(CONFIG_MAPS, "a", "default")).to_dict() == created.to_dict()


async def test_lists_are_complete_over_many_pages(client: Client):
    for number in range(10):
        await client.create(CONFIG_MAPS, config_map(f"m-{number}"), "default")
    answer = await client.list(CONFIG_MAPS, "default")
    assert [document.meta.name for document in answer.items] == [f"m-{number}" for number in range(10)]
    assert {(document.kind, document.api_version) for document in answer.items} == {("ConfigMap", "v1")}
    selected = await client.list(CONFIG_MAPS, label_selector="app in (m-1, m-2)")
    assert len(selected.items) == 2
    named = await client.list(CONFIG_MAPS, "default", field_selector="metadata.name=m-3")
    assert [document.meta.name for document in named.items] == ["m-3"]


async def test_a_watch_goes_on_exactly_after_a_list(client: Client):
    await client.create(CONFIG_MAPS, config_map("before"), "default")
    version = (await client.list(CONFIG_MAPS)).resource_version
    await client.create(CONFIG_MAPS, config_map("after"), "default")
    await client.patch(CONFIG_MAPS, "after", {"data": {"x": "1"}}, "default")
    await client.delete(CONFIG_MAPS, "after", "default")
    seen = []
    async for event in client.watch(CONFIG_MAPS, resource_version=version, timeout=60):
        seen.append((event.type, event.object.meta.name))
        if event.type is EventType.DELETED:
            break
    assert seen == [(EventType.ADDED, "after"), (EventType.MODIFIED, "after"), (EventType.DELETED, "after")]


async def test_a_watch_ends_cleanly_at_its_timeout(client: Client):
    version = (await client.list(CONFIG_MAPS)).resource_version
    events = [event async for event in client.watch(CONFIG_MAPS, resource_version=version, timeout=1)]
    assert all(event.type is EventType.BOOKMARK for event in events)


async def test_a_watch_from_lost_history_is_gone(client: Client):
    version = (await client.list(CONFIG_MAPS)).resource_version
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    for number in range(100):
        await client.patch(CONFIG_MAPS, "a", {"data": {"x": str(number)}}, "default")
    with pytest.raises(errors.Gone):
        await anext(client.watch(CONFIG_MAPS, resource_version=version))


async def test_every_patch_language(client: Client):
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    await client.create(DEPLOYMENTS, {"metadata": {"name": "d"}, "spec": spec}, "default")

    async def patch(change: Any, type: PatchType, subresource: str = "") -> dict[str, Any]:
        answer = await client.patch(DEPLOYMENTS, "d", change, "default", type=type, subresource=subresource)
        return answer.to_dict()

    replaced = await patch([{"op": "replace", "path": "/spec/replicas", "value": 2}], PatchType.JSON)
    assert replaced["spec"]["replicas"] == 2
    merged = await patch(b'{"spec":{"replicas":3}}', PatchType.MERGE)
    assert merged["spec"]["replicas"] == 3
    second = {"spec": {"template": {"spec": {"containers": [{"name": "e", "image": "i:2"}]}}}}
    strategic = await patch(second, PatchType.STRATEGIC)
    assert {one["name"] for one in strategic["spec"]["template"]["spec"]["containers"]} == {"c", "e"}
    status = await patch({"status": {"replicas": 3}, "spec": {"replicas": 9}}, PatchType.STRATEGIC, "status")
    assert (status["status"]["replicas"], status["spec"]["replicas"]) == (3, 3)


async def test_updates_carry_their_place_and_conflict_when_stale(client: Client):
    created = await client.create(NODES, {"metadata": {"name": "n"}})
    fresh = created.to_dict()
    fresh["metadata"]["labels"] = {"a": "b"}
    assert (await client.update(NODES, fresh)).meta.labels == {"a": "b"}
    with pytest.raises(errors.Conflict):
        await client.update(NODES, created)


async def test_deletion_with_grace_lingers_and_without_it_does_not(client: Client):
    created = await client.create(PODS, pod("p", nodeName="n"), "default")
    lingering = await client.delete(PODS, "p", "default")
    assert lingering is not None
    assert lingering.meta.deletion_timestamp
    with pytest.raises(errors.Conflict):
        await client.delete(PODS, "p", "default", grace_period_seconds=0, uid="somebody-else")
    assert await client.delete(PODS, "p", "default", grace_period_seconds=0, uid=created.meta.uid) is None
    with pytest.raises(errors.NotFound):
        await client.get(PODS, "p", "default")


async def test_an_object_with_finalizers_lingers(client: Client):
    await client.create(CONFIG_MAPS, {"metadata": {"name": "f", "finalizers": ["example.com/f"]}}, "default")
    lingering = await client.delete(CONFIG_MAPS, "f", "default")
    assert lingering is not None
    assert lingering.meta.deletion_timestamp


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (config_map("a"), errors.AlreadyExists),
        ({"metadata": {"name": "b", "namespace": "elsewhere"}}, errors.BadRequest),
        ({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "b"}}, errors.BadRequest),
        (b"not json", errors.BadRequest),
    ],
)
async def test_refusals_have_their_reason(client: Client, body: Any, error: type[Exception]):
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    with pytest.raises(error):
        await client.create(CONFIG_MAPS, body, "default")
    with pytest.raises(errors.NotFound, match='configmaps "absent" not found'):
        await client.get(CONFIG_MAPS, "absent", "default")


async def test_an_informer_keeps_up(client: Client):
    async with Informers(client) as informers:
        informer = informers.of(CONFIG_MAPS, "default")
        await informers.wait_synced()
        async with informer.changes() as changes:
            for number in range(30):
                await client.create(CONFIG_MAPS, config_map(f"m-{number}"), "default")
            names = {(await asyncio.wait_for(anext(changes), 5)).document.meta.name for _ in range(30)}
        assert len(names) == 30
        assert informer.get("m-7", "default") is not None


async def test_over_http_a_wrong_token_is_unauthorized(cluster: Cluster):
    async with over_http(cluster, "wrong") as client:
        with pytest.raises(errors.Unauthorized):
            await client.list(PODS)
