"""Events in their two forms: core/v1, in which they are stored, and events.k8s.io/v1. Pure.

The forms hold the same facts under other names; only the newer one is judged strictly.

Go: pkg/apis/events/v1/conversion.go, pkg/apis/core/validation/events.go
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.kube.server import field_errors as names
from edgehive.kube.server.field_errors import FieldErrors

Json = Mapping[str, Any]

STORED: Final = "v1"
_FIELDS: Final = {
    "note": "message", "regarding": "involvedObject", "reportingController": "reportingComponent",
    "deprecatedSource": "source", "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp", "deprecatedCount": "count",
}  # fmt: skip
_BACK: Final = {old: new for new, old in _FIELDS.items()}
#: Never left out of a core Event, even when empty.
_CORE_ALWAYS: Final[Mapping[str, type]] = {"involvedObject": dict, "reportingComponent": str, "reportingInstance": str}
_OMITTED_IF_EMPTY: Final = ("regarding", "reportingController", "reportingInstance")
#: An event of the newer form is a statement; only its series goes on.
_FIXED: Final = ("regarding", "reason", "note", "deprecatedSource", "deprecatedFirstTimestamp",
                 "deprecatedLastTimestamp", "deprecatedCount", "type", "action", "related", "reportingController",
                 "reportingInstance")  # fmt: skip
_WITHOUT_NAMESPACE: Final = ("default", "kube-system")
_TEXT_LIMIT: Final = 128
_NOTE_LIMIT: Final = 1024


def convert(obj: dict[str, Any], api_version: str) -> None:
    """Rename the fields in place to those of `api_version`."""
    renamed = _FIELDS if api_version == STORED else _BACK
    for old in renamed.keys() & obj.keys():
        obj[renamed[old]] = obj.pop(old)
    if api_version == STORED:
        for name, empty in _CORE_ALWAYS.items():
            obj.setdefault(name, empty())
    else:
        for name in _OMITTED_IF_EMPTY:
            if not obj.get(name):
                obj.pop(name, None)


def core_path(path: str) -> str:
    """A selectable field of events.k8s.io/v1 under its core name; empty for a field that is none."""
    if path.startswith("regarding."):
        return f"involvedObject.{path.removeprefix('regarding.')}"
    known = {"reportingController": "reportingComponent"} | {
        name: name for name in ("reason", "type", "metadata.name", "metadata.namespace")
    }
    return known.get(path, "")


def check_core(errors: FieldErrors, event: Json) -> None:
    """What an Event of core/v1 must be."""
    _check(errors, event, "reportingComponent")


def check_new(errors: FieldErrors, event: Json) -> None:
    """What an Event of events.k8s.io/v1 must be, also one that was made in the old form."""
    core = {_FIELDS.get(name, name): value for name, value in event.items()}
    _check(errors, core, "reportingController")


def check_new_creation(errors: FieldErrors, event: Json) -> None:
    """What is asked of creations in the new form beyond that."""
    _check_series(errors, event)
    if not event.get("eventTime"):
        errors.required("eventTime")
    if event.get("type") not in ("Normal", "Warning"):
        errors.invalid("type", "", f"has invalid value: {event.get('type') or ''}")
    for name in ("firstTimestamp", "lastTimestamp", "count", "source"):
        if event.get(_BACK[name]):
            errors.invalid(name, "", "needs to be unset")


def check_new_update(errors: FieldErrors, old: Json, new: Json) -> None:
    """An update through events.k8s.io/v1."""
    if old.get("series") != new.get("series"):
        _check_series(errors, new)
    for name in _FIXED:
        errors.immutable(_FIELDS.get(name, name), old.get(name), new.get(name))


def _check_series(errors: FieldErrors, event: Json) -> None:
    series = event.get("series")
    if series is None:
        return
    if (series.get("count") or 0) < 2:
        errors.invalid("series.count", "", "should be at least 2")
    if not series.get("lastObservedTime"):
        errors.required("series.lastObservedTime")


def _check(errors: FieldErrors, event: Json, controller_name: str) -> None:
    """Judges the core form; only the reporter is called as in the form that was sent."""
    about = (event.get("involvedObject") or {}).get("namespace") or ""
    namespace = event["metadata"].get("namespace") or ""
    place, stray = "involvedObject.namespace", "does not match event.namespace"
    if not event.get("eventTime"):
        if (about or "default") != namespace:
            errors.invalid(place, about, stray)
        return
    if not about and namespace not in _WITHOUT_NAMESPACE:
        errors.invalid(place, about, stray)
    controller = event.get("reportingComponent") or ""
    if not controller:
        errors.required(controller_name)
    errors.each_invalid(controller_name, controller, names.qualified_name(controller))
    for name in ("reportingInstance", "action", "reason"):
        text = event.get(name) or ""
        if not text:
            errors.required(name)
        if len(text.encode()) > _TEXT_LIMIT:
            errors.invalid(name, "", f"can have at most {_TEXT_LIMIT} characters")
    if len((event.get("message") or "").encode()) > _NOTE_LIMIT:
        errors.invalid("message", "", f"can have at most {_NOTE_LIMIT} characters")
