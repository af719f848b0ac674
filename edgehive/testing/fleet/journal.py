"""What a fleet saw: latencies by name, counts, and where its pods and ConfigMaps have got to.

All nodes write to one `Journal`; scenarios wait on it and read it. It measures nothing itself.
"""

import asyncio
import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds."""

    count: int
    p50: float
    p99: float
    max: float


class Waited(Exception):
    """What a scenario waits for did not come; the text says what was missing."""


class Journal:
    """See the file's head."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        #: Whether nodes report the status of pods that are delivered.
        self.answering = True
        #: When pods were first seen by their node, by name.
        self.delivered: dict[str, float] = {}
        self.gone: dict[str, float] = {}
        #: ConfigMap deliveries since the last `expect_config`: path, version, when.
        self._configs: list[tuple[str, int, float]] = []
        self._awaited: tuple[str, int, float] = ("", 0, 0.0)
        self._latencies: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._moved = asyncio.Event()

    def took(self, what: str, seconds: float) -> None:
        self._latencies[what].append(seconds)
        self._moved.set()

    def count(self, what: str) -> None:
        self.counts[what] += 1
        self._moved.set()

    def pod_delivered(self, name: str, now: float) -> None:
        self.delivered.setdefault(name, now)
        self.count("pods delivered")

    def pod_gone(self, name: str, now: float) -> None:
        self.gone.setdefault(name, now)
        self.count("pods gone")

    def writing_config(self) -> None:
        """A ConfigMap is about to be written; it may be delivered before its version is known here."""
        self._awaited = ("", 0, 0.0)
        self._configs.clear()

    def expect_config(self, path: str, version: int, since: float) -> None:
        """It was written: deliveries of this version or a later one count from `since`."""
        self._awaited = (path, version, since)
        early, self._configs = self._configs, []
        for delivery in early:
            self.config_delivered(*delivery)

    def config_delivered(self, path: str, version: int, now: float) -> None:
        awaited, least, since = self._awaited
        if not awaited:
            self._configs.append((path, version, now))
        elif path == awaited and version >= least:
            self.took("ConfigMap written to delivered", now - since)

    def number(self, what: str) -> int:
        """How many latencies of a name there are."""
        return len(self._latencies[what])

    def quantiles(self) -> dict[str, Quantiles]:
        return {name: _quantiles(values) for name, values in sorted(self._latencies.items()) if values}

    async def until(self, missing: Callable[[], int], patience: float, what: str) -> None:
        """Wait until nothing is missing; Waited after `patience` seconds in which nothing of it came."""
        loop = asyncio.get_running_loop()
        least, deadline = missing(), loop.time() + patience
        while least > 0:
            self._moved.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._moved.wait()
            except TimeoutError:
                raise Waited(f"{least} {what} are missing, and none came for {patience:g} s") from None
            if (left := missing()) < least:
                least, deadline = left, loop.time() + patience


def _quantiles(values: "array[float]") -> Quantiles:
    return Quantiles(len(values), *(quantile(values, share) for share in (0.5, 0.99, 1.0)))


def quantile(values: Iterable[float], share: float) -> float:
    """The value that `share` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
