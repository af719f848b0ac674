"""Cloudcores as real processes behind a TCP load balancer on one machine, for trials of several replicas and workers.

Each replica has a loopback address of its own (127.0.0.2 and on) and the same ports; the balancer has 127.0.0.1. It
deals connections out in turn, among the replicas that take any. Processes can be killed and started again.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from edgehive.kit.relay import Duplex, relay
from edgehive.kit.tasks import cancel_and_join
from edgehive.testing.ports import free_ports

BALANCER = "127.0.0.1"
PATIENCE = 60.0


class Ports(NamedTuple):
    hub: int
    https: int
    tunnel: int
    stream: int


class Balancer:
    """One port of many addresses. `broken` connections are those that ended with an error."""

    def __init__(self, port: int, addresses: Sequence[str]) -> None:
        self._port = port
        self._addresses = list(addresses)
        self._turn = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["Balancer"]:
        server = await asyncio.start_server(self._carry, BALANCER, self._port, backlog=1024)
        try:
            yield self
        finally:
            server.close()
            await cancel_and_join(*self._tasks)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            backend = await self._connect()
            if backend is not None:
                await relay(Duplex(reader, writer), backend, linger=0.0)
        except asyncio.CancelledError:
            return  # the trial is over; asyncio's server would report it
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _connect(self) -> Duplex | None:
        for _ in self._addresses:
            address = self._addresses[self._turn % len(self._addresses)]
            self._turn += 1
            with contextlib.suppress(OSError):
                return Duplex(*await asyncio.open_connection(address, self._port))
        return None


class CloudProcess:
    """One replica."""

    def __init__(self, name: str, address: str, config: Path, log: Path) -> None:
        self.name, self.address = name, address
        self._config, self._log = config, log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "edgehive.cloudcore.app", "--config", str(self._config), stderr=log
            )

    async def kill(self) -> None:
        """As the kernel or a power cut would."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            await process.wait()

    def processor_seconds(self) -> float:
        """Of the process and its children so far."""
        assert self.process is not None
        return sum(_processor_seconds(pid) for pid in _family(self.process.pid))

    def last_words(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    async def ready(self, port: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                if self.process is None or self.process.returncode is not None:
                    raise AssertionError(f"cloudcore {self.name} ended: {self.last_words()}")
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(self.address, port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class CloudProcesses(NamedTuple):
    replicas: list[CloudProcess]
    ports: Ports


@asynccontextmanager
async def cloud_processes(
    folder: Path, api: dict[str, str], count: int = 3, *, workers: int = 1, streams: bool = True
) -> AsyncIterator[CloudProcesses]:
    """That many replicas behind the balancer until left; `api` is the section kubeAPIConfig."""
    ports, monitors = Ports(*free_ports(4)), free_ports(count)
    replicas = []
    for number in range(count):
        name, address = f"cloud-{number}", f"127.0.0.{number + 2}"
        config = folder / f"{name}.yaml"
        config.write_text(
            yaml.safe_dump(_config(folder, api, name, address, ports, monitors[number], workers, streams))
        )
        replicas.append(CloudProcess(name, address, config, folder / f"{name}.log"))
    async with AsyncExitStack() as stack:
        for port in ports if streams else ports[:2]:
            await stack.enter_async_context(Balancer(port, [replica.address for replica in replicas]).serving())
        for replica in replicas:
            stack.push_async_callback(replica.stop)
            await replica.start()
        for replica in replicas:
            await replica.ready(ports.stream if streams else ports.hub)
        yield CloudProcesses(replicas, ports)


def _config(
    folder: Path,
    api: dict[str, str],
    name: str,
    address: str,
    ports: Ports,
    monitor: int,
    workers: int,
    streams: bool,
) -> dict[str, Any]:
    keys = ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")
    stream_keys = ("TunnelCAFile", "TunnelCertFile", "TunnelPrivateKeyFile", "StreamCAFile", "StreamCertFile",
                   "StreamPrivateKeyFile")  # fmt: skip
    hub = {key: str(folder / "none") for key in keys} | {
        "advertiseAddress": [BALANCER],
        "nodeLimit": 10000,
        "websocket": {"address": address, "port": ports.hub},
        "https": {"address": address, "port": ports.https},
    }
    stream = {f"tls{key}": str(folder / "none") for key in stream_keys} | {
        "enable": streams,
        "address": address,
        "tunnelPort": ports.tunnel,
        "streamPort": ports.stream,
        # Whoever asks in a trial shows no certificate of the cluster.
        "authentication": "audit",
    }
    return {
        "commonConfig": {
            "monitorServer": {"bindAddress": f"127.0.0.1:{monitor}"},
            "workers": workers,
            "replica": {"name": name, "address": address},
        },
        "kubeAPIConfig": api,
        "modules": {"cloudHub": hub, "cloudStream": stream, "deviceController": {"enable": False}},
    }
