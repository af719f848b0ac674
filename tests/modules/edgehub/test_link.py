"""One link, dialled again for ever; what cannot be sent now is sent later."""

import asyncio

import pytest

from edgehive.beehive.message import Message
from edgehive.edgecore.edgehub.pace import TokenBucket
from edgehive.kit.tasks import spawn
from edgehive.wire.link import JoinRefused


async def test_the_first_frame_is_a_keepalive_and_they_go_on(start, cloud, next_message):
    """[18] A Go cloud reads no content; ours learns from the first what the edge can do."""
    async with start(cloud, heartbeat=0.01):
        link = await cloud.accept()
        for expected in (b'{"offers":["inventory"]}', b"ping", b"ping"):
            message = await next_message(link, keepalives=True)
            assert (message.route.operation, message.route.resource) == ("keepalive", "node")
            assert message.content_bytes() == expected


async def test_every_module_learns_of_each_change_exactly_once(edge, cloud):
    link = await cloud.accept()
    assert await edge.notices(1) == ["cloud_connected"]
    await link.close()
    assert await edge.notices(2) == ["cloud_disconnected", "cloud_connected"]
    assert [len(edge.edged), len(edge.twin), len(edge.meta)] == [3, 3, 0]


async def test_messages_reach_the_module_their_group_names(edge, cloud):
    link = await cloud.accept()
    await edge.notices(1)
    await edge.twin.get()
    for group in ("resource", "twin", "nonsense", ""):
        await link.send(Message.of(source="c", group=group, operation="update", resource="default/pod/p", timestamp=1))
    assert (await edge.meta.get()).route.group == "resource"
    assert (await edge.twin.get()).route.group == "twin"


async def test_an_answer_goes_to_its_waiter_and_a_late_one_to_metamanager(edge, cloud, next_message):
    link = await cloud.accept()
    await edge.notices(1)
    request = Message.of(source="edged", group="meta", operation="query", resource="n/configmap/c", timestamp=1)
    asking = spawn(edge.bus.request("websocket", request, timeout=5), name="ask")
    arrived = await next_message(link)
    await link.send(arrived.reply({"a": 1}, timestamp=1, source="edgecontroller", group="resource"))
    assert (await asking).read(dict) == {"a": 1}
    await link.send(arrived.reply({"a": 2}, timestamp=1, source="edgecontroller", group="resource"))
    assert (await edge.meta.get()).read(dict) == {"a": 2}


async def test_what_was_said_while_the_link_was_down_arrives_in_order(start, offline_cloud, next_message):
    cloud = offline_cloud
    async with start(cloud) as edge:
        sent = [await edge.send(f"default/pod/p{n}") for n in range(5)]
        async with cloud.acceptor:
            link = await cloud.accept()
            arrived = [(await next_message(link)).id for _ in range(5)]
            later = await edge.send("default/pod/later")
            assert (await next_message(link)).id == later.id
    assert arrived == [message.id for message in sent]


async def test_a_message_being_written_when_the_link_breaks_is_sent_again(edge, cloud, next_message):
    link = await cloud.accept()
    await edge.notices(1)
    await link.close()
    sent = await edge.send()  # the hub may or may not know yet that the link is gone
    link = await cloud.accept()
    assert (await next_message(link)).id == sent.id


async def test_a_hundred_reconnections_leave_nothing_behind(edge, cloud):
    await cloud.accept()
    await edge.notices(1)
    await asyncio.sleep(0.05)
    before = len(asyncio.all_tasks())
    for _ in range(100):
        edge.renewal.set()
        await cloud.accept()
        await edge.notices(2)
        while len(edge.edged):
            edge.edged.get_nowait()
            edge.twin.get_nowait()
    await asyncio.sleep(0.05)
    assert abs(len(asyncio.all_tasks()) - before) <= 1
    assert cloud.dials == 101


async def test_a_new_certificate_means_a_new_link(edge, cloud):
    first = await cloud.accept()
    await edge.notices(1)
    edge.renewal.set()
    second = await cloud.accept()
    assert second is not first
    assert await edge.notices(2) == ["cloud_disconnected", "cloud_connected"]


async def test_a_cloud_that_refuses_is_named_once_and_asked_again(start, cloud, caplog):
    refusals = 3
    real = cloud.dial

    async def dial():
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise JoinRefused("the certificate expired; join again")
        return await real()

    cloud.dial = dial
    async with start(cloud):
        await cloud.accept()
    assert [r.getMessage() for r in caplog.records].count("no link: the certificate expired; join again") == 1


@pytest.mark.looptime
async def test_a_burst_is_slowed_to_the_configured_pace():
    bucket = TokenBucket(rate=2, burst=3)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(13):
        await bucket.take()
    assert loop.time() - started == 5


@pytest.mark.looptime
async def test_how_long_it_has_held_back_everything_is_known():
    bucket = TokenBucket(rate=2, burst=1)
    for _ in range(21):
        await bucket.take()
    assert bucket.held == 10
    await asyncio.sleep(1)
    await bucket.take()
    assert bucket.held == 0


async def test_a_pace_that_is_too_slow_is_named_once(start, cloud, caplog, monkeypatch):
    monkeypatch.setattr("edgehive.edgecore.edgehub.edgehub.HELD_SECONDS", 0.05)
    async with start(cloud, rate=200, burst=1) as slow:
        link = await cloud.accept()
        for _ in range(40):
            await slow.send()
        for _ in range(40):
            await link.receive()
    said = [r.getMessage() for r in caplog.records if "messageQPS" in r.getMessage()]
    assert len(said) == 1
    assert "more is to be told than 200 messages a second" in said[0]
