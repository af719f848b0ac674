"""`Round`: every member is called once per period, spread evenly over it, by one timer for all.

For keepalives and lease renewals of thousands of nodes.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SLOTS = 100


class Round(Generic[T]):
    """Runs from `start` until `stop`; `pause` leaves everybody in peace for a while."""

    def __init__(self, period: float, call: Callable[[T], None]) -> None:
        self._step = period / SLOTS
        self._call = call
        self._slots: list[dict[T, None]] = [{} for _ in range(SLOTS)]
        self._at: dict[T, int] = {}
        self._slot = 0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._paused = False

    def add(self, member: T) -> None:
        """Its first call comes a whole period from now."""
        if member not in self._at:
            self._at[member] = self._slot
            self._slots[self._slot][member] = None

    def remove(self, member: T) -> None:
        slot = self._at.pop(member, None)
        if slot is not None:
            del self._slots[slot][member]

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + self._step
        self._timer = loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause(self, paused: bool) -> None:
        self._paused = paused

    def _tick(self) -> None:
        self._slot = (self._slot + 1) % SLOTS
        self._due += self._step
        self._timer = asyncio.get_running_loop().call_at(self._due, self._tick)
        if self._paused:
            return
        for member in list(self._slots[self._slot]):
            self._call(member)
