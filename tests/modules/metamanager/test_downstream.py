"""What the cloud sends is stored, told and acknowledged, in that order and once."""

import pytest

from edgehive.api.registry import CONFIG_MAPS, PODS

POD = "default/pod/web"


async def test_a_pod_is_stored_before_edged_hears_and_the_cloud_gets_its_ok(node, pod):
    await node.connect()
    pushed = await node.push("insert", POD, pod())
    told = await node.told()
    assert (told.route.operation, told.route.resource) == ("insert", POD)
    assert (await node.store.get(POD)).meta.uid == "u1"
    (ack,) = await node.hub.wait_for("response", POD)
    assert ack.header.parent_id == pushed.id
    assert ack.content_bytes() == b"OK"
    assert (ack.route.source, ack.route.group) == ("edgecontroller", "resource")


async def test_a_repeated_message_is_acknowledged_again_and_told_once(node, pod):
    """[35]"""
    for _ in range(3):
        await node.push("insert", POD, pod())
    await node.hub.wait_for("response", POD, 3)
    await node.told()
    assert len(node.edged) == 0


async def test_an_update_for_an_unknown_pod_is_taken_and_an_older_one_ignored(node, pod):
    """[36]"""
    await node.push("update", POD, pod(version=12))
    await node.push("update", POD, pod(version=11))
    await node.hub.wait_for("response", POD, 2)
    assert (await node.told()).header.resourceversion == "12"
    assert len(node.edged) == 0
    assert (await node.store.get(POD)).meta.resource_version == "12"


async def test_a_deletion_only_removes_the_life_it_means(node, pod):
    """[53]"""
    await node.push("insert", POD, pod())
    await node.told()
    await node.push("delete", POD, {"metadata": {"name": "web", "namespace": "default", "uid": "another"}})
    await node.hub.wait_for("response", POD, 2)
    assert await node.store.get(POD) is not None
    await node.push("delete", POD, {"metadata": {"name": "web", "namespace": "default", "uid": "u1"}})
    told = await node.told()
    assert told.route.operation == "delete"
    assert told.read(dict)["spec"]["nodeName"] == "edge-1", "edged gets the whole object, not the skeleton"
    assert await node.store.get(POD) is None


async def test_deleting_what_is_not_there_is_acknowledged(node, pod):
    """[36]"""
    await node.push("delete", POD, pod())
    await node.hub.wait_for("response", POD)
    assert len(node.edged) == 0


async def test_a_recreated_pod_is_told_as_an_end_and_a_beginning(node, pod):
    await node.push("insert", POD, pod(version=10, uid="u1"))
    await node.push("update", POD, pod(version=20, uid="u2"))
    stories = [await node.told() for _ in range(3)]
    assert [(m.route.operation, m.read(dict)["metadata"]["uid"]) for m in stories] == [
        ("insert", "u1"),
        ("delete", "u1"),
        ("update", "u2"),
    ]


async def test_what_service_accounts_may_do_comes_without_its_type_and_is_stored(node):
    """[32, 36] A Go cloud sends nothing else to the node until this is acknowledged."""
    path = "default/serviceaccountaccess/reader"
    access = {"metadata": {"name": "reader", "namespace": "default", "uid": "u9", "resourceVersion": "7"}, "spec": {}}
    await node.push("update", path, access, source="policycontroller")
    await node.hub.wait_for("response", path)
    stored = await node.store.get(path)
    assert (stored.api_version, stored.kind) == ("policy.kubeedge.io/v1alpha1", "ServiceAccountAccess")


@pytest.mark.parametrize("missing", [("apiVersion",), ("kind",), ("apiVersion", "kind")])
async def test_a_pod_without_its_type_gets_it_from_its_path(node, pod, missing):
    """[32] A Go cloud sends one now and then, and waits for its acknowledgement before it sends anything else."""
    bare = {key: value for key, value in pod().items() if key not in missing}
    await node.push("update", POD, bare)
    await node.hub.wait_for("response", POD)
    stored = await node.store.get(POD)
    assert (stored.api_version, stored.kind) == ("v1", "Pod")
    told = (await node.told()).read(dict)
    assert (told["apiVersion"], told["kind"]) == ("v1", "Pod")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (POD, {"kind": "Node", "apiVersion": ""}),
        (POD, {"kind": "", "apiVersion": "apps/v1"}),
        ("default/gadget/web", {"kind": "", "apiVersion": ""}),
    ],
)
async def test_a_type_that_nobody_can_tell_is_refused_and_never_stored(node, pod, path, wrong):
    await node.push("insert", path, pod() | wrong)
    await node.hub.wait_for("error", path)
    assert node.hub.count("response", path) == 0
    assert await node.store.get(path) is None
    assert len(node.edged) == 0


