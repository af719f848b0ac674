"""The bus delivers, orders, answers and counts; each defect of the 2019 bus has a test that shows it gone."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, Policy, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.kit.mailbox import MailboxClosed
from edgehive.kit.tasks import cancel_and_join, spawn


def message(operation: str = "query", resource: str = "default/pod/web", content: object = None) -> Message:
    return Message.of(source="test", group="test", operation=operation, resource=resource, content=content, timestamp=1)


async def answer_at_once(bus: Bus, module: str) -> None:
    async for request in bus.mailbox(module):
        bus.reply(request.reply("OK", timestamp=2), sender=module)


async def test_a_message_reaches_its_module() -> None:
    bus = Bus()
    mailbox = bus.register("edged", "edged")
    sent = message()
    await bus.send("edged", sent)
    assert await mailbox.get() == sent


async def test_a_message_to_nobody_is_an_error_that_names_who_is_there() -> None:
    bus = Bus()
    bus.register("edged", "edged")
    with pytest.raises(NoSuchModule, match=r"'twin'.*edged"):
        await bus.send("twin", message())


async def test_no_reply_of_many_senders_is_lost_to_an_instant_responder() -> None:
    """B1: the slot stands before the request leaves."""
    bus = Bus()
    bus.register("echo", "echo")
    responder = spawn(answer_at_once(bus, "echo"), name="echo")

    async def ask(count: int) -> None:
        for _ in range(count):
            request = message()
            answer = await bus.request("echo", request, timeout=5)
            assert answer.header.parent_id == request.id

    await asyncio.gather(*(ask(500) for _ in range(8)))
    await cancel_and_join(responder)
    assert bus.late_replies == 0


@pytest.mark.looptime
async def test_replies_as_late_as_the_timeout_are_counted_and_nothing_hangs() -> None:
    """B2: a late reply finds nobody, is dropped and counted; later requests go on."""
    bus = Bus()
    mailbox = bus.register("slow", "slow")

    async def answer_late() -> None:
        async for request in mailbox:
            await asyncio.sleep(1.0)
            bus.reply(request.reply("OK", timestamp=2))

    responder = spawn(answer_late(), name="slow")
    outcomes = []
    for _ in range(200):
        try:
            await bus.request("slow", message(), timeout=1.0)
            outcomes.append("answered")
        except ReplyTimeout:
            outcomes.append("late")
    await asyncio.sleep(300)
    assert len(outcomes) == 200
    assert bus.late_replies == outcomes.count("late")
    await cancel_and_join(responder)


async def test_unregister_twice_is_harmless() -> None:
    """B3: cleanup is idempotent."""
    bus = Bus()
    bus.register("edged", "edged")
    await bus.send("edged", message())
    assert bus.unregister("edged") == 1
    assert bus.unregister("edged") == 0
    assert bus.modules() == []


async def test_a_reader_of_a_closed_mailbox_ends() -> None:
    """B4: closed is told apart from empty, so loops end."""
    bus = Bus()
    mailbox = bus.register("edged", "edged")
    await bus.send("edged", message())
    bus.unregister("edged")
    read = [item async for item in mailbox]
    assert len(read) == 1
    with pytest.raises(MailboxClosed):
        await mailbox.get()


async def test_order_per_sender_holds_for_module_and_group() -> None:
    """B9: a group keeps each sender's order."""
    bus = Bus()
    first, second = bus.register("a", "g", size=10_000), bus.register("b", "g", size=10_000)

    async def send(sender: int) -> None:
        for number in range(300):
            await bus.send_group("g", message(content=[sender, number]))
            await asyncio.sleep(0)

    await asyncio.gather(*(send(sender) for sender in range(5)))
    for mailbox in (first, second):
        seen: dict[int, list[int]] = {}
        while len(mailbox):
            sender, number = (await mailbox.get()).read(list[int])
            seen.setdefault(sender, []).append(number)
        assert seen == {sender: list(range(300)) for sender in range(5)}


