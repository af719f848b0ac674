"""Logs, exec, attach, port-forward and metrics asked of a cloudcore that has no tunnel of the node, answered by the
one that has it.

Issue 4, "Several cloudcores".
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import pytest

from edgehive.cloudcore.cloudstream.forwarding import forwarding
from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
from edgehive.cloudcore.cloudstream.peers import PEER_NAME, PeerCertificate, peer_door
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.cloudcore.replicas.presence import Replica
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.http import serve
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.testing.ports import free_ports
from edgehive.testing.streams import NODE, StreamPair, locate, stream_pair
from edgehive.wire.streams import PIECE

LOG = "/containerLogs/default/web/c"
DAY = timedelta(days=1)
UPGRADES = (
    "POST /exec/default/web/c?command=cat&input=1&output=1",
    "POST /attach/default/web/c?output=1",
    "POST /portForward/default/web",
)


@dataclass
class Register:
    """The others, as the Leases would name them."""

    known: list[Replica]

    async def others(self) -> list[Replica]:
        return self.known


def certificate(ca: KeyPair, name: str = PEER_NAME, names: Sequence[str] = (PEER_NAME,)) -> PeerCertificate:
    pair = tls.issue(
        ca,
        common_name=name,
        names=names,
        usages=(tls.SERVER_AUTH, tls.CLIENT_AUTH),
        now=SystemClock().now(),
        lifetime=DAY,
    )
    return PeerCertificate(pair, certificate_pem(ca.certificate))


def authority() -> KeyPair:
    return tls.self_signed_ca("KubeEdge", SystemClock().now(), DAY)


@dataclass
class Two:
    """`here` is asked, `there` has the tunnel."""

    here: StreamPair
    there: StreamPair
    register: Register


@asynccontextmanager
async def two(*, shown: PeerCertificate | None = None, ca: KeyPair | None = None) -> AsyncIterator[Two]:
    """`shown` is what the one that is asked shows the other instead of a cloudcore's certificate."""
    ca = ca or authority()
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(stream_pair())
        door = certificate(ca).contexts()[0]
        port = await stack.enter_async_context(peer_door(there.tunnels, locate, door, host="127.0.0.1", port=0))
        dead = free_ports(1)[0]
        others = [Replica("dead:1", f"127.0.0.1:{dead}"), Replica("there:1", f"127.0.0.1:{port}")]
        register = Register(others)
        dialling = (shown or certificate(ca)).contexts()[1]
        forwarder = await stack.enter_async_context(forwarding(register, dialling))  # type: ignore[arg-type]
        tunnels = Tunnels(enforced=False)
        face = KubeletFace(tunnels, locate, None, None, forwarder.serve)
        _, asked = await stack.enter_async_context(serve(face.app(), host="127.0.0.1", port=0, drain=0.1))
        here = StreamPair(there.kubelet, tunnels, asked, 0)
        stack.push_async_callback(here.close)
        yield Two(here, there, register)


async def test_a_log_comes_from_the_replica_that_has_the_tunnel() -> None:
    async with two() as them:
        them.there.kubelet.logs[LOG] = b"one\ntwo\n" * 50000
        answer = await them.here.ask(f"GET {LOG}?tailLines=2")
        assert answer.status == 200 and "content-type: text/plain" in answer.head.lower()
        assert await answer.body() == them.there.kubelet.logs[LOG]
        assert them.there.kubelet.asked[0].startswith(f"GET {LOG}?tailLines=2 HTTP/1.1\r\n")


async def test_the_kubelet_s_own_refusal_comes_through() -> None:
    async with two() as them:
        answer = await them.here.ask("GET /containerLogs/default/web/nope")
        assert (answer.status, await answer.text()) == (404, "no such log")


