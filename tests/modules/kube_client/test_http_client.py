"""The HTTP client against a real HTTP server that answers from a script and remembers what it was asked."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from edgehive.api.document import Document
from edgehive.api.registry import DEPLOYMENTS, NODES, PODS, SERVICE_ACCOUNTS
from edgehive.kube import errors, http_client
from edgehive.kube.client import EventType, PatchType
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import ClusterAccess

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers every request with the next scripted reply (the last one for ever)."""

    def __init__(self) -> None:
        self.replies: list[Reply | Any] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes, Any]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(
            (request.method, request.path, dict(request.query), await request.read(), request.headers.copy())
        )
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if callable(reply):
            return await reply(request)
        return web.json_response(reply)

    @property
    def paths(self) -> list[str]:
        return [f"{method} {path}" for method, path, *_ in self.asked]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[HttpClient]:
    async with HttpClient(ClusterAccess(server.url, token="secret"), page_size=2) as client:
        yield client


def failure(code: int, reason: str, message: str = "no", **details: Any) -> Reply:
    async def reply(request: web.Request) -> web.Response:
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
        return web.json_response({**body, "message": message, "details": details}, status=code)

    return reply


def text_reply(text: str, status: int = 200) -> Reply:
    async def reply(request: web.Request) -> web.Response:
        return web.Response(text=text, status=status)

    return reply


