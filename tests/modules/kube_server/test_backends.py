"""What the API server says of kubelets that answer too slowly, too much, or not at all."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from edgehive.kit.http import serve
from edgehive.kube.errors import ServiceUnavailable
from edgehive.kube.server import event_views
from edgehive.kube.server.backends import Backend, Backends, BadGateway
from edgehive.testing.ports import free_port


@pytest.fixture
async def kubelet() -> AsyncIterator[Backend]:
    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await asyncio.Event().wait()
        return web.Response(body=bytes(100))

    application = web.Application()
    application.router.add_get("/{any:.*}", answer)
    async with serve(application, host="127.0.0.1", port=0, drain=0.1) as (host, port):
        yield Backend("the kubelet of edge-1", "http", host, port)


async def test_an_answer_is_read_whole_or_refused_never_cut(kubelet: Backend) -> None:
    async with Backends() as backends:
        assert len(await backends.read(kubelet, "/stats", asked="/a", limit=100, seconds=5)) == 100
        with pytest.raises(BadGateway, match=r"^the kubelet of edge-1 answered more than 99 bytes to /stats$"):
            await backends.read(kubelet, "/stats", asked="/a", limit=99, seconds=5)


async def test_the_patience_that_ended_is_the_one_that_is_named(kubelet: Backend) -> None:
    async with Backends() as backends:
        with pytest.raises(ServiceUnavailable, match=r"does not answer: no answer within 0\.05s$"):
            await backends.read(kubelet, "/slow", asked="/a", limit=100, seconds=0.05)
        nobody = Backend("the kubelet of edge-2", "http", "127.0.0.1", free_port())
        with pytest.raises(ServiceUnavailable, match=r"^error dialing backend: the kubelet of edge-2 at 127\.0\.0\.1:"):
            await backends.read(nobody, "/stats", asked="/a", limit=100, seconds=5)


def test_events_of_the_newer_form_share_nothing_once_they_are_stored() -> None:
    first: dict[str, dict[str, str]] = {}
    second: dict[str, dict[str, str]] = {}
    event_views.convert(first, event_views.STORED)
    event_views.convert(second, event_views.STORED)
    first["involvedObject"]["name"] = "web"
    assert second["involvedObject"] == {}