async def test_a_followed_log_arrives_line_by_line_and_ends_when_the_reader_leaves() -> None:
    async with two() as them:
        answer = await them.here.ask(f"GET {LOG}?follow=true")
        for number in range(3):
            them.there.kubelet.follow.put_nowait(b"line %d\n" % number)
            assert await answer.chunk() == b"line %d\n" % number
        answer.close()
        async with asyncio.timeout(10):
            await them.there.kubelet.idle.wait()


async def test_a_followed_log_that_breaks_off_says_so_and_stops_before_its_end() -> None:
    async with two() as them:
        answer = await them.here.ask(f"GET {LOG}?follow=true")
        them.there.kubelet.follow.put_nowait(b"line\n")
        assert await answer.chunk() == b"line\n"
        await them.there.tunnels.end_all("the cable was cut")
        rest = await answer.until_end()
        assert b"the cable was cut" in rest and not rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("request_line", UPGRADES)
async def test_bytes_go_both_ways(request_line: str) -> None:
    async with two() as them:
        answer = await them.here.upgrade(request_line)
        assert answer.status == 101 and "Upgrade: SPDY/3.1" in answer.head
        asked = them.there.kubelet.asked[0]
        assert asked.startswith(f"{request_line} HTTP/1.1\r\n") and "X-Stream-Protocol-Version: v4" in asked
        sent = bytes(range(256)) * 4000
        async with asyncio.TaskGroup() as group:
            group.create_task(write(answer.writer, sent))
            async with asyncio.timeout(20):
                assert await answer.reader.readexactly(len(sent)) == sent
        answer.close()
        async with asyncio.timeout(10):
            await them.there.kubelet.idle.wait()


async def write(writer: asyncio.StreamWriter, data: bytes) -> None:
    for start in range(0, len(data), PIECE):
        writer.write(data[start : start + PIECE])
        await writer.drain()


async def test_metrics_are_those_of_the_node_that_was_named() -> None:
    async with two() as them:
        them.there.kubelet.logs["/metrics/resource"] = b"up 1\n"
        answer = await them.here.ask(
            "GET /metrics/resource", [f"X-Forwarded-Uri: /api/v1/nodes/{NODE}/proxy/metrics/resource"]
        )
        assert (answer.status, await answer.body()) == (200, b"up 1\n")


@pytest.mark.parametrize(
    "request_line", [f"GET {LOG.replace('web', 'elsewhere')}", UPGRADES[0].replace("web", "elsewhere")]
)
async def test_where_no_replica_has_the_tunnel_one_sentence_says_it(request_line: str) -> None:
    async with two() as them:
        answer = await (them.here.upgrade if request_line.startswith("POST") else them.here.ask)(request_line)
        assert answer.status in (500, 503)
        assert "node n2 has no tunnel to any cloudcore" in await answer.text()


async def test_a_replica_that_is_the_only_one_speaks_of_itself() -> None:
    async with two() as them:
        them.register.known.clear()
        answer = await them.here.ask(f"GET {LOG}")
        assert f"node {NODE} has no tunnel to this cloudcore" in await answer.text()


async def test_nothing_is_passed_on_twice() -> None:
    """Both think that the other has the tunnel: whoever was asked by a cloudcore answers by itself."""
    async with two() as them:
        them.register.known.append(them.register.known[-1])
        await them.there.tunnels.end_all("gone")
        answer = await them.here.ask(f"GET {LOG}")
        assert "has no tunnel" in await answer.text()


async def test_a_node_s_certificate_opens_no_peer_s_door() -> None:
    ca = authority()
    node = certificate(ca, "system:node:n1", ("n1",))
    async with two(ca=ca, shown=node) as them:
        them.there.kubelet.logs[LOG] = b"secret"
        answer = await them.here.ask(f"GET {LOG}")
        assert answer.status == 500 and "secret" not in await answer.text()
        assert them.there.kubelet.asked == []


async def test_another_cloud_s_certificate_opens_no_peer_s_door() -> None:
    async with two(shown=certificate(authority())) as them:
        answer = await them.here.ask(f"GET {LOG}")
        assert answer.status == 500
        assert them.there.kubelet.asked == []
