"""What every Link promises, whatever carries it."""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import trustme

from edgehive.beehive.message import Header, Message, Route
from edgehive.kit.refusals import Refusals
from edgehive.wire import ws
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.hub_door import HubDoor
from edgehive.wire.link import Link, LinkClosed, Peer
from edgehive.wire.memory import MemoryNetwork

log = logging.getLogger(__name__)


def message(number: int, content: object = None) -> Message:
    return Message.of(
        source="s", group="resource", operation="update", resource="a/b/c", content=content, timestamp=1, id=str(number)
    )


@dataclass
class Network:
    """A cloud's door and how to reach it."""

    dial: Callable[[], Awaitable[Link]]
    acceptor: Acceptor


@contextlib.asynccontextmanager
async def websocket_network(server: ssl.SSLContext | None, client: ssl.SSLContext | None) -> AsyncIterator[Network]:
    acceptor = Acceptor("the test's cloud")
    door = HubDoor(acceptor, Refusals("test", log))
    async with door.serve(host="127.0.0.1", port=0, ssl_context=server) as (_, port):
        scheme = "wss" if server else "ws"

        async def dial() -> Link:
            return await ws.connect(f"{scheme}://localhost:{port}", node="edge-1", project_id="p", ssl_context=client)

        yield Network(dial, acceptor)


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        authority.configure_trust(context)
    authority.issue_cert("localhost").configure_cert(server)
    authority.issue_cert(common_name="system:node:edge-1", organization_name="system:nodes").configure_cert(client)
    return server, client


@pytest.fixture(params=["memory", "ws", "wss"])
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    if request.param == "memory":
        memory = MemoryNetwork()
        peer = Peer("edge-1", project="p", common_name="system:node:edge-1", organizations=("system:nodes",))
        yield Network(lambda: memory.dial(peer), memory.acceptor())
        return
    contexts = tls() if request.param == "wss" else (None, None)
    async with websocket_network(*contexts) as found:
        yield found


@pytest.fixture
async def ends(network: Network) -> AsyncIterator[tuple[Link, Link]]:
    """(edge's end, cloud's end)"""
    async with network.acceptor as acceptor:
        edge = await network.dial()
        cloud = await anext(acceptor)
        yield edge, cloud
        await asyncio.gather(edge.close(), cloud.close())


async def received(link: Link, count: int) -> list[str]:
    return [(await asyncio.wait_for(link.receive(), 10)).id for _ in range(count)]


async def test_messages_arrive_whole_and_in_order_both_ways(ends: tuple[Link, Link]):
    for sender, receiver in (ends, ends[::-1]):
        for number in range(50):
            await sender.send(message(number, {"n": number}))
        assert await received(receiver, 50) == [str(number) for number in range(50)]


async def test_a_message_arrives_equal(ends: tuple[Link, Link]):
    edge, cloud = ends
    sent = Message.of(
        source="edged", group="meta", operation="patch", resource="null/nodepatch/edge-1", content='{"ünï":"\\u0000"}',
        timestamp=1750000000123, parent_id="parent", resource_version="7",
    )  # fmt: skip
    await edge.send(sent)
    assert await asyncio.wait_for(cloud.receive(), 10) == sent


async def test_the_cloud_knows_its_peer(ends: tuple[Link, Link]):
    assert (ends[1].peer.node, ends[1].peer.project) == ("edge-1", "p")


async def test_large_messages_pass(ends: tuple[Link, Link]):
    for sender, receiver in (ends, ends[::-1]):
        sending = asyncio.create_task(sender.send(message(1, "x" * 5_000_000)))
        assert len((await asyncio.wait_for(receiver.receive(), 20)).content) == 5_000_002
        await sending


async def test_a_slow_reader_slows_the_sender_and_loses_nothing(ends: tuple[Link, Link]):
    edge, cloud = ends
    done = 0

    async def send_all() -> None:
        nonlocal done
        for number in range(300):
            await edge.send(message(number, "x" * 100_000))
            done += 1

    sending = asyncio.create_task(send_all())
    previous = -1
    while previous != done:
        previous = done
        await asyncio.sleep(0.05)
    assert done < 300, "without a reader the sender has to wait"
    assert await received(cloud, 300) == [str(number) for number in range(300)]
    await sending


