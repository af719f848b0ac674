"""A kubelet that remembers what it was asked, upgrades to anything and gives back every byte."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class FakeKubelet:
    """`heads` are the requests as they came; `refusal` is answered instead of an upgrade."""

    address: str = ""
    heads: list[str] = field(default_factory=list)
    refusal: bytes = b""
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def targets(self) -> list[str]:
        return [head.split(" ", 2)[1] for head in self.heads]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(self.refusal or b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n"
                         b"Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nearly")  # fmt: skip
            while not self.refusal and (data := await reader.read(256 * 1024)):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def fake_kubelet(tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeKubelet]:
    kubelet = FakeKubelet()
    server = await asyncio.start_server(kubelet.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls is not None else "http"
    kubelet.address = "{}://{}:{}".format(scheme, *server.sockets[0].getsockname()[:2])
    try:
        yield kubelet
    finally:
        server.close()
