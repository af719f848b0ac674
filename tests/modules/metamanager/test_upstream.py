"""What the node says and asks: kept until answered, asked once, answered from rows when the cloud is away."""

import asyncio
import sqlite3
from datetime import timedelta

import pytest

from edgehive.api.registry import (
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NODES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from edgehive.edgecore.metamanager import metamanager
from edgehive.edgecore.metamanager.metastore import Metastore
from edgehive.kit.clock import rfc3339
from edgehive.kit.sqlite import DatabaseError
from edgehive.kit.tasks import spawn
from edgehive.kube.client import PatchType
from edgehive.kube.errors import AlreadyExists, MethodNotAllowed, NotFound, Unreachable

CM = "default/configmap/cm"
PATCH = "default/podpatch/web"


async def patch_status(node, phase="Running"):
    patch = {"metadata": {"uid": "u1"}, "status": {"phase": phase}}
    return await node.client.patch(PODS, "web", patch, "default", type=PatchType.STRATEGIC, subresource="status")


async def test_identical_questions_in_flight_are_asked_once_and_all_answered(node, config_map):
    """[42, 78]"""
    await node.connect()
    gate: list = []
    node.hub.answers["query", CM] = lambda m: gate.append(m)
    waiting = [spawn(node.client.get(CONFIG_MAPS, "cm", "default"), name="ask") for _ in range(5)]
    (question,) = await node.hub.wait_for("query", CM)
    await asyncio.sleep(0)
    node.bus.reply(question.reply(config_map(), timestamp=1, source="edgecontroller", group="resource"))
    answers = await asyncio.gather(*waiting)
    assert {a.meta.name for a in answers} == {"cm"}
    assert node.hub.count("query", CM) == 1
    await node.hub.wait_for("response", CM)  # acknowledged after it was stored
    assert await node.store.get(CM) is not None


async def test_an_answer_is_cached_until_a_new_pod_or_a_new_link_comes(node, config_map, pod):
    """[54]"""
    await node.connect()
    node.hub.answers["query", CM] = lambda m: config_map()
    for _ in range(3):
        await node.client.get(CONFIG_MAPS, "cm", "default")
    assert node.hub.count("query", CM) == 1
    await node.push("insert", "default/pod/web", pod())
    await node.told()
    await node.client.get(CONFIG_MAPS, "cm", "default")
    assert node.hub.count("query", CM) == 2
    await node.connect(False)
    await node.connect(True)
    await node.client.get(CONFIG_MAPS, "cm", "default")
    assert node.hub.count("query", CM) == 3


async def test_offline_any_row_is_served_and_what_is_absent_is_not_found(node, config_map):
    await node.push("update", CM, config_map("old"))
    await node.hub.wait_for("response", CM)
    await node.connect(False)
    assert (await node.client.get(CONFIG_MAPS, "cm", "default")).to_dict()["data"] == {"key": "old"}
    with pytest.raises(NotFound):
        await node.client.get(SECRETS, "absent", "default")


async def test_a_link_that_breaks_ends_a_question_at_once(node):
    await node.connect()
    asking = spawn(node.client.get(LEASES, "edge-1", "kube-node-lease"), name="ask")
    await node.hub.wait_for("query", "kube-node-lease/lease/edge-1")
    await node.connect(False)
    with pytest.raises(Unreachable, match="broke"):
        await asking


async def test_a_bare_error_is_raised_and_never_stored(node):
    """[51, 79]"""
    await node.connect()
    status = {"status": "Failure", "message": 'configmaps "cm" not found', "reason": "NotFound", "code": 404}
    node.hub.answers["query", CM] = lambda m: {"ErrStatus": status}
    with pytest.raises(NotFound, match="not found"):
        await node.client.get(CONFIG_MAPS, "cm", "default")
    assert await node.store.get(CM) is None


def token_request(uid="u1"):
    return {
        "spec": {
            "audiences": ["golden"],
            "expirationSeconds": 3600,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid},
        }
    }


