"""A whole cloudcore with doors on loopback, over an API in memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.cloudcore.app import run_cloudcore
from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import first_of, spawn
from edgehive.kube.client import Client
from edgehive.testing.cluster import Cluster
from edgehive.testing.fleet.fleet import Plan
from edgehive.testing.fleet.node import Hub
from edgehive.testing.fleet.workload import TokenMissing, join_token
from edgehive.testing.ports import free_ports, listens
from edgehive.wire import join


@dataclass
class Cloud:
    """Where it listens, and its API."""

    client: Client
    url: str
    hub: Hub
    join_server: str
    token: str
    monitor_port: int

    def plan(self, nodes: int, **more: object) -> Plan:
        return Plan(nodes, self.hub, self.join_server, self.token, **more)  # type: ignore[arg-type]


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    hub_port, join_port, monitor_port = free_ports(3)
    clock, stop = SystemClock(), asyncio.Event()
    async with Cluster(clock=clock) as cluster, cluster.serve() as url:
        client = cluster.client()
        config = configuration(tmp_path, hub_port, join_port, monitor_port)
        running = spawn(run_cloudcore(config, client, clock=clock, stop=stop), name="cloudcore under test")
        try:
            token = await until_it_serves(client, running, join_port, hub_port)
            hub = Hub("127.0.0.1", hub_port, join.DEFAULT_PROJECT_ID)
            yield Cloud(client, url, hub, f"https://127.0.0.1:{join_port}", token, monitor_port)
        finally:
            stop.set()
            await first_of(running, asyncio.sleep(30))


def configuration(folder: Path, hub_port: int, join_port: int, monitor_port: int) -> CloudCore:
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    hub = files | {
        "advertiseAddress": ["127.0.0.1"],
        "websocket": {"address": "127.0.0.1", "port": hub_port},
        "https": {"address": "127.0.0.1", "port": join_port},
    }
    monitor = {"monitorServer": {"bindAddress": f"127.0.0.1:{monitor_port}"}}
    modules = {"cloudHub": hub, "cloudStream": {"enable": False}}
    return msgspec.convert({"commonConfig": monitor, "modules": modules}, CloudCore)


async def until_it_serves(client: Client, running: "asyncio.Task[None]", *ports: int) -> str:
    async with asyncio.timeout(30):
        while not running.done():
            with contextlib.suppress(TokenMissing):
                token = await join_token(client)
                if all(listens(port) for port in ports):
                    return token
            await asyncio.sleep(0.02)
    await running
    raise AssertionError("cloudcore ended")
