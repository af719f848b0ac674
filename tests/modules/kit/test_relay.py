"""Two streams joined, and an HTTP connection taken over: what goes in on one side comes out on the other."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web

from edgehive.kit.http import Strangers, serve
from edgehive.kit.relay import BackendFailed, Duplex, hijack, is_upgrade, pass_on_upgrade, relay

pytestmark = pytest.mark.timeout(20)

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
SPDY = b"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"


@asynccontextmanager
async def listener(talk: Talk) -> AsyncIterator[int]:
    """A server of plain TCP whose every connection is `talk`; they all have ended when it is left."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.wait(tasks, timeout=5) if tasks else None


@asynccontextmanager
async def door(backend_port: int) -> AsyncIterator[int]:
    """An HTTP server that passes upgrades on to the backend, under another path."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if not is_upgrade(request):
            return web.Response(status=400, text="no upgrade")
        try:
            stream = Duplex(*await asyncio.open_connection("127.0.0.1", backend_port))
            return await pass_on_upgrade(request, stream, "/there?x=1", host="backend", deadline=0.5)
        except (BackendFailed, OSError) as error:
            return web.Response(status=502, text=str(error))

    app = web.Application()
    app.router.add_route("*", "/here", handler)
    async with serve(app, host="127.0.0.1", port=0) as (_, port):
        yield port


async def ask(port: int, head: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    return reader, writer


def agreeing(seen: list[bytes], talk: Talk) -> Talk:
    """A backend that agrees to switch, says `hello` at once, and goes on with `talk`."""

    async def backend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n" + SPDY + b"\r\nhello")
        await talk(reader, writer)

    return backend


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def test_an_upgrade_reaches_the_backend_and_bytes_go_both_ways() -> None:
    seen: list[bytes] = []
    async with listener(agreeing(seen, echo)) as backend, door(backend) as port:
        head = b"POST /here HTTP/1.1\r\nHost: me\r\nAuthorization: Bearer secret\r\n" + SPDY
        head += b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: channel.k8s.io\r\n\r\n"
        reader, writer = await ask(port, head)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 Switching Protocols\r\nConnection")
        assert await reader.readexactly(5) == b"hello"
        writer.write(b"\x80\x03\x00\x01 anything")
        assert await reader.readexactly(13) == b"\x80\x03\x00\x01 anything"
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "POST /there?x=1 HTTP/1.1"
    assert [line for line in lines if line.startswith("X-Stream")] == [
        "X-Stream-Protocol-Version: v4.channel.k8s.io",
        "X-Stream-Protocol-Version: channel.k8s.io",
    ]
    assert "Authorization" not in seen[0].decode()


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nHost: me\r\n\r\n", b"POST / HTTP/1.1\r\nHost: me\r\n" + SPDY + b"\r\n"]
)
async def test_a_connection_without_tls_counts_until_its_end(head: bytes) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        if not is_upgrade(request):
            return web.Response(text="here")
        taken = hijack(request)
        taken.stream.writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        while await taken.stream.reader.read(1):
            pass
        return taken

    app = web.Application()
    app.router.add_route("*", "/", handler)
    async with serve(app, host="127.0.0.1", port=0, strangers=Strangers(per_address=1)) as (_, port):
        served, first = await ask(port, head)
        assert (await served.readline()).startswith(b"HTTP/1.1 ")
        reader, second = await ask(port, head)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        second.close()
        first.close()
        answer = b""
        while not answer:  # the server notices the end in its own time
            reader, third = await ask(port, head)
            with contextlib.suppress(ConnectionResetError):
                answer = await reader.readline()
            third.close()
        assert answer.startswith(b"HTTP/1.1 ")


async def test_bytes_behind_a_websocket_request_are_not_lost() -> None:
    async with listener(agreeing([], echo)) as backend, door(backend) as port:
        head = b"GET /here HTTP/1.1\r\nHost: me\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        reader, writer = await ask(port, head)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(10) == b"helloearly"
        writer.close()


async def test_a_refusal_is_passed_on_in_the_backends_words() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nno token!")
        await reader.read()

    async with listener(refuse) as backend, door(backend) as port, aiohttp.ClientSession() as session:
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        async with session.post(f"http://127.0.0.1:{port}/here", headers=headers) as answer:
            assert (answer.status, await answer.text()) == (404, "no token!")


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "closed"), (b"220 mail\r\n\r\n", "no HTTP answer"), (b"HTTP/1.1 101", "closed"), (None, "within 0.5s")],
)
async def test_a_backend_without_an_answer_is_said(answer: bytes | None, words: str) -> None:
    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)

    async with listener(odd) as backend, door(backend) as port, aiohttp.ClientSession() as session:
        headers = {"Connection": "Upgrade", "Upgrade": "SPDY/3.1"}
        async with session.post(f"http://127.0.0.1:{port}/here", headers=headers) as found:
            assert found.status == 502
            assert words in await found.text()


async def test_a_reader_that_does_not_read_holds_the_writer_back() -> None:
    written = 0
    stalled = asyncio.Event()

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        while written < 256 * 1024 * 1024:
            writer.write(bytes(65536))
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                break
            written += 65536
        stalled.set()

    async with listener(agreeing([], flood)) as backend, door(backend) as port:
        reader, writer = await ask(port, b"POST /here HTTP/1.1\r\nHost: me\r\n" + SPDY + b"\r\n")
        await stalled.wait()
        assert written < 64 * 1024 * 1024
        await reader.readuntil(b"\r\n\r\nhello")
        received = 0
        while data := await reader.read(1 << 20):
            received += len(data)
        assert received >= written
        writer.close()


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_client_that_leaves_takes_the_backends_stream_along(rudely: bool) -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        ended.set()

    async with listener(agreeing([], wait)) as backend, door(backend) as port:
        reader, writer = await ask(port, b"POST /here HTTP/1.1\r\nHost: me\r\n" + SPDY + b"\r\n")
        await reader.readuntil(b"hello")
        if rudely:
            writer.transport.abort()
        writer.close()
        await ended.wait()


async def test_an_end_of_writing_leaves_the_other_direction_open() -> None:
    async def answer_at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()
        writer.write(data[::-1])

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(Duplex(reader, writer), Duplex(*await asyncio.open_connection("127.0.0.1", inner)))

    async with listener(answer_at_the_end) as inner, listener(join) as outer:
        reader, writer = await ask(outer, b"abc")
        writer.write_eof()
        assert await reader.read() == b"cba"
        writer.close()


async def test_a_connection_is_taken_over_under_tls_too(tmp_path: Path) -> None:
    import ssl

    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)

    async def handler(request: web.Request) -> web.StreamResponse:
        taken = hijack(request)
        taken.stream.writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        taken.stream.writer.write(await taken.stream.reader.read(5))
        await taken.stream.writer.drain()
        taken.stream.writer.close()
        return taken

    app = web.Application()
    app.router.add_route("*", "/here", handler)
    async with serve(app, host="127.0.0.1", port=0, ssl_context=server) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
        writer.write(b"POST /here HTTP/1.1\r\nHost: me\r\n" + SPDY + b"\r\n")
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"12345")
        assert await reader.read() == b"12345"
        writer.close()