async def ask_token(node, uid="u1"):
    return await node.client.create(SERVICE_ACCOUNTS, token_request(uid), "default", name="sa", subresource="token")


TOKEN = "default/serviceaccounttoken/sa"


async def test_a_token_is_renewed_late_in_its_life_and_served_expired_offline(node):
    await node.connect()
    issued: list[str] = []

    def issue(_):
        issued.append(f"token-{len(issued)}")
        expires = rfc3339(node.clock.now() + timedelta(hours=1))
        return token_request() | {"status": {"token": issued[-1], "expirationTimestamp": expires}}

    node.hub.answers["query", TOKEN] = issue
    assert (await ask_token(node)).to_dict()["status"]["token"] == "token-0"
    assert (await ask_token(node)).to_dict()["status"]["token"] == "token-0"
    node.clock.set(node.clock.now() + timedelta(minutes=50))
    assert (await ask_token(node)).to_dict()["status"]["token"] == "token-1"
    await node.connect(False)
    node.clock.set(node.clock.now() + timedelta(days=30))
    assert (await ask_token(node)).to_dict()["status"]["token"] == "token-1"
    # A cloud that answers rubbish does not cost the last good copy either.
    await node.connect(True)
    node.hub.answers["query", TOKEN] = lambda m: token_request() | {"status": {"token": ""}}
    assert (await ask_token(node)).to_dict()["status"]["token"] == "token-1"


async def test_tokens_go_with_their_pod(node, pod):
    await node.connect()
    await node.push("insert", "default/pod/web", pod())
    await node.told()
    expires = rfc3339(node.clock.now() + timedelta(hours=1))
    node.hub.answers["query", TOKEN] = lambda m: (
        m.read(dict) | {"status": {"token": "t", "expirationTimestamp": expires}}
    )
    await ask_token(node, "u1")
    await ask_token(node, "u2")
    await node.push("delete", "default/pod/web", pod())
    await node.told()
    assert len(await node.store.all_of("serviceaccounttoken")) == 1


async def test_a_patch_travels_as_text_and_returns_the_pod(node, pod):
    """[47]"""
    await node.connect()
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    document = await patch_status(node)
    assert document.kind == "Pod"
    (sent,) = await node.hub.wait_for("patch", PATCH)
    assert sent.content_bytes() == b'{"metadata":{"uid":"u1"},"status":{"phase":"Running"}}'
    assert (sent.route.source, sent.route.group) == ("edged", "meta")
    assert await node.store.unanswered() == []
    assert (await node.store.get("default/pod/web")).meta.resource_version == "11"


async def test_patches_made_offline_are_replayed_newest_per_pod_and_only_once(node, pod):
    for phase in ("Pending", "Running", "Failed"):
        with pytest.raises(Unreachable):
            await patch_status(node, phase)
    assert len(await node.store.unanswered()) == 1
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    await node.connect()
    (sent,) = await node.hub.wait_for("patch", PATCH)
    assert b"Failed" in sent.content_bytes()
    await node.told()
    await node.connect(False)
    await node.connect(True)
    node.hub.answers["query", CM] = lambda m: {"ErrStatus": {"reason": "NotFound", "code": 404, "status": "Failure"}}
    with pytest.raises(NotFound):
        await node.client.get(CONFIG_MAPS, "cm", "default")
    assert node.hub.count("patch", PATCH) == 1


async def test_a_patch_in_flight_when_the_link_breaks_is_sent_again(node, pod):
    await node.connect()
    patching = spawn(patch_status(node), name="patch")
    await node.hub.wait_for("patch", PATCH)
    await node.connect(False)
    with pytest.raises(Unreachable):
        await patching
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    await node.connect(True)
    await node.hub.wait_for("patch", PATCH, 2)


