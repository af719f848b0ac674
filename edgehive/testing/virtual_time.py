"""Virtual time for tests and simulations: a loop that jumps, dates that go with it, and threads that take no time.

Tests marked `looptime` run on that plugin's loop. `VirtualLoop` is for simulations, which open no socket: it does
nothing but jump, keeps the order of everything the same in every run, and notices a program that spins.
"""

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
#: Turns of the loop at one instant before it counts as spinning.
SPINNING = 50_000


class LoopClock:
    """The date goes with the running loop's time; `offset` is how wrong it is."""

    def __init__(self) -> None:
        self.offset = timedelta(0)

    def now(self) -> datetime:
        return START + self.offset + timedelta(seconds=asyncio.get_running_loop().time())


class AtOnce(ThreadPoolExecutor):
    """Does the work where it is asked for it: virtual time would run ahead of a real thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def threads_take_no_time() -> None:
    """From here on `asyncio.to_thread` of the running loop works on the spot."""
    asyncio.get_running_loop().set_default_executor(AtOnce())


class Stuck(Exception):
    """Nothing will ever happen again, or the same instant never ends."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes only when nothing is left to do, and then at once to the next timer."""

    def __init__(self) -> None:
        self._instant = 0.0
        self.turns = 0
        self._turns_at_instant = 0
        self._ending = False
        _NumberedTask.numbers = itertools.count()
        super().__init__(_Jumps(self))
        self._clock_resolution = 1e-6
        self.set_default_executor(AtOnce())
        self.set_task_factory(_numbered)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._instant

    def wind_up(self) -> None:
        """Cancel whatever still runs, even after `Stuck`, and close."""
        self._ending = True
        for task in asyncio.all_tasks(self):
            task.cancel()
        for _ in range(SPINNING):
            if not (left := asyncio.all_tasks(self)):
                break
            self.run_until_complete(asyncio.wait(left, timeout=0))
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    def jump(self, timeout: float | None) -> None:
        self.turns += 1
        self._turns_at_instant += 1
        if self._ending:
            return
        if timeout is None:
            raise Stuck(f"at {self._instant:.3f} s everybody waits and no timer is set")
        if timeout > 0:
            self._instant += timeout
            self._turns_at_instant = 0
        elif self._turns_at_instant > SPINNING:
            raise Stuck(f"at {self._instant:.3f} s the loop has turned {SPINNING:,} times and goes on")


class _NumberedTask(asyncio.Task[Any]):
    """Its place in a set is its number and not its address: sets of tasks are gone through in one order."""

    numbers = itertools.count()
    number: int

    def __new__(cls, *_: Any, **__: Any) -> "_NumberedTask":
        task = super().__new__(cls)
        task.number = next(cls.numbers)
        return task

    def __hash__(self) -> int:
        return self.number


def _numbered(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any) -> _NumberedTask:
    return _NumberedTask(coroutine, loop=loop, **options)


class _Jumps(selectors.SelectSelector):
    """Waits for no file."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        self._loop.jump(timeout)
        return []
