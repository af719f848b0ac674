"""Where links arrive: the cloud side's door, the same for every transport.

A transport offers each link it accepted; the hub iterates. The line of waiting links is bounded, and when
the door closes those still in line are closed, while links already taken belong to whoever took them.
"""

from typing import TypeVar

from edgehive.kit.mailbox import Mailbox, MailboxClosed
from edgehive.wire.link import Link, LinkClosed

Self = TypeVar("Self", bound="Acceptor")


class Acceptor:
    """`async with acceptor: async for link in acceptor`; a transport calls `offer`."""

    def __init__(self, name: str, *, backlog: int = 64) -> None:
        self._name = name
        self._backlog = backlog
        self._line: Mailbox[Link] | None = None

    @property
    def open(self) -> bool:
        return self._line is not None

    def offer_now(self, link: Link) -> bool:
        """Put a link in line if there is room at once; whether there was."""
        if self._line is None or len(self._line) >= self._backlog:
            return False
        self._line.put_nowait(link)
        return True

    async def offer(self, link: Link) -> None:
        """Put a link in line, waiting for room; raises LinkClosed (and closes it) when nobody accepts."""
        if self._line is None:
            await link.close("nobody accepts links")
            raise LinkClosed(f"{self._name} does not accept links now; try again later")
        try:
            await self._line.put(link)
        except MailboxClosed:
            await link.close("the hub is stopping")
            raise LinkClosed(f"{self._name} is stopping; try again later") from None

    async def __aenter__(self: Self) -> Self:
        if self._line is not None:
            raise RuntimeError(f"{self._name} is accepted from already")
        self._line = Mailbox(f"links of {self._name}", size=self._backlog)
        return self

    async def __aexit__(self, *_: object) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        line.close()
        async for link in line:
            await link.close("the hub is stopping")

    def __aiter__(self: Self) -> Self:
        return self

    async def __anext__(self) -> Link:
        if self._line is None:
            raise StopAsyncIteration
        try:
            return await self._line.get()
        except MailboxClosed:
            raise StopAsyncIteration from None
