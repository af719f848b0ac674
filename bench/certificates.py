"""Certificates issued by token and renewed with a certificate: how many a second, and what one costs the cloud.

A cloudcore process of its own over an API in memory; every request comes over a connection of its own, as edges
make them. The cost counts cloudcore and the process that signs for it.
"""

import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import yaml

from bench.report import Figure, at_most
from edgehive.api.core import Secret
from edgehive.api.registry import SECRETS
from edgehive.kit import tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.kit.ssl_contexts import client_context
from edgehive.kube.client import Client
from edgehive.kube.errors import NotFound
from edgehive.kube.server.identity import MASTERS, User
from edgehive.testing.cluster import Cluster
from edgehive.testing.fleet.meter import Meter
from edgehive.wire import join

COUNT, AT_ONCE = 600, 8
WARM_UP = 40


@dataclass(frozen=True, slots=True)
class Cloud:
    pid: int
    port: int
    client: Client


def run() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="eh-certificates-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    async with Cluster(clock=SystemClock()) as cluster:
        everybody = User("admin", (MASTERS,))
        async with cluster.server.serve(host="127.0.0.1", port=0, without_credentials=everybody) as address:
            port = _free_port()
            with _cloudcore(_config(folder, f"http://127.0.0.1:{address[1]}", port)) as process:
                return await _figures(Cloud(process.pid, port, cluster.client()), folder)


async def _figures(cloud: Cloud, folder: Path) -> list[Figure]:
    token = join.parse_token((await _secret(cloud, "tokensecret"))["tokendata"].decode())
    authority = await _secret(cloud, "casecret")
    trust = certificate_pem(authority["cadata"]).decode()
    bearer = {join.AUTHORIZATION_HEADER: f"Bearer {token.bearer}"}
    await _ask(cloud, WARM_UP, client_context(trust), bearer)
    issued = await _timed(cloud, client_context(trust), bearer)
    pair = tls.issue(
        KeyPair(authority["cadata"], authority["cakeydata"]),
        common_name=join.node_user("edge"),
        organizations=[join.NODES_GROUP],
        now=SystemClock().now(),
        lifetime=timedelta(days=1),
    )
    (folder / "edge.crt").write_bytes(pair.certificate_pem)
    (folder / "edge.key").write_bytes(pair.key_pem)
    renewed = await _timed(cloud, client_context(trust, certificate=folder / "edge.crt", key=folder / "edge.key"), {})
    return [
        Figure("certificates issued by token", round(issued[0], 1), "1/s"),
        at_most("CPU of the cloud for one issued by token", issued[1], "ms", 0.7),
        Figure("certificates renewed", round(renewed[0], 1), "1/s"),
        at_most("CPU of the cloud for one renewed", renewed[1], "ms", 0.7),
    ]


async def _timed(cloud: Cloud, context: ssl.SSLContext, headers: dict[str, str]) -> tuple[float, float]:
    """Certificates a second, and milliseconds of the cloud's CPU for one."""
    meter = Meter(cloud.pid)
    cpu, began = meter.cpu(), time.perf_counter()
    await _ask(cloud, COUNT, context, headers)
    spent, took = meter.cpu() - cpu, time.perf_counter() - began
    return COUNT / took, spent / COUNT * 1000


async def _ask(cloud: Cloud, count: int, context: ssl.SSLContext, headers: dict[str, str]) -> None:
    request = tls.request(tls.new_key(), join.node_user("edge"), [join.NODES_GROUP])
    headers = {join.NODE_NAME_HEADER: "edge", **headers}
    left = iter(range(count))

    async def edges(session: aiohttp.ClientSession) -> None:
        for _ in left:
            url = f"https://127.0.0.1:{cloud.port}{join.CERTIFICATE_PATH}"
            async with session.get(url, ssl=context, data=request, headers=headers) as response:
                assert response.status == 200, await response.text()
                await response.read()

    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(edges(session))


async def _secret(cloud: Cloud, name: str) -> dict[str, bytes]:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(NotFound):
                data = (await cloud.client.get(SECRETS, name, "kubeedge")).read(Secret).data
                if data and _listens(cloud.port):
                    return data
            await asyncio.sleep(0.1)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _config(folder: Path, api: str, port: int) -> Path:
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    hub = files | {
        "advertiseAddress": ["127.0.0.1"],
        "websocket": {"address": "127.0.0.1", "port": _free_port()},
        "https": {"address": "127.0.0.1", "port": port},
    }
    monitor = {"monitorServer": {"bindAddress": f"127.0.0.1:{_free_port()}"}}
    modules = {"cloudHub": hub, "cloudStream": {"enable": False}}
    data = {"commonConfig": monitor, "kubeAPIConfig": {"master": api}, "modules": modules}
    file = folder / "cloudcore.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@contextlib.contextmanager
def _cloudcore(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "edgehive", "cloudcore", "--config", str(config), "--log-level", "error"]
    with subprocess.Popen(words) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
