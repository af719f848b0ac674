"""Tells nodes that their reports are stored, no faster than they can hear it.

One write may settle thousands of reports of a node. cloudhub drops the oldest of too many notices for one node, and a
dropped confirmation means that the report comes again; so a node is told a few hundred at a time.

Go: cloud/pkg/devicecontroller/controller/upstream.go
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from edgehive.beehive.message import Message

#: Confirmations for one node at a time, and the pause between two times.
AT_ONCE = 256
PAUSE_SECONDS = 0.02
#: Waiting for one node; beyond, the oldest is dropped and its report comes again.
LIMIT = 20_000


class Confirmations:
    """`run` it; `add` returns at once."""

    def __init__(self, send: Callable[[Message], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: dict[str, deque[Message]] = {}
        self._wake = asyncio.Event()

    def add(self, node: str, confirmation: Message) -> None:
        self._waiting.setdefault(node, deque(maxlen=LIMIT)).append(confirmation)
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            for node, line in list(self._waiting.items()):
                for _ in range(min(AT_ONCE, len(line))):
                    await self._send(line.popleft())
                if not line:
                    del self._waiting[node]
            await asyncio.sleep(PAUSE_SECONDS)
