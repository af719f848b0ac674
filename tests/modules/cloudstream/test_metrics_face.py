"""metrics.k8s.io at the stream port: whom the front proxy asks for, what he may see, and who else gets nothing."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS
from edgehive.cloudcore.cloudstream import cluster_metrics
from edgehive.cloudcore.cloudstream.callers import Callers
from edgehive.cloudcore.cloudstream.cluster_metrics import ClusterMetrics
from edgehive.cloudcore.cloudstream.front_proxy import FrontProxy, Trust
from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
from edgehive.cloudcore.cloudstream.metrics_door import MetricsDoor
from edgehive.cloudcore.cloudstream.metrics_face import MetricsFace
from edgehive.cloudcore.cloudstream.metrics_objects import SERVER_NAME
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.http import serve
from edgehive.kit.keypair import KeyPair
from edgehive.kit.ssl_contexts import client_context, load_pair, server_context
from edgehive.kube import node_usage
from edgehive.kube.errors import Forbidden
from edgehive.kube.informer import Informers
from edgehive.testing.cluster import Cluster
from edgehive.testing.streams import NODE, StreamPair, locate, stream_pair

DAY = timedelta(days=1)
ROOT = "/apis/metrics.k8s.io/v1beta1"
JANE = {"X-Remote-User": "jane", "X-Remote-Group": "system:authenticated"}


def summary(cores: float, *, at: str = "2026-01-01T00:00:00Z") -> bytes:
    """Counted once and for all, so that the kubelet's own word on the rate is taken."""
    used = {
        "cpu": {"time": at, "usageCoreNanoSeconds": 10**9, "usageNanoCores": round(cores * 10**9)},
        "memory": {"workingSetBytes": 2**20},
    }
    containers = [{"name": "c", **used}]
    pods = [{"podRef": {"name": name, "namespace": "default", "uid": name}, "containers": containers} for name in
            ("web", "done")]  # fmt: skip
    return json.dumps({"node": used, "pods": pods}).encode()


class Api:
    """The cluster, with an opinion on who may what and a proxy to kubelets of nodes without a tunnel."""

    def __init__(self, cluster: Cluster) -> None:
        self._client = cluster.client()
        self.denied: set[str] = set()
        self.reviews: list[dict[str, Any]] = []
        self.proxied: dict[str, bytes] = {}

    async def create(self, resource: Any, body: Any, namespace: str = "", **_: Any) -> Document:
        assert resource.kind == "SubjectAccessReview"
        self.reviews.append(body["spec"])
        return Document.of({"status": {"allowed": body["spec"]["user"] not in self.denied}})

    async def get(self, resource: Any, name: str, namespace: str = "", *, subresource: str = "") -> Document:
        if subresource:
            assert (resource, subresource) == (NODES, "proxy/stats/summary")
            if name not in self.proxied:
                raise Forbidden("cloudcore may not get nodes/proxy")
            return Document(self.proxied[name])
        return await self._client.get(resource, name, namespace)

    async def list(self, *words: Any, **options: Any) -> Any:
        return await self._client.list(*words, **options)


class Rig:
    """The stream port with the metrics door before it, an edge behind it, and certificates of three CAs."""

    def __init__(self, folder: Path, pair: StreamPair, api: Api) -> None:
        self.pair, self.api, self.folder = pair, api, folder
        now = SystemClock().now()
        self.authorities = {
            name: tls.self_signed_ca(name, now, DAY) for name in ("hub", "cluster", "proxies", "proxies anew")
        }
        self.front = FrontProxy(SERVER_NAME, self._server(SERVER_NAME))
        self.front.follow(self.trust("proxies"))
        self.port = 0

    def trust(self, authority: str) -> Trust:
        data = {
            "requestheader-client-ca-file": self.authorities[authority].certificate_pem.decode(),
            "requestheader-allowed-names": '["front-proxy-client"]',
            "requestheader-username-headers": '["X-Remote-User"]',
            "requestheader-group-headers": '["X-Remote-Group"]',
            "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
        }
        found = Trust.published(data)
        assert found is not None
        return found

    def _server(self, name: str) -> KeyPair:
        return tls.issue(
            self.authorities["hub"], common_name=name, names=[name], usages=(tls.SERVER_AUTH,),
            now=SystemClock().now(), lifetime=DAY,
        )  # fmt: skip

    @asynccontextmanager
    async def serving(self, face: MetricsFace) -> AsyncIterator[None]:
        pair = self._server("plain.example")
        for name, content in (
            ("crt", pair.certificate_pem), ("key", pair.key_pem), ("ca", self.authorities["cluster"].certificate_pem),
        ):  # fmt: skip
            (self.folder / name).write_bytes(content)
        context = server_context(
            self.folder / "crt", self.folder / "key", client_ca=self.folder / "ca", client_certificate="optional"
        )
        door = MetricsDoor(self.api, face, None)  # type: ignore[arg-type]
        door.stand_at(context)
        kubelet = KubeletFace(self.pair.tunnels, locate, None)
        app = kubelet.app(door.middleware)
        async with serve(app, host="127.0.0.1", port=0, ssl_context=context, drain=0.1) as (_, self.port):
            yield

    @asynccontextmanager
    async def client(
        self, authority: str = "proxies", common_name: str = "front-proxy-client", server: str = SERVER_NAME
    ) -> AsyncIterator[aiohttp.ClientSession]:
        context = client_context(self.authorities["hub"].certificate_pem.decode())
        if authority:
            pair = tls.issue(
                self.authorities[authority], common_name=common_name, now=SystemClock().now(), lifetime=DAY
            )
            load_pair(context, pair)
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(f"https://127.0.0.1:{self.port}", connector=connector) as session:
            session._ssl_name = server  # type: ignore[attr-defined]
            yield session


