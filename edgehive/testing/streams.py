"""Both ends of the stream tunnel on free ports of this machine, with a kubelet that answers from memory behind it.

    async with stream_pair() as pair:
        pair.kubelet.logs["/containerLogs/default/web/c"] = b"hello"
        answer = await pair.ask("GET /containerLogs/default/web/c")

The API server's part is played by raw sockets. No certificate is needed; who may come is tested apart.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.edgecore.edgestream.edgestream import EdgeStream
from edgehive.kit.backoff import Backoff
from edgehive.kit.http import serve
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.errors import NotFound

NODE = "n1"
PATIENCE = 20.0
_PIECE = 64 * 1024
_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
_UPGRADE = ("Connection: Upgrade", "Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io",
            "Content-Length: 0")  # fmt: skip

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class FakeKubelet:
    """A kubelet's door. `logs` are answered as they are, followed ones as `follow` is fed; upgrades by `upgraded`."""

    logs: dict[str, bytes] = field(default_factory=dict)
    follow: "asyncio.Queue[bytes]" = field(default_factory=asyncio.Queue)
    upgraded: Serve | None = None
    #: The answer to an upgrade at a target.
    switched: Callable[[str], bytes] = lambda _: _HEAD
    #: Takes requests and never answers.
    silent: bool = False
    #: The heads of the requests that came.
    asked: list[str] = field(default_factory=list)
    #: Connections being served now, and set when there are none.
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator["FakeKubelet"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        tasks = self._tasks = set[asyncio.Task[None]]()
        try:
            yield self
        finally:
            server.close()
            await cancel_and_join(*tasks)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open += 1
        self.idle.clear()
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass  # the asker has left
        except asyncio.CancelledError:
            pass  # the test is over; asyncio's server would report it
        finally:
            self._tasks.discard(task)
            self.open -= 1
            if not self.open:
                self.idle.set()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(head)
        target = head.split(" ", 2)[1]
        if self.silent:
            await reader.read()
            return False
        if "upgrade: " in head.lower() and self.upgraded is not None:
            writer.write(self.switched(target))
            await self.upgraded(reader, writer)
            return False
        if "follow=true" in target:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            leaving = spawn(reader.read(1), name="asker leaves")
            try:
                await self._follow(writer, leaving)
            finally:
                await cancel_and_join(leaving)
            return False
        body = self.logs.get(target.partition("?")[0])
        status = "200 OK" if body is not None else "404 Not Found"
        body = body if body is not None else b"no such log"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        writer.write(body)
        await writer.drain()
        return True

    async def _follow(self, writer: asyncio.StreamWriter, leaving: "asyncio.Task[bytes]") -> None:
        while True:
            line = spawn(self.follow.get(), name="next line")
            await asyncio.wait((line, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not line.done():
                await cancel_and_join(line)
                return
            text = line.result()
            writer.write(b"%x\r\n%s\r\n" % (len(text), text))
            await writer.drain()
            if not text:
                return


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()


@dataclass
class Answer:
    """What came back on one connection, up to its body."""

    status: int
    head: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def body(self) -> bytes:
        """The whole of it; IncompleteReadError when it is cut off."""
        async with asyncio.timeout(PATIENCE):
            lowered = self.head.lower()
            if "content-length: " in lowered:
                return await self.reader.readexactly(int(lowered.split("content-length: ")[1].split("\r\n")[0]))
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            return b"".join(pieces)

    async def chunk(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readuntil(b"\r\n")
            return (await self.reader.readexactly(int(line, 16) + 2))[:-2]

    async def until_end(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def text(self) -> str:
        return (await self.body()).decode().strip()

    def close(self) -> None:
        self.writer.close()


class StreamPair:
    """The set-up once it stands."""

    def __init__(self, kubelet: FakeKubelet, tunnels: Tunnels, face: int, door: int) -> None:
        self.kubelet, self.tunnels, self.face, self.door = kubelet, tunnels, face, door
        self._answers: list[Answer] = []

    async def send(
        self, request: str, headers: Sequence[str] = ()
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.face, limit=_PIECE)
        lines = [f"{request} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
        writer.write("\r\n".join(lines).encode())
        return reader, writer

    async def ask(self, request: str, headers: Sequence[str] = ()) -> Answer:
        """Ask as the API server does, on a connection of its own."""
        reader, writer = await self.send(request, headers)
        async with asyncio.timeout(PATIENCE):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        answer = Answer(int(head.split(" ", 2)[1]), head, reader, writer)
        self._answers.append(answer)
        return answer

    async def upgrade(self, request: str) -> Answer:
        return await self.ask(request, _UPGRADE)

    async def connected(self, node: str = NODE) -> None:
        async with asyncio.timeout(PATIENCE):
            while node not in self.tunnels:  # noqa: ASYNC110 - a session table has no event
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        for answer in self._answers:
            answer.writer.close()
            with contextlib.suppress(OSError):
                await answer.writer.wait_closed()


async def locate(_: str, pod: str) -> str:
    """Every pod is on the node, but `nowhere` and `elsewhere`."""
    return _place(pod, NODE)


def _place(pod: str, node: str) -> str:
    if pod == "nowhere":
        raise NotFound(f'pods "{pod}" not found')
    return {"elsewhere": "n2", "unbound": ""}.get(pod, node)


@asynccontextmanager
async def stream_pair(*, edge: bool = True, node: str = NODE) -> AsyncIterator[StreamPair]:
    """cloudstream's doors and, unless `edge` is false, an edgestream with its tunnel open."""

    async def locate(_: str, pod: str) -> str:
        return _place(pod, node)

    async with AsyncExitStack() as stack:
        kubelet = await stack.enter_async_context(FakeKubelet(upgraded=echo).serving())
        tunnels = Tunnels(enforced=False)
        face = KubeletFace(tunnels, locate, None)
        _, face_port = await stack.enter_async_context(serve(face.app(), host="127.0.0.1", port=0, drain=0.1))
        _, door_port = await stack.enter_async_context(serve(tunnels.app(), host="127.0.0.1", port=0, drain=0.1))
        pair = StreamPair(kubelet, tunnels, face_port, door_port)
        stack.push_async_callback(pair.close)
        if edge:
            running = spawn(edge_stream(door_port, kubelet.port).run(lambda: None), name="edgestream")
            stack.push_async_callback(cancel_and_join, running)
            await pair.connected()
        yield pair


def edge_stream(door: int, kubelet: int, *, node: str = NODE) -> EdgeStream:
    """Tries again soon."""
    return EdgeStream(
        server=f"127.0.0.1:{door}",
        node_name=node,
        node_ip="192.0.2.7",
        files=(),
        kubelet=("127.0.0.1", kubelet),
        retry=Backoff(first=0.05, factor=1.0, limit=0.05, jitter=0.0),
    )
