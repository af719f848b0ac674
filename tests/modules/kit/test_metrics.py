"""Asking twice for a metric gives the same one."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.kit import metrics, process_metrics


def test_the_second_asker_gets_the_first_ones_metric() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        metrics.counter("edgehive_x", "Text.", ["kind"], registry=registry).labels("a").inc()
        metrics.gauge("edgehive_y", "Text.", registry=registry).inc()
    text = generate_latest(registry).decode()
    assert 'edgehive_x_total{kind="a"} 2.0' in text
    assert "edgehive_y 2.0" in text


def test_a_name_of_another_kind_is_refused() -> None:
    registry = CollectorRegistry()
    metrics.counter("edgehive_x", "Text.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        metrics.gauge("edgehive_x", "Text.", registry=registry)


async def test_what_a_process_holds_is_told_once() -> None:
    registry = CollectorRegistry()
    for _ in range(2):
        process_metrics.expose(registry)
    told = {line.split()[0]: float(line.split()[1]) for line in generate_latest(registry).decode().splitlines()
            if not line.startswith("#")}  # fmt: skip
    assert told["edgehive_tasks"] == 1
    assert told["process_open_fds"] > 2
    assert told["process_resident_memory_bytes"] > 2**20