async def test_patches_made_offline_survive_a_restart(node, pod, restart):
    with pytest.raises(Unreachable):
        await patch_status(node)
    async with restart() as later:
        later.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
        await later.connect()
        await later.hub.wait_for("patch", PATCH)


@pytest.mark.parametrize("step", ["unanswered", "is_unanswered", "forget_unanswered"])
async def test_a_replay_goes_on_after_the_disk_failed(node, pod, monkeypatch, caplog, step):
    monkeypatch.setattr(metamanager, "REPLAY_INTERVAL", 0.01)
    with pytest.raises(Unreachable):
        await patch_status(node)
    works, failures = getattr(Metastore, step), [DatabaseError("disk I/O error"), sqlite3.OperationalError("locked")]

    async def sick(store, *arguments):
        if failures:
            raise failures.pop()
        return await works(store, *arguments)

    monkeypatch.setattr(Metastore, step, sick)
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    await node.connect()
    await node.hub.wait_for("patch", PATCH)
    async with asyncio.timeout(5):
        while await node.store.unanswered():
            await asyncio.sleep(0.01)
    assert not failures


def failing(monkeypatch, step: str) -> dict[str, bool]:
    """Have a step of the store fail while `full` is set."""
    works, disk = getattr(Metastore, step), {"full": True}

    async def sick(store, *arguments):
        if disk["full"]:
            raise DatabaseError("disk full")
        return await works(store, *arguments)

    monkeypatch.setattr(metamanager, "REPLAY_INTERVAL", 0.01)
    monkeypatch.setattr(Metastore, step, sick)
    return disk


async def until_nothing_is_kept(node) -> None:
    async with asyncio.timeout(5):
        while await node.store.unanswered():
            await asyncio.sleep(0.01)


async def test_what_the_cloud_has_heard_is_dropped_untold_when_the_disk_has_room_again(node, pod, monkeypatch):
    """The cloud may have heard newer things since."""
    await node.connect()
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    disk = failing(monkeypatch, "forget_unanswered")
    await patch_status(node)
    assert len(await node.store.unanswered()) == 1
    disk["full"] = False
    await until_nothing_is_kept(node)
    assert len(await node.hub.wait_for("patch", PATCH)) == 1


async def test_a_patch_that_a_newer_one_could_not_replace_on_the_disk_is_dropped_untold(node, pod, monkeypatch):
    with pytest.raises(Unreachable):
        await patch_status(node, "Pending")
    disk = failing(monkeypatch, "keep_unanswered")
    with pytest.raises(Unreachable):
        await patch_status(node, "Running")
    disk["full"] = False
    node.hub.answers["patch", PATCH] = lambda m: {"Object": pod(version=11), "Err": None}
    await node.connect()
    await until_nothing_is_kept(node)
    await patch_status(node, "Succeeded")
    (told,) = await node.hub.wait_for("patch", PATCH)
    assert b"Succeeded" in told.content_bytes()


async def test_a_refused_patch_is_not_tried_for_ever(node):
    await node.connect()
    status = {"status": "Failure", "message": "gone", "reason": "NotFound", "code": 404}
    node.hub.answers["patch", PATCH] = lambda m: {"Object": None, "Err": {"ErrStatus": status}}
    with pytest.raises(NotFound):
        await patch_status(node)
    assert await node.store.unanswered() == []


async def test_a_node_deleted_in_the_cloud_can_be_registered_again(node):
    row = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "edge-1", "uid": "n1", "resourceVersion": "4"}}
    await node.connect()
    node.hub.answers["insert", "null/node/edge-1"] = lambda m: {"Object": row, "Err": None}
    await node.client.create(NODES, row)
    assert (await node.client.get(NODES, "edge-1")).meta.uid == "n1"
    missing = {"ErrStatus": {"status": "Failure", "message": "gone", "reason": "NotFound", "code": 404}}
    node.hub.answers["patch", "null/nodepatch/edge-1"] = lambda m: {"Object": None, "Err": missing}
    node.hub.answers["query", "null/node/edge-1"] = lambda m: missing
    with pytest.raises(NotFound):
        await node.client.patch(NODES, "edge-1", {}, type=PatchType.STRATEGIC, subresource="status")
    with pytest.raises(NotFound):
        await node.client.get(NODES, "edge-1")


