"""Asking twice for a metric gives the same one."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from edgehive.kit import metrics


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
