"""Waiting writers are woken in turn, and closing ends everyone."""

import asyncio

import pytest

from edgehive.kit.mailbox import Mailbox, MailboxClosed, Policy
from edgehive.kit.tasks import cancel_and_join, spawn


async def test_blocked_writers_go_on_in_order() -> None:
    box: Mailbox[int] = Mailbox("box", size=1)
    await box.put(0)
    writers = [spawn(box.put(number), name=f"writer {number}") for number in (1, 2, 3)]
    assert [await box.get() for _ in range(4)] == [0, 1, 2, 3]
    await asyncio.gather(*writers)


async def test_a_cancelled_writer_passes_its_room_on() -> None:
    box: Mailbox[int] = Mailbox("box", size=1)
    await box.put(0)
    first, second = spawn(box.put(1), name="first"), spawn(box.put(2), name="second")
    await asyncio.sleep(0)
    await box.get()
    await cancel_and_join(first)
    await asyncio.wait_for(second, 1)
    assert await box.get() == 2


async def test_closing_wakes_readers_and_writers() -> None:
    box: Mailbox[int] = Mailbox("box", size=1)
    await box.put(0)
    writer = spawn(box.put(1), name="writer")
    await asyncio.sleep(0)
    box.close()
    with pytest.raises(MailboxClosed):
        await writer
    assert await box.get() == 0
    with pytest.raises(MailboxClosed):
        await box.get()


async def test_coalescing_keeps_the_newest_in_the_older_place() -> None:
    box: Mailbox[tuple[str, int]] = Mailbox("box", size=2, policy=Policy.COALESCE, key=lambda item: item[0])
    for item in (("a", 1), ("b", 1), ("a", 2)):
        await box.put(item)
    assert [await box.get(), await box.get()] == [("a", 2), ("b", 1)]
    assert box.statistics().coalesced == 1
