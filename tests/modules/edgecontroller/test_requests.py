"""Every kind of request of a node is answered, in its envelope, also when the API says no."""

import asyncio
import json

import pytest

from edgehive.api.registry import (
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NODES,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
)
from edgehive.cloudcore.flows import LANE_LIMIT
from edgehive.kube.errors import NotFound, Unreachable
from edgehive.testing.cloud import Cloud, cloud, content_of
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


async def config_map(it: Cloud, name: str, value: str = "v") -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}}
    await it.client.create(CONFIG_MAPS, body, "default")


def status_of(content: dict) -> dict:
    return content["Err"]["ErrStatus"]


async def test_registration_makes_an_edge_node_and_a_second_one_is_told_it_exists() -> None:
    """[45, 46]"""
    async with cloud() as it:
        edge = await it.edge("n1", register=False)
        labels = {"node-role.kubernetes.io/edge": "", "kubernetes.io/os": "linux", "room": "hall"}
        node = {"metadata": {"name": "n1", "labels": labels}, "status": {"nodeInfo": {"osImage": "x"}}}
        reply = await edge.request("insert", "null/node/n1", node)
        content = content_of(reply)
        assert reply.route.source == "edgecontroller"
        assert reply.route.resource == "null/node/n1"
        assert reply.header.resourceversion == ""
        assert set(content) == {"Object", "Err"}
        assert content["Err"] is None
        assert content["Object"]["metadata"]["labels"] == labels
        pushed = await edge.expect_object("null/node/n1")
        assert pushed.route.operation == "update"

        content = content_of(await edge.request("insert", "null/node/n1", node))
        assert (status_of(content)["reason"], status_of(content)["code"]) == ("AlreadyExists", 409)
        assert "kind" not in status_of(content)


async def test_a_registration_that_broke_off_halfway_is_completed() -> None:
    async with cloud() as it:
        half = {"name": "n1", "annotations": {"cloudcore": "192.0.2.1"}}
        await it.client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": half})
        edge = await it.edge("n1", register=False)
        node = {"metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/edge": ""}}}
        assert status_of(content_of(await edge.request("insert", "null/node/n1", node)))["reason"] == "AlreadyExists"
        await edge.expect_object("null/node/n1")


async def test_registration_costs_one_request_for_the_node_and_one_for_its_status() -> None:
    async with Cluster() as cluster:
        client = Asked(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1", register=False)
            labels = {"node-role.kubernetes.io/edge": "", "kubernetes.io/os": "linux"}
            made = content_of(await edge.request("insert", "null/node/n1", {"metadata": {"labels": labels}}))
            assert made["Object"]["metadata"]["labels"] == labels
            # At once: the watch may not have shown the node yet.
            assert content_of(await edge.request("patch", "null/nodepatch/n1", {"status": {}}))["Err"] is None
            assert client.asked == ["create nodes", "patch nodes"]


@pytest.mark.parametrize("wrap", [json.dumps, lambda patch: patch])
async def test_node_status_patches_come_as_text_or_object(wrap) -> None:
    """[31, 48]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        patch = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Up"}]}}
        reply = await edge.request("patch", "null/nodepatch/n1", wrap(patch))
        content = content_of(reply)
        assert content["Object"]["status"]["conditions"][0]["reason"] == "Up"
        assert reply.header.resourceversion == content["Object"]["metadata"]["resourceVersion"]


async def test_a_broken_patch_is_a_bad_request() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        content = content_of(await edge.request("patch", "null/nodepatch/n1", "{broken"))
        assert (status_of(content)["reason"], status_of(content)["code"]) == ("BadRequest", 400)


async def test_leases_are_queried_made_and_renewed() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        path = "kube-node-lease/lease/n1"
        content = content_of(await edge.request("query", path))
        assert content["Object"] is None
        assert status_of(content)["reason"] == "NotFound"
        lease = {"metadata": {"name": "n1", "namespace": "kube-node-lease"}, "spec": {"holderIdentity": "n1"}}
        made = content_of(await edge.request("insert", path, lease))["Object"]
        made["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"
        renewed = content_of(await edge.request("update", path, made))
        assert renewed["Err"] is None
        assert (await it.client.get(LEASES, "n1", "kube-node-lease")).to_dict()["spec"]["renewTime"]
        assert status_of(content_of(await edge.request("insert", path, lease)))["reason"] == "AlreadyExists"


async def test_a_missing_object_is_answered_at_once() -> None:
    """[51]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        volumes = [
            {"name": "a", "configMap": {"name": "none"}},
            {"name": "b", "secret": {"secretName": "none"}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "none"}},
        ]
        await it.pod("web", "n1", volumes=volumes)
        await edge.expect_object("default/pod/web")
        for type in ("configmap", "secret", "persistentvolumeclaim", "persistentvolume", "volumeattachment"):
            async with asyncio.timeout(1):
                reply = await edge.request("query", f"default/{type}/none")
            content = content_of(reply)
            assert set(content) == {"ErrStatus"}
            assert (content["ErrStatus"]["reason"], content["ErrStatus"]["code"]) == ("NotFound", 404)
            assert reply.header.resourceversion == ""


