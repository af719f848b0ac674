"""What is WebSocket's own: handshakes, certificates, bad frames, and a peer that behaves as Go's gorilla does."""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import pytest
import trustme
from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.beehive.message import Message
from edgehive.kit.refusals import Refusals
from edgehive.wire import codec, ws
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.hub_door import HubDoor
from edgehive.wire.link import JoinRefused, Link, LinkClosed, ProtocolError
from edgehive.wire.link_metrics import LinkMetrics

log = logging.getLogger(__name__)

HEADERS = {"node_id": "edge-1", "project_id": "p", "ConnectionUse": "msg"}
IMPATIENT = aiohttp.ClientWSTimeout(ws_close=0.05)
MESSAGE = Message.of(source="s", group="g", operation="update", resource="a/b/c", content={}, timestamp=1, id="1")


@dataclass
class Cloud:
    acceptor: Acceptor
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    port: int = 0

    async def link(self) -> Link:
        return await asyncio.wait_for(anext(self.acceptor), 5)

    def refused_frames(self) -> float | None:
        return self.registry.get_sample_value("edgehive_link_refused_frames_total")


@contextlib.asynccontextmanager
async def serve(context: ssl.SSLContext | None = None) -> AsyncIterator[Cloud]:
    cloud = Cloud(Acceptor("the test's cloud"))
    door = HubDoor(cloud.acceptor, Refusals("test", log, cloud.registry), metrics=LinkMetrics(cloud.registry))
    async with door.serve(host="127.0.0.1", port=0, ssl_context=context) as (_, cloud.port), cloud.acceptor:
        yield cloud


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with serve() as cloud:
        yield cloud


@pytest.fixture
async def raw(cloud: Cloud) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A bare WebSocket, to send what no Link would."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"ws://localhost:{cloud.port}/any/path/events",
            headers=HEADERS,
            max_msg_size=0,
            timeout=IMPATIENT,
        ) as bare,
    ):
        yield bare


async def test_a_message_is_one_text_frame_of_json(cloud: Cloud, raw: aiohttp.ClientWebSocketResponse):
    link = await cloud.link()
    await link.send(MESSAGE)
    received = await raw.receive(5)
    assert received.type is aiohttp.WSMsgType.TEXT
    assert json.loads(received.data)["header"] == {"msg_id": "1", "timestamp": 1}


async def test_text_and_binary_frames_and_a_trailing_newline_are_read(
    cloud: Cloud, raw: aiohttp.ClientWebSocketResponse
):
    link = await cloud.link()
    frame = codec.encode(MESSAGE) + b"\n"
    await raw.send_str(frame.decode())
    await raw.send_bytes(frame)
    assert [await link.receive(), await link.receive()] == [MESSAGE, MESSAGE]


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [("not json", "not one JSON document"), ("[]", "not a message"), ("[" * 300, "levels deep")],
)
async def test_a_bad_frame_is_a_counted_protocol_error(
    cloud: Cloud, raw: aiohttp.ClientWebSocketResponse, frame: str, complaint: str
):
    link = await cloud.link()
    await raw.send_str(frame)
    with pytest.raises(ProtocolError, match=complaint):
        await link.receive()
    assert cloud.refused_frames() == 1


async def test_invalid_utf8_is_a_protocol_error(cloud: Cloud, raw: aiohttp.ClientWebSocketResponse):
    link = await cloud.link()
    await raw.send_frame(b'{"content":"\xff"}', aiohttp.WSMsgType.TEXT)
    with pytest.raises(ProtocolError, match="not UTF-8"):
        await link.receive()


async def test_an_oversized_frame_is_refused_before_it_is_read(
    cloud: Cloud, raw: aiohttp.ClientWebSocketResponse, monkeypatch: pytest.MonkeyPatch
):
    link = await cloud.link()

    async def flood() -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            await raw.send_bytes(b"x" * (codec.MAX_FRAME + 1))

    sending = asyncio.create_task(flood())
    with pytest.raises(ProtocolError, match="size"):
        await asyncio.wait_for(link.receive(), 20)
    assert cloud.refused_frames() == 1
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_a_message_too_large_to_send_leaves_the_link_alive(cloud: Cloud):
    edge = await ws.connect(f"ws://localhost:{cloud.port}", node="edge-1", ssl_context=None)
    link = await cloud.link()
    huge = Message.of(
        source="s", group="g", operation="update", resource="a/b/c", content="x" * codec.MAX_FRAME, timestamp=1
    )
    with pytest.raises(codec.MessageTooLarge):
        await edge.send(huge)
    await edge.send(MESSAGE)
    assert await link.receive() == MESSAGE
    await asyncio.gather(edge.close(), link.close())


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({"ConnectionUse": "str"}, 400, "messages only"),
        ({"ConnectionUse": ""}, 400, "messages only"),
        ({"node_id": ""}, 400, "names the node"),
        ({"Origin": "https://evil.example"}, 403, "may not open"),
    ],
)
async def test_who_is_no_edge_is_told_why(cloud: Cloud, headers: dict[str, str], status: int, text: str):
    async with aiohttp.ClientSession() as session:
        url = f"http://localhost:{cloud.port}/"
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
        async with session.get(url, headers={**HEADERS, **upgrade, **headers}) as response:
            assert (response.status, text in await response.text()) == (status, True)


