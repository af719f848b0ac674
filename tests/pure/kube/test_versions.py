"""Autoscalers under both apiVersions: what one version cannot say is not lost."""

from typing import Any

import pytest

from edgehive.kube.server.versions import converted

STORAGE = "horizontalpodautoscalers.autoscaling"
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
MEMORY = {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}}


def _autoscaler(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"}, "spec": spec}


def test_a_cpu_target_is_a_field_of_v1() -> None:
    assert converted(STORAGE, _autoscaler(metrics=[CPU]), "autoscaling/v1") == {
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"targetCPUUtilizationPercentage": 80},
    }  # fmt: skip


@pytest.mark.parametrize("metrics", [[CPU], [MEMORY], [CPU, MEMORY]])
def test_nothing_is_lost_there_and_back(metrics: list[Any]) -> None:
    whole = _autoscaler(metrics=metrics, behavior={"scaleDown": {"selectPolicy": "Disabled"}})
    whole["status"] = {"conditions": [{"type": "AbleToScale", "status": "True"}], "currentReplicas": 1}
    assert converted(STORAGE, converted(STORAGE, whole, "autoscaling/v1"), "autoscaling/v2") == whole


def test_an_annotation_that_is_no_json_stays_where_it_is() -> None:
    broken = _autoscaler() | {"apiVersion": "autoscaling/v1"}
    broken["metadata"] = {"name": "a", "annotations": {"autoscaling.alpha.kubernetes.io/metrics": "{"}}
    assert converted(STORAGE, broken, "autoscaling/v2")["metadata"] == broken["metadata"]
