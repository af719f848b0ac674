"""A node's end of the wire as a program: says what it is told to a real cloudcore and prints what it is answered.

Started on the edge host by `test_wire_answers`. It reads its order as JSON from a file: where the cloud is, the node
and its certificate, and what to say in turn. It acknowledges everything; it never acts on anything.
"""

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from edgehive.beehive.message import Message
from edgehive.kit.ssl_contexts import client_context
from edgehive.wire import payloads
from edgehive.wire.link import Link, LinkClosed
from edgehive.wire.ws import connect


class Peer:
    def __init__(self, link: Link, patience: float) -> None:
        self._link = link
        self._patience = patience
        self._answers: dict[str, Message] = {}
        self.pushed: list[dict[str, Any]] = []
        self._arrived = asyncio.Event()

    async def listen(self) -> None:
        while True:
            message = await self._link.receive()
            if message.header.parent_id:
                self._answers.setdefault(message.header.parent_id, message)
            else:
                self.pushed.append({"operation": message.route.operation, "resource": message.route.resource})
            if payloads.needs_ack(message):
                await self._link.send(payloads.acknowledge(message, timestamp=2))
            self._arrived.set()

    async def keep_alive(self) -> None:
        while True:
            await self._link.send(payloads.keepalive(timestamp=1))
            await asyncio.sleep(5)

    async def ask(self, words: dict[str, Any]) -> dict[str, Any] | None:
        """Say one thing; the answer's route and content, None when there is none in time."""
        words = {"source": "edged", "group": "meta", **words}
        message = Message.of(timestamp=1, **words)
        await self._link.send(message)
        try:
            async with asyncio.timeout(self._patience):
                while message.id not in self._answers:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        answer = self._answers.pop(message.id)
        route = msgspec.to_builtins(answer.route)
        content = msgspec.json.decode(answer.content)
        return {"route": route, "version": answer.header.resourceversion, "content": content}


async def main(order: dict[str, Any]) -> dict[str, Any]:
    context = client_context(
        Path(order["ca"]).read_text(), certificate=Path(order["certificate"]), key=Path(order["key"])
    )
    link = await connect(f"wss://{order['host']}:10000", node=order["node"], ssl_context=context)
    peer = Peer(link, order["patience"])
    tasks = [asyncio.ensure_future(peer.listen()), asyncio.ensure_future(peer.keep_alive())]
    answers = []
    for words in order["say"]:
        if tasks[0].done():
            break
        answers.append(await peer.ask(words))
    ended = tasks[0].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(LinkClosed):
        await link.close()
    return {"answers": answers, "ended": ended, "pushed": peer.pushed}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))))
