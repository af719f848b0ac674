"""The engine under every controller: watches make keys, keys wait in a queue, workers reconcile one key at a time.

A controller says which informers it follows, which keys a change touches, and what to do with a key. It is
never called before all its informers hold a complete list, never twice at once for one key, and again with
growing delay when it fails. It must read the world afresh each time: a key carries no news.

Go: k8s.io/client-go/util/workqueue, k8s.io/controller-manager (kube-controller-manager's loops)
"""

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError
from edgehive.kube.informer import Change, Informer, Informers
from edgehive.kube.recorder import Recorder

Key = tuple[str, str]

log = logging.getLogger("edgehive.edgesite.controllers")


@dataclass(frozen=True)
class ControllerDeps:
    """What a controller is built with."""

    client: Client
    informers: Informers
    recorder: Recorder
    clock: Clock


@dataclass(frozen=True)
class Source:
    """An informer to follow and the keys a change in it touches."""

    informer: Informer
    keys: Callable[[Change], Iterable[Key]]


class Controller(Protocol):
    """One kind's caretaker. `reconcile` may return the seconds after which it wants to see the key again."""

    name: str

    def sources(self) -> Sequence[Source]: ...

    async def reconcile(self, key: Key) -> float | None: ...


def own_key(change: Change) -> Iterable[Key]:
    """The key of the changed object itself."""
    return (change.key,)


def owner_keys(kind: str) -> Callable[[Change], Iterable[Key]]:
    """The key of the controlling `kind` of the changed object, before and after the change."""

    def keys(change: Change) -> Iterable[Key]:
        for document in (change.old, change.new):
            ref = document.meta.controller_ref if document is not None else None
            if document is not None and ref is not None and ref.kind == kind:
                yield (document.meta.namespace, ref.name)

    return keys


class WorkQueue:
    """Keys waiting for a worker: each at most once (so it is bounded by the objects that exist)."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff(first=0.05, limit=60.0, jitter=0.2)
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._running: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: Counter[Key] = Counter()
        self._arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        """Let a worker see the key; if one has it in hand, once more afterwards."""
        if key in self._running:
            self._again.add(key)
            return
        self._waiting[key] = None
        self._arrived.set()

    def add_after(self, key: Key, delay: float) -> None:
        """Like `add`, later; of two timers for one key the earlier wins."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(delay, self._timer_fired, key)

    def retry(self, key: Key) -> None:
        """Come back after a failure, later each time."""
        self._failures[key] += 1
        self.add_after(key, self._backoff.delay(self._failures[key] - 1))

    def forget(self, key: Key) -> None:
        """The key went well: its failures count no more."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The key that has waited longest; hand it back with `done`."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        key, _ = self._waiting.popitem(last=False)
        self._running.add(key)
        return key

    def done(self, key: Key) -> None:
        self._running.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Stop the timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _timer_fired(self, key: Key) -> None:
        del self._timers[key]
        self.add(key)


async def run_controller(controller: Controller, *, workers: int = 4) -> None:
    """Run one controller until cancelled."""
    queue = WorkQueue()
    sources = controller.sources()
    for source in sources:
        await source.informer.wait_synced()
    try:
        async with asyncio.TaskGroup() as group:
            for source in sources:
                group.create_task(_feed(source, queue), name=f"{controller.name}: feed")
            for number in range(workers):
                group.create_task(_work(controller, queue), name=f"{controller.name}: worker {number}")
    finally:
        queue.close()


async def _feed(source: Source, queue: WorkQueue) -> None:
    async for change in source.informer.changes():
        try:
            for key in source.keys(change):
                queue.add(key)
        except msgspec.ValidationError as error:
            log.warning("ignored %s/%s, which cannot be read: %s", *change.key, error)


async def _work(controller: Controller, queue: WorkQueue) -> None:
    while True:
        key = await queue.get()
        try:
            again = await controller.reconcile(key)
        except ApiError as error:
            # A conflict or a vanished object only says that the cache was behind; anything else deserves a line.
            level = logging.DEBUG if error.code in (404, 409) or error.transient else logging.WARNING
            log.log(level, "%s %s/%s: %s", controller.name, *key, error)
            queue.retry(key)
        except Exception:
            # One object that cannot be handled must not stop the others; it is retried at a growing distance.
            log.exception("%s %s/%s failed", controller.name, *key)
            queue.retry(key)
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)
        finally:
            queue.done(key)
