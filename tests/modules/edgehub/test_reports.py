"""Reports reach the cloud: through cuts, through the end of the process, each state at its newest (users.md 3)."""

import asyncio
import sqlite3
from contextlib import closing, suppress
from functools import partial

import msgspec
import pytest

from edgehive.beehive.message import Message
from edgehive.edgecore.dbm.dbm import edge_database
from edgehive.edgecore.edgehub import reports as reports_module
from edgehive.edgecore.edgehub.spool import Spool
from edgehive.kit.clock import SystemClock
from edgehive.kit.mailbox import Mailbox


def event(name: str, operation: str = "insert") -> dict[str, str]:
    return {"resource": f"default/event/{name}", "operation": operation, "source": "edged"}


def twin(device: str = "d", *properties: str) -> dict[str, object]:
    resource = f"device/default/{device}/twin/edge_updated"
    content = {"event_id": "e", "twin": {key: {} for key in properties or ("temperature",)}}
    return {"resource": resource, "operation": "update", "source": "twin", "content": content}


def waiting(path) -> list[str]:
    with closing(sqlite3.connect(path / "edgecore.db")) as connection:
        return [row[0] for row in connection.execute("SELECT message FROM outbox ORDER BY sequence")]


async def until(check) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.005)


async def arriving(link, count: int, next_message) -> list[Message]:
    """The next messages that are no ping, in their order."""
    found: list[Message] = []
    while len(found) < count:
        message = await next_message(link)
        if message.route.operation != "ping":
            found.append(message)
    return found


async def test_a_report_is_on_disk_before_it_is_sent_and_until_the_cloud_has_read_it(edge, cloud, tmp_path):
    link = await cloud.accept()
    sent = await edge.send(**event("e"))
    reading = asyncio.ensure_future(link.receive())
    await until(lambda: len(waiting(tmp_path)) == 1)
    while (message := await reading).id != sent.id:
        reading = asyncio.ensure_future(link.receive())
    assert len(waiting(tmp_path)) == 1
    # Reading on answers the ping behind it, as Go's links do too.
    reading = asyncio.ensure_future(link.receive())
    await until(lambda: not waiting(tmp_path))
    reading.cancel()
    with suppress(asyncio.CancelledError):
        await reading
    assert message.route.resource == "default/event/e"


async def test_a_report_of_a_device_stays_until_the_cloud_answers_exactly_it(edge, cloud, tmp_path, next_message):
    link = await cloud.accept()
    sent = await edge.send(**twin())
    (message,) = await arriving(link, 1, next_message)
    assert message.id == sent.id
    other = message.with_header(id="another")
    await link.send(other.reply("OK", timestamp=1, source="devicecontroller", group="twin", resource="twin"))
    confirmation = message.reply("OK", timestamp=1, source="devicecontroller", group="twin", resource="twin")
    assert len(waiting(tmp_path)) == 1
    await link.send(confirmation)
    await until(lambda: not waiting(tmp_path))
    # The twin module hears of it too.
    await until(lambda: len(edge.twin) >= 2)


async def test_what_the_cloud_did_not_confirm_comes_again_over_the_next_link_under_its_id(
    start, offline_cloud, next_message
):
    cloud = offline_cloud
    async with cloud.acceptor, start(cloud) as edge:
        link = await cloud.accept()
        sent = [await edge.send(**event("a")), await edge.send(**twin())]
        first = await arriving(link, 2, next_message)
        await link.close()
        link = await cloud.accept()
        again = await arriving(link, 2, next_message)
    assert {m.id for m in first} == {m.id for m in again} == {m.id for m in sent}


async def test_reports_survive_the_process_each_state_at_its_newest(start, offline_cloud, next_message, tmp_path):
    """[82]"""
    cloud = offline_cloud
    async with start(cloud) as edge:
        await edge.send(**twin())
        newest = await edge.send(**twin())
        uploads = [await edge.send("topic", "upload", "bus") for _ in range(2)]
    # Not one moment was given to store them: the end of the hub does.
    assert len(waiting(tmp_path)) == 3
    async with start(cloud), cloud.acceptor:
        link = await cloud.accept()
        arrived = [m.id for m in await arriving(link, 3, next_message)]
    assert newest.id in arrived
    assert [id for id in arrived if id != newest.id] == [m.id for m in uploads]


async def test_a_row_that_cannot_be_read_is_given_up_and_stops_nothing(start, offline_cloud, next_message, tmp_path):
    cloud = offline_cloud
    async with start(cloud) as edge:
        await edge.send(**event("a"))
        good = await edge.send(**event("b"))
    with closing(sqlite3.connect(tmp_path / "edgecore.db")) as connection, connection:
        connection.execute("UPDATE outbox SET message = 'torn' WHERE sequence = 1")
    async with start(cloud), cloud.acceptor:
        link = await cloud.accept()
        (message,) = await arriving(link, 1, next_message)
    assert message.id == good.id


async def test_beyond_the_bound_the_oldest_make_room(tmp_path):
    async with edge_database(tmp_path / "edgecore.db", SystemClock()) as database:
        spool = Spool(database, limit=3)
        messages = [
            Message.of(source="bus", group="user", operation="upload", resource=f"t{number}", timestamp=1)
            for number in range(5)
        ]
        assert await spool.put(messages) == 2
        rows = await spool.after(reports_module.Lane.PROOF, 0, 10)
        assert [row.message.route.resource for row in rows] == ["t2", "t3", "t4"]


async def test_a_device_nobody_answers_for_holds_up_nobody(edge, cloud, monkeypatch, next_message):
    """A Go cloud drops reports of devices it does not know without a word."""
    monkeypatch.setattr(reports_module, "REPEAT_SECONDS", 0.05)
    monkeypatch.setattr(reports_module, "WINDOW", 4)
    link = await cloud.accept()
    unknown = [await edge.send(**twin(f"unknown-{number}")) for number in range(4)]
    await arriving(link, 4, next_message)
    known = await edge.send(**twin("known"))
    seen: list[str] = []
    while known.id not in seen:
        seen += [m.id for m in await arriving(link, 1, next_message)]
    # Those before it were repeated in between, in their order.
    assert [id for id in seen if id != known.id][:4] == [m.id for m in unknown]


@pytest.mark.parametrize("count", [1, 300])
async def test_a_burst_arrives_whole_and_leaves_nothing_behind(edge, cloud, tmp_path, next_message, count):
    link = await cloud.accept()
    sent = [await edge.send(**event(f"e{number}")) for number in range(count)]
    arrived = await arriving(link, count, next_message)
    assert [m.id for m in arrived] == [m.id for m in sent]
    reading = asyncio.ensure_future(next_message(link))
    await until(lambda: not waiting(tmp_path))
    reading.cancel()


async def test_what_was_being_stored_when_the_hub_ends_is_stored_too(
    start, offline_cloud, next_message, monkeypatch, tmp_path
):
    """A slow disk, and more reports than wait before it: none is lost, none overtakes another."""
    put, begun = Spool.put, asyncio.Event()

    async def slow(spool, messages):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Spool, "put", slow)
    monkeypatch.setattr(reports_module, "Mailbox", partial(Mailbox, size=4))
    async with start(offline_cloud) as edge:
        sent = [await edge.send(**event(f"e{number}")) for number in range(12)]
        await asyncio.wait_for(begun.wait(), 5)
        await until(lambda: edge.hub._in_hand is not None)
        monkeypatch.setattr(Spool, "put", put)
    assert [msgspec.json.decode(row)["header"]["msg_id"] for row in waiting(tmp_path)] == [m.id for m in sent]