@pytest.mark.parametrize(
    "content",
    [
        {"ErrStatus": {"status": "Failure", "reason": "NotFound", "code": 404, "message": "no"}},
        {},
        None,
        [],
        "text",
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "web", "namespace": "default"}},
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"uid": "u", "namespace": "default"}},
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "other", "uid": "u"}},
        {"kind": "Pod", "apiVersion": "v1", "metadata": None},
        {"kind": 3, "apiVersion": "v1", "metadata": {"name": "web", "uid": "u"}},
    ],
)
async def test_what_is_no_pod_is_refused_with_an_error_that_is_no_acknowledgement(node, content):
    """[37]"""
    await node.connect()
    sent = await node.push("update", POD, content)
    (refusal,) = await node.hub.wait_for("error", POD)
    assert refusal.header.parent_id == sent.id
    assert node.hub.count("response", POD) == 0
    assert await node.store.all_of("pod") == []
    assert len(node.edged) == 0


async def test_an_empty_list_deletes_nothing(node, pod):
    await node.push("insert", POD, pod())
    await node.told()
    await node.push("update", "default/podlist/all", [])
    await node.push("delete", "default/pod", [])
    await node.push("response", "default/pod", [])
    await node.hub.wait_for("error", "default/pod", 2)
    assert [d.meta.name for d in await node.store.all_of("pod")] == ["web"]
    assert len(node.edged) == 0


async def test_pods_of_other_nodes_are_not_ours(node, pod):
    """[52]"""
    await node.push("insert", POD, pod(node="edge-2"))
    await node.hub.wait_for("response", POD)
    assert await node.store.get(POD) is None
    assert len(node.edged) == 0


async def test_a_pushed_config_map_is_served_without_asking(node, config_map):
    """[54]"""
    await node.connect()
    await node.push("update", "default/configmap/cm", config_map("2"))
    assert (await node.told()).route.resource == "default/configmap/cm"
    document = await node.client.get(CONFIG_MAPS, "cm", "default")
    assert document.to_dict()["data"] == {"key": "2"}
    assert node.hub.count("query", "default/configmap/cm") == 0


async def test_a_device_without_kind_is_completed_from_its_resource(node):
    content = {"metadata": {"name": "d", "namespace": "default", "uid": "d1", "resourceVersion": "3"}}
    await node.push("update", "default/device/d", content)
    await node.hub.wait_for("response", "default/device/d")
    assert (await node.store.get("default/device/d")).kind == "Device"


async def test_restart_serves_the_rows_without_the_cloud(node, pod, restart):
    """[56]"""
    await node.push("insert", POD, pod())
    await node.hub.wait_for("response", POD)
    async with restart() as later:
        listed = await later.client.list(PODS)
        assert [d.meta.name for d in listed.items] == ["web"]
        assert (await later.client.get(PODS, "web", "default")).meta.uid == "u1"


async def test_what_its_own_deletion_has_overtaken_does_not_come_back(node, pod):
    """[81] An answer to a status patch may arrive after the deletion of its pod, in a line of its own."""
    await node.connect()
    await node.hub.wait_for_ack(await node.push("insert", "default/pod/web", pod()))
    deletion = await node.push("delete", "default/pod/web", pod())
    late = await node.push("update", "default/pod/web", pod(version=12))
    for message in (deletion, late):
        await node.hub.wait_for_ack(message)
    assert await node.store.all_of("pod") == []
    assert [(await node.told()).route.operation for _ in range(2)] == ["insert", "delete"]
    assert len(node.edged) == 0
    # Another life of that name is another pod.
    await node.push("insert", "default/pod/web", pod(uid="u2", version=13))
    assert (await node.told()).read(dict)["metadata"]["uid"] == "u2"


async def test_a_device_model_that_left_the_node_comes_back_under_its_uid(node):
    """A Go cloud deletes a model from a node with its last device there, and sends it again with the next."""
    path = "default/devicemodel/m"
    model = {"metadata": {"name": "m", "namespace": "default", "uid": "m1", "resourceVersion": "5"}, "spec": {}}
    for operation in ("insert", "delete", "insert"):
        await node.push(operation, path, model, source="devicecontroller")
    await node.hub.wait_for("response", path, 3)
    assert (await node.store.get(path)).meta.uid == "m1"
