"""Streams through the tunnel against asking the node directly: added latency, throughput, and links that are cut.

Four processes on this machine, as in an installation: the API server's part is played here, cloudstream, edgestream and
a kubelet that answers from memory each have a process. Every hop but edgestream to kubelet is TLS; the node is asked
directly over TLS too, as an API server asks a kubelet.
"""

import asyncio
import contextlib
import multiprocessing
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.report import Figure, at_most
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.streams import Answer

SAMPLES = 1000
BULK = 512 * 1024 * 1024
OPERATIONS = 1000
AT_ONCE = 20
#: The link stands this long and is away this long.
STANDS, AWAY = 0.4, 0.1
DEADLINE = 30.0
PIECE = 64 * 1024
LOG = "/containerLogs/default/web/c"
EXEC = "/exec/default/web/c?command=cat&input=1&output=1"
SOURCE, SINK = "/portForward/default/source", "/portForward/default/sink"
_UPGRADE = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {}\r\n"
_COMMAND, _FORWARD = _UPGRADE.format("v4.channel.k8s.io"), _UPGRADE.format("portforward.k8s.io")
#: An SPDY data frame of stream 5.
_FRAME = b"\0\0\0\5\0" + (1000).to_bytes(3, "big") + bytes(1000)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run() -> list[Figure]:
    import uvloop

    with tempfile.TemporaryDirectory(prefix="eh-bench-") as folder:
        _make_certificates(Path(folder))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    async with _processes(folder) as (face, node, cable):
        figures = await _latency("logs", _log_asker(face), _log_asker(node))
        figures += await _latency("exec", _exec_asker(face), _exec_asker(node))
        for name, bulk, target in (("to the client", _download, SOURCE), ("to the pod", _upload, SINK)):
            through, direct = await bulk(face, target), await bulk(node, target)
            figures.append(
                Figure(f"port-forward {name}", round(through, 1), "MB/s", "at least 100 MB/s", through >= 100)
            )
            figures.append(Figure(f"asking the node directly, {name}", round(direct, 1), "MB/s"))
        return figures + await _under_cuts(face, cable)


# Latency

Ask = Callable[[], Awaitable[None]]


async def _latency(name: str, through: AsyncIterator[Ask], direct: AsyncIterator[Ask]) -> list[Figure]:
    ask_through, ask_direct = await anext(through), await anext(direct)
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(SAMPLES + 50):
        for ask, kept in zip((ask_through, ask_direct), times, strict=True):
            began = time.perf_counter()
            await ask()
            if number >= 50:
                kept.append((time.perf_counter() - began) * 1000)
    added = [quantile(times[0], share) - quantile(times[1], share) for share in (0.5, 0.99)]
    return [
        at_most(f"{name}: added latency, p50", added[0], "ms", 2),
        Figure(f"{name}: added latency, p99", round(added[1], 3), "ms"),
        Figure(f"{name}: asking the node directly, p50", round(quantile(times[1], 0.5), 3), "ms"),
    ]


async def _log_asker(port: "_Port") -> AsyncIterator[Ask]:
    """On one kept connection, as an API server has it."""
    streams = await port.connect()

    async def ask() -> None:
        answer = await _ask(streams, "GET", LOG)
        assert len(await answer.body()) == 2000

    yield ask


async def _exec_asker(port: "_Port") -> AsyncIterator[Ask]:
    """On a connection of its own each time, as an API server does: to the first byte back from the command."""

    async def ask() -> None:
        async with port.connection() as streams:
            await _ask(streams, "POST", EXEC, _COMMAND)
            streams[1].write(_FRAME)
            await streams[0].readexactly(len(_FRAME))

    yield ask


# Throughput


async def _download(port: "_Port", target: str) -> float:
    async with port.connection() as streams:
        await _ask(streams, "POST", target, _FORWARD)
        began, received = time.perf_counter(), 0
        while received < BULK:
            received += len(await streams[0].read(4 * PIECE))
        return received / (time.perf_counter() - began) / 1e6