def stream(*chunks: bytes, cut: bool = False, gate: asyncio.Event | None = None) -> Reply:
    async def reply(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(0)
        if gate is not None:
            await gate.wait()
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return reply


def event(type: str, object: dict[str, Any]) -> bytes:
    return json.dumps({"type": type, "object": object}).encode() + b"\n"


def pod(name: str, **extra: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, **extra}


async def test_get_passes_the_bytes_through(server: Server, client: HttpClient):
    server.replies = [text_reply('{"kind": "Pod",  "x": 1}')]
    assert (await client.get(PODS, "a", "ns")).raw == b'{"kind": "Pod",  "x": 1}'
    method, path, _, _, headers = server.asked[0]
    assert (method, path) == ("GET", "/api/v1/namespaces/ns/pods/a")
    assert headers["Authorization"] == "Bearer secret"
    assert headers["Accept"] == "application/json"


async def test_lists_follow_pages_and_fill_in_kinds(server: Server, client: HttpClient):
    server.replies = [
        {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [pod("a"), pod("b")]},
        {"metadata": {"resourceVersion": "7"}, "items": [{"kind": "Pod", "apiVersion": "v1", **pod("c")}]},
    ]
    answer = await client.list(PODS, label_selector="a=b", field_selector="spec.nodeName=n", resource_version="5")
    assert [document.meta.name for document in answer.items] == ["a", "b", "c"]
    assert {(document.kind, document.api_version) for document in answer.items} == {("Pod", "v1")}
    assert answer.resource_version == "7"
    selectors = {"labelSelector": "a=b", "fieldSelector": "spec.nodeName=n", "limit": "2"}
    assert server.asked[0][2] == {**selectors, "resourceVersion": "5"}
    assert server.asked[1][2] == {**selectors, "continue": "more"}


async def test_an_expired_page_falls_back_to_one_whole_list(server: Server, client: HttpClient):
    page = {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [pod("a")]}
    whole = {"metadata": {"resourceVersion": "9"}, "items": [pod("a"), pod("b")]}
    server.replies = [page, failure(410, "Expired"), whole]
    assert len((await client.list(PODS)).items) == 2
    assert "limit" not in server.asked[2][2]


async def test_an_empty_list_may_be_null(server: Server, client: HttpClient):
    server.replies = [{"metadata": {"resourceVersion": "1"}, "items": None}]
    assert (await client.list(NODES)).items == []


@pytest.mark.parametrize("text", ["", "[]", '{"items":[]}', "<html>", '{"metadata":{},"items":[1]}'])
async def test_an_unreadable_list_is_an_error_and_never_an_empty_one(server: Server, client: HttpClient, text: str):
    server.replies = [text_reply(text)]
    with pytest.raises(errors.ServerError, match="cannot be read"):
        await client.list(PODS)


async def test_watch_splits_lines_however_they_are_cut(server: Server, client: HttpClient):
    whole = b"".join(
        [
            event("ADDED", pod("a", note="x" * 300_000)),
            b"\n",
            event("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}}),
            event("SOMETHING-NEW", {}),
            event("MODIFIED", pod("a")),
            event("DELETED", pod("b")),
        ]
    )
    server.replies = [stream(*(whole[i : i + 10_007] for i in range(0, len(whole), 10_007)))]
    events = [found async for found in client.watch(PODS, "ns", resource_version="5", timeout=300)]
    assert [found.type for found in events] == [
        EventType.ADDED,
        EventType.BOOKMARK,
        EventType.MODIFIED,
        EventType.DELETED,
    ]
    assert events[0].object.kind == "Pod"
    query = server.asked[0][2]
    assert query == {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": "5", "timeoutSeconds": "300"}


async def test_watch_events_come_as_they_happen(server: Server, client: HttpClient):
    gate = asyncio.Event()
    server.replies = [stream(event("ADDED", pod("a")), gate=gate)]
    watch = client.watch(PODS)
    first = await asyncio.wait_for(anext(watch), 5)
    assert first.object.meta.name == "a"
    gate.set()
    assert [found async for found in watch] == []


@pytest.mark.parametrize(
    "reply",
    [
        stream(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})),
        failure(410, "Expired"),
    ],
)
async def test_a_version_too_old_is_gone(server: Server, client: HttpClient, reply: Reply):
    server.replies = [reply]
    with pytest.raises(errors.Gone):
        [found async for found in client.watch(PODS, resource_version="1")]


@pytest.mark.parametrize("reply", [stream(event("ADDED", pod("a")), cut=True), stream(b'{"type":"ADD')])
async def test_a_broken_watch_is_unreachable(server: Server, client: HttpClient, reply: Reply):
    server.replies = [reply]
    with pytest.raises(errors.Unreachable):
        [found async for found in client.watch(PODS)]


async def test_an_endless_event_is_refused(server: Server, client: HttpClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_client, "MAX_EVENT", 1000)
    server.replies = [stream(b"x" * 2000)]
    with pytest.raises(errors.ServerError, match="larger than 1000"):
        [found async for found in client.watch(PODS)]


async def test_an_endless_answer_is_refused(server: Server, client: HttpClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http_client, "MAX_ANSWER", 1000)
    server.replies = [text_reply("x" * 2000)]
    with pytest.raises(errors.ServerError, match="larger than 1000"):
        await client.get(PODS, "a", "b")


async def test_create_and_update_find_their_place_in_the_body(server: Server, client: HttpClient):
    server.replies = [{"kind": "Pod"}]
    await client.create(PODS, pod("a"))
    await client.create(PODS, b'{"raw" : true}', "ns")
    await client.create(SERVICE_ACCOUNTS, {"spec": {}}, "ns", name="sa", subresource="token")
    await client.update(PODS, Document.of(pod("a")), subresource="status")
    await client.update(NODES, {"metadata": {"name": "n"}})
    assert server.paths == [
        "POST /api/v1/namespaces/default/pods",
        "POST /api/v1/namespaces/ns/pods",
        "POST /api/v1/namespaces/ns/serviceaccounts/sa/token",
        "PUT /api/v1/namespaces/default/pods/a/status",
        "PUT /api/v1/nodes/n",
    ]
    assert server.asked[1][3] == b'{"raw" : true}'


async def test_every_patch_language_has_its_content_type(server: Server, client: HttpClient):
    server.replies = [{"kind": "Deployment"}]
    await client.patch(DEPLOYMENTS, "d", [{"op": "add"}], "ns", type=PatchType.JSON, subresource="scale")
    await client.patch(DEPLOYMENTS, "d", {"a": 1}, "ns")
    await client.patch(DEPLOYMENTS, "d", b"{}", "ns", type=PatchType.STRATEGIC)
    await client.patch(DEPLOYMENTS, "d", {}, "ns", type=PatchType.APPLY)
    assert server.paths[0] == "PATCH /apis/apps/v1/namespaces/ns/deployments/d/scale"
    assert [headers["Content-Type"] for *_, headers in server.asked] == [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ]
    assert server.asked[0][3] == b'[{"op":"add"}]'
    assert server.asked[3][2] == {"fieldManager": "edgehive", "force": "true"}


async def test_large_bodies_are_sent(server: Server, client: HttpClient):
    server.replies = [{"kind": "ConfigMap"}]
    await client.patch(PODS, "a", {"data": "x" * 2_000_000}, "ns")
    assert len(server.asked[0][3]) == 2_000_011


@pytest.mark.parametrize(
    ("answer", "lingers"),
    [
        ({"kind": "Status", "status": "Success"}, False),
        ({"kind": "Pod", "metadata": {"name": "a"}}, False),
        (
            {
                "kind": "Pod",
                "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30},
            },
            True,
        ),
        (
            {"kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}},
            False,
        ),
        ({"kind": "Pod", "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["f"]}}, True),
    ],
)
async def test_delete_tells_whether_the_object_lingers(
    server: Server, client: HttpClient, answer: dict[str, Any], lingers: bool
):
    server.replies = [answer]
    assert (await client.delete(PODS, "a", "ns") is not None) is lingers


async def test_delete_options(server: Server, client: HttpClient):
    server.replies = [{"kind": "Status"}]
    await client.delete(PODS, "a", "ns", grace_period_seconds=0, uid="u", propagation="Background")
    assert json.loads(server.asked[0][3]) == {
        "kind": "DeleteOptions",
        "apiVersion": "v1",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"},
        "propagationPolicy": "Background",
    }


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (failure(404, "NotFound", 'pods "a" not found'), errors.NotFound, 'pods "a" not found'),
        (failure(409, "AlreadyExists"), errors.AlreadyExists, "no"),
        (failure(409, "Conflict"), errors.Conflict, "no"),
        (failure(403, "Forbidden"), errors.Forbidden, "no"),
        (failure(429, "TooManyRequests", retryAfterSeconds=1), errors.TooManyRequests, "no"),
        (text_reply("<html>bad gateway", 502), errors.ServerError, "answered 502: <html>bad gateway"),
        (text_reply("{}", 503), errors.ServiceUnavailable, "answered 503"),
        (text_reply("", 302), errors.ApiError, "answered 302"),
    ],
)
async def test_failures_are_raised_by_reason(
    server: Server, client: HttpClient, reply: Reply, error: type[Exception], text: str
):
    server.replies = [reply]
    with pytest.raises(error, match=re.escape(text)):
        await client.get(PODS, "a", "ns")


async def test_nobody_there_is_unreachable_and_transient():
    async with HttpClient(ClusterAccess("http://127.0.0.1:1")) as client:
        with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
            await client.get(PODS, "a", "b")
    assert caught.value.transient


async def test_a_silent_server_is_left_after_the_deadline(server: Server):
    gate = asyncio.Event()
    server.replies = [stream(gate=gate)]
    async with HttpClient(ClusterAccess(server.url), request_timeout=0.1) as client:
        with pytest.raises(errors.Unreachable, match=r"did not answer GET .* in time"):
            await client.get(PODS, "a", "b")
    gate.set()


async def test_impersonation_sends_user_and_every_group(server: Server, client: HttpClient):
    server.replies = [{"kind": "Pod"}]
    view = client.impersonating("system:node:n", ("system:nodes", "system:authenticated"))
    await view.get(PODS, "a", "b")
    await client.get(PODS, "a", "b")
    headers = server.asked[0][4]
    assert headers["Impersonate-User"] == "system:node:n"
    assert headers.getall("Impersonate-Group") == ["system:nodes", "system:authenticated"]
    assert "Impersonate-User" not in server.asked[1][4]


async def test_a_replaced_token_is_read_again_once_refused(server: Server, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text("old\n")
    server.replies = [{"kind": "Pod"}, failure(401, "Unauthorized"), {"kind": "Pod"}]
    async with HttpClient(ClusterAccess(server.url, token_file=token)) as client:
        await client.get(PODS, "a", "b")
        token.write_text("new")
        with pytest.raises(errors.Unauthorized):
            await client.get(PODS, "a", "b")
        await client.get(PODS, "a", "b")
    assert [headers["Authorization"] for *_, headers in server.asked] == ["Bearer old", "Bearer old", "Bearer new"]


async def test_tls_is_verified_and_the_client_certificate_shown():
    authority, stranger = trustme.CA(), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert("localhost").configure_cert(context)
    client = authority.issue_cert(common_name="admin", organization_name="system:masters")
    seen = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request.get_extra_info("peercert")["subject"])
        return web.json_response({"kind": "Pod"})

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0, ssl_context=context).start()
    access = ClusterAccess(
        f"https://localhost:{runner.addresses[0][1]}",
        certificate_authority=authority.cert_pem.bytes(),
        client_certificate=client.cert_chain_pems[0].bytes(),
        client_key=client.private_key_pem.bytes(),
    )
    async with HttpClient(access) as good:
        await good.get(PODS, "a", "b")
    assert (("commonName", "admin"),) in seen[0]
    async with HttpClient(replace(access, certificate_authority=stranger.cert_pem.bytes())) as wary:
        with pytest.raises(errors.Unreachable, match="does not verify"):
            await wary.get(PODS, "a", "b")
    await runner.cleanup()


async def test_what_the_server_warns_of_is_logged_once(
    server: Server, client: HttpClient, caplog: pytest.LogCaptureFixture
):
    async def reply(_: web.Request) -> web.Response:
        answer = web.json_response(pod("a"))
        answer.headers.add("Warning", '299 - "unknown field \\"spec.x\\"", 299 kube "say, \\\\o/" "Wed, 01 Jan 2026"')
        answer.headers.add("Warning", '299 - "unknown field \\"spec.x\\""')
        answer.headers.add("Warning", "110 - nonsense")
        return answer

    server.replies = [reply]
    for _ in range(3):
        await client.create(PODS, pod("a"))
    told = [record.getMessage() for record in caplog.records if record.name == "edgehive.kube.client"]
    at = f"{server.url} on POST /api/v1/namespaces/default/pods"
    assert told == [f'{at}: unknown field "spec.x"', f"{at}: say, \\o/"]
