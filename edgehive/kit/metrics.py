"""Counters and gauges that a module can ask for again: a module switched off and on is constructed anew.

prometheus-client refuses a second metric of one name in a registry; here the second asker gets the first one's.
"""

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

Metric = TypeVar("Metric", Counter, Gauge)


def counter(name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry | None) -> Counter:
    """The counter of that name, made when it is not there; without a registry one that nobody reads."""
    return _existing_or_new(Counter, name, text, labels, registry)


def gauge(name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry | None) -> Gauge:
    """The gauge of that name, made when it is not there."""
    return _existing_or_new(Gauge, name, text, labels, registry)


def _existing_or_new(
    kind: type[Metric], name: str, text: str, labels: Sequence[str], registry: CollectorRegistry | None
) -> Metric:
    if registry is None:
        return kind(name, text, labels, registry=None)
    found = registry._names_to_collectors.get(name)
    return found if isinstance(found, kind) else kind(name, text, labels, registry=registry)
