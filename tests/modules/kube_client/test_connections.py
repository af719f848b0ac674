"""Connections to the API server are kept, shared one request at a time, and left when the server left them."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from edgehive.kit.tasks import spawn
from edgehive.kube.connections import AT_ONCE, Connections, Disconnected

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Handle = Callable[[bytes, asyncio.StreamWriter], None]


class Server:
    """Answers as it is told; keeps what it was asked, per connection."""

    def __init__(self) -> None:
        self.asked: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.handle: Handle = lambda _, writer: writer.write(OK)
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        self.asked.append(requests)
        self.writers.append(writer)
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                requests.append(request)
                self.handle(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    it = Server()
    listening = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    it.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield it
    listening.close()
    for writer in it.writers:
        writer.close()
    await asyncio.sleep(0)


@pytest.fixture
async def connections(server: Server) -> AsyncIterator[Connections]:
    it = Connections(server.url, None, None)
    yield it
    it.retire()
    await asyncio.sleep(0.01)


async def ask(connections: Connections, method: str = "GET") -> bytes:
    async with asyncio.timeout(5):
        return (await connections.exchange(method, "/x", {"A": "b"}, None, limit=100)).body


async def test_one_connection_serves_one_request_after_another(server: Server, connections: Connections) -> None:
    for _ in range(3):
        assert await ask(connections) == b"ok"
    assert [len(asked) for asked in server.asked] == [3]


async def test_requests_at_the_same_time_have_connections_of_their_own(
    server: Server, connections: Connections
) -> None:
    assert await asyncio.gather(*(ask(connections) for _ in range(5))) == [b"ok"] * 5
    await ask(connections)
    assert sorted(len(asked) for asked in server.asked) == [1, 1, 1, 1, 2]


async def test_requests_above_the_bound_wait_their_turn(server: Server, connections: Connections) -> None:
    assert await asyncio.gather(*(ask(connections) for _ in range(3 * AT_ONCE))) == [b"ok"] * 3 * AT_ONCE
    assert len(server.asked) == AT_ONCE


async def test_the_deadline_of_a_request_runs_from_its_turn(server: Server, connections: Connections) -> None:
    loop, held = asyncio.get_running_loop(), []
    server.handle = lambda _, writer: held.append(writer)
    first = [spawn(ask(connections), name="first") for _ in range(AT_ONCE)]
    while len(held) < AT_ONCE:
        await asyncio.sleep(0)
    patient = spawn(connections.exchange("GET", "/x", {}, None, limit=100, timeout=0.2), name="patient")
    await asyncio.sleep(0.3)  # longer than it may take once it is sent
    server.handle = lambda _, writer: writer.write(OK)
    for writer in held:
        writer.write(OK)
    assert (await patient).body == b"ok"
    assert await asyncio.gather(*first) == [b"ok"] * AT_ONCE
    server.handle = lambda _, writer: None
    began = loop.time()
    with pytest.raises(TimeoutError):
        await connections.exchange("GET", "/x", {}, None, limit=100, timeout=0.05)
    assert loop.time() - began < 5


async def test_a_kept_connection_the_server_has_ended_is_not_used(server: Server, connections: Connections) -> None:
    await ask(connections)
    server.writers[0].close()
    await server.writers[0].wait_closed()
    await asyncio.sleep(0.01)
    assert await ask(connections, "POST") == b"ok"
    assert [len(asked) for asked in server.asked] == [1, 1]


async def test_only_what_does_no_harm_is_sent_again(server: Server, connections: Connections) -> None:
    def leave_the_first(_: bytes, writer: asyncio.StreamWriter) -> None:
        if writer is server.writers[0] and len(server.asked[0]) > 1:
            writer.close()
        else:
            writer.write(OK)

    server.handle = leave_the_first
    await ask(connections)
    assert await ask(connections, "PUT") == b"ok"
    assert [len(asked) for asked in server.asked] == [2, 1]
    server.asked[:], server.writers[:] = [], []
    connections.retire()
    await ask(connections, "POST")
    with pytest.raises(Disconnected):
        await ask(connections, "POST")
    assert [len(asked) for asked in server.asked] == [2]


async def test_a_request_given_up_takes_its_connection_along(server: Server, connections: Connections) -> None:
    server.handle = lambda _, writer: None
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await connections.exchange("GET", "/x", {}, None, limit=100)
    server.handle = lambda _, writer: writer.write(OK)
    assert await ask(connections) == b"ok"
    assert [len(asked) for asked in server.asked] == [1, 1]


async def test_after_a_401_the_connection_is_not_used_again(server: Server, connections: Connections) -> None:
    server.handle = lambda _, writer: writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
    await ask(connections)
    await ask(connections)
    assert [len(asked) for asked in server.asked] == [1, 1]


async def test_retired_connections_end_after_their_answer(server: Server, connections: Connections) -> None:
    asked = asyncio.Event()
    server.handle = lambda _, writer: asked.set()
    answer = asyncio.ensure_future(ask(connections))
    await asked.wait()
    connections.retire()
    server.writers[0].write(OK)
    assert await answer == b"ok"
    server.handle = lambda _, writer: writer.write(OK)
    await ask(connections)
    assert [len(requests) for requests in server.asked] == [1, 1]


async def test_no_header_smuggles_another(connections: Connections) -> None:
    with pytest.raises(ValueError, match="line break"):
        await connections.exchange("GET", "/x", {"Impersonate-User": "a\r\nB: c"}, None, limit=100)
