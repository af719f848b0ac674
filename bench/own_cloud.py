"""A cloud of our own for benchmarks: an API server and a cloudcore as two processes of this machine, on loopback.

Needs neither root nor anything of others. Both end with the block, whatever happens in it.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from edgehive.kube.http_client import HttpClient
from edgehive.kube.kubeconfig import load
from edgehive.testing.fleet.fleet import Plan
from edgehive.testing.fleet.node import Hub
from edgehive.testing.fleet.workload import TokenMissing, join_token
from edgehive.testing.ports import free_ports, listens
from edgehive.wire import join

_COMMAND = (sys.executable, "-m", "edgehive")
PATIENCE = 180.0


class CloudFailed(Exception):
    """The cloud did not start; the text says what its log says last."""


@dataclass(frozen=True, slots=True)
class OwnCloud:
    """Where it listens; `pid` is cloudcore's."""

    pid: int
    client: HttpClient
    kubeconfig: Path
    hub: Hub
    join_server: str
    token: str
    metrics_url: str

    def plan(self, nodes: int, prefix: str = "fleet") -> Plan:
        return Plan(nodes, self.hub, self.join_server, self.token, prefix, shared_key=True)

    async def metrics(self) -> dict[str, float]:
        """What cloudcore's /metrics says: samples by name, with their labels where there are any."""
        async with aiohttp.ClientSession() as session, session.get(self.metrics_url) as answer:
            return samples(await answer.text())


def samples(text: str) -> dict[str, float]:
    """`name` or `name{label=value,…}` to value."""
    return {
        sample.name + (_labels(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f"{name}={value}" for name, value in sorted(labels.items())) + "}"


@contextlib.asynccontextmanager
async def own_cloud(
    folder: Path, nodes: int, environment: Mapping[str, str] | None = None, hub: Mapping[str, int] | None = None
) -> AsyncIterator[OwnCloud]:
    """For so many nodes; `environment` is cloudcore's, `hub` what its cloudHub has besides."""
    api_port, hub_port, join_port, monitor_port = free_ports(4)
    site, kubeconfig = folder / "site", folder / "site" / "kubeconfig"
    up = ("edgesite", "up", "--no-node", "--data", str(site), "--port", str(api_port))
    with _process(folder / "site.log", *up) as api:
        await _until(api, folder / "site.log", lambda: kubeconfig.exists() and listens(api_port))
        config = folder / "cloudcore.yaml"
        config.write_text(
            yaml.safe_dump(_config(folder, kubeconfig, nodes, (hub_port, join_port, monitor_port), hub or {}))
        )
        words = ("cloudcore", "--log-level", "warning", "--config", str(config))
        log = folder / "cloudcore.log"
        with _process(log, *words, environment=environment) as cloudcore:
            async with HttpClient(load(str(kubeconfig))) as client:
                token = await _token(client, cloudcore, log)
                await _until(cloudcore, log, lambda: all(map(listens, (hub_port, join_port, monitor_port))))
                yield OwnCloud(
                    cloudcore.pid, client, kubeconfig, Hub("127.0.0.1", hub_port, join.DEFAULT_PROJECT_ID),
                    f"https://127.0.0.1:{join_port}", token, f"http://127.0.0.1:{monitor_port}/metrics",
                )  # fmt: skip


@contextmanager
def _process(
    log: Path, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as output:
        running = subprocess.Popen(
            [*_COMMAND, *words], stdout=output, stderr=output, env={**os.environ, **(environment or {})}
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


async def _token(client: HttpClient, cloudcore: "subprocess.Popen[bytes]", log: Path) -> str:
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(TokenMissing):
                return await join_token(client)
            _demand_life(cloudcore, log)
            await asyncio.sleep(0.1)


async def _until(process: "subprocess.Popen[bytes]", log: Path, ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not ready():
            _demand_life(process, log)
            await asyncio.sleep(0.1)


def _demand_life(process: "subprocess.Popen[bytes]", log: Path) -> None:
    if process.poll() is not None:
        lines = log.read_text(errors="replace").splitlines()
        raise CloudFailed(f"a process of the cloud ended: {lines[-1] if lines else 'it said nothing'}")


def _config(
    folder: Path, kubeconfig: Path, nodes: int, ports: tuple[int, int, int], own: Mapping[str, int]
) -> dict[str, object]:
    hub_port, join_port, monitor_port = ports
    names = ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")
    hub: dict[str, object] = {name: str(folder / name) for name in names}
    hub |= {
        "nodeLimit": max(1000, 2 * nodes),
        "advertiseAddress": ["127.0.0.1"],
        "websocket": {"address": "127.0.0.1", "port": hub_port},
        "https": {"address": "127.0.0.1", "port": join_port},
        **own,
    }
    return {
        "apiVersion": "cloudcore.config.kubeedge.io/v1alpha1",
        "kind": "CloudCore",
        "commonConfig": {"monitorServer": {"bindAddress": f"127.0.0.1:{monitor_port}"}},
        "kubeAPIConfig": {"kubeConfig": str(kubeconfig)},
        "modules": {"cloudHub": hub, "cloudStream": {"enable": False}},
    }
