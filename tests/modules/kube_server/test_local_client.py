"""What controllers and flows see of the API server through the in-process client."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from edgehive.api.registry import CONFIG_MAPS, DEPLOYMENTS, DEVICES, LEASES, NAMESPACES, PODS, SERVICE_ACCOUNTS
from edgehive.kube.client import EventType, PatchType
from edgehive.kube.errors import AlreadyExists, BadRequest, Conflict, Forbidden, Gone, Invalid, NotFound
from edgehive.kube.server.local import LocalClient
from edgehive.testing.cluster import Cluster


@pytest.fixture
async def client() -> AsyncIterator[LocalClient]:
    async with Cluster() as cluster:
        yield cluster.client()


def pod(name: str = "p", **spec: object) -> dict[str, object]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "busybox"}], **spec}}


def config_map(name: str, **data: str) -> dict[str, object]:
    return {"metadata": {"name": name}, "data": data}


async def test_create_then_get_gives_the_same_object(client: LocalClient) -> None:
    made = await client.create(CONFIG_MAPS, config_map("a", k="v"), "default")
    assert (await client.get(CONFIG_MAPS, "a", "default")).raw == made.raw
    assert made.kind == "ConfigMap"
    assert made.meta.uid
    assert made.meta.creation_timestamp
    assert made.meta.namespace == "default"


async def test_second_create_is_refused(client: LocalClient) -> None:
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    with pytest.raises(AlreadyExists, match='configmaps "a" already exists'):
        await client.create(CONFIG_MAPS, config_map("a"), "default")


async def test_generate_name_makes_distinct_names(client: LocalClient) -> None:
    body = {"metadata": {"generateName": "gen-"}}
    names = {(await client.create(CONFIG_MAPS, body, "default")).meta.name for _ in range(5)}
    assert len(names) == 5
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


async def test_missing_namespace_is_named(client: LocalClient) -> None:
    with pytest.raises(NotFound, match='namespaces "nowhere" not found'):
        await client.create(CONFIG_MAPS, config_map("a"), "nowhere")


async def test_stale_update_conflicts_and_fresh_one_wins(client: LocalClient) -> None:
    first = await client.create(CONFIG_MAPS, config_map("a", k="1"), "default")
    changed = first.to_dict() | {"data": {"k": "2"}}
    await client.update(CONFIG_MAPS, changed)
    with pytest.raises(Conflict, match="the object has been modified"):
        await client.update(CONFIG_MAPS, first.to_dict() | {"data": {"k": "3"}})
    unconditional = config_map("a", k="4")
    assert (await client.update(CONFIG_MAPS, unconditional, "default")).to_dict()["data"] == {"k": "4"}


async def test_lease_update_needs_a_version(client: LocalClient) -> None:
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}}
    await client.create(LEASES, lease, "kube-node-lease")
    with pytest.raises(Invalid, match="must be specified for an update"):
        await client.update(LEASES, lease, "kube-node-lease")


async def test_write_that_changes_nothing_costs_no_version(client: LocalClient) -> None:
    made = await client.create(CONFIG_MAPS, config_map("a", k="1"), "default")
    same = await client.patch(CONFIG_MAPS, "a", {"data": {"k": "1"}}, "default")
    assert same.meta.resource_version == made.meta.resource_version


async def test_status_and_spec_are_written_apart(client: LocalClient) -> None:
    made = await client.create(DEVICES, {"metadata": {"name": "d"}, "spec": {"a": 1}}, "default")
    assert made.meta.generation == 1
    deployment = {
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
        "status": {"replicas": 9},
    }
    first = await client.create(DEPLOYMENTS, deployment, "default")
    assert first.to_dict().get("status", {}).get("replicas") is None
    second = await client.patch(DEPLOYMENTS, "web", {"status": {"replicas": 1}}, "default", subresource="status")
    assert second.meta.generation == 1
    assert second.to_dict()["status"]["replicas"] == 1
    third = await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 2}, "status": {"replicas": 7}}, "default")
    assert third.meta.generation == 2
    assert third.to_dict()["status"]["replicas"] == 1


async def test_scale_is_a_view_of_the_workload(client: LocalClient) -> None:
    await test_status_and_spec_are_written_apart(client)
    scale = await client.get(DEPLOYMENTS, "web", "default", subresource="scale")
    assert scale.to_dict()["spec"] == {"replicas": 2}
    assert scale.to_dict()["status"]["selector"] == "a=b"
    await client.patch(DEPLOYMENTS, "web", {"spec": {"replicas": 5}}, "default", subresource="scale")
    assert (await client.get(DEPLOYMENTS, "web", "default")).to_dict()["spec"]["replicas"] == 5


async def test_scheduled_pod_lingers_until_its_grace_is_over(client: LocalClient) -> None:
    await client.create(PODS, pod(nodeName="n1"), "default")
    lingering = await client.delete(PODS, "p", "default")
    assert lingering is not None
    assert lingering.meta.deletion_grace_period_seconds == 30
    uid = lingering.meta.uid
    again = await client.delete(PODS, "p", "default", grace_period_seconds=60)
    assert again is not None
    assert again.meta.resource_version == lingering.meta.resource_version
    with pytest.raises(Conflict, match="the UID in the precondition"):
        await client.delete(PODS, "p", "default", grace_period_seconds=0, uid="other")
    assert await client.delete(PODS, "p", "default", grace_period_seconds=0, uid=uid) is None
    with pytest.raises(NotFound):
        await client.get(PODS, "p", "default")


async def test_unscheduled_pod_goes_at_once(client: LocalClient) -> None:
    await client.create(PODS, pod(), "default")
    assert await client.delete(PODS, "p", "default") is None


async def test_finalizer_keeps_an_object_until_it_is_taken_off(client: LocalClient) -> None:
    body = {"metadata": {"name": "a", "finalizers": ["x/y"]}}
    await client.create(CONFIG_MAPS, body, "default")
    kept = await client.delete(CONFIG_MAPS, "a", "default")
    assert kept is not None
    assert kept.meta.deletion_timestamp
    with pytest.raises(Invalid, match="no new finalizers can be added"):
        await client.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": ["x/y", "z"]}}, "default")
    await client.patch(CONFIG_MAPS, "a", {"metadata": {"finalizers": None}}, "default")
    with pytest.raises(NotFound):
        await client.get(CONFIG_MAPS, "a", "default")


async def test_propagation_becomes_a_finalizer(client: LocalClient) -> None:
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    kept = await client.delete(CONFIG_MAPS, "a", "default", propagation="Foreground")
    assert kept is not None
    assert kept.meta.finalizers == ["foregroundDeletion"]


async def test_binding_assigns_a_pod_once(client: LocalClient) -> None:
    await client.create(PODS, pod(), "default")
    binding = {"kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}}
    await client.create(PODS, binding, "default", name="p", subresource="binding")
    bound = (await client.get(PODS, "p", "default")).to_dict()
    assert bound["spec"]["nodeName"] == "n1"
    assert any(c["type"] == "PodScheduled" and c["status"] == "True" for c in bound["status"]["conditions"])
    with pytest.raises(Conflict, match="already assigned"):
        await client.create(PODS, binding, "default", name="p", subresource="binding")


async def test_token_request_is_answered_and_bound(client: LocalClient) -> None:
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "sa"}}, "default")
    answer = await client.create(SERVICE_ACCOUNTS, {"spec": {}}, "default", name="sa", subresource="token")
    status = answer.to_dict()["status"]
    assert status["token"].count(".") == 2
    assert status["expirationTimestamp"] == "2026-01-01T01:00:00Z"
    with pytest.raises(Invalid, match="10 minutes"):
        short = {"spec": {"expirationSeconds": 5}}
        await client.create(SERVICE_ACCOUNTS, short, "default", name="sa", subresource="token")


async def test_json_and_strategic_patches(client: LocalClient) -> None:
    await client.create(PODS, pod(), "default")
    status = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await client.patch(PODS, "p", status, "default", type=PatchType.STRATEGIC, subresource="status")
    more = {"status": {"conditions": [{"type": "Initialized", "status": "True"}]}}
    patched = await client.patch(PODS, "p", more, "default", type=PatchType.STRATEGIC, subresource="status")
    assert {c["type"] for c in patched.to_dict()["status"]["conditions"]} >= {"Ready", "Initialized"}
    operations = [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]
    labelled = await client.patch(PODS, "p", operations, "default", type=PatchType.JSON)
    assert labelled.meta.labels == {"a": "b"}


async def test_list_selects_by_label_and_field(client: LocalClient) -> None:
    await client.create(PODS, pod("a", nodeName="n1"), "default")
    await client.create(PODS, pod("b", nodeName="n2"), "kube-system")
    found = await client.list(PODS, field_selector="spec.nodeName=n2")
    assert [item.meta.name for item in found.items] == ["b"]
    found = await client.list(PODS, field_selector="spec.nodeName!=n2")
    assert [item.meta.name for item in found.items] == ["a"]
    assert (await client.list(PODS, label_selector="x")).items == []
    with pytest.raises(BadRequest, match=r"field label not supported: spec\.color"):
        await client.list(PODS, field_selector="spec.color=red")


async def test_watch_goes_on_where_the_list_ended(client: LocalClient) -> None:
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    listed = await client.list(CONFIG_MAPS)
    await client.patch(CONFIG_MAPS, "a", {"data": {"k": "v"}}, "default")
    await client.delete(CONFIG_MAPS, "a", "default")
    seen = []
    async for event in client.watch(CONFIG_MAPS, resource_version=listed.resource_version):
        seen.append(event)
        if len(seen) == 2:
            break
    assert [event.type for event in seen] == [EventType.MODIFIED, EventType.DELETED]
    assert int(seen[1].object.meta.resource_version) > int(seen[0].object.meta.resource_version)
    assert seen[1].object.to_dict()["data"] == {"k": "v"}


async def test_watch_with_selector_reports_entering_and_leaving(client: LocalClient) -> None:
    listed = await client.list(PODS)
    await client.create(PODS, pod(), "default")
    binding = {"metadata": {"name": "p"}, "target": {"name": "n1"}}
    await client.create(PODS, binding, "default", name="p", subresource="binding")
    await client.patch(PODS, "p", {"metadata": {"labels": {"a": "b"}}}, "default")
    watch = client.watch(PODS, resource_version=listed.resource_version, field_selector="spec.nodeName=n1")
    assert (await anext(watch)).type is EventType.ADDED
    assert (await anext(watch)).type is EventType.MODIFIED
    watch = client.watch(PODS, resource_version=listed.resource_version, label_selector="!a")
    assert (await anext(watch)).type is EventType.ADDED
    assert (await anext(watch)).type is EventType.MODIFIED
    left = await anext(watch)
    newest = await client.get(PODS, "p", "default")
    assert left.type is EventType.DELETED
    assert left.object.meta.resource_version == newest.meta.resource_version
    assert not left.object.meta.labels


async def test_watch_wakes_on_news(client: LocalClient) -> None:
    watch = client.watch(CONFIG_MAPS, resource_version=(await client.list(CONFIG_MAPS)).resource_version)
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    await client.create(CONFIG_MAPS, config_map("a"), "default")
    assert (await waiting).object.meta.name == "a"


@pytest.mark.looptime
async def test_watch_ends_cleanly_after_a_bookmark(client: LocalClient) -> None:
    events = [event async for event in client.watch(CONFIG_MAPS, resource_version="0", timeout=90)]
    assert [event.type for event in events] == [EventType.BOOKMARK, EventType.BOOKMARK]
    assert events[-1].object.kind == "ConfigMap"


async def test_too_old_watch_is_gone() -> None:
    from edgehive.kube.store import VersionedStore

    async with Cluster(store=VersionedStore(window=3)) as cluster:
        client = cluster.client()
        for number in range(5):
            await client.create(CONFIG_MAPS, config_map(f"c{number}"), "default")
        with pytest.raises(Gone, match="too old resource version"):
            await anext(client.watch(CONFIG_MAPS, resource_version="1"))


async def test_namespace_lingers_for_its_controller_and_takes_nothing_new(client: LocalClient) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": "team"}})
    await client.delete(NAMESPACES, "team")
    going = (await client.get(NAMESPACES, "team")).to_dict()
    assert going["status"]["phase"] == "Terminating"
    with pytest.raises(Forbidden, match="being terminated"):
        await client.create(CONFIG_MAPS, config_map("a"), "team")
    going["spec"]["finalizers"] = []
    await client.update(NAMESPACES, going, subresource="finalize")
    with pytest.raises(NotFound):
        await client.get(NAMESPACES, "team")
    with pytest.raises(Forbidden, match="may not be deleted"):
        await client.delete(NAMESPACES, "default")
