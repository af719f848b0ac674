"""What nodes use right now, asked of their kubelets when somebody wants to know; for whoever serves metrics.k8s.io.

A node is asked at most once in a while, by all askers together; nobody asks while nobody wants to know. A node that
does not answer in time is left out, and holds up nobody who asks for others.

Go: sigs.k8s.io/metrics-server/pkg/scraper
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from edgehive.kit.clock import Clock
from edgehive.kube import usage
from edgehive.kube.errors import ApiError
from edgehive.kube.usage import Reading, Usage

log = logging.getLogger("edgehive.kube.usage")

#: Of one kubelet's answer, and how long it may take.
LIMIT: Final = 16 * 1024 * 1024
DEADLINE: Final = 5.0
#: A reading older than this says little about now; the node is read twice, a moment apart.
_STALE: Final = 60.0
MOMENT: Final = 1.0
#: How long one answer to an asker may take in all; who has not been asked by then is left out.
PATIENCE: Final = 12.0

#: A node's /stats/summary, within LIMIT and DEADLINE; raises ApiError.
ReadSummary = Callable[[str], Awaitable[bytes]]


class _Node:
    """What is known of one node."""

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        self.read_at = float("-inf")
        self.reading: Reading | None = None
        self.usage: Usage | None = None


class NodeUsage:
    """`fresh` seconds long a reading is given again; `at_once` nodes are asked at a time."""

    def __init__(self, read: ReadSummary, clock: Clock, *, fresh: float, at_once: int) -> None:
        self._read_summary = read
        self._clock = clock
        self._fresh = fresh
        self._nodes: dict[str, _Node] = {}
        self._places = asyncio.Semaphore(at_once)

    async def of(self, nodes: Iterable[str]) -> Mapping[str, Usage]:
        """The usage of those nodes that answer in time."""
        names = list(nodes)
        answers = await asyncio.gather(*(self._ask(name) for name in names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    def forget(self, gone: Callable[[str], bool]) -> None:
        """Drop what is known of nodes that are no more."""
        for name in [name for name in self._nodes if gone(name)]:
            del self._nodes[name]

    async def _ask(self, name: str) -> Usage | None:
        node = self._nodes.setdefault(name, _Node())
        try:
            async with asyncio.timeout(PATIENCE), node.asking, self._places:
                await self._refresh(name, node)
        except TimeoutError:
            log.info("no metrics of node %s: too many others are slow to answer", name)
            return None
        return node.usage

    async def _refresh(self, name: str, node: _Node) -> None:
        """Bring a node's usage up to date; one that failed is not asked again at once either."""
        loop = asyncio.get_running_loop()
        if loop.time() - node.read_at < self._fresh:
            return
        before = node.reading if loop.time() - node.read_at < _STALE else None
        node.reading = node.usage = None
        try:
            if before is None:
                before = await self._read(name)
                await asyncio.sleep(MOMENT)
            node.reading = await self._read(name)
            node.usage = usage.between(before, node.reading)
        except (ApiError, ValueError) as error:
            log.info("no metrics of node %s: %s", name, error)
        node.read_at = loop.time()

    async def _read(self, name: str) -> Reading:
        return usage.read(await self._read_summary(name), self._clock.now())
