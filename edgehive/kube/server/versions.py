"""Built-in kinds served in two versions: the same stored object under either apiVersion. Pure.

An autoscaler stays stored in the version it was last written in, an Event always in core/v1; whoever reads gets
the version they asked for. What autoscaling/v1 has no field for travels in annotations, so a write through it
loses nothing.

Go: pkg/apis/autoscaling/v1/conversion.go (the annotations hold the v2 form here)
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from edgehive.kube.server import event_views

Json = dict[str, Any]

_V1: Final = "autoscaling/v1"
_PREFIX: Final = "autoscaling.alpha.kubernetes.io/"
#: Annotation to (part of the object, field) that only v2 has.
_CARRIED: Final = {
    f"{_PREFIX}metrics": ("spec", "metrics"),
    f"{_PREFIX}behavior": ("spec", "behavior"),
    f"{_PREFIX}current-metrics": ("status", "currentMetrics"),
    f"{_PREFIX}conditions": ("status", "conditions"),
}
_SIMPLE: Final = {
    ("spec", "metrics"): ("targetCPUUtilizationPercentage", "target"),
    ("status", "currentMetrics"): ("currentCPUUtilizationPercentage", "current"),
}


def stored_form(storage: str, obj: Json) -> Json:
    """The object as the store is to hold it."""
    version = _STORED_AS.get(storage)
    return obj if version is None or obj["apiVersion"] == version else converted(storage, obj, version)


def converts(storage: str) -> bool:
    """Whether a kind, by its name in the store, is served in several versions."""
    return storage in _CONVERSIONS


def converted(storage: str, obj: Mapping[str, Any], api_version: str) -> Json:
    """The object in that version; kinds with one schema for all versions only change their apiVersion."""
    copy: Json = msgspec.json.decode(msgspec.json.encode(obj))
    convert = _CONVERSIONS.get(storage)
    if convert is not None and copy.get("apiVersion") != api_version:
        convert(copy, api_version)
    return copy | {"apiVersion": api_version}


def _autoscaler(obj: Json, api_version: str) -> None:
    annotations = obj["metadata"].get("annotations") or {}
    (_to_v1 if api_version == _V1 else _to_v2)(obj, annotations)
    obj["metadata"].pop("annotations", None)
    if annotations:
        obj["metadata"]["annotations"] = annotations


def _to_v1(obj: Json, annotations: Json) -> None:
    for annotation, (part, name) in _CARRIED.items():
        value = (obj.get(part) or {}).pop(name, None)
        if not value:
            continue
        simple, holder = _SIMPLE.get((part, name), ("", ""))
        percent = _cpu_percent(value[0], holder) if simple and len(value) == 1 else None
        if percent is None:
            annotations[annotation] = msgspec.json.encode(value).decode()
        else:
            obj[part][simple] = percent
    if "status" in obj:
        obj["status"].setdefault("currentReplicas", 0)


def _cpu_percent(metric: Mapping[str, Any], holder: str) -> int | None:
    """The percentage when it is all a metric says."""
    resource = metric.get("resource") or {}
    value = dict(resource.get(holder) or {})
    percent = value.pop("averageUtilization", None)
    plain = value in ({}, {"type": "Utilization"}) and resource.get("name") == "cpu"
    return percent if plain and metric.get("type") == "Resource" else None


def _to_v2(obj: Json, annotations: Json) -> None:
    for (part, name), (simple, holder) in _SIMPLE.items():
        percent = (obj.get(part) or {}).pop(simple, None)
        if percent is not None:
            value = {"averageUtilization": percent} | ({"type": "Utilization"} if holder == "target" else {})
            obj[part][name] = [{"type": "Resource", "resource": {"name": "cpu", holder: value}}]
    for annotation, (part, name) in _CARRIED.items():
        try:
            value = msgspec.json.decode(annotations.get(annotation) or "null")
        except msgspec.DecodeError:
            continue
        if isinstance(value, list | dict):
            del annotations[annotation]
            below = obj.setdefault(part, {})
            below[name] = [*value, *(below.get(name) or ())] if isinstance(value, list) else value


_CONVERSIONS: Final[Mapping[str, Callable[[Json, str], None]]] = {
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "events": event_views.convert,
}
_STORED_AS: Final = {"events": event_views.STORED}
