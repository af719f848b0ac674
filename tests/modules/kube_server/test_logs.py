"""Container logs through the API server, from a kubelet at a given address."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from edgehive.api.registry import NODES, PODS
from edgehive.kit import http as doors
from edgehive.kube.server.identity import AUTHENTICATED, User
from edgehive.testing.cluster import Cluster

POD = {
    "metadata": {"name": "p"},
    "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]},
}
LOG = "/api/v1/namespaces/default/pods/p/log"


async def _kubelet_log(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.path}?{request.query_string}\n")


@pytest.fixture
async def api() -> AsyncIterator[aiohttp.ClientSession]:
    kubelet = web.Application()
    kubelet.router.add_get("/containerLogs/{namespace}/{pod}/{container}", _kubelet_log)
    async with Cluster() as cluster, doors.serve(kubelet, host="127.0.0.1", port=0) as (host, port):
        await cluster.client().create(NODES, {"metadata": {"name": "n1"}})
        await cluster.client().create(PODS, POD, "default")
        admin = User("admin", (AUTHENTICATED,))
        address = f"http://{host}:{port}"
        async with (
            cluster.server.serve("127.0.0.1", 0, without_credentials=admin, kubelet=lambda _: address) as (own, door),
            aiohttp.ClientSession(base_url=f"http://{own}:{door}") as session,
        ):
            yield session


async def test_a_log_comes_from_the_nodes_kubelet(api: aiohttp.ClientSession) -> None:
    async with api.get(LOG, params={"container": "b", "tailLines": "3", "pretty": "1"}) as response:
        assert response.status == 200
        assert await response.text() == "/containerLogs/default/p/b?tailLines=3\n"


async def test_a_pod_with_several_containers_needs_a_name(api: aiohttp.ClientSession) -> None:
    async with api.get(LOG) as response:
        status = await response.json()
    assert (response.status, status["message"]) == (
        400,
        "a container name must be specified for pod p, choose one of: [a b]",
    )
    async with api.get(LOG, params={"container": "c"}) as response:
        assert (await response.json())["message"] == "container c is not valid for pod p"
