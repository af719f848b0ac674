"""What tests in virtual time (`@pytest.mark.looptime`) need beside the loop: a date, and threads that take no time."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class LoopClock:
    """The date goes with the running loop's time."""

    def now(self) -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())


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