async def test_identical_queries_in_flight_are_all_answered() -> None:
    """[78]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        await config_map(it, "settings")
        await it.pod("web", "n1", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await edge.expect_object("default/pod/web")
        edge.acknowledge = False
        sent = [await edge.send("query", "default/configmap/settings") for _ in range(5)]
        for query in sent:
            reply = await edge.expect(lambda m, query=query: m.header.parent_id == query.id, patience=2)
            assert content_of(reply)["data"] == {"k": "v"}


async def test_a_service_account_token_is_bound_as_asked() -> None:
    """[50]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
        await it.client.create(SERVICE_ACCOUNTS, account, "default")
        pod = await it.pod("web", "n1", serviceAccountName="robot")
        await edge.expect_object("default/pod/web")
        bound = {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": pod.meta.uid}
        spec = {"audiences": ["a"], "expirationSeconds": 3607, "boundObjectRef": bound}
        content = content_of(await edge.request("query", "default/serviceaccounttoken/robot", {"spec": spec}))
        assert content["status"]["token"].count(".") == 2
        assert content["spec"]["expirationSeconds"] == 3607
        assert content["spec"]["boundObjectRef"]["name"] == "web"


async def test_a_pod_removed_by_its_node_is_gone_whatever_was_there() -> None:
    """[49]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        wrong = {"gracePeriodSeconds": 0, "preconditions": {"uid": "another-life"}}
        assert content_of(await edge.request("delete", "default/pod/web", wrong)) == "OK"
        assert (await it.client.get(PODS, "web", "default")).meta.uid == pod.meta.uid
        right = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.meta.uid}}
        assert content_of(await edge.request("delete", "default/pod/web", right)) == "OK"
        await edge.expect_object("default/pod/web", "delete")
        assert content_of(await edge.request("delete", "default/pod/web", right)) == "OK"
        assert content_of(await edge.request("delete", "default/pod/web", pod.meta.uid)) == "OK"


async def test_a_mirror_pod_is_made_for_the_own_node_only() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "static",
                "namespace": "default",
                "annotations": {"kubernetes.io/config.mirror": "hash"},
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        }
        reply = await edge.request("insert", "default/pod/static", pod)
        assert content_of(reply)["Err"] is None
        assert reply.header.resourceversion
        assert (await edge.expect_object("default/pod/static")).route.operation == "insert"
        pod["metadata"]["name"], pod["spec"]["nodeName"] = "other", "n2"
        content = content_of(await edge.request("insert", "default/pod/other", pod))
        assert status_of(content)["reason"] == "Forbidden"


async def test_a_report_about_a_pod_the_api_no_longer_has_makes_the_node_delete_it() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        patch = {"metadata": {"uid": "lost-life"}, "status": {"phase": "Running"}}
        content = content_of(await edge.request("patch", "default/podpatch/lost", json.dumps(patch)))
        assert status_of(content)["reason"] == "NotFound"
        deletion = await edge.expect_object("default/pod/lost", "delete")
        assert content_of(deletion)["metadata"]["uid"] == "lost-life"


async def test_older_reports_of_pod_and_node_status() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        pod = await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        report = {"UID": pod.meta.uid, "Name": "web", "Status": {"phase": "Running"}}
        assert content_of(await edge.request("update", "default/podstatus/web", report)) == "OK"
        assert (await it.client.get(PODS, "web", "default")).to_dict()["status"]["phase"] == "Running"
        both = [report, {"UID": "x", "Name": "gone-1", "Status": {}}, {"UID": "y", "Name": "gone-2", "Status": {}}]
        query = await edge.send("update", "default/podstatus", both)
        for _ in both:
            assert content_of(await edge.expect(lambda m: m.header.parent_id == query.id)) == "OK"
        await edge.expect_object("default/pod/gone-1", "delete")
        await edge.expect_object("default/pod/gone-2", "delete")
        status = {"UID": "", "Status": {"conditions": [{"type": "Ready", "status": "True"}]}, "ExtendResources": None}
        reply = await edge.request("update", "null/nodestatus/n1", status)
        assert (content_of(reply), reply.route.resource) == ("OK", "null/node/n1")


async def test_a_report_that_is_refused_takes_no_other_of_its_message_with_it() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.edge("n2")
        foreign, own = await it.pod("theirs", "n2"), await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        running = {"phase": "Running"}
        reports = [
            {"UID": pod.meta.uid, "Name": name, "Status": running} for pod, name in ((foreign, "theirs"), (own, "web"))
        ]
        query = await edge.send("update", "default/podstatus", reports)
        answers = [content_of(await edge.expect(lambda m: m.header.parent_id == query.id)) for _ in reports]
        assert answers[0]["ErrStatus"]["reason"] == "Forbidden"
        assert answers[1] == "OK"
        assert (await it.client.get(PODS, "web", "default")).to_dict()["status"]["phase"] == "Running"
        assert (await it.client.get(PODS, "theirs", "default")).to_dict().get("status", {}).get("phase") != "Running"


async def test_node_labels_and_annotations_are_merged() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        update = {"metadata": {"name": "n1", "labels": {"room": "hall"}, "annotations": {"owner": "me"}}}
        reply = await edge.request("update", "null/node/n1", update)
        assert content_of(reply) == "OK"
        assert reply.header.resourceversion
        meta = (await it.client.get(NODES, "n1")).meta
        assert meta.labels["room"] == "hall"
        assert "node-role.kubernetes.io/edge" in meta.labels
        assert meta.annotations["owner"] == "me"


async def test_events_are_written_and_patched() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e1", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": "n1"},
            "reason": "Started",
            "message": "up",
            "source": {"component": "edged", "host": "n1"},
            "count": 1,
            "type": "Normal",
        }
        await edge.send("insert", "default/event/e1", event)
        await edge.send("patch", "default/event/e1", {"event": event, "patchData": '{"count":2}'})
        await edge.request("query", "kube-node-lease/lease/n1")
        async with asyncio.timeout(5):
            while True:
                try:
                    if (await it.client.get(EVENTS, "e1", "default")).to_dict()["count"] == 2:
                        break
                except NotFound:
                    pass
                await asyncio.sleep(0.1)


class Asked:
    """A client that notes what is asked about nodes, watches aside."""

    def __init__(self, client) -> None:
        self._client = client
        self.asked: list[str] = []

    def __getattr__(self, name: str):
        real = getattr(self._client, name)
        if name not in ("get", "create", "update", "patch", "delete"):
            return real

        async def call(resource, *args, **kwargs):
            if resource is NODES:
                self.asked.append(f"{name} {resource.plural}")
            return await real(resource, *args, **kwargs)

        return call


class Unplugged:
    """A client that loses the API when told to, watches aside."""

    def __init__(self, client) -> None:
        self._client = client
        self.away = False

    def __getattr__(self, name: str):
        real = getattr(self._client, name)
        if name not in ("get", "create", "update", "patch", "delete"):
            return real

        async def call(*args, **kwargs):
            if self.away:
                raise Unreachable("connection refused")
            return await real(*args, **kwargs)

        return call


async def test_an_unreachable_api_is_an_answer_and_not_the_end() -> None:
    """[30]"""
    async with Cluster() as cluster:
        client = Unplugged(cluster.client())
        async with cloud(cluster=cluster, client=client) as it:
            edge = await it.edge("n1")
            client.away = True
            content = content_of(await edge.request("patch", "null/nodepatch/n1", "{}"))
            assert (status_of(content)["reason"], status_of(content)["code"]) == ("ServiceUnavailable", 503)
            client.away = False
            assert content_of(await edge.request("patch", "null/nodepatch/n1", "{}"))["Err"] is None


async def test_a_node_gets_only_what_its_pods_need() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.edge("n2")
        await config_map(it, "theirs")
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "theirs"}, "data": {}}
        await it.client.create(SECRETS, secret, "default")
        await it.pod("other", "n2", volumes=[{"name": "v", "configMap": {"name": "theirs"}}])
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "pv"},
            "spec": {
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/x"},
            },
        }
        await it.client.create(PERSISTENT_VOLUMES, volume)
        await asyncio.sleep(1)
        for path in ("default/configmap/theirs", "default/secret/theirs", "default/persistentvolume/pv"):
            content = content_of(await edge.request("query", path))
            assert content["ErrStatus"]["reason"] == "Forbidden", path
        token = content_of(await edge.request("query", "default/serviceaccounttoken/default", {"spec": {}}))
        assert token["ErrStatus"]["reason"] == "Forbidden"
        patch = content_of(await edge.request("patch", "default/podpatch/other", '{"status":{"phase":"Failed"}}'))
        assert status_of(patch)["reason"] == "Forbidden"
        patch = content_of(await edge.request("patch", "null/nodepatch/n2", "{}"))
        assert status_of(patch)["reason"] == "Forbidden"


class Away:
    """A client whose writes fail while the API is away."""

    def __init__(self, client) -> None:
        self._client = client
        self.away = False

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    async def create(self, resource, *arguments, **options):
        if self.away and resource is EVENTS:
            raise Unreachable("no route")
        return await self._client.create(resource, *arguments, **options)


async def test_events_told_while_the_api_is_away_are_written_when_it_is_back() -> None:
    """Nothing answers them, so their node tells them once; more of them than there are workers hold up nothing else."""
    cluster = Cluster()
    client = Away(cluster.client())
    async with cloud(cluster=cluster, client=client) as it:
        edge = await it.edge("n1")
        await config_map(it, "settings")
        await it.pod("web", "n1", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await edge.expect_object("default/pod/web")
        client.away = True
        for number in range(200):
            reference = {"kind": "Node", "name": "n1"}
            event = {"metadata": {"name": f"e{number}", "namespace": "default"}, "involvedObject": reference}
            await edge.send("insert", f"default/event/e{number}", event)
        assert content_of(await edge.request("query", "default/configmap/settings"))["data"] == {"k": "v"}
        await asyncio.sleep(20)
        assert (await it.client.list(EVENTS)).items == []
        client.away = False
        await asyncio.sleep(40)
        assert len((await it.client.list(EVENTS)).items) == 200


class Slow:
    """A client whose writing of nodes never ends, once it is told so."""

    def __init__(self, client) -> None:
        self._client = client
        self.slow = False

    def __getattr__(self, name: str):
        return getattr(self._client, name)

    async def patch(self, resource, *arguments, **options):
        if self.slow and resource is NODES:
            await asyncio.Event().wait()
        return await self._client.patch(resource, *arguments, **options)


async def test_a_node_that_asks_too_much_about_one_object_is_turned_away_and_others_are_not() -> None:
    cluster = Cluster()
    client = Slow(cluster.client())
    async with cloud(cluster=cluster, client=client) as it:
        edge = await it.edge("n1")
        await config_map(it, "settings")
        await it.pod("web", "n1", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await edge.expect_object("default/pod/web")
        client.slow = True
        sent = [await edge.send("patch", "null/nodepatch/n1", {"status": {}}) for _ in range(LANE_LIMIT + 2)]
        reply = await edge.expect(lambda m: m.header.parent_id == sent[-1].id, patience=2)
        assert content_of(reply)["Err"]["ErrStatus"]["reason"] == "TooManyRequests"
        assert content_of(await edge.request("query", "default/configmap/settings"))["data"] == {"k": "v"}
        for name in ("edgehive_lane_requests", "edgehive_lane_most_requests"):
            assert f'{name}{{module="edgecontroller"}} {LANE_LIMIT}.0' in it.metrics()