async def get(session: aiohttp.ClientSession, path: str, **headers: str) -> tuple[int, Any]:
    async with session.get(path, headers=headers, server_hostname=session._ssl_name) as answer:  # type: ignore[attr-defined]
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text


@pytest.fixture
async def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(node_usage, "MOMENT", 0.0)
    async with Cluster() as cluster, stream_pair() as pair:
        client = cluster.client()
        for name, labels in ((NODE, {"node-role.kubernetes.io/edge": ""}), ("cloudy", {"zone": "b"}), ("far", {})):
            await client.create(NODES, {"metadata": {"name": name, "labels": labels}})
        for name, phase in (("web", "Running"), ("done", "Succeeded")):
            spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}
            await client.create(PODS, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}, "default")
            await client.patch(PODS, name, {"status": {"phase": phase}}, "default", subresource="status")
        pair.kubelet.logs["/stats/summary"] = summary(0.25)
        api = Api(cluster)
        api.proxied["cloudy"] = summary(2)
        it = Rig(tmp_path, pair, api)
        async with Informers(client) as informers:
            nodes, pods = informers.of(NODES, label_selector=EDGE_NODE_SELECTOR), informers.of(PODS)
            await informers.wait_synced()
            source = ClusterMetrics(api, SystemClock(), pair.tunnels, nodes, pods, lambda _: True)  # type: ignore[arg-type]
            async with it.serving(MetricsFace(it.front, Callers(api), source)):  # type: ignore[arg-type]
                yield it


async def test_nodes_behind_the_tunnel_and_others_are_told_of_and_silent_ones_left_out(rig: Rig) -> None:
    async with rig.client() as session:
        status, found = await get(session, f"{ROOT}/nodes", **JANE)
        assert (status, found["kind"], found["apiVersion"]) == (200, "NodeMetricsList", "metrics.k8s.io/v1beta1")
        used = {item["metadata"]["name"]: item["usage"] for item in found["items"]}
        assert used == {
            NODE: {"cpu": "250000000n", "memory": "1024Ki"}, "cloudy": {"cpu": "2000000000n", "memory": "1024Ki"},
        }  # fmt: skip
        chosen = (await get(session, f"{ROOT}/nodes?labelSelector=zone%3Db", **JANE))[1]["items"]
        assert [item["metadata"]["name"] for item in chosen] == ["cloudy"]
        assert (await get(session, f"{ROOT}/nodes/{NODE}", **JANE))[1]["usage"]["cpu"] == "250000000n"
        status, missing = await get(session, f"{ROOT}/nodes/far", **JANE)
        assert (status, missing["message"]) == (404, 'nodes.metrics.k8s.io "far" not found')


@pytest.mark.parametrize("answer", [None, b"{", b'{"node": {}}', b"x" * 5000])
async def test_a_kubelet_that_has_nothing_sensible_to_say_is_left_out(rig: Rig, answer: bytes | None) -> None:
    del rig.pair.kubelet.logs["/stats/summary"]
    if answer is not None:
        rig.pair.kubelet.logs["/stats/summary"] = answer
    async with rig.client() as session:
        _, found = await get(session, f"{ROOT}/nodes", **JANE)
        assert [item["metadata"]["name"] for item in found["items"]] == ["cloudy"]


async def test_more_statistics_than_anybody_has_are_not_taken(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_metrics, "LIMIT", 100)
    async with rig.client() as session:
        assert (await get(session, f"{ROOT}/nodes/{NODE}", **JANE))[0] == 404