async def test_header_names_are_read_whatever_their_case_and_the_own_origin_is_fine(cloud: Cloud):
    headers = {"Node_id": "n", "Project_id": "q", "Connectionuse": "msg", "Origin": f"http://localhost:{cloud.port}"}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"ws://localhost:{cloud.port}/", headers=headers, timeout=IMPATIENT),
    ):
        peer = (await cloud.link()).peer
        assert (peer.node, peer.project) == ("n", "q")


async def test_the_edge_dials_the_path_and_headers_go_dials():
    asked = []

    async def handle(request: web.Request) -> web.WebSocketResponse:
        asked.append((request.path, {name: request.headers.get(name) for name in (*HEADERS, "Origin")}))
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.close()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "localhost", 0).start()
    link = await ws.connect(f"ws://localhost:{runner.addresses[0][1]}", node="edge-1", project_id="p", ssl_context=None)
    with pytest.raises(LinkClosed):
        await link.receive()
    await link.close()
    await runner.cleanup()
    assert asked == [("/p/edge-1/events", {**HEADERS, "Origin": None})]


class Authorities:
    """A cloud's CA and a stranger's."""

    def __init__(self) -> None:
        self.ours, self.other = trustme.CA(), trustme.CA()

    def server(self, name: str = "localhost") -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.verify_mode = ssl.CERT_REQUIRED
        self.ours.configure_trust(context)
        self.ours.issue_cert(name).configure_cert(context)
        return context

    def client(self, *, trust: trustme.CA | None = None, issuer: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        (trust or self.ours).configure_trust(context)
        certificate = (issuer or self.ours).issue_cert(
            common_name="system:node:edge-1", organization_name="system:nodes"
        )
        certificate.configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    return Authorities()


async def test_the_cloud_sees_the_subject_of_the_certificate(authorities: Authorities):
    async with serve(authorities.server()) as cloud:
        edge = await ws.connect(f"wss://localhost:{cloud.port}", node="edge-1", ssl_context=authorities.client())
        link = await cloud.link()
        assert (link.peer.common_name, link.peer.organizations) == ("system:node:edge-1", ("system:nodes",))
        await asyncio.gather(edge.close(), link.close())


async def test_a_strange_cloud_is_refused_with_the_mend(authorities: Authorities):
    async with serve(authorities.server()) as cloud:
        with pytest.raises(JoinRefused, match="check that the CA file"):
            await ws.connect(
                f"wss://localhost:{cloud.port}", node="n", ssl_context=authorities.client(trust=authorities.other)
            )


async def test_a_certificate_for_another_address_is_refused(authorities: Authorities):
    async with serve(authorities.server("elsewhere.example")) as cloud:
        with pytest.raises(JoinRefused, match="does not verify"):
            await ws.connect(f"wss://localhost:{cloud.port}", node="n", ssl_context=authorities.client())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_node_certificate_of_another_ca_is_refused_with_the_mend(
    authorities: Authorities, version: ssl.TLSVersion
):
    context = authorities.client(issuer=authorities.other)
    context.maximum_version = version
    async with serve(authorities.server()) as cloud:
        with pytest.raises(LinkClosed, match="join again with a token"):
            await ws.connect(f"wss://localhost:{cloud.port}", node="n", ssl_context=context)


async def test_a_cloud_that_says_why_it_refuses_the_certificate_is_quoted(authorities: Authorities):
    """asyncio servers send no TLS alert, Go's and OpenSSL's do; so this one is blocking."""
    context = authorities.client(issuer=authorities.other)
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def refuse(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), authorities.server().wrap_socket(connection, server_side=True):
            pass
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        refusing = asyncio.create_task(asyncio.to_thread(refuse, listener))
        with pytest.raises(JoinRefused, match=r"refuses this node's certificate .*ALERT"):
            await ws.connect(f"wss://localhost:{listener.getsockname()[1]}", node="n", ssl_context=context)
        await refusing


async def test_nobody_there_and_nobody_answering_are_link_closed():
    with pytest.raises(LinkClosed, match="localhost:1 cannot be reached"):
        await ws.connect("ws://localhost:1", node="n", ssl_context=None)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(LinkClosed, match="did not answer in time"):
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        await ws.connect(url, node="n", ssl_context=None, handshake_timeout=0.1)


async def test_a_peer_that_takes_no_data_is_left_after_the_write_deadline():
    stuck = asyncio.Event()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await stuck.wait()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}"
    link = await ws.connect(url, node="n", ssl_context=None, write_timeout=0.2)
    waiting = asyncio.create_task(link.receive())
    large = Message.of(source="s", group="g", operation="o", resource="r", content="x" * 4_000_000, timestamp=1)
    with pytest.raises(LinkClosed, match="took no data"):
        for _ in range(100):
            await link.send(large)
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(waiting, 5)
    await link.close()
    stuck.set()
    await runner.cleanup()


async def test_a_connection_cut_without_a_close_frame_ends_both_sides(cloud: Cloud):
    edge = await ws.connect(f"ws://localhost:{cloud.port}", node="edge-1", ssl_context=None)
    link = await cloud.link()
    edge._abort()
    for side in (edge, link):
        with pytest.raises(LinkClosed):
            await asyncio.wait_for(side.receive(), 5)
        await side.close()
