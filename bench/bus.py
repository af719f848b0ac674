"""The bus: messages and request/replies per second, and a million requests of which none may be lost."""

import asyncio
import time

from bench.report import Figure
from edgehive.beehive.bus import Bus
from edgehive.beehive.message import Message
from edgehive.kit.tasks import cancel_and_join, spawn

MESSAGES = 1_000_000
REQUESTS = 1_000_000
ASKERS = 8


def run() -> list[Figure]:
    return asyncio.run(_measure())


async def _measure() -> list[Figure]:
    sent = await _one_way()
    asked, lost, late = await _round_trips()
    return [
        Figure("messages, one to one", round(sent), "1/s"),
        Figure("request and reply", round(asked), "1/s"),
        Figure(f"lost of {REQUESTS:,} requests", lost, "", "0", lost == 0),
        Figure("replies to nobody", late, "", "0", late == 0),
    ]


def _message(number: int) -> Message:
    return Message.of(source="bench", group="bench", operation="query", resource="a/b/c", timestamp=1, id=str(number))


async def _one_way() -> float:
    bus = Bus()
    mailbox = bus.register("sink", "bench")
    message = _message(0)

    async def drain() -> None:
        for _ in range(MESSAGES):
            await mailbox.get()

    reader = spawn(drain(), name="drain")
    began = time.perf_counter()
    for _ in range(MESSAGES):
        await bus.send("sink", message)
    await reader
    return MESSAGES / (time.perf_counter() - began)


async def _round_trips() -> tuple[float, int, int]:
    bus = Bus()
    mailbox = bus.register("echo", "bench")

    async def echo() -> None:
        async for request in mailbox:
            bus.reply(request.reply(None, timestamp=1))

    async def ask(asker: int) -> int:
        answered = 0
        for number in range(REQUESTS // ASKERS):
            answer = await bus.request("echo", _message(asker * REQUESTS + number), timeout=30)
            answered += answer.header.parent_id == str(asker * REQUESTS + number)
        return answered

    responder = spawn(echo(), name="echo")
    began = time.perf_counter()
    answered = sum(await asyncio.gather(*(ask(asker) for asker in range(ASKERS))))
    rate = REQUESTS / (time.perf_counter() - began)
    await cancel_and_join(responder)
    return rate, REQUESTS - answered, bus.late_replies
