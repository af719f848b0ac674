"""Label and field selectors: parse, print, match. Pure.

Used by the API server for list and watch, by controllers for LabelSelector objects.

Go: k8s.io/apimachinery/pkg/labels, k8s.io/apimachinery/pkg/fields
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_TOKEN = re.compile(r"\s*(==|!=|=|!|\(|\)|,|<|>|[^\s=!(),<>]+)")
_OPERATORS = {"=": "in", "==": "in", "!=": "notin", "in": "in", "notin": "notin", ">": "gt", "<": "lt"}
_OBJECT_OPERATORS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}


class SelectorError(ValueError):
    """The selector cannot be read; the message says which part."""


@dataclass(frozen=True, slots=True)
class Requirement:
    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator == "in":
            return value is not None and value in self.values
        if self.operator == "notin":
            return value is None or value not in self.values
        if self.operator == "exists":
            return value is not None
        if self.operator == "absent":
            return value is None
        return value is not None and _compares(value, self.operator, next(iter(self.values)))


def _compares(value: str, operator: str, bound: str) -> bool:
    try:
        return int(value) > int(bound) if operator == "gt" else int(value) < int(bound)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold; none at all selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        return all(requirement.matches(labels or {}) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


def parse_labels(text: str) -> LabelSelector:
    """Read `a=b,c in (d,e),!f`; raises SelectorError."""
    if not text.strip():
        return LabelSelector()
    tokens = _tokens(text)
    requirements = []
    while True:
        requirements.append(_requirement(tokens))
        if not tokens:
            return LabelSelector(tuple(requirements))
        if (separator := tokens.pop(0)) != ",":
            raise SelectorError(f"found '{separator}', expected: ',' or 'end of string'")
        if not tokens:
            raise SelectorError("found '', expected: identifier after ','")


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise SelectorError(f"unable to parse '{text[position:]}'")
        tokens.append(match.group(1))
        position = match.end()
    return tokens


def _requirement(tokens: list[str]) -> Requirement:
    negated = tokens[0] == "!"
    if negated:
        tokens.pop(0)
    key = _key(tokens)
    if negated or not tokens or tokens[0] == ",":
        return Requirement(key, "absent" if negated else "exists")
    word = tokens.pop(0)
    operator = _OPERATORS.get(word)
    if operator is None:
        raise SelectorError(f"found '{word}', expected: in, notin, =, ==, !=, gt, lt")
    if word in ("in", "notin"):
        return Requirement(key, operator, frozenset(_value_set(tokens)))
    return Requirement(key, operator, frozenset([_exact_value(tokens, operator)]))


def _key(tokens: list[str]) -> str:
    key = tokens.pop(0) if tokens else ""
    if key in _OPERATORS or key in "(),!":
        raise SelectorError(f"found '{key}', expected: !, identifier, or 'end of string'")
    if not _KEY.fullmatch(key):
        raise SelectorError(
            f'key: Invalid value: "{key}": name part must consist of alphanumeric characters, '
            "'-', '_' or '.', and must start and end with an alphanumeric character"
        )
    return key


def _exact_value(tokens: list[str], operator: str) -> str:
    if not tokens or tokens[0] == ",":
        return ""
    value = tokens.pop(0)
    if value in ("=", "==", "!=", "!", "(", ")", "<", ">"):
        raise SelectorError(f"found '{value}', expected: identifier")
    if operator in ("gt", "lt") and not value.lstrip("-").isdigit():
        raise SelectorError(f'values[0]: Invalid value: "{value}": for \'Gt\', \'Lt\' operators, '
                            "the value must be an integer")  # fmt: skip
    return _value(value)


def _value(value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise SelectorError(f'values[0]: Invalid value: "{value}": a valid label must be an empty string or '
                            "consist of alphanumeric characters, '-', '_' or '.'")  # fmt: skip
    return value


def _value_set(tokens: list[str]) -> list[str]:
    if not tokens or tokens.pop(0) != "(":
        raise SelectorError("found '', expected: '('")
    values: list[str] = []
    expect_value = True
    while tokens:
        part = tokens.pop(0)
        if part == ")":
            return [*values, ""] if expect_value else values
        if part == ",":
            if expect_value:
                values.append("")
            expect_value = True
            continue
        if not expect_value:
            raise SelectorError(f"found '{part}', expected: ',', or ')'")
        values.append(_value(part))
        expect_value = False
    raise SelectorError("found '', expected: ',', or ')'")


def labels_from_object(selector: Mapping[str, Any] | None) -> LabelSelector | None:
    """A metav1.LabelSelector: None selects nothing, an empty one everything."""
    if selector is None:
        return None
    found = [Requirement(key, "in", frozenset([value])) for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        operator = _OBJECT_OPERATORS.get(expression.get("operator", ""))
        if operator is None:
            raise SelectorError(f"{expression.get('operator')!r} is not a valid label selector operator")
        found.append(Requirement(expression["key"], operator, frozenset(expression.get("values") or ())))
    return LabelSelector(tuple(found))


@dataclass(frozen=True, slots=True)
class FieldTerm:
    path: str
    equal: bool
    value: str


@dataclass(frozen=True, slots=True)
class FieldSelector:
    terms: tuple[FieldTerm, ...] = ()

    def matches(self, value_of: Callable[[str], str]) -> bool:
        return all((value_of(term.path) == term.value) == term.equal for term in self.terms)

    def exact(self, path: str) -> str | None:
        """The one value `path` must have, if the selector says so."""
        return next((term.value for term in self.terms if term.path == path and term.equal), None)

    def __bool__(self) -> bool:
        return bool(self.terms)


def parse_fields(text: str) -> FieldSelector:
    r"""Read `spec.nodeName=a,status.phase!=Failed` (`\,`, `\=` and `\\` are escaped); raises SelectorError."""
    return FieldSelector(tuple(_term(part) for part in _split(text, ",") if part))


def _term(part: str) -> FieldTerm:
    for position in range(len(part)):
        if part[position] == "\\":
            continue
        for operator, equal in (("!=", False), ("==", True), ("=", True)):
            if part.startswith(operator, position) and (position == 0 or part[position - 1] != "\\"):
                return FieldTerm(part[:position].strip(), equal, _unescape(part[position + len(operator) :]))
    raise SelectorError(f"invalid selector: '{part}'; can't understand '{part}'")


def _split(text: str, separator: str) -> Iterable[str]:
    parts, current, escaped = [], "", False
    for letter in text:
        if letter == separator and not escaped:
            parts.append(current)
            current = ""
            continue
        escaped = letter == "\\" and not escaped
        current += letter
    return [*parts, current]


def _unescape(text: str) -> str:
    return re.sub(r"\\([\\,=])", r"\1", text)


#: Selectable fields beyond metadata.name and metadata.namespace, by `plural.group`.
SELECTABLE: Mapping[str, frozenset[str]] = {
    "pods": frozenset({
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName", "spec.host",
    }),
    "nodes": frozenset({"spec.unschedulable"}),
    "events": frozenset({
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
        "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
        "reportingComponent", "source", "type",
    }),
    "secrets": frozenset({"type"}),
    "namespaces": frozenset({"status.phase"}),
    "services": frozenset({"spec.clusterIP", "spec.type"}),
    "jobs.batch": frozenset({"status.successful"}),
    "certificatesigningrequests.certificates.k8s.io": frozenset({"spec.signerName"}),
    "replicationcontrollers": frozenset({"status.replicas"}),
    "replicasets.apps": frozenset({"status.replicas"}),
}  # fmt: skip

_DEFAULTS = {"spec.unschedulable": "false", "spec.hostNetwork": "false", "status.successful": "0",
             "status.replicas": "0"}  # fmt: skip


def field_value(obj: Mapping[str, Any], path: str) -> str:
    """A field as selectors compare it: text, `true`/`false`, digits, or empty when unset."""
    if path == "spec.host":
        path = "spec.nodeName"
    if path == "source":
        return str((obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "")
    if path == "status.podIPs":
        return ",".join(item.get("ip", "") for item in (obj.get("status") or {}).get("podIPs") or ())
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return _DEFAULTS.get(path, "") if value is None else str(value)
