"""One buffer for all connections of a thread: what each receives is its own."""

import asyncio
import threading

from edgehive.kit.shared_buffer import SIZE, SharedBufferProtocol

CONNECTIONS, TIMES = 8, 40


class Collector(SharedBufferProtocol):
    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def everybody_sends(mark: int) -> dict[int, bytes]:
    """What came over each connection, by the first byte that was sent on it."""
    loop = asyncio.get_running_loop()
    collectors: list[Collector] = []

    def collector() -> Collector:
        collectors.append(Collector())
        return collectors[-1]

    async def send(number: int, port: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(TIMES):
            writer.write(bytes([number]) * 7001)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await loop.create_server(collector, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.TaskGroup() as group:
            for number in range(CONNECTIONS):
                group.create_task(send(mark + number, port))
        await asyncio.gather(*(one.ended for one in collectors))
    return {one.received[0][0]: b"".join(one.received) for one in collectors}


def test_connections_of_several_loops_receive_what_was_sent_to_them() -> None:
    found: dict[int, dict[int, bytes]] = {}
    threads = [
        threading.Thread(target=lambda mark=mark: found.update({mark: asyncio.run(everybody_sends(mark))}))
        for mark in (0, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for mark in (0, 100):
        assert found[mark] == {mark + n: bytes([mark + n]) * 7001 * TIMES for n in range(CONNECTIONS)}


async def test_more_than_the_buffer_holds_comes_in_pieces() -> None:
    loop = asyncio.get_running_loop()
    made: list[Collector] = []

    def collector() -> Collector:
        made.append(Collector())
        return made[-1]

    server = await loop.create_server(collector, "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        sent = bytes(range(256)) * (3 * SIZE // 256)
        writer.write(sent)
        writer.close()
        await writer.wait_closed()
        await made[0].ended
    assert b"".join(made[0].received) == sent
    assert all(len(piece) <= SIZE for piece in made[0].received)