async def test_errors_of_the_api_server_keep_their_reason(node):
    await node.connect()
    status = {"status": "Failure", "message": "exists", "reason": "AlreadyExists", "code": 409}
    node.hub.answers["insert", "null/node/edge-1"] = lambda m: {"Object": {}, "Err": {"ErrStatus": status}}
    with pytest.raises(AlreadyExists, match="exists"):
        await node.client.create(NODES, {"metadata": {"name": "edge-1"}})


async def test_leases_are_not_kept_and_say_so_when_offline(node):
    lease = {"metadata": {"name": "edge-1", "namespace": "kube-node-lease", "uid": "l", "resourceVersion": "1"}}
    with pytest.raises(Unreachable):
        await node.client.update(LEASES, lease)
    await node.connect()
    node.hub.answers["update", "kube-node-lease/lease/edge-1"] = lambda m: {"Object": lease, "Err": None}
    assert (await node.client.update(LEASES, lease)).kind == "Lease"
    assert await node.store.all_of("lease") == []


async def test_a_pod_is_deleted_with_its_uid(node):
    """[49]"""
    await node.connect()
    node.hub.answers["delete", "default/pod/web"] = lambda m: "OK"
    assert await node.client.delete(PODS, "web", "default", grace_period_seconds=0, uid="u1") is None
    (sent,) = await node.hub.wait_for("delete", "default/pod/web")
    assert sent.read(dict) == {"gracePeriodSeconds": 0, "preconditions": {"uid": "u1"}}


async def test_events_go_to_the_hub_at_once_which_keeps_them_while_there_is_no_link(node):
    for number in range(3):
        event = {"kind": "Event", "apiVersion": "v1", "metadata": {"name": f"e{number}", "namespace": "default"}}
        await node.client.create(EVENTS, event)
    await node.hub.wait_for("insert", "default/event/e2")
    assert [m.route.resource for m in node.hub.sent] == [f"default/event/e{number}" for number in range(3)]


async def test_what_an_edge_cannot_do_is_said_plainly(node):
    with pytest.raises(MethodNotAllowed, match="delete of configmaps is not possible from an edge node"):
        await node.client.delete(CONFIG_MAPS, "cm", "default")
    with pytest.raises(MethodNotAllowed):
        node.client.watch(PODS)


async def test_news_in_an_answer_reach_the_pods_that_use_an_older_version(node, config_map):
    """The push of that version comes later and looks like a repetition."""
    await node.connect()
    await node.push("update", CM, config_map("old", version=5))
    assert (await node.told()).header.resourceversion == "5"
    await node.connect(False)
    await node.connect(True)
    node.hub.answers["query", CM] = lambda m: config_map("new", version=7)
    await node.client.get(CONFIG_MAPS, "cm", "default")
    told = await node.told()
    assert (told.route.operation, told.header.resourceversion) == ("update", "7")
    await node.hub.wait_for_ack(await node.push("update", CM, config_map("new", version=7)))
    assert len(node.edged) == 0


async def test_a_kept_patch_that_cannot_be_read_is_given_up_and_stops_nothing(restart):
    async with restart() as node:
        with pytest.raises(Unreachable):
            await patch_status(node)
        torn = "INSERT INTO unanswered (key, message) VALUES ('default/podpatch/torn', '{')"
        await node.database.write(lambda connection: connection.execute(torn) and None)
    async with restart() as node:
        node.hub.answers["patch", "default/podpatch/web"] = lambda m: "OK"
        await node.connect()
        await node.hub.wait_for("patch", "default/podpatch/web")
        async with asyncio.timeout(5):
            while await node.store.unanswered():
                await asyncio.sleep(0.01)
