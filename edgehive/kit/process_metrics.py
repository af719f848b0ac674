"""What a process holds, for `/metrics`: memory, open files, processor time (`process_*`) and asyncio's tasks.

Read when somebody asks; a slope in any of them is a leak.
"""

import asyncio
import gc
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

TASKS = "edgehive_tasks"


class _Loop(Collector):
    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(TASKS, "Tasks of asyncio that have not ended.", value=_tasks())
        freed = sum(generation["collected"] for generation in gc.get_stats())
        yield GaugeMetricFamily("edgehive_collected_objects", "Objects freed by the garbage collector.", value=freed)

    def describe(self) -> list[GaugeMetricFamily]:
        return [GaugeMetricFamily(TASKS, "")]


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:  # asked outside of a loop
        return 0


def expose(registry: CollectorRegistry) -> None:
    """Once for a registry, however often it is called."""
    if TASKS not in registry._names_to_collectors:
        registry.register(_Loop())
        ProcessCollector(registry=registry)
