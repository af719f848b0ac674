"""Probes' single shots at real listeners on loopback: gRPC health, HTTP, TCP; and what is said when they miss."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import web
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.health.v1.health_grpc import HealthBase
from grpclib.health.v1.health_pb2 import HealthCheckResponse
from grpclib.server import Server

from edgehive.api.core import Container, GRPCAction, HTTPGetAction, TCPSocketAction
from edgehive.edgecore.edged.grpc_health import check_health
from edgehive.edgecore.edged.hooks import Target, get_page, open_port
from edgehive.kit.http import serve

pytestmark = pytest.mark.timeout(20)


class Health(HealthBase):
    """Serving unless the service is called sick; slow when it is called slow."""

    async def Check(self, stream: Any) -> None:
        request = await stream.recv_message()
        if request.service == "slow":
            await asyncio.Event().wait()
        healthy = request.service != "sick"
        await stream.send_message(HealthCheckResponse(status=1 if healthy else 2))

    async def Watch(self, stream: Any) -> None:
        raise NotImplementedError


class Deaf(Health):
    """A gRPC server that does not know of health, as servers in Go answer."""

    async def Check(self, stream: Any) -> None:
        raise GRPCError(Status.UNIMPLEMENTED, "unknown service grpc.health.v1.Health")


@asynccontextmanager
async def listening(service: Any) -> AsyncIterator[int]:
    server = Server([service])
    await server.start("127.0.0.1", 0)
    try:
        yield server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(("service", "said"), [
    (None, ""), ("fine", ""), ("sick", 'service unhealthy (responded with "NOT_SERVING")'),
    ("slow", "timeout: health rpc did not complete within 0.1s"),
])  # fmt: skip
async def test_grpc_health(service: str | None, said: str) -> None:
    async with listening(Health()) as port:
        assert (
            await check_health("127.0.0.1", GRPCAction(port=port, service=service), 0.1 if service == "slow" else 5)
            == said
        )


async def test_a_server_without_the_health_protocol_or_none_at_all() -> None:
    async with listening(Deaf()) as port:
        said = await check_health("127.0.0.1", GRPCAction(port=port), 5)
        assert said.startswith("error: this server does not implement the grpc health protocol")
    said = await check_health("127.0.0.1", GRPCAction(port=port), 5)
    assert said.startswith(f'error: failed to connect service at "127.0.0.1:{port}": ')


def target(port: int = 0) -> Target:
    container = msgspec.convert({"name": "c", "ports": [{"name": "web", "containerPort": port}]}, Container)
    return Target("id", container, "127.0.0.1")


async def test_http_and_tcp() -> None:
    async def answer(request: web.Request) -> web.Response:
        assert request.headers["User-Agent"].startswith("kube-probe/")
        status, _, onward = request.path.strip("/").partition("/")
        places = {"to": request.query.get("to", ""), "loop": request.path}
        return web.Response(status=int(status or 200), headers={"Location": places[onward]} if onward else {})

    app = web.Application()
    app.router.add_get("/{status:.*}", answer)
    async with serve(app, host="127.0.0.1", port=0) as (_, port):
        assert await get_page(target(port), HTTPGetAction(port="web"), 5) == ""
        assert await get_page(target(port), HTTPGetAction(port=port, path="302"), 5) == ""
        said = await get_page(target(port), HTTPGetAction(port=port, path="/503"), 5)
        assert said == "HTTP probe failed with statuscode: 503"
        for where, said in (
            ("/302/to?to=/204", ""),
            ("/302/to?to=/500", "HTTP probe failed with statuscode: 500"),
            ("/302/to?to=http://elsewhere.invalid/500", ""),
            ("/302/to?to=/302/to%3Fto=/503", "HTTP probe failed with statuscode: 503"),
        ):
            assert await get_page(target(port), HTTPGetAction(port=port, path=where), 5) == said
        said = await get_page(target(port), HTTPGetAction(port=port, path="/302/loop"), 5)
        assert said.endswith("stopped after 10 redirects")
        assert await open_port(target(port), TCPSocketAction(port="web"), 5) == ""
    assert (await open_port(target(port), TCPSocketAction(port=port), 5)).startswith(f"dial tcp 127.0.0.1:{port}: ")
    assert "container c has no port named 'admin'" in await open_port(target(), TCPSocketAction(port="admin"), 5)
    assert (await get_page(target(port), HTTPGetAction(port=port), 5)).startswith(f'Get "http://127.0.0.1:{port}/": ')
