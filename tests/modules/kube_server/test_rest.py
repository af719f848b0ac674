"""The HTTP face: what clients get back, byte by byte where it matters."""

import io
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from edgehive.api.registry import CONFIG_MAPS, PODS, SERVICE_ACCOUNTS
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.ssl_contexts import client_context, server_context
from edgehive.kube.errors import Forbidden
from edgehive.kube.server.app import ServerOptions
from edgehive.kube.server.identity import User
from edgehive.testing.cluster import Cluster

MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster(clock=SystemClock()) as running:
        yield running


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    async with cluster.serve() as url, aiohttp.ClientSession(base_url=url) as session:
        yield session


async def fill(cluster: Cluster, count: int) -> None:
    for number in range(count):
        await cluster.client().create(CONFIG_MAPS, {"metadata": {"name": f"c{number}"}}, "default")


async def test_pages_are_of_one_moment(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    await fill(cluster, 3)
    async with http.get(MAPS, params={"limit": "2"}) as response:
        first = await response.json()
    assert first["metadata"]["remainingItemCount"] == 1
    await cluster.client().delete(CONFIG_MAPS, "c2", "default")
    async with http.get(MAPS, params={"limit": "2", "continue": first["metadata"]["continue"]}) as response:
        second = await response.json()
    assert [item["metadata"]["name"] for item in second["items"]] == ["c2"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_limit_is_ignored_for_cached_lists(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    await fill(cluster, 3)
    async with http.get(MAPS, params={"limit": "1", "resourceVersion": "0"}) as response:
        assert len((await response.json())["items"]) == 3


async def test_server_side_apply_is_refused_by_name(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    where = f"{MAPS}/a?fieldManager=kubectl&force=false"
    async with http.patch(where, headers=headers, data=b"{}") as response:
        assert response.status == 415
        assert "server-side apply is not supported" in (await response.json())["message"]


async def test_an_empty_list_has_items_and_a_version(http: aiohttp.ClientSession) -> None:
    async with http.get(MAPS) as response:
        body = await response.json()
    assert body["items"] == []
    assert int(body["metadata"]["resourceVersion"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "code", "reason"),
    [
        ("GET", "/api/v1/nothing", {}, b"", 404, "NotFound"),
        ("GET", MAPS, {"Accept": "text/html"}, b"", 406, "NotAcceptable"),
        ("POST", MAPS, {"Content-Type": "text/plain"}, b"{}", 415, "UnsupportedMediaType"),
        ("POST", MAPS, {}, b"{bad", 400, "BadRequest"),
        ("POST", MAPS, {}, b"x" * (3 * 1024 * 1024 + 1), 413, "RequestEntityTooLarge"),
        ("PUT", MAPS, {}, b"{}", 405, "MethodNotAllowed"),
        ("GET", f"{MAPS}?resourceVersionMatch=Exact", {}, b"", 422, "Invalid"),
        ("GET", f"{MAPS}?limit=1&continue=bad", {}, b"", 400, "BadRequest"),
        ("GET", MAPS, {"Authorization": "Bearer nonsense"}, b"", 401, "Unauthorized"),
        ("GET", "/api/v1/namespaces/default/pods/p/exec", {}, b"", 404, "NotFound"),
        ("PUT", "/api/v1/namespaces/default/pods/p/exec", {}, b"", 405, "MethodNotAllowed"),
    ],
)
async def test_refusals_are_statuses(
    http: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str], body: bytes, code: int, reason: str
) -> None:
    headers = {"Content-Type": "application/json"} | headers
    async with http.request(method, path, headers=headers, data=io.BytesIO(body) if body else None) as response:
        status = await response.json()
    assert (response.status, status["kind"], status["reason"]) == (code, "Status", reason)


async def test_watch_sends_initial_state_its_end_and_news(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    await fill(cluster, 1)
    query = {"watch": "1", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan",
             "allowWatchBookmarks": "true", "timeoutSeconds": "5"}  # fmt: skip
    async with http.get(MAPS, params=query) as response:
        first, mark = json.loads(await response.content.readline()), json.loads(await response.content.readline())
        assert (first["type"], mark["type"]) == ("ADDED", "BOOKMARK")
        assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await cluster.client().delete(CONFIG_MAPS, "c0", "default")
        assert json.loads(await response.content.readline())["type"] == "DELETED"


async def test_a_watch_from_before_history_ends_with_an_error_event(http: aiohttp.ClientSession) -> None:
    async with Cluster() as small, small.serve() as url:
        small.store._compacted = small.store.revision  # type: ignore[attr-defined]
        async with http.get(f"{url}{MAPS}", params={"watch": "1", "resourceVersion": "1"}) as response:
            event = json.loads(await response.read())
    assert (response.status, event["type"], event["object"]["reason"]) == (200, "ERROR", "Expired")


async def test_discovery_has_both_forms(http: aiohttp.ClientSession) -> None:
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    async with http.get("/apis", headers={"Accept": f"{aggregated},application/json"}) as response:
        assert response.headers["Content-Type"] == aggregated
        groups = {item["metadata"]["name"] for item in (await response.json())["items"]}
    async with http.get("/apis") as response:
        assert {item["name"] for item in (await response.json())["groups"]} == groups
    async with http.get("/api/v1") as response:
        assert "pods/eviction" in {item["name"] for item in (await response.json())["resources"]}


async def test_openapi_says_that_the_server_validates_fields(http: aiohttp.ClientSession) -> None:
    async with http.get("/openapi/v3") as response:
        url = (await response.json())["paths"]["apis/apps/v1"]["serverRelativeURL"]
    async with http.get(url) as response:
        document = await response.json()
    patch = document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"]
    assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
    containers = document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]
    assert containers["x-kubernetes-patch-merge-key"] == "name"


async def test_yaml_and_partial_metadata(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    await fill(cluster, 1)
    async with http.get(f"{MAPS}/c0", headers={"Accept": "application/yaml"}) as response:
        assert "kind: ConfigMap" in await response.text()
    partial = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
    async with http.get(MAPS, headers=partial) as response:
        body = await response.json()
    assert body["kind"] == "PartialObjectMetadataList"
    assert set(body["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_dry_run_stores_nothing(http: aiohttp.ClientSession) -> None:
    async with http.post(f"{MAPS}?dryRun=All", json={"metadata": {"name": "dry"}}) as response:
        assert response.status == 201
        assert "resourceVersion" not in (await response.json())["metadata"]
    async with http.get(f"{MAPS}/dry") as response:
        assert response.status == 404


async def test_service_account_token_is_an_identity(cluster: Cluster, http: aiohttp.ClientSession) -> None:
    await cluster.client().create(SERVICE_ACCOUNTS, {"metadata": {"name": "sa"}}, "default")
    answer = await cluster.client().create(SERVICE_ACCOUNTS, {}, "default", name="sa", subresource="token")
    bearer = {"Authorization": f"Bearer {answer.to_dict()['status']['token']}"}
    path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
    async with http.post(path, json={}, headers=bearer) as response:
        info = (await response.json())["status"]["userInfo"]
    assert info["username"] == "system:serviceaccount:default:sa"
    assert "system:serviceaccounts" in info["groups"]
    await cluster.client().delete(SERVICE_ACCOUNTS, "sa", "default")
    async with http.post(path, json={}, headers=bearer) as response:
        assert response.status == 401


async def test_client_certificates_name_user_and_groups(cluster: Cluster, tmp_path: Path) -> None:
    now = SystemClock().now()
    ca = tls.self_signed_ca("test", now, timedelta(days=1))
    server = tls.issue(ca, common_name="server", names=["127.0.0.1"], usages=[tls.SERVER_AUTH], now=now,
                       lifetime=timedelta(days=1))  # fmt: skip
    admin = tls.issue(ca, common_name="boss", organizations=["system:masters"], now=now, lifetime=timedelta(days=1))
    for name, pair in (("ca", ca), ("server", server), ("admin", admin)):
        (tmp_path / f"{name}.crt").write_bytes(pair.certificate_pem)
        (tmp_path / f"{name}.key").write_bytes(pair.key_pem)
    context = server_context(tmp_path / "server.crt", tmp_path / "server.key", client_ca=tmp_path / "ca.crt",
                             client_certificate="optional")  # fmt: skip
    known = client_context(tmp_path / "ca.crt", certificate=tmp_path / "admin.crt", key=tmp_path / "admin.key")
    unknown = client_context(tmp_path / "ca.crt")
    static = {"secret": User("robot")}
    async with cluster.server.serve("127.0.0.1", 0, context, static_tokens=static) as (host, port):
        url = f"https://{host}:{port}"
        async with aiohttp.ClientSession(base_url=url) as session:
            review = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
            async with session.post(review, json={}, ssl=known) as response:
                assert (await response.json())["status"]["userInfo"]["groups"][0] == "system:masters"
        async with aiohttp.ClientSession(base_url=url) as session:
            async with session.get("/version", ssl=unknown) as response:
                assert response.status == 200
            async with session.get(MAPS, ssl=unknown) as response:
                assert response.status == 403
                assert 'User "system:anonymous" cannot list resource "configmaps"' in (await response.json())["message"]
            async with session.get(MAPS, ssl=unknown, headers={"Authorization": "Bearer secret"}) as response:
                assert response.status == 200


async def test_pods_get_their_service_account_and_its_token() -> None:
    async with Cluster(options=ServerOptions(service_account_admission=True)) as cluster:
        client = cluster.client()
        pod = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        with pytest.raises(Forbidden, match='serviceaccount "default" not found'):
            await client.create(PODS, pod, "default")
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, "default")
        spec = (await client.create(PODS, pod, "default")).to_dict()["spec"]
    assert spec["serviceAccountName"] == "default"
    assert spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["path"] == "token"
    assert spec["containers"][0]["volumeMounts"][0]["name"] == spec["volumes"][0]["name"]


OPTIONS: tuple[tuple[str, str, dict[str, str], str], ...] = (
    ("POST", "?dryRun=Odd&fieldValidation=Odd", {}, 'CreateOptions.meta.k8s.io "" is invalid: '
     '[dryRun: Unsupported value: ["Odd"]: supported values: "All", '
     'fieldValidation: Unsupported value: "Odd": supported values: "", "Ignore", "Strict", "Warn"]'),
    ("PUT", f"/a?fieldManager={'x' * 129}", {}, 'UpdateOptions.meta.k8s.io "" is invalid: '
     "fieldManager: Too long: may not be more than 128 bytes"),
    ("PATCH", "/a?force=true", {}, 'PatchOptions.meta.k8s.io "" is invalid: '
     "force: Forbidden: may not be specified for non-apply patch"),
    ("DELETE", "/none", {"propagationPolicy": "Odd"}, 'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: '
     'Unsupported value: "Odd": supported values: "Foreground", "Background", "Orphan", "nil"'),
    ("DELETE", "/none?orphanDependents=true", {"propagationPolicy": "Orphan"},
     'DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Invalid value: "Orphan": '
     "orphanDependents and deletionPropagation cannot be both set"),
    ("DELETE", "/none?dryRun=Odd", {}, 'DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["Odd"]: '
     'supported values: "All"'),
)  # fmt: skip


@pytest.mark.parametrize(("method", "query", "body", "message"), OPTIONS)
async def test_options_nobody_knows_are_refused(
    http: aiohttp.ClientSession, method: str, query: str, body: dict[str, str], message: str
) -> None:
    headers = {"Content-Type": "application/merge-patch+json" if method == "PATCH" else "application/json"}
    async with http.request(method, MAPS + query, headers=headers, data=json.dumps(body).encode()) as response:
        status = await response.json()
    assert (status["code"], status["message"]) == (422, message)