async def _upload(port: "_Port", target: str) -> float:
    piece = bytes(4 * PIECE)
    async with port.connection() as (reader, writer):
        await _ask((reader, writer), "POST", target, _FORWARD)
        began = time.perf_counter()
        for _ in range(BULK // len(piece)):
            writer.write(piece)
            await writer.drain()
        await reader.readexactly(1)
        return BULK / (time.perf_counter() - began) / 1e6


# Cuts


async def _under_cuts(face: "_Port", cable: "_Cable") -> list[Figure]:
    outcomes: Counter[str] = Counter()
    unclear: Counter[str] = Counter()
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with slots:
            try:
                async with asyncio.timeout(DEADLINE):
                    outcome = await (_log_operation(face) if number % 2 else _exec_operation(face))
            except TimeoutError:
                outcome = "hung"
            except (OSError, asyncio.IncompleteReadError, AssertionError) as error:
                outcome = "unclear"
                unclear[f"{type(error).__name__}: {error}"[:200]] += 1
            outcomes[outcome] += 1

    async with asyncio.TaskGroup() as group:
        cutting = group.create_task(cable.cut_again_and_again())
        async with asyncio.TaskGroup() as operations:
            for number in range(OPERATIONS):
                operations.create_task(one(number))
        cutting.cancel()
    for text, count in unclear.items():
        print(f"  unclear, {count} times: {text}", file=sys.stderr)
    clear = outcomes["done"] + outcomes["refused"] + outcomes["cut off"]
    return [
        Figure("links cut under operations", cable.cuts, ""),
        Figure(f"of {OPERATIONS:,} operations under cuts: done", outcomes["done"], ""),
        Figure("refused in one sentence", outcomes["refused"], ""),
        Figure("cut off, and told so", outcomes["cut off"], ""),
        Figure("without a clear end", OPERATIONS - clear, "", "0", clear == OPERATIONS),
        Figure("hung", outcomes["hung"], "", "0", outcomes["hung"] == 0),
    ]


async def _log_operation(face: "_Port") -> str:
    """Follows a log of some lines; a body that stops before its end is how HTTP says it."""
    async with face.connection() as streams:
        answer = await _ask(streams, "GET", f"{LOG}slow", statuses=(200, 500))
        if answer.status == 500:
            return _told(await answer.body())
        try:
            body = await answer.body()
        except (asyncio.IncompleteReadError, ConnectionError):
            return "cut off"
        assert len(body) == 2000, f"a log of {len(body)} bytes"
        return "done"


async def _exec_operation(face: "_Port") -> str:
    """Echoes frames for a while; a Status on the error stream says that the command's stream broke off."""
    async with face.connection() as (reader, writer):
        answer = await _ask((reader, writer), "POST", EXEC, _COMMAND, statuses=(101, 503))
        if answer.status == 503:
            return _told(await answer.body())
        for _ in range(5):
            writer.write(_FRAME)
            head = await reader.readexactly(8)
            data = await reader.readexactly(int.from_bytes(head[5:], "big"))
            if head[3] == 1:
                return "cut off" if b"the tunnel to the node was lost" in data else "unclear"
            await asyncio.sleep(0.01)
        return "done"


def _told(body: bytes) -> str:
    return "refused" if b"tunnel" in body else f"unclear: {body[:100]!r}"


# HTTP by hand


async def _ask(
    streams: Streams, method: str, target: str, headers: str = "", statuses: tuple[int, ...] = (200, 101)
) -> Answer:
    reader, writer = streams
    length = "" if method == "GET" else "Content-Length: 0\r\n"
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: node\r\n{length}{headers}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    answer = Answer(int(head.split(" ", 2)[1]), head, reader, writer)
    assert answer.status in statuses, head
    return answer


class _Port:
    """A TLS door of this machine."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port, self._tls = port, tls

    async def connect(self) -> Streams:
        return await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls, limit=8 * PIECE)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Streams]:
        reader, writer = await self.connect()
        try:
            yield reader, writer
        finally:
            writer.transport.abort()


class _Cable:
    """Passes bytes from the edge to the cloud until it is cut."""

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self.port = 0
        self._target = target
        self._plugged = True
        self._ends: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["_Cable"]:
        server = await asyncio.start_server(self._carry, "127.0.0.1", 0, limit=8 * PIECE)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._sever()
            if self._carrying:
                await asyncio.wait(self._carrying, timeout=5)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        if not self._plugged:
            writer.transport.abort()
            return
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._target, limit=8 * PIECE)
            self._ends |= {writer, back}
            await asyncio.gather(_pump(reader, back), _pump(there, writer))

    async def cut_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(STANDS)
            self._plugged = False
            self._sever()
            self.cuts += 1
            await asyncio.sleep(AWAY)
            self._plugged = True

    def _sever(self) -> None:
        for writer in self._ends:
            writer.transport.abort()
        self._ends.clear()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4 * PIECE):
        writer.write(data)
        await writer.drain()


# The other processes


@asynccontextmanager
async def _processes(folder: Path) -> AsyncIterator[tuple[_Port, _Port, _Cable]]:
    started: list[Any] = []
    try:
        kubelet, direct = _start(started, _kubelet, folder)
        face, door = _start(started, _cloud, folder)
        async with _Cable(door).laid() as cable:
            # Straight to the cloud first: the cable itself would be measured otherwise.
            _start(started, _edge, folder, door, kubelet)
            ports = _Port(face, _client(folder)), _Port(direct, _client(folder))
            await _until_connected(ports[0])
            switch = _Switch(started, folder, cable, kubelet)
            yield ports[0], ports[1], switch
    finally:
        for process in started:
            process.kill()
            process.join()


class _Switch:
    """Puts the cable between edge and cloud when cuts begin."""

    def __init__(self, started: list[Any], folder: Path, cable: _Cable, kubelet: int) -> None:
        self._started, self._folder, self._cable, self._kubelet = started, folder, cable, kubelet

    @property
    def cuts(self) -> int:
        return self._cable.cuts

    async def cut_again_and_again(self) -> None:
        edge = self._started.pop()
        edge.kill()
        edge.join()
        _start(self._started, _edge, self._folder, self._cable.port, self._kubelet)
        await self._cable.cut_again_and_again()


async def _until_connected(face: _Port) -> None:
    async with asyncio.timeout(DEADLINE):
        while True:
            async with face.connection() as streams:
                if (await _ask(streams, "GET", LOG, statuses=(200, 500))).status == 200:
                    return
            await asyncio.sleep(0.1)


def _start(started: list[Any], role: Callable[..., Any], *arguments: Any) -> tuple[int, int]:
    """Start a process; the two ports it tells."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_role, args=(role, theirs, *arguments), daemon=True)
    process.start()
    started.append(process)
    ports: tuple[int, int] = ours.recv()
    return ports


def _run_role(role: Callable[..., Any], pipe: Connection, *arguments: Any) -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(role(pipe, *arguments))


async def _kubelet(pipe: Connection, folder: Path) -> None:
    from edgehive.testing.streams import FakeKubelet

    plain, direct = FakeKubelet(), FakeKubelet()
    for kubelet in (plain, direct):
        kubelet.logs[LOG] = kubelet.logs[f"{LOG}slow"] = bytes(2000)
        kubelet.upgraded = lambda reader, writer, kubelet=kubelet: _stream(kubelet, reader, writer)
        kubelet.switched = _switched
    async with plain.serving(), direct.serving(_server(folder, "server")):
        pipe.send((plain.port, direct.port))
        await asyncio.Event().wait()


def _switched(target: str) -> bytes:
    return f"HTTP/1.1 101 Switching Protocols\r\n{_COMMAND if target == EXEC else _FORWARD}\r\n".encode()


async def _stream(kubelet: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    target = kubelet.asked[-1]
    kubelet.asked.clear()
    if SOURCE in target:
        while True:
            writer.write(bytes(PIECE))
            await writer.drain()
    if SINK in target:
        received = 0
        while received < BULK:
            received += len(await reader.read(4 * PIECE))
        writer.write(b"!")
    while data := await reader.read(PIECE):
        writer.write(data)
        await writer.drain()


async def _cloud(pipe: Connection, folder: Path) -> None:
    import logging

    from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
    from edgehive.cloudcore.cloudstream.tunnels import Tunnels
    from edgehive.kit.http import serve
    from edgehive.testing.streams import locate

    logging.disable(logging.CRITICAL)
    tunnels = Tunnels()
    face = KubeletFace(tunnels, locate, None)
    door = serve(tunnels.app(), host="127.0.0.1", port=0, ssl_context=_server(folder, "server"))
    stream = serve(face.app(), host="127.0.0.1", port=0, ssl_context=_server(folder, "server"))
    async with door as (_, tunnel_port), stream as (_, stream_port):
        pipe.send((stream_port, tunnel_port))
        await asyncio.Event().wait()


async def _edge(pipe: Connection, folder: Path, door: int, kubelet: int) -> None:
    import logging

    from edgehive.edgecore.edgestream.edgestream import EdgeStream, TunnelFiles
    from edgehive.kit.backoff import Backoff
    from edgehive.testing.streams import NODE

    logging.disable(logging.CRITICAL)
    files = TunnelFiles(folder / "ca.crt", folder / "node.crt", folder / "node.key")
    module = EdgeStream(
        server=f"127.0.0.1:{door}",
        node_name=NODE,
        node_ip="192.0.2.7",
        files=(files,),
        kubelet=("127.0.0.1", kubelet),
        retry=Backoff(first=0.05, factor=1.0, limit=0.05, jitter=0.0),
    )
    pipe.send((0, 0))
    await module.run(lambda: None)


def _make_certificates(folder: Path) -> None:
    from edgehive.kit import tls
    from edgehive.kit.clock import SystemClock
    from edgehive.testing.streams import NODE

    now, day = SystemClock().now(), timedelta(days=1)
    authority = tls.self_signed_ca("bench", now, day)
    (folder / "ca.crt").write_bytes(authority.certificate_pem)
    for name, common, organizations, names, usage in (
        ("server", "server", (), ["127.0.0.1"], tls.SERVER_AUTH),
        ("node", f"system:node:{NODE}", ("system:nodes",), [], tls.CLIENT_AUTH),
        ("api", "kube-apiserver-kubelet-client", ("system:masters",), [], tls.CLIENT_AUTH),
    ):
        pair = tls.issue(
            authority,
            common_name=common,
            organizations=organizations,
            names=names,
            usages=(usage,),
            now=now,
            lifetime=day,
        )
        (folder / f"{name}.crt").write_bytes(pair.certificate_pem)
        (folder / f"{name}.key").write_bytes(pair.key_pem)


def _server(folder: Path, name: str) -> ssl.SSLContext:
    from edgehive.kit.ssl_contexts import server_context

    return server_context(folder / f"{name}.crt", folder / f"{name}.key", client_ca=folder / "ca.crt")


def _client(folder: Path) -> ssl.SSLContext:
    from edgehive.kit.ssl_contexts import client_context

    return client_context(folder / "ca.crt", certificate=folder / "api.crt", key=folder / "api.key")
