"""The API server over HTTP: GETs and watch events per second of its CPU, and memory per open watch."""

import asyncio
import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Any

from bench.report import Figure, resident_mib
from edgehive.api.registry import CONFIG_MAPS
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import ClusterAccess
from edgehive.testing.cluster import Cluster
from edgehive.testing.fleet.meter import Meter

GETS = 20_000
CLIENTS = 16
WATCHERS = 200
CHANGES = 200


def run() -> list[Figure]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=_server, args=(there,), daemon=True)
    server.start()
    try:
        return asyncio.run(_measure(here.recv(), int(server.pid or 0)))
    finally:
        server.terminate()
        server.join(10)


def _server(pipe: Connection) -> None:
    async def serve() -> None:
        async with Cluster() as cluster, cluster.serve() as url:
            pipe.send(url)
            await asyncio.Event().wait()

    try:
        import uvloop

        uvloop.run(serve())
    except ImportError:
        asyncio.run(serve())


def _config_map(name: str, size: int, number: int = 0) -> dict[str, Any]:
    data = {"n": str(number), "text": "x" * size}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": data}


async def _measure(url: str, pid: int) -> list[Figure]:
    async with HttpClient(ClusterAccess(server=url)) as client:
        await client.create(CONFIG_MAPS, _config_map("one", 3600), "default")
        return [await _gets(client, pid), *await _watches(client, pid)]


async def _gets(client: HttpClient, pid: int) -> Figure:
    async def get() -> None:
        for _ in range(GETS // CLIENTS):
            await client.get(CONFIG_MAPS, "one", "default")

    await get()
    meter = Meter(pid)
    before = meter.cpu()
    await asyncio.gather(*(get() for _ in range(CLIENTS)))
    return Figure("GET of a 3.9 KB object per CPU second", round(GETS / (meter.cpu() - before)), "1/s")


async def _watches(client: HttpClient, pid: int) -> list[Figure]:
    seen = 0
    version = (await client.list(CONFIG_MAPS, "default")).resource_version
    memory = resident_mib(pid)

    async def watch() -> None:
        nonlocal seen
        async for event in client.watch(CONFIG_MAPS, "default", resource_version=version):
            seen += event.type.value != "BOOKMARK"

    watchers = [spawn(watch(), name="watch") for _ in range(WATCHERS)]
    await asyncio.sleep(3)
    grown = (resident_mib(pid) - memory) * 1024 / WATCHERS
    meter = Meter(pid)
    before, deadline = meter.cpu(), time.perf_counter() + 120
    for number in range(CHANGES):
        await client.update(CONFIG_MAPS, _config_map("one", 3600, number + 1), "default")
    while seen < WATCHERS * CHANGES and time.perf_counter() < deadline:
        await asyncio.sleep(0.05)
    spent = meter.cpu() - before
    await cancel_and_join(*watchers)
    return [
        Figure("memory per open watch", round(grown, 1), "KiB"),
        Figure("watch events of 3.9 KB per CPU second", round(seen / spent), "1/s"),
        Figure("watch events missing", WATCHERS * CHANGES - seen, "", "0", seen == WATCHERS * CHANGES),
    ]