async def test_concurrent_senders_do_not_mix_their_messages(ends: tuple[Link, Link]):
    edge, cloud = ends
    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(edge.send(message(number, "x" * 10_000)))
        found = await received(cloud, 20)
    assert sorted(found, key=int) == [str(number) for number in range(20)]


@pytest.mark.parametrize("closer", [0, 1])
async def test_closing_one_side_ends_the_other(ends: tuple[Link, Link], closer: int):
    near, far = ends[closer], ends[1 - closer]
    waiting = asyncio.create_task(far.receive())
    await asyncio.sleep(0)
    await near.close("done")
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(waiting, 10)
    with pytest.raises(LinkClosed):
        await near.send(message(1))
    with pytest.raises(LinkClosed):
        await near.receive()
    with pytest.raises(LinkClosed):
        for _ in range(100):
            await far.send(message(1))
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("closer", [0, 1])
async def test_what_was_sent_before_closing_arrives(ends: tuple[Link, Link], closer: int):
    near, far = ends[closer], ends[1 - closer]
    for number in range(5):
        await near.send(message(number))
    await asyncio.gather(near.close(), near.close())
    assert await received(far, 5) == ["0", "1", "2", "3", "4"]
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(far.receive(), 10)
    await near.close()


@pytest.mark.parametrize("closer", [0, 1])
async def test_an_ended_link_says_so_however_often_it_is_asked(ends: tuple[Link, Link], closer: int):
    closing = asyncio.create_task(ends[closer].close())
    for _ in range(20):
        with pytest.raises(LinkClosed):
            await asyncio.wait_for(ends[1 - closer].receive(), 10)
    await closing


@pytest.mark.parametrize("side", [0, 1])
async def test_closing_wakes_the_own_reader(ends: tuple[Link, Link], side: int):
    waiting = asyncio.create_task(ends[side].receive())
    await asyncio.sleep(0.01)
    await ends[side].close()
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(waiting, 10)


async def test_a_cancelled_receive_loses_nothing(ends: tuple[Link, Link]):
    edge, cloud = ends
    for _ in range(3):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cloud.receive(), 0.01)
    await edge.send(message(1))
    assert await received(cloud, 1) == ["1"]


@pytest.mark.parametrize("operation", ["ping", "pong", "config"])
async def test_control_operations_are_answered_and_not_delivered(ends: tuple[Link, Link], operation: str):
    """[22]"""
    edge, cloud = ends
    control = message(7).with_route(operation=operation)
    await edge.send(control)
    await edge.send(message(8))
    assert await received(cloud, 1) == ["8"]
    answer = await asyncio.wait_for(edge.receive(), 10)
    assert (answer.header.parent_id, answer.route.operation, bytes(answer.content)) == ("7", "response", b'"ack"')


async def test_the_empty_message_of_a_stopping_edge_is_not_delivered(ends: tuple[Link, Link]):
    """[81]"""
    edge, cloud = ends
    await edge.send(Message(Header("", 0), Route()))
    await edge.send(message(1))
    assert await received(cloud, 1) == ["1"]


async def test_dialling_while_nobody_accepts_fails_clearly(network: Network):
    with pytest.raises(LinkClosed, match="accept"):
        await network.dial()


async def test_links_still_in_line_are_closed_with_the_door(network: Network):
    async with network.acceptor as acceptor:
        taken_edge = await network.dial()
        taken = await anext(acceptor)
        left_edge = await network.dial()
        # Only after this the second link is in line for sure, over a network.
        await asyncio.sleep(0.1)
    with pytest.raises(LinkClosed):
        await asyncio.wait_for(left_edge.receive(), 10)
    await taken_edge.send(message(1))
    assert await received(taken, 1) == ["1"]
    await asyncio.gather(left_edge.close(), taken_edge.close(), taken.close())


async def test_the_door_opens_again(network: Network):
    for _ in range(2):
        async with network.acceptor as acceptor:
            edge = await network.dial()
            cloud = await anext(acceptor)
            await asyncio.gather(edge.close(), cloud.close())
