"""Serves what the cloud asks through the tunnel: one task per stream, to the node's own kubelet door.

Logs and metrics are fetched and their body is copied; exec, attach and port-forward are bytes both ways, the upgrade's
head included. Only the path of a request is taken from the cloud: nothing but this node's kubelet is ever dialled.

Go: pkg/stream/edged{logs,metrics,exec,attach}connection.go
"""

import asyncio
import json
import logging
from types import TracebackType

import aiohttp

from edgehive.kit.relay import Duplex, relay
from edgehive.kit.tasks import cancel_and_join, first_of, spawn
from edgehive.kube.errors import ServiceUnavailable
from edgehive.wire import tunnel
from edgehive.wire.link import ProtocolError
from edgehive.wire.streams import PIECE, Stream, StreamBroken
from edgehive.wire.tunnel import Connect, Frame, Head

log = logging.getLogger("edgehive.edgestream")

DIAL_SECONDS = 10.0
#: How long the kubelet may take to begin its answer.
ANSWER_SECONDS = 60.0
#: Between two hops only, or made anew here.
_NOT_PASSED_ON = frozenset(
    {"Host", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
     "Accept-Encoding"}
)  # fmt: skip


class LocalKubelet:
    """The kubelet at one address; `async with` it."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "LocalKubelet":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel_and_join(*self._tasks)
        if self._session is not None:
            await self._session.close()

    def serve(self, frame: Frame, stream: Stream) -> None:
        """Answer a connect frame on its stream, in a task of its own."""
        task = spawn(self._serve(frame, stream), name=f"stream {stream.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, frame: Frame, stream: Stream) -> None:
        try:
            connect = tunnel.decode_connect(frame.data)
            if frame.type in tunnel.BODY_TYPES:
                await first_of(self._copy_body(connect, stream), _ended(stream))
            else:
                await self._join(connect, stream)
        except (StreamBroken, ProtocolError) as error:
            log.info("stream %d ended: %s", stream.id, error)
        finally:
            stream.close()

    # Bodies

    async def _copy_body(self, connect: Connect, stream: Stream) -> None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS) as patience, self._get(connect) as answer:
                patience.reschedule(None)
                await stream.send_head(Head(answer.status, answer.headers.get("Content-Type", "")))
                while piece := await answer.content.read(PIECE):
                    stream.write(piece)
                    await stream.drain()
        except (aiohttp.ClientError, TimeoutError) as error:
            await self._excuse(stream, error)

    def _get(self, connect: Connect) -> "aiohttp.client._RequestContextManager":
        from yarl import URL

        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=DIAL_SECONDS),
            )
        url = URL(f"http://{self._authority}{connect.url.target}", encoded=True)
        return self._session.get(url, headers=_headers(connect), allow_redirects=False)

    async def _excuse(self, stream: Stream, error: Exception) -> None:
        """One sentence in the place of a body; a body that has begun is marked as broken off."""
        begun = stream.answering
        await stream.send_head(Head(500, "text/plain; charset=utf-8"))
        if begun:
            return
        stream.write(f"{self._unreachable(error)}\n".encode())
        await stream.drain()

    # Byte streams

    async def _join(self, connect: Connect, stream: Stream) -> None:
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                reader, writer = await asyncio.open_connection(self._host, self._port, limit=PIECE)
        except (OSError, TimeoutError) as error:
            stream.write(_unavailable(self._unreachable(error)))
            await stream.drain()
            return
        writer.write(self._request_head(connect))
        # The protocol has no half-closed streams: the end of either side is the end of both.
        await relay(Duplex(stream, stream), Duplex(reader, writer), linger=0.0)

    def _request_head(self, connect: Connect) -> bytes:
        lines = [f"{connect.method or 'GET'} {connect.url.target} HTTP/1.1", f"Host: {self._authority}"]
        header = {name: values for name, values in (connect.header or {}).items() if tunnel.canonical(name) != "Host"}
        lines += [f"{name}: {value}" for name, values in header.items() for value in values]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", errors="replace")

    @property
    def _authority(self) -> str:
        return f"[{self._host}]:{self._port}" if ":" in self._host else f"{self._host}:{self._port}"

    def _unreachable(self, error: Exception) -> str:
        why = "no answer in time" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
        return f"the kubelet of this node at {self._authority} cannot be reached: {why}; is edged running?"


def _headers(connect: Connect) -> list[tuple[str, str]]:
    passed = [
        (name, value)
        for name, values in (connect.header or {}).items()
        if tunnel.canonical(name) not in _NOT_PASSED_ON
        for value in values
    ]
    return [*passed, ("Accept-Encoding", "identity")]


def _unavailable(text: str) -> bytes:
    """An answer to an upgrade: a Status, for clients take a plain text for YAML."""
    body = json.dumps(ServiceUnavailable(text).to_dict()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


async def _ended(stream: Stream) -> None:
    """Return when the other side has ended the stream; what it says on it meanwhile is nothing to us."""
    try:
        while await stream.read(PIECE):
            pass
    except StreamBroken as error:
        log.info("stream %d ended: %s", stream.id, error)
