"""Lists and watches, decided: option rules, continue tokens, selectors over stored objects. Pure.

Go: k8s.io/apimachinery/pkg/apis/meta/internalversion/validation, k8s.io/apiserver/pkg/storage/continue.go
"""

import base64
from functools import lru_cache
from typing import Any

import msgspec

from edgehive.api.meta import StatusCause, StatusDetails
from edgehive.api.registry import EVENTS_V1
from edgehive.kube import selectors
from edgehive.kube.client import EventType
from edgehive.kube.errors import BadRequest, Gone, Timeout, invalid
from edgehive.kube.selectors import SELECTABLE, FieldSelector, FieldTerm, LabelSelector, SelectorError
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.event_views import core_path
from edgehive.kube.server.options import Change, ListOptions
from edgehive.kube.store import Event, Expired, Stored


class _Meta(msgspec.Struct):
    labels: dict[str, str] | None = None


class _Labelled(msgspec.Struct):
    metadata: _Meta


_labels_of = msgspec.json.Decoder(_Labelled).decode


@lru_cache(maxsize=64)
def _decoded(raw: bytes) -> dict[str, Any]:
    """One decode for all watches that look at the same event; never changed by anyone."""
    value: dict[str, Any] = msgspec.json.decode(raw)
    return value


class Filter:
    """A request's scope and selectors, ready to judge stored objects."""

    def __init__(self, served: Served, namespace: str, name: str, options: ListOptions) -> None:
        self.namespace = namespace
        self.labels = _label_selector(options.label_selector)
        self.fields = _field_selector(served, options.field_selector)
        self._name = name or self.fields.exact("metadata.name") or ""
        self._namespace = namespace or self.fields.exact("metadata.namespace") or ""
        self._only_names = all(term.path == "metadata.name" and term.equal for term in self.fields.terms)

    @property
    def selects(self) -> bool:
        return bool(self.labels) or bool(self.fields)

    def in_scope(self, stored: Stored) -> bool:
        key = stored.key
        return (not self._name or key.name == self._name) and (not self._namespace or key.namespace == self._namespace)

    def matches(self, stored: Stored) -> bool:
        if not self.in_scope(stored):
            return False
        if self.labels and not self.labels.matches(_labels_of(stored.raw).metadata.labels):
            return False
        if self._only_names:
            return True
        obj = _decoded(stored.raw)
        return self.fields.matches(lambda path: selectors.field_value(obj, path))

    def change(self, event: Event) -> Change | None:
        """What a watcher sees of an event: entering the selection is an addition, leaving it a deletion."""
        if not self.in_scope(event.stored):
            return None
        if not self.selects:
            return Change(event.type, event.stored)
        before = event.previous is not None and self.matches(event.previous)
        if event.type is EventType.DELETED:
            return Change(EventType.DELETED, event.stored) if before else None
        after = self.matches(event.stored)
        if after:
            return Change(EventType.MODIFIED if before else EventType.ADDED, event.stored)
        if before and event.previous is not None:
            return Change(EventType.DELETED, _at_revision(event.previous, event.revision))
        return None


def _at_revision(stored: Stored, revision: int) -> Stored:
    """The same content under another resourceVersion."""
    value = stored.to_dict()
    value["metadata"]["resourceVersion"] = str(revision)
    return Stored(stored.key, revision, msgspec.json.encode(value))


def _label_selector(text: str) -> LabelSelector:
    try:
        return selectors.parse_labels(text)
    except SelectorError as error:
        raise BadRequest(f"unable to parse requirement: {error}") from error


def _field_selector(served: Served, text: str) -> FieldSelector:
    try:
        found = selectors.parse_fields(text)
    except SelectorError as error:
        raise BadRequest(str(error)) from error
    if served.resource.group == EVENTS_V1.group:
        found = FieldSelector(tuple(_core_term(served, term) for term in found.terms))
    known = SELECTABLE.get(served.storage, frozenset()) | set(served.custom.selectable if served.custom else ())
    for term in found.terms:
        if term.path not in ("metadata.name", "metadata.namespace") and term.path not in known:
            raise BadRequest(_unknown_field(served, term.path))
    return found


def _core_term(served: Served, term: FieldTerm) -> FieldTerm:
    """A term about the newer form of Events, about the stored one."""
    path = core_path(term.path)
    if not path:
        raise BadRequest(_unknown_field(served, term.path))
    return FieldTerm(path, term.equal, term.value)


def _unknown_field(served: Served, path: str) -> str:
    if served.storage in SELECTABLE or (served.custom is not None and served.custom.selectable):
        return f"field label not supported: {path}"
    names = '"metadata.name", "metadata.namespace"' if served.resource.namespaced else '"metadata.name"'
    return f'"{path}" is not a known field selector: only {names}'


def check_options(options: ListOptions, *, watch: bool) -> None:
    """Combinations no server accepts; raises Invalid."""
    causes = [StatusCause("FieldValueForbidden", f"Forbidden: {text}", field)
              for field, text in _problems(options, watch)]  # fmt: skip
    if causes:
        raise invalid("ListOptions", "meta.k8s.io", "", causes)


def _problems(options: ListOptions, watch: bool) -> list[tuple[str, str]]:
    match, version, found = options.resource_version_match, options.resource_version, []
    if watch and options.send_initial_events is not None:
        if match != "NotOlderThan":
            found.append(
                ("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
            )
        return found
    if not watch and options.send_initial_events is not None:
        found.append(("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match and watch:
        found.append(
            ("resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
        )
    elif match and not version:
        found.append(("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided"))
    elif match and options.continue_token:
        found.append(("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided"))
    elif match == "Exact" and version == "0":
        found.append(("resourceVersionMatch", 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    elif match not in ("", "Exact", "NotOlderThan"):
        found.append(("resourceVersionMatch", f'supported values: "Exact", "NotOlderThan", got "{match}"'))
    return found


def parse_revision(text: str) -> int:
    """A resourceVersion as a number, 0 when unset; raises BadRequest."""
    if not text:
        return 0
    if not text.isascii() or not text.isdigit():
        raise BadRequest(
            f'invalid resource version: resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing "{text}": '
            "invalid syntax"
        )
    return int(text)


def write_continue(revision: int, stored: Stored) -> str:
    """Where the next page starts: after this object, at this revision (-1: whatever is newest then)."""
    token = {"v": "meta.k8s.io/v1", "rv": revision, "start": f"{stored.key.namespace}/{stored.key.name}"}
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


class _Token(msgspec.Struct):
    rv: int
    start: str


def read_continue(token: str) -> tuple[int, tuple[str, str]]:
    """The revision and the last place of the page before; raises BadRequest."""
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=_Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise BadRequest(f"invalid continue token: continue key is not valid: {error}") from error
    namespace, _, name = found.start.partition("/")
    return found.rv, (namespace, name)


def too_large(asked: int, current: int) -> Timeout:
    """The caller has seen a revision this server has not reached."""
    return Timeout(
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details=StatusDetails(
            causes=[StatusCause("ResourceVersionTooLarge", "Too large resource version")], retry_after_seconds=1
        ),
    )


def gone(error: Expired) -> Gone:
    return Gone(str(error))
