"""How Kubernetes writes ages, selectors and lists into the cells of its tables. Pure.

Go: apimachinery/pkg/util/duration, pkg/printers/internalversion/printers.go
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from edgehive.kit.clock import parse_rfc3339

Json = Mapping[str, Any]

NONE: Final = "<none>"
UNKNOWN: Final = "<unknown>"
UNSET: Final = "<unset>"
_SHOWN: Final = 3


def human_duration(duration: timedelta) -> str:
    """Two significant units at most: `45s`, `3m10s`, `5h20m`, `3d4h`, `1y20d`."""
    seconds = int(duration.total_seconds())
    if seconds < -1:
        return "<invalid>"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 2920 else f"{days // 365}y"


def _two(big: int, unit: str, small: int, small_unit: str) -> str:
    return f"{big}{unit}{small}{small_unit}" if small else f"{big}{unit}"


def since(timestamp: Any, now: datetime) -> str:
    """How long ago a timestamp was; `<unknown>` without one."""
    instant = instant_of(timestamp)
    return human_duration(now - instant) if instant else UNKNOWN


def instant_of(timestamp: Any) -> datetime | None:
    try:
        return parse_rfc3339(timestamp) if timestamp else None
    except (ValueError, TypeError):
        return None


def age(obj: Json, now: datetime) -> str:
    return since(part(obj, "metadata").get("creationTimestamp"), now)


def part(obj: Json | None, *path: str) -> Json:
    """The object at that path; an empty one where there is none."""
    for name in path:
        below = obj.get(name) if isinstance(obj, Mapping) else None
        obj = below if isinstance(below, Mapping) else {}
    return obj or {}


def labels(selector: Json | None) -> str:
    """`a=b,c=d` in key order; `<none>` when empty."""
    return ",".join(f"{key}={value}" for key, value in sorted((selector or {}).items())) or NONE


def label_selector(selector: Json | None) -> str:
    """A `metav1.LabelSelector` in selector syntax."""
    if selector is None:
        return NONE
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    terms += [_requirement(item) for item in selector.get("matchExpressions") or ()]
    return ",".join(sorted(terms)) or NONE


def _requirement(item: Json) -> str:
    key, values = str(item.get("key", "")), ",".join(sorted(item.get("values") or ()))
    forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key, "DoesNotExist": f"!{key}"}
    return forms.get(item.get("operator", ""), key)


def joined(items: Iterable[Any], empty: str = NONE) -> str:
    return ",".join(str(item) for item in items) or empty


def at_most_three(items: list[str], empty: str) -> str:
    """The first three, and how many more there are."""
    more = len(items) - _SHOWN
    return (joined(items[:_SHOWN], empty)) + (f" + {more} more..." if more > 0 else "")


def containers(pod_spec: Json) -> list[str]:
    """The wide columns CONTAINERS and IMAGES."""
    found = pod_spec.get("containers") or []
    return [",".join(item.get("name", "") for item in found), ",".join(item.get("image") or "" for item in found)]


def conditions(obj: Json) -> dict[str, Json]:
    return {item.get("type", ""): item for item in part(obj, "status").get("conditions") or ()}