async def test_messages_are_immutable() -> None:
    """B10: what one module holds another cannot change."""
    with pytest.raises(AttributeError):
        message().route.resource = "other"  # type: ignore[misc]


@pytest.mark.looptime
async def test_a_group_request_gives_answers_by_module_and_names_the_missing() -> None:
    """B11: identity, not count; a partial result on timeout."""
    bus = Bus()
    for name in ("a", "b", "mute"):
        bus.register(name, "g")

    async def answer_twice(name: str) -> None:
        async for request in bus.mailbox(name):
            bus.reply(request.reply(f"from {name}", timestamp=2), sender=name)
            bus.reply(request.reply("again", timestamp=2), sender=name)

    responders = [spawn(answer_twice(name), name=name) for name in ("a", "b")]
    result = await bus.request_group("g", message(), timeout=5)
    await cancel_and_join(*responders)
    assert {name: answer.read(str) for name, answer in result.answers.items()} == {"a": "from a", "b": "from b"}
    assert result.missing == {"mute"}
    assert bus.late_replies == 2


async def test_an_error_reply_reaches_the_caller() -> None:
    """B12: an error answers the request's own id."""
    bus = Bus()
    bus.register("refuser", "g")

    async def refuse() -> None:
        async for request in bus.mailbox("refuser"):
            bus.reply(request.reply("no such pod", timestamp=2, operation="error"))

    responder = spawn(refuse(), name="refuser")
    answer = await bus.request("refuser", message(), timeout=5)
    await cancel_and_join(responder)
    assert (answer.route.operation, answer.read(str)) == ("error", "no such pod")


async def test_two_buses_know_nothing_of_each_other() -> None:
    """B13: instances, no singletons."""
    one, other = Bus(), Bus()
    one.register("edged", "edged")
    with pytest.raises(NoSuchModule):
        await other.send("edged", message())


@pytest.mark.looptime
async def test_a_full_mailbox_blocks_for_the_time_given_and_then_says_so() -> None:
    bus = Bus()
    bus.register("busy", "g", size=1)
    await bus.send("busy", message())
    with pytest.raises(MailboxFull, match="had no room for a message within 3 s"):
        await bus.send("busy", message(), timeout=3)


async def test_policies_coalesce_drop_and_refuse_and_show_in_metrics() -> None:
    registry = CollectorRegistry()
    bus = Bus(registry=registry)
    status = bus.register("status", "g", size=2, policy=Policy.COALESCE, key=lambda m: m.route.resource)
    events = bus.register("events", "g", size=2, policy=Policy.DROP_OLDEST)
    bus.register("strict", "g", size=1, policy=Policy.REFUSE)
    for number in range(3):
        await bus.send("status", message(resource="default/podstatus/web", content=number))
        await bus.send("events", message(content=number))
    await bus.send("strict", message())
    with pytest.raises(MailboxFull):
        await bus.send("strict", message())
    assert [m.read(int) for m in (status.get_nowait(),)] == [2]
    assert [events.get_nowait().read(int), events.get_nowait().read(int)] == [1, 2]
    text = generate_latest(registry).decode()
    assert 'edgehive_mailbox_coalesced{module="status"} 2.0' in text
    assert 'edgehive_mailbox_dropped{module="events"} 1.0' in text
    assert 'edgehive_mailbox_refused{module="strict"} 1.0' in text
    assert 'edgehive_mailbox_depth{module="strict"} 1.0' in text
    assert 'edgehive_mailbox_most{module="events"} 2.0' in text


async def test_a_cancelled_request_leaves_no_slot() -> None:
    bus = Bus()
    bus.register("mute", "g")
    request = message()
    waiting = spawn(bus.request("mute", request), name="request")
    await asyncio.sleep(0)
    assert bus.waits_for(request.id)
    await cancel_and_join(waiting)
    assert not bus.waits_for(request.id)
