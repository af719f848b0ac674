"""Streams through the API server to a kubelet: found, authorized, asked for in its words, and carried both ways."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from aiohttp import web
from fake_kubelet import FakeKubelet, fake_kubelet
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.api.registry import ENDPOINTS, NODES, PODS, SERVICES
from edgehive.kit import http as doors
from edgehive.kit.clock import SystemClock
from edgehive.kube.server.app import ApiServer
from edgehive.kube.server.identity import AUTHENTICATED, Attributes, Decision, User
from edgehive.kube.server.kubelets import reported_address
from edgehive.kube.store import memory_store

PODS_URL = "/api/v1/namespaces/default/pods"
UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
ONE: dict[str, Any] = {
    "metadata": {"name": "p"},
    "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}]},
}
TWO = {
    "metadata": {"name": "two", "annotations": {"kubectl.kubernetes.io/default-container": "b"}},
    "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]},
}


class Deny:
    """Everything is allowed but these (verb, resource/subresource)."""

    def __init__(self) -> None:
        self.denied: set[tuple[str, str]] = set()

    def authorize(self, attributes: Attributes) -> Decision:
        return Decision((attributes.verb, f"{attributes.resource}/{attributes.subresource}") not in self.denied)


class Site:
    """An API server and the kubelet of its one node."""

    def __init__(self, server: ApiServer, kubelet: FakeKubelet, rules: Deny, host: str, port: int) -> None:
        self.server, self.kubelet, self.rules, self.host, self.port = server, kubelet, rules, host, port
        self.url = f"http://{host}:{port}"

    async def ask(self, method: str, target: str, headers: str = UPGRADE) -> tuple[asyncio.StreamReader, Any]:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: site\r\n{headers}\r\n".encode())
        return reader, writer

    async def refused(self, method: str, target: str, headers: str = UPGRADE) -> dict[str, Any]:
        """The Status a request is answered with."""
        reader, writer = await self.ask(method, target, headers)
        async with asyncio.timeout(5):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            status: dict[str, Any] = json.loads(await reader.readexactly(length))
        writer.close()
        assert head.split(" ", 2)[1] == str(status["code"])
        return status


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


@asynccontextmanager
async def running(
    kubelet: FakeKubelet, metrics: CollectorRegistry, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Site]:
    rules = Deny()
    server = ApiServer(memory_store(), clock=SystemClock(), authorizer=rules)
    await server.start()
    client = server.client()
    for name in ("n1", "lost"):
        await client.create(NODES, {"metadata": {"name": name}})
    for pod in (ONE, TWO, ONE | {"metadata": {"name": "unplaced"}, "spec": {"containers": ONE["spec"]["containers"]}}):
        await client.create(PODS, pod, "default")
    await client.create(
        PODS, ONE | {"metadata": {"name": "far"}, "spec": ONE["spec"] | {"nodeName": "lost"}}, "default"
    )
    user = User("someone", (AUTHENTICATED,))
    async with server.serve(
        "127.0.0.1", 0, without_credentials=user, metrics=metrics,
        kubelet=lambda node: kubelet.address if node.meta.name == "n1" else None, kubelet_tls=tls,
    ) as (host, port):  # fmt: skip
        yield Site(server, kubelet, rules, host, port)
    await server.stop()


@pytest.fixture
async def site(metrics: CollectorRegistry) -> AsyncIterator[Site]:
    async with fake_kubelet() as kubelet, running(kubelet, metrics) as it:
        yield it


ASKED = [
    ("p/exec?command=ls&command=-l&stdin=true&stdout=true&tty=true",
     "/exec/default/p/a?input=1&output=1&tty=1&command=ls&command=-l"),
    ("two/exec?command=a%20b%26c&stderr=1&stdout=true&stdin=false",
     "/exec/default/two/b?output=1&error=1&command=a+b%26c"),
    ("two/exec?command=ls&stdout=1&container=a", "/exec/default/two/a?output=1&command=ls"),
    ("p/attach?stdout=true&stderr=true", "/attach/default/p/a?output=1&error=1"),
    ("p/portforward", "/portForward/default/p"),
    ("p/portforward?ports=80&ports=90,91", "/portForward/default/p?port=80%2C90%2C91"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "target"), ASKED)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stream_is_asked_for_in_the_kubelets_words_and_carried_both_ways(
    site: Site, method: str, asked: str, target: str
) -> None:
    reader, writer = await site.ask(method, f"{PODS_URL}/{asked}")
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"X-Stream-Protocol-Version: v4.channel.k8s.io" in head
        assert await reader.readexactly(5) == b"early"
        writer.write(b"\x80\x03\x00\x01 and more")
        assert await reader.readexactly(13) == b"\x80\x03\x00\x01 and more"
        writer.close()
        await site.kubelet.closed.wait()
    assert site.kubelet.targets == [target]
    assert site.kubelet.heads[0].startswith(f"{method} ")


async def test_many_megabytes_pass_with_bounded_buffers(site: Site) -> None:
    reader, writer = await site.ask("POST", f"{PODS_URL}/p/portforward")
    await reader.readuntil(b"early")
    piece, count = bytes(range(256)) * 1024, 64

    async def send() -> None:
        for _ in range(count):
            writer.write(piece)
            await writer.drain()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(send())
        for _ in range(count):
            assert await reader.readexactly(len(piece)) == piece
    writer.close()


async def test_the_client_learns_when_the_kubelet_ends_the_stream(site: Site) -> None:
    site.kubelet.refusal = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbye"
    reader, writer = await site.ask("POST", f"{PODS_URL}/p/attach?stdout=1")
    async with asyncio.timeout(5):
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.read() == b"bye"
    writer.close()


async def test_a_refusal_of_the_kubelet_is_passed_on(site: Site) -> None:
    site.kubelet.refusal = b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nContent-Type: text/plain\r\n\r\nno such c"
    reader, writer = await site.ask("POST", f"{PODS_URL}/p/exec?command=ls&stdout=1")
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert await reader.readexactly(9) == b"no such c"
    writer.close()


EXEC = "exec?command=ls&stdout=1"
WEBSOCKET = ("Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
             "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: {}\r\n")  # fmt: skip
REFUSED = [
    (f"nothing/{EXEC}", UPGRADE, 404, 'pods "nothing" not found'),
    (f"unplaced/{EXEC}", UPGRADE, 400, "pod unplaced does not have a host assigned"),
    (f"far/{EXEC}", UPGRADE, 503, 'there is no way to the kubelet of node "lost" from here'),
    (f"p/{EXEC}&container=x", UPGRADE, 400, "container x is not valid for pod p"),
    ("p/exec?stdout=1", UPGRADE, 400, "you must specify at least 1 command for the container"),
    ("p/exec?command=ls", UPGRADE, 400, "you must specify at least 1 of stdin, stdout, stderr"),
    ("p/portforward?ports=0", UPGRADE, 400, '"0" is not a port: it must be a number from 1 to 65535'),
    (f"p/{EXEC}", "", 400, "Upgrade request required"),
    (f"p/{EXEC}", WEBSOCKET.format("v5.channel.k8s.io"), 400,
     "unable to upgrade: v5.channel.k8s.io is not served here; use SPDY/3.1 or v4.channel.k8s.io"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "headers", "code", "message"), REFUSED)
async def test_what_cannot_be_streamed_is_said_in_one_sentence(
    site: Site, asked: str, headers: str, code: int, message: str
) -> None:
    status = await site.refused("GET", f"{PODS_URL}/{asked}", headers)
    assert (status["code"], status["message"]) == (code, message)
    assert site.kubelet.heads == []


async def test_a_websocket_protocol_the_runtime_knows_is_passed_on(site: Site) -> None:
    reader, writer = await site.ask(
        "GET", f"{PODS_URL}/p/{EXEC}", WEBSOCKET.format("v5.channel.k8s.io, v4.channel.k8s.io")
    )
    async with asyncio.timeout(5):
        await reader.readuntil(b"early")
    writer.close()
    assert "sec-websocket-protocol: v5.channel.k8s.io, v4.channel.k8s.io" in site.kubelet.heads[0].lower()


@pytest.mark.parametrize(
    ("verb", "method", "asked"),
    [
        ("create", "POST", "pods/exec"),
        ("create", "GET", "pods/exec"),
        ("get", "GET", "pods/exec"),
        ("create", "GET", "pods/portforward"),
        ("create", "POST", "pods/attach"),
        ("delete", "DELETE", "pods/proxy"),
        ("get", "GET", "pods/log"),
    ],
)
async def test_streams_need_the_right_to_create_them(site: Site, verb: str, method: str, asked: str) -> None:
    site.rules.denied.add((verb, asked))
    subresource = asked.partition("/")[2]
    status = await site.refused(method, f"{PODS_URL}/p/{subresource}?command=ls&stdout=1")
    assert status["message"].startswith(f'pods "p" is forbidden: User "someone" cannot {verb} resource "{asked}"')
    assert site.kubelet.heads == []


async def test_a_kubelet_that_does_not_answer_is_named(site: Site) -> None:
    port = urlsplit(site.kubelet.address).port
    site.kubelet.address = "http://127.0.0.1:1"
    status = await site.refused("POST", f"{PODS_URL}/p/{EXEC}")
    assert status["code"] == 503
    assert status["message"].startswith(
        'error dialing backend: the kubelet of node "n1" at 127.0.0.1:1 does not answer'
    )
    site.kubelet.address = f"http://127.0.0.1:{port}"
    site.kubelet.refusal = b"what?\r\n\r\n"
    status = await site.refused("POST", f"{PODS_URL}/p/{EXEC}")
    assert (status["code"], status["message"].startswith('the kubelet of node "n1": ')) == (502, True)


async def test_a_kubelet_shows_a_certificate_that_is_trusted(metrics: CollectorRegistry) -> None:
    authority, served = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(served)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with fake_kubelet(served) as kubelet, running(kubelet, metrics, trusting) as site:
        reader, writer = await site.ask("POST", f"{PODS_URL}/p/{EXEC}")
        async with asyncio.timeout(5):
            await reader.readuntil(b"early")
        writer.close()
    async with fake_kubelet(served) as kubelet, running(kubelet, CollectorRegistry()) as site:
        for asked in (f"p/{EXEC}", "p/log"):
            status = await site.refused("GET", f"{PODS_URL}/{asked}")
            assert (status["code"], "certificate verify failed" in status["message"]) == (503, True)


async def test_streams_are_counted(site: Site, metrics: CollectorRegistry) -> None:
    reader, writer = await site.ask("POST", f"{PODS_URL}/p/portforward")
    await reader.readuntil(b"early")
    labels = 'resource="pods",subresource="portforward"'
    assert f"edgehive_apiserver_connections{{{labels}}} 1.0" in generate_latest(metrics).decode()
    writer.close()
    await site.kubelet.closed.wait()
    await site.refused("POST", f"{PODS_URL}/nothing/portforward")
    told = generate_latest(metrics).decode()
    assert f"edgehive_apiserver_connections{{{labels}}} 0.0" in told
    assert f'edgehive_apiserver_connect_total{{code="101",{labels}}} 1.0' in told
    assert f'edgehive_apiserver_connect_total{{code="404",{labels}}} 1.0' in told


async def test_a_server_that_ends_takes_its_streams_along(metrics: CollectorRegistry) -> None:
    async with fake_kubelet() as kubelet:
        async with running(kubelet, metrics) as site:
            reader, writer = await site.ask("POST", f"{PODS_URL}/p/portforward")
            await reader.readuntil(b"early")
            watching, watcher = await site.ask("GET", f"{PODS_URL}?watch=1", "")
            await watching.readuntil(b"ADDED")
            began = asyncio.get_running_loop().time()
        # Well below what a server may wait for its requests.
        assert asyncio.get_running_loop().time() - began < 1.5
        await kubelet.closed.wait()
    writer.close()
    watcher.close()


# ---------------------------------------------------------------- the proxies


async def _told(request: web.Request) -> web.Response:
    if request.path == "/move":
        return web.Response(status=302, headers={"Location": "/moved?a=b"})
    body = (await request.read()).decode()
    headers = {"X-Seen": ",".join(sorted(name for name in request.headers if name in ("Authorization", "X-Own")))}
    text = f"{request.method} {request.raw_path} {body}"
    return web.Response(status=201 if request.method == "POST" else 200, text=text, headers=headers)


@pytest.fixture
async def behind(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    """Something that tells what it was asked, as the kubelet of n1."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", _told)
    async with doors.serve(application, host="127.0.0.1", port=0) as (host, port):
        site.kubelet.address = f"http://{host}:{port}"
        async with aiohttp.ClientSession(base_url=site.url) as session:
            yield session


