"""What one stranger, or one node gone wild, can cost: bounded, counted, said once a minute, and the others go on."""

import asyncio
import contextlib
import gc
import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
import pytest
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.beehive.message import Message
from edgehive.kit import ssl_contexts, tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.http import Strangers, serve
from edgehive.kit.json_depth import MAX_DEPTH, depth_exceeds
from edgehive.kit.refusals import Refusals
from edgehive.testing.cloud import cloud, content_of
from edgehive.testing.cluster import Cluster
from edgehive.testing.doors import Doors, doors
from edgehive.wire import codec
from edgehive.wire.hub_link import Allowance, HubLink
from edgehive.wire.link import LinkClosed, ProtocolError

log = logging.getLogger("edgehive.test")


class Door:
    """A server with one page, and what it refused."""

    def __init__(self, port: int, registry: CollectorRegistry, context: ssl.SSLContext | None) -> None:
        self.port = port
        self.registry = registry
        self.context = context

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self) -> int:
        scheme = "https" if self.context else "http"
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{scheme}://127.0.0.1:{self.port}/", ssl=self.context or True) as response,
        ):
            await response.read()
            return response.status

    def refused(self, reason: str) -> float:
        return self.registry.get_sample_value("edgehive_refusals_total", {"door": "test", "reason": reason}) or 0.0


