"""A bounded queue with a named overflow policy: the only queue between tasks in this code.

A reader takes items in the order they were put, except under `COALESCE`, where a newer item takes the place
of an older one with the same key. Every mailbox counts what it did, so nothing vanishes unseen.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T = TypeVar("T")


class MailboxFull(Exception):
    """The mailbox refuses the item; it was not stored."""


class MailboxClosed(Exception):
    """Nothing more will come (reader) or may be put (writer)."""


class Policy(Enum):
    """What happens to an item when the mailbox is full."""

    BLOCK = "block"
    COALESCE = "coalesce"
    DROP_OLDEST = "drop-oldest"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    depth: int
    size: int
    put: int
    dropped: int
    coalesced: int
    refused: int
    #: Items that waited at once, at most.
    most: int


class Mailbox(Generic[T]):
    """`size` items at most. `COALESCE` needs `key`; when full of distinct keys it blocks like `BLOCK`."""

    def __init__(
        self,
        name: str,
        *,
        size: int = 1024,
        policy: Policy = Policy.BLOCK,
        key: Callable[[T], Hashable] | None = None,
    ) -> None:
        if policy is Policy.COALESCE and key is None:
            raise ValueError(f"mailbox {name!r} coalesces and so needs a key")
        self.name = name
        self.size = size
        self.policy = policy
        self._key = key
        self._items: OrderedDict[Hashable, T] = OrderedDict()
        self._serial = 0
        self._closed = False
        self._arrived = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._put = self._dropped = self._coalesced = self._refused = self._most = 0

    def __len__(self) -> int:
        return len(self._items)

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(
            len(self._items), self.size, self._put, self._dropped, self._coalesced, self._refused, self._most
        )

    def put_nowait(self, item: T) -> None:
        """Store now or raise MailboxFull; `DROP_OLDEST` always stores."""
        if self._closed:
            raise MailboxClosed(self.name)
        key = self._key_of(item)
        if key in self._items:
            self._items[key] = item
            self._coalesced += 1
        else:
            self._make_room()
            self._items[key] = item
            if len(self._items) > self._most:
                self._most = len(self._items)
        self._put += 1
        self._arrived.set()

    async def put(self, item: T) -> None:
        """Store, waiting for room under `BLOCK` and `COALESCE`; raises MailboxFull under `REFUSE`."""
        if self.policy in (Policy.BLOCK, Policy.COALESCE):
            while self._must_wait(item):
                await self._wait_for_room()
        self.put_nowait(item)

    async def get(self) -> T:
        """The oldest item; raises MailboxClosed once the mailbox is closed and empty."""
        while not self._items:
            if self._closed:
                raise MailboxClosed(self.name)
            self._arrived.clear()
            await self._arrived.wait()
        return self.get_nowait()

    def get_nowait(self) -> T:
        """The oldest item or asyncio.QueueEmpty."""
        if not self._items:
            raise asyncio.QueueEmpty(self.name)
        item = self._items.popitem(last=False)[1]
        self._wake_one()
        return item

    def close(self) -> None:
        """No more puts; readers take what is left and then get MailboxClosed."""
        self._closed = True
        self._arrived.set()
        while self._waiting:
            self._wake_one()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            try:
                yield await self.get()
            except MailboxClosed:
                return

    async def _wait_for_room(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake_one()  # the room we were given goes to the next in line
            raise

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def _key_of(self, item: T) -> Hashable:
        if self.policy is Policy.COALESCE and self._key is not None:
            return self._key(item)
        self._serial += 1
        return self._serial

    def _must_wait(self, item: T) -> bool:
        if len(self._items) < self.size or self._closed:
            return False
        return not (self.policy is Policy.COALESCE and self._key is not None and self._key(item) in self._items)

    def _make_room(self) -> None:
        if len(self._items) < self.size:
            return
        if self.policy is Policy.DROP_OLDEST:
            self._items.popitem(last=False)
            self._dropped += 1
            return
        self._refused += 1
        raise MailboxFull(f"mailbox {self.name!r} holds {self.size} items and its policy is {self.policy.value}")
