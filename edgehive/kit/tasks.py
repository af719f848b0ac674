"""Named tasks with an owner: the few helpers asyncio.TaskGroup leaves open.

Used wherever a task must outlive the function that starts it; whoever calls `spawn` keeps the task and
ends it with `cancel_and_join`. Inside one function prefer `asyncio.TaskGroup`.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")


def spawn(coroutine: Coroutine[Any, Any, T], *, name: str) -> "asyncio.Task[T]":
    """Start a named task on the running loop; the caller owns it."""
    return asyncio.get_running_loop().create_task(coroutine, name=name)


async def cancel_and_join(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel tasks and wait for their end; their own errors are theirs and are not raised here."""
    living = [task for task in tasks if task is not None]
    for task in living:
        task.cancel()
    await asyncio.gather(*living, return_exceptions=True)


def is_cancelled() -> bool:
    """Whether the current task is asked to end. A CancelledError without that comes from something it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_of(*awaitables: Awaitable[T]) -> T:
    """The result (or error) of whichever finishes first; the others are cancelled and joined."""
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        await _settle(tasks)


async def _settle(tasks: "Iterable[asyncio.Future[Any]]") -> None:
    pending = list(tasks)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