@contextlib.asynccontextmanager
async def door(strangers: Strangers, folder: Path | None = None) -> AsyncIterator[Door]:
    """With TLS when there is a folder for its files."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="here")

    app = web.Application()
    app.router.add_get("/", page)
    registry = CollectorRegistry()
    here, there = _contexts(folder) if folder else (None, None)
    refusals = Refusals("test", log, registry)
    async with serve(app, host="127.0.0.1", port=0, ssl_context=here, strangers=strangers, refusals=refusals) as (
        _,
        port,
    ):
        yield Door(port, registry, there)


def _contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    now = SystemClock().now()
    ca = tls.self_signed_ca("ca", now, timedelta(days=1))
    pair = tls.issue(ca, common_name="s", names=["127.0.0.1"], usages=[tls.SERVER_AUTH], now=now,
                     lifetime=timedelta(days=1))  # fmt: skip
    certificate, key = folder / "s.crt", folder / "s.key"
    certificate.write_bytes(pair.certificate_pem)
    key.write_bytes(pair.key_pem)
    return ssl_contexts.server_context(certificate, key), ssl_contexts.client_context(ca.certificate_pem.decode())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that came until the other side ended the connection."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_a_handshake_that_does_not_come_is_not_waited_for(tmp_path: Path) -> None:
    async with door(Strangers(handshake_seconds=1.0), tmp_path) as it:
        idle, idle_writer = await it.open()
        slow, slow_writer = await it.open()
        slow_writer.write(b"\x16\x03\x01\x02\x00")
        assert await ended(idle) == b""
        await ended(slow)
        assert it.refused("handshake") == 2
        assert await it.ask() == 200
        for writer in (idle_writer, slow_writer):
            writer.close()


async def test_who_forgets_tls_is_told_so(tmp_path: Path) -> None:
    async with door(Strangers(), tmp_path) as it:
        reader, writer = await it.open()
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        answer = await ended(reader)
        assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
        assert answer.endswith(b"Client sent an HTTP request to an HTTPS server.\n")
        writer.close()


async def test_rubbish_instead_of_a_handshake(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with door(Strangers(), tmp_path) as it:
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"\x16\x03\x01\xff\xff" + b"x" * 70000):
            reader, writer = await it.open()
            with contextlib.suppress(ConnectionError):
                writer.write(rubbish)
                await writer.drain()
            await ended(reader)
            writer.close()
        assert it.refused("handshake") == 3
        assert await it.ask() == 200
    said = [record.getMessage() for record in caplog.records if "no TLS with 127.0.0.1" in record.getMessage()]
    assert len(said) == len(set(said)), "each cause is said once"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: h\r\nX: "])
async def test_headers_that_do_not_come_are_not_waited_for(sent: bytes) -> None:
    async with door(Strangers(headers_seconds=1.0)) as it:
        reader, writer = await it.open()
        writer.write(sent)
        assert await ended(reader) == b""
        writer.close()
        assert it.refused("slow headers") == 1
        assert await it.ask() == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /" + b"x" * 20000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 20000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_handshake_headers_are_bounded(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with door(Strangers()) as it:
        for _ in range(3):
            reader, writer = await it.open()
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
            assert (await ended(reader))[:12] in (b"HTTP/1.1 400", b"HTTP/1.0 400", b"")
            writer.close()
        assert it.refused("malformed request") == 3
        assert await it.ask() == 200
    assert "Traceback" not in caplog.text
    assert len([record for record in caplog.records if "is no HTTP" in record.getMessage()]) == 1


async def test_an_address_has_so_many_connections_and_others_have_theirs() -> None:
    async with door(Strangers(per_address=3, count_until="end")) as it:
        open_ones = [await it.open() for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(aiohttp.ClientError):
            await it.ask()
        assert it.refused("too many connections") >= 1
        reader, writer = await asyncio.open_connection("127.0.0.1", it.port, local_addr=("127.0.0.2", 0))
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in await ended(reader)
        writer.close()
        open_ones[0][1].close()
        await open_ones[0][1].wait_closed()
        await asyncio.sleep(0.05)
        assert await it.ask() == 200
        for _, writer in open_ones[1:]:
            writer.close()


async def test_all_addresses_together_have_so_many(tmp_path: Path) -> None:
    async with door(Strangers(together=2, handshake_seconds=1.0), tmp_path) as it:
        open_ones = [
            await asyncio.open_connection("127.0.0.1", it.port, local_addr=(f"127.0.0.{last}", 0)) for last in (2, 3)
        ]
        await asyncio.sleep(0.05)
        with pytest.raises(aiohttp.ClientError):
            await it.ask()
        for reader, writer in open_ones:
            await ended(reader)
            writer.close()
        assert await it.ask() == 200, "who did not shake hands in time no longer counts"


async def test_a_cause_is_said_once_a_minute_and_counted_each_time(caplog: pytest.LogCaptureFixture) -> None:
    registry = CollectorRegistry()
    refusals = Refusals("test", log, registry)
    now = 0.0

    class Loop:
        def time(self) -> float:
            return now

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "get_running_loop", Loop)
        for later in (0.0, 1.0, 59.0, 61.0):
            now = later
            refusals.refuse("why", "n1 does it", about="n1")
        refusals.refuse("why", "n2 does it", about="n2")
        for number in range(5000):
            refusals.refuse("why", "many", about=str(number))
    assert [record.getMessage() for record in caplog.records][:3] == [
        "n1 does it",
        "n1 does it (2 more like this since it was said last)",
        "n2 does it",
    ]
    assert refusals.count("why") == 5005
    assert len(refusals._said) <= 1024


RUBBISH = [
    b"GET /" + b"x" * 40000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: " + b"x" * 40000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    b"NONSENSE\r\n\r\n",
    b"\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nX : y\r\n\r\n",
    b"GET / HTTP/1.1\r\n folded\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\nnode_id: n1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
]


async def test_what_is_no_request_gets_nothing_at_the_doors_for_nodes(tmp_path: Path, caplog) -> None:
    async with doors(tmp_path) as it:
        for name, port, pair in (("hub", it.hub_port, it.pair_of("n1")), ("join", it.join_port, None)):
            for sent in RUBBISH:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=it.client(pair))
                with contextlib.suppress(ConnectionError):
                    writer.write(sent)
                    await writer.drain()
                assert (await ended(reader))[:12] in (b"HTTP/1.1 400", b""), sent
                writer.close()
            assert it.refused(name, "malformed request") == len(RUBBISH)
        assert "Traceback" not in caplog.text
        assert (await it.certificate("n1", Authorization=it.bearer))[0] == 200
        link, there = await linked(it)
        await asyncio.gather(link.close(), there.close())


async def test_who_asks_nothing_of_the_doors_for_nodes_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    for module in ("servers", "join"):
        monkeypatch.setattr(f"edgehive.cloudcore.cloudhub.{module}.STRANGERS", Strangers(headers_seconds=0.2))
    async with doors(tmp_path) as it:
        for name, port, pair in (("hub", it.hub_port, it.pair_of("n1")), ("join", it.join_port, None)):
            for sent in (b"", b"GET / HTTP/1.1\r\nHost: h\r\nX: "):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=it.client(pair))
                writer.write(sent)
                await ended(reader)
                writer.close()
            assert it.refused(name, "slow headers") == 2


async def test_a_body_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("edgehive.cloudcore.cloudhub.join.READ_SECONDS", 0.2)
    async with doors(tmp_path) as it:
        reader, writer = await asyncio.open_connection("127.0.0.1", it.join_port, ssl=it.client())
        head = f"GET /edge.crt HTTP/1.1\r\nNodeName: n1\r\nAuthorization: {it.bearer}\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b"x" * 50)
        assert b"did not arrive within 0.2 s" in await ended(reader)
        writer.close()


async def test_a_frame_that_is_none_ends_the_session_of_its_sender_alone(tmp_path: Path) -> None:
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: h\r\nnode_id: n1\r\nConnectionUse: msg\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    broken = [
        b"\x81\x05hello",  # not masked
        b"\xc1\x80\0\0\0\0",  # an extension
        b"\x83\x80\0\0\0\0",  # no such opcode
        b"\x80\x80\0\0\0\0",  # a part of nothing
        b"\x09\x80\0\0\0\0",  # a ping in parts
        b"\x89\xfe\x00\x80\0\0\0\0" + b"x" * 128,  # a long ping
        b"\x01\x80\0\0\0\0\x81\x80\0\0\0\0",  # a message within another
        b"\x81\xff\0\0\0\1\0\0\0\0\0\0\0\0",  # 4 GiB
    ]
    async with doors(tmp_path) as it:
        for sent in broken:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.hub_port, ssl=it.client(it.pair_of("n1")))
            writer.write(upgrade + sent)
            there = await it.accepted()
            with pytest.raises(ProtocolError, match="bad WebSocket frame"):
                await there.receive()
            await there.close("broken")
            answer = await ended(reader)
            assert answer.startswith(b"HTTP/1.1 101 ")
            assert answer.endswith(b"broken")
            writer.close()
        assert it.refused("hub", "bad frame") == len(broken)
        link, there = await linked(it)
        await asyncio.gather(link.close(), there.close())


# Nodes


async def linked(it: Doors, node: str = "n1") -> tuple[object, object]:
    link = await it.dial(node, it.pair_of(node))
    return link, await it.accepted()


async def test_deep_nesting_ends_the_session_of_its_sender_alone(tmp_path: Path) -> None:
    deep = b'{"header":{},"route":{},"content":' + b"[" * 5000 + b"]" * 5000 + b"}"
    with pytest.raises(ProtocolError, match="nested more than 200 levels"):
        codec.decode(deep)
    async with doors(tmp_path) as it:
        headers = {"node_id": "n1", "ConnectionUse": "msg"}
        async with aiohttp.ClientSession() as session:
            url, context = f"https://127.0.0.1:{it.hub_port}/", it.client(it.pair_of("n1"))
            async with session.ws_connect(url, headers=headers, ssl=context) as websocket:
                there = await it.accepted()
                await websocket.send_str(deep.decode())
                with pytest.raises(ProtocolError, match="nested"):
                    await there.receive()
                await there.close()
        assert it.refused("hub", "bad frame") == 1
        link, there = await linked(it)
        await link.close()


async def test_a_field_as_large_as_a_frame_is_refused() -> None:
    with pytest.raises(ProtocolError, match="field resource is 10000 characters long"):
        codec.decode(b'{"header":{},"route":{"resource":"' + b"x" * 10000 + b'"}}')


def test_depth_is_judged_in_linear_time() -> None:
    hard = [b"[" * 400_000, b"[]" * 400_000, b"[[" * 200_000 + b"]" * 200_000, b'"' + b"[" * 400_000, b"\\\\" * 400_000]
    began = time.process_time()
    for text in hard:
        depth_exceeds(text, MAX_DEPTH)
    assert time.process_time() - began < 2


def test_a_node_that_sends_too_much_waits_and_loses_nothing() -> None:
    allowance = Allowance(rate=10, burst=5)
    assert [allowance.take(100.0) for _ in range(5)] == [0.0] * 5
    assert allowance.take(100.0) == pytest.approx(0.1)
    assert allowance.take(100.0) == pytest.approx(0.2)
    assert allowance.take(200.0) == 0.0


async def test_a_flood_is_read_at_its_allowance_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehive.wire.hub_link.BURST_SECONDS", 0.05)
    async with doors(tmp_path) as it:
        link, there = await linked(it)
        for number in range(30):
            await link.send(
                Message.of(source="edged", group="meta", operation="query", resource=f"a/b/{number}", timestamp=1)
            )
        async with asyncio.timeout(10):
            read = [(await there.receive()).route.resource for _ in range(30)]
        assert read == [f"a/b/{number}" for number in range(30)]
        assert it.refused("hub", "message rate") >= 1
        await link.close()


@pytest.mark.looptime
@pytest.mark.parametrize("version", ["abc", "-1", "1.5", "", "99999999999999999999999999", None, 7])
async def test_non_integer_resource_version(version: object) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        body = {"metadata": {"name": "n1", "namespace": "kube-node-lease", "resourceVersion": version}, "spec": {}}
        for operation in ("insert", "update"):
            answer = content_of(await edge.request(operation, "kube-node-lease/lease/n1", body))
            assert set(answer) == {"Object", "Err"}
        message = await edge.send("response", "default/pod/x", "OK")
        header = msgspec.structs.replace(message.header, resourceversion=str(version), parent_id="none")
        await edge.link.send(Message(header, message.route, message.content))
        assert content_of(await edge.request("query", "kube-node-lease/lease/n1"))
        assert not edge.closed.is_set()


@pytest.mark.parametrize("kind", ["application/json", "application/yaml"])
@pytest.mark.parametrize("depth", [201, 900, 100_000])
async def test_deep_nesting_in_a_body_of_the_api(kind: str, depth: int) -> None:
    body = b'{"metadata":{"name":"a"},"data":' + b"[" * depth + b"]" * depth + b"}"
    async with Cluster(clock=SystemClock()) as cluster, cluster.serve() as url, aiohttp.ClientSession(url) as session:
        path = "/api/v1/namespaces/default/configmaps"
        async with session.post(path, data=body, headers={"Content-Type": kind}) as response:
            assert response.status == 400
            assert "nested" in (await response.json())["message"]
        async with session.get(path) as response:
            assert response.status == 200


@pytest.mark.looptime
async def test_messages_for_modules_that_do_not_run_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Questions of applications and reports of jobs of a stock edge: one line each, no answer, no end."""
    caplog.set_level(logging.INFO, logger="edgehive.cloudhub")
    async with cloud() as it:
        edge = await it.edge("n1")
        for _ in range(20):
            await edge.send("query", "null", {"ID": "x"}, source="metaserver")
            await edge.send("UpdateNodeActionStatus", "operations.kubeedge.io/v1alpha2/x/y/node/n1", {})
        answer = content_of(await edge.request("query", "kube-node-lease/lease/n1"))
        assert set(answer) == {"Object", "Err"}
        assert not edge.closed.is_set()
    said = [record.getMessage() for record in caplog.records if "does not run" in record.getMessage()]
    assert sorted(said) == [
        f"node n1 speaks to module {module}, which this cloudcore does not run"
        for module in ("dynamiccontroller", "taskmanager")
    ]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_ended_leaves_no_memory_behind(
    tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """Not even until garbage is collected: TLS keeps a quarter of a megabyte for each."""
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(nothing_stays(tmp_path))


async def nothing_stays(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        await linked_and_left(it)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await linked_and_left(it)
            async with asyncio.timeout(5):
                while any(isinstance(item, HubLink) for item in gc.get_objects()):
                    await asyncio.sleep(0.01)
        finally:
            gc.enable()


async def linked_and_left(it: Doors) -> None:
    link, there = await linked(it)
    await link.close()
    with pytest.raises(LinkClosed):
        await there.receive()
    await there.close()