async def test_a_node_is_proxied_with_path_query_and_body(behind: aiohttp.ClientSession) -> None:
    headers = {"X-Own": "1"}
    async with behind.get("/api/v1/nodes/n1/proxy/stats/summary?only=a%26b", headers=headers) as response:
        assert (response.status, await response.text()) == (200, "GET /stats/summary?only=a%26b ")
        assert response.headers["X-Seen"] == "X-Own"
    async with behind.post("/api/v1/nodes/n1/proxy/a/", data=b"body") as response:
        assert (response.status, await response.text()) == (201, "POST /a/ body")
    async with behind.get("/api/v1/nodes/n1/proxy?x=y", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (301, "/api/v1/nodes/n1/proxy/?x=y")
    async with behind.get("/api/v1/nodes/n1/proxy/move", allow_redirects=False) as response:
        assert (response.status, response.headers["Location"]) == (302, "/api/v1/nodes/n1/proxy/moved?a=b")
    async with behind.get("/api/v1/nodes/n1:1/proxy/") as response:
        assert response.status == 400
    async with behind.get("/api/v1/nodes/none/proxy/") as response:
        assert response.status == 404


async def test_pods_and_services_of_this_machine_itself_are_not_proxied(
    site: Site, behind: aiohttp.ClientSession
) -> None:
    client, port = site.server.client(), int(site.kubelet.address.rpartition(":")[2])
    await client.patch(PODS, "p", {"status": {"podIP": "127.0.0.1"}}, "default", subresource="status")
    async with behind.get(f"{PODS_URL}/p:{port}/proxy/") as response:
        assert (response.status, (await response.json())["message"]) == (400, "address not allowed")
    async with behind.get(f"{PODS_URL}/ftp:p:{port}/proxy/") as response:
        assert (await response.json())["message"] == f'invalid pod request "ftp:p:{port}"'
    spec = {"ports": [{"name": "web", "port": 80, "targetPort": port}], "clusterIP": "10.0.0.1"}
    await client.create(SERVICES, {"metadata": {"name": "s"}, "spec": spec}, "default")
    for asked, message in (
        ("s:81", 'no service port 81 found for service "s"'),
        ("s:80", 'no endpoints available for service "s:80"'),
    ):
        async with behind.get(f"/api/v1/namespaces/default/services/{asked}/proxy/") as response:
            assert (response.status, (await response.json())["message"]) == (503, message)
    subsets = [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "web", "port": port}]}]
    await client.create(ENDPOINTS, {"metadata": {"name": "s"}, "subsets": subsets}, "default")
    async with behind.get("/api/v1/namespaces/default/services/s:web/proxy/") as response:
        assert response.status == 503


async def test_a_nodes_own_word_leads_to_its_kubelet(site: Site) -> None:
    node = await site.server.client().get(NODES, "lost")
    assert reported_address(node) is None
    addresses = [{"type": "Hostname", "address": "lost.example"}, {"type": "InternalIP", "address": "fd00::1"}]
    status = {"addresses": addresses, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10351}}}
    node = await site.server.client().patch(NODES, "lost", {"status": status}, subresource="status")
    assert reported_address(node) == "https://[fd00::1]:10351"
