"""Which names of a CRD are its own: no two kinds of a group share a plural, singular, short name or kind. Pure.

A name belongs to whoever got it first; a definition that comes later keeps what is free, says why it is not
served, and is judged again when a name is given back.

Go: apiextensions-apiserver/pkg/controller/{status/naming_controller,establish/establishing_controller}.go
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehive.api.registry import ApiResource
from edgehive.kube.server.deletion import CLEANUP

Json = dict[str, Any]


@dataclass(slots=True)
class Claims:
    """The names taken in one group."""

    resources: set[str] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)

    def add_row(self, row: ApiResource) -> None:
        self.resources |= {row.plural, row.singular, *row.short_names}
        self.kinds |= {row.kind, row.list_kind_name}

    def add_accepted(self, names: Mapping[str, Any]) -> None:
        """What another definition's status says is its own."""
        self.resources |= {names.get("plural", ""), names.get("singular", ""), *(names.get("shortNames") or ())}
        self.kinds |= {names.get("kind", ""), names.get("listKind", "")}


def claims(group: str, rows: Iterable[ApiResource], others: Iterable[Mapping[str, Any]]) -> Claims:
    """The names that kinds built in (`rows`) and other definitions hold in a group."""
    found = Claims()
    for row in rows:
        if row.group == group:
            found.add_row(row)
    for crd in others:
        if (crd.get("spec") or {}).get("group") == group:
            found.add_accepted(accepted_names(crd))
    return found


def accepted_names(crd: Mapping[str, Any]) -> Mapping[str, Any]:
    """The names a definition holds so far."""
    names: Mapping[str, Any] = (crd.get("status") or {}).get("acceptedNames") or {}
    return names


def is_established(crd: Mapping[str, Any]) -> bool:
    """Once established a definition stays so, under the names it got."""
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Established" and item["status"] == "True" for item in conditions)


def judged(crd: Json, taken: Claims, now: str) -> Json:
    """The CRD with what names it gets, and conditions that say so."""
    spec, names = crd["spec"], crd["spec"]["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})
    status = crd.setdefault("status", {})
    status["acceptedNames"], reason, message = _accept(names, accepted_names(crd), taken)
    _set_condition(status, "NamesAccepted", not reason, reason or "NoConflicts", message or "no conflicts found", now)
    if not is_established(crd):
        if reason:
            _set_condition(status, "Established", False, "NotAccepted", "not all names are accepted", now)
        else:
            text = "the initial names have been accepted"
            _set_condition(status, "Established", True, "InitialNamesAccepted", text, now)
    return crd


def _accept(names: Mapping[str, Any], held: Mapping[str, Any], taken: Claims) -> tuple[Json, str, str]:
    """What it holds now, and the last reason and message of a refusal."""
    got, reason, message = dict(held), "", ""
    for name, used, why in (
        ("plural", taken.resources, "PluralConflict"),
        ("singular", taken.resources, "SingularConflict"),
        ("shortNames", taken.resources, "ShortNamesConflict"),
        ("kind", taken.kinds, "KindConflict"),
        ("listKind", taken.kinds, "ListKindConflict"),
    ):
        refused = [item for item in _listed(names.get(name)) if item in used and item not in _listed(held.get(name))]
        if refused:
            reason, message = why, _in_use(refused)
        else:
            got.pop(name, None)
            if names.get(name):
                got[name] = names[name]
    got.pop("categories", None)
    if names.get("categories"):
        got["categories"] = names["categories"]
    return got, reason, message


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _in_use(refused: list[str]) -> str:
    texts = [f'"{name}" is already in use' for name in refused]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _set_condition(status: Json, kind: str, holds: bool, reason: str, message: str, now: str) -> None:
    """The time of a condition is that of its last turn, not of its last word."""
    new = {"type": kind, "status": str(holds), "reason": reason, "message": message, "lastTransitionTime": now}
    conditions = status.setdefault("conditions", [])
    for index, old in enumerate(conditions):
        if old["type"] == kind:
            if old["status"] == new["status"]:
                new["lastTransitionTime"] = old.get("lastTransitionTime", now)
            conditions[index] = new
            return
    conditions.append(new)


def without_cleanup(crd: Json) -> Json:
    """The CRD once its objects are gone."""
    finalizers = [name for name in crd["metadata"].get("finalizers") or () if name != CLEANUP]
    crd["metadata"].pop("finalizers", None)
    if finalizers:
        crd["metadata"]["finalizers"] = finalizers
    return crd