async def test_running_pods_are_told_of(rig: Rig) -> None:
    async with rig.client() as session:
        for path in ("/pods", "/namespaces/default/pods", "/pods?labelSelector=app%3Dweb"):
            _, found = await get(session, ROOT + path, **JANE)
            assert [item["metadata"]["name"] for item in found["items"]] == ["web"], path
        _, one = await get(session, f"{ROOT}/namespaces/default/pods/web", **JANE)
        assert one["containers"] == [{"name": "c", "usage": {"cpu": "250000000n", "memory": "1024Ki"}}]
        assert (await get(session, f"{ROOT}/namespaces/other/pods", **JANE))[1]["items"] == []
        assert (await get(session, f"{ROOT}/namespaces/default/pods/done", **JANE))[0] == 404
        assert (await get(session, f"{ROOT}/pods?labelSelector=%28", **JANE))[0] == 400
    assert len(rig.pair.kubelet.asked) == 2  # to begin with, and not again within the window


async def test_the_api_is_asked_whether_he_may(rig: Rig) -> None:
    async with rig.client() as session:
        await get(session, f"{ROOT}/namespaces/default/pods", **JANE, **{"X-Remote-Extra-Scopes%2fAll": "one"})
        assert rig.api.reviews == [{
            "user": "jane", "groups": ["system:authenticated"], "extra": {"scopes/all": ["one"]},
            "resourceAttributes": {
                "verb": "list", "resource": "pods", "namespace": "default", "group": "metrics.k8s.io",
                "version": "v1beta1",
            },
        }]  # fmt: skip
        rig.api.denied.add("mallory")
        status, said = await get(session, f"{ROOT}/nodes", **{"X-Remote-User": "mallory"})
        assert status == 403
        assert said["message"].startswith("mallory may not list nodes.metrics.k8s.io: bind it to a role")


async def test_discovery_names_the_two_kinds_and_nothing_is_written_or_watched(rig: Rig) -> None:
    async with rig.client() as session:
        assert (await get(session, "/apis", **JANE))[1]["groups"][0]["name"] == "metrics.k8s.io"
        assert (await get(session, "/apis/metrics.k8s.io", **JANE))[1]["preferredVersion"]["version"] == "v1beta1"
        kinds = {item["name"]: item["kind"] for item in (await get(session, ROOT, **JANE))[1]["resources"]}
        assert kinds == {"nodes": "NodeMetrics", "pods": "PodMetrics"}
        aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        assert (await get(session, "/apis", **JANE, Accept=aggregated))[0] == 406
        for path in ("/openapi/v2", f"{ROOT}/things", f"{ROOT}/namespaces/default", "/apis/other"):
            assert (await get(session, path, **JANE))[0] == 404, path
        assert (await get(session, f"{ROOT}/nodes?watch=true", **JANE))[0] == 405


async def test_the_front_proxy_reaches_no_kubelet(rig: Rig) -> None:
    rig.pair.kubelet.logs["/containerLogs/default/web/c"] = b"secret"
    async with rig.client() as session:
        assert (await get(session, "/containerLogs/default/web/c", **JANE))[0] == 404


@pytest.mark.parametrize(
    ("authority", "common_name", "why"),
    [("", "", "shows a certificate"), ("proxies", "somebody", "'somebody' is no front proxy of this cluster")],
)
async def test_who_is_no_front_proxy_is_nobody(rig: Rig, authority: str, common_name: str, why: str) -> None:
    async with rig.client(authority, common_name) as session:
        status, said = await get(session, f"{ROOT}/nodes", **JANE)
        assert status == 401
        assert why in said["message"]


async def test_each_ca_is_good_for_its_own_door(rig: Rig) -> None:
    """A user whom the cluster's CA calls front-proxy-client is none, and the front proxy is no client of kubelets."""
    for authority, server in (("cluster", SERVER_NAME), ("proxies", "plain.example")):
        async with rig.client(authority, server=server) as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await get(session, f"{ROOT}/nodes", **JANE)


async def test_what_the_proxy_does_not_say_is_not_guessed(rig: Rig) -> None:
    async with rig.client() as session:
        status, said = await get(session, f"{ROOT}/nodes")
        assert (status, said["message"]) == (401, "the front proxy does not say for whom it asks")


async def test_a_change_of_ca_ends_the_trust_in_open_connections(rig: Rig) -> None:
    async with rig.client() as session, rig.client("proxies anew") as newer:
        assert (await get(session, f"{ROOT}/nodes", **JANE))[0] == 200
        rig.front.follow(rig.trust("proxies anew"))
        assert (await get(session, f"{ROOT}/nodes", **JANE))[0] == 401
        assert (await get(newer, f"{ROOT}/nodes", **JANE))[0] == 200
        rig.front.follow(None)
        assert (await get(newer, f"{ROOT}/nodes", **JANE))[0] == 401


def test_a_cluster_without_aggregation_trusts_nobody() -> None:
    assert Trust.published({"client-ca-file": "x"}) is None
    assert Trust.published({"requestheader-client-ca-file": "x", "requestheader-username-headers": "{"}) is None
