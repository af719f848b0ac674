"""Workers that share the ports: as processes with a node that talks to each, killed, stopped and unable to start.

Issue 4, "One process can be sharded over cores".
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import yaml

from edgehive.api.registry import LEASES
from edgehive.cloudcore.replicas.leases import NAMESPACE
from edgehive.cloudcore.worker_monitor import merged
from edgehive.kit.clock import SystemClock
from edgehive.kube.client import Client
from edgehive.kube.server.identity import MASTERS, User
from edgehive.testing.cluster import Cluster
from edgehive.testing.ports import free_ports

PATIENCE = 60.0


@dataclass
class Cloudcore:
    """One command with its workers."""

    process: asyncio.subprocess.Process
    monitor: int
    client: Client
    said: list[str] = field(default_factory=list)

    async def ask(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"http://127.0.0.1:{self.monitor}{path}") as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientError as error:
                return 0, str(error)

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            while (await self.ask("/readyz"))[0] != 200:
                assert self.process.returncode is None, self.said
                await asyncio.sleep(0.1)

    async def replicas(self) -> set[str]:
        leases = (await self.client.list(LEASES, NAMESPACE, label_selector="edgehive.io/cloudcore-replica=true")).items
        return {str(lease.to_dict()["spec"]["holderIdentity"]).rpartition("_")[0] for lease in leases}

    def workers(self) -> list[int]:
        """Their process ids."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def written(folder: Path, api: str, ports: list[int], workers: int) -> Path:
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    door = {"address": "127.0.0.1"}
    hub = files | {"advertiseAddress": ["127.0.0.1"], "websocket": door | {"port": ports[0]}}
    stream_files = {
        f"tls{name}": str(folder / name)
        for name in ("TunnelCAFile", "TunnelCertFile", "TunnelPrivateKeyFile", "StreamCAFile", "StreamCertFile",
                     "StreamPrivateKeyFile")
    }  # fmt: skip
    data = {
        "commonConfig": {
            "monitorServer": {"bindAddress": f"127.0.0.1:{ports[4]}"},
            "workers": workers,
            "replica": {"name": "machine", "address": "127.0.0.1"},
        },
        "kubeAPIConfig": {"master": api},
        "modules": {
            "cloudHub": hub | {"https": door | {"port": ports[1]}},
            "cloudStream": door | stream_files | {"tunnelPort": ports[2], "streamPort": ports[3]},
        },
    }
    file = folder / "cloudcore.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@asynccontextmanager
async def cloudcore(folder: Path, *, workers: int = 2, ports: list[int] | None = None) -> AsyncIterator[Cloudcore]:
    ports = ports or free_ports(5)
    async with Cluster(clock=SystemClock()) as cluster:
        anybody = User("admin", (MASTERS,))
        async with cluster.server.serve(host="127.0.0.1", port=0, without_credentials=anybody) as (host, port):
            file = written(folder, f"http://{host}:{port}", ports, workers)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgehive.cloudcore.app", "--config", str(file), stderr=asyncio.subprocess.PIPE
            )
            it = Cloudcore(process, ports[4], cluster.client())
            assert process.stderr is not None

            async def listen(stream: asyncio.StreamReader) -> None:
                async for line in stream:
                    it.said.append(line.decode())

            async with asyncio.TaskGroup() as group:
                group.create_task(listen(process.stderr))
                try:
                    yield it
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        process.terminate()
                    async with asyncio.timeout(PATIENCE):
                        await process.wait()


async def test_workers_share_the_ports_and_end_together(tmp_path: Path) -> None:
    async with cloudcore(tmp_path) as it:
        await it.ready()
        assert await it.replicas() == {"machine/0", "machine/1"}
        status, text = await it.ask("/metrics")
        assert status == 200
        for number in range(2):
            assert f'edgehive_hub_sessions{{worker="{number}"}} 0.0' in text
        assert '{"workers":[{' in (await it.ask("/statusz"))[1]
        pids = it.workers()
        assert len([pid for pid in pids if os.path.exists(f"/proc/{pid}")]) >= 2
        it.process.terminate()
        async with asyncio.timeout(PATIENCE):
            assert await it.process.wait() == 0
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        # Each has left the register itself.
        assert await it.replicas() == set()


async def test_a_killed_worker_is_started_again(tmp_path: Path) -> None:
    async with cloudcore(tmp_path) as it:
        await it.ready()
        before = it.workers()
        os.kill(before[0], signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            while (await it.ask("/readyz"))[0] == 200 and before[0] in it.workers():
                await asyncio.sleep(0.02)
        await it.ready()
        assert len(set(it.workers()) - set(before)) >= 1
        assert any("ended with signal SIGKILL; it is started again" in line for line in it.said)


async def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    async with cloudcore(tmp_path) as it:
        await it.ready()
        pids = it.workers()
        it.process.kill()
        async with asyncio.timeout(PATIENCE):
            while any(os.path.exists(f"/proc/{pid}") for pid in pids):
                await asyncio.sleep(0.05)


async def test_a_port_of_somebody_else_s_ends_it_with_one_sentence(tmp_path: Path) -> None:
    ports = free_ports(5)
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", ports[0])
    async with taken, cloudcore(tmp_path, ports=ports) as it:
        async with asyncio.timeout(PATIENCE):
            assert await it.process.wait() == 1
        await asyncio.sleep(0)
    assert any(f"port {ports[0]} on 127.0.0.1 is in use" in line for line in it.said)


async def test_workers_that_cannot_run_end_it(tmp_path: Path) -> None:
    (tmp_path / "tlsCAFile").write_text("half a pair")
    async with cloudcore(tmp_path) as it:
        async with asyncio.timeout(PATIENCE):
            assert await it.process.wait() == 1
    assert any("before it was ready" in line for line in it.said)


def test_expositions_are_merged_with_the_worker_s_number() -> None:
    text = (
        "# HELP a_total What.\n# TYPE a_total counter\n"
        'a_total{kind="x"} 1.0\n'
        "# HELP b Size.\n# TYPE b histogram\n"
        'b_bucket{le="1.0"} 2.0\nb_bucket{le="+Inf"} 2.0\nb_count 2.0\nb_sum 0.5\n'
    )
    told = merged([text, text, ""]).decode()
    assert told.count("# TYPE a_total counter") == 1
    assert 'a_total{kind="x",worker="0"} 1.0' in told and 'a_total{kind="x",worker="1"} 1.0' in told
    assert 'b_bucket{le="1.0",worker="1"} 2.0' in told


@pytest.mark.parametrize("workers", [0, 65])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: int, tmp_path: Path) -> None:
    from edgehive.api.config.cloudcore import CloudCore
    from edgehive.kit.config import ConfigError, load

    file = written(tmp_path, "http://x", [1, 2, 3, 4, 5], workers)
    with pytest.raises(ConfigError, match="workers"):
        load(file, CloudCore)
