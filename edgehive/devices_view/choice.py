"""Which device and which property somebody means, and sentences for who means none that is there. Pure."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from edgehive.devices_view.rows import NUMBERS, DeviceView, Kinds, PropertyRow, number_of, shown, views

#: Names that are listed where one is unknown.
_LISTED = 10


class Unusable(Exception):
    """The command cannot do what it was asked for; the text says why and what to do."""


class Scope(NamedTuple):
    """Which devices: of a namespace ("" for all) and with these labels."""

    namespace: str = ""
    selector: str = ""

    def __str__(self) -> str:
        where = f"in namespace {self.namespace}" if self.namespace else "in any namespace"
        return f"{where} with labels {self.selector}" if self.selector else where


class Chosen(NamedTuple):
    """One property of one device."""

    namespace: str
    device: str
    row: PropertyRow


def check_name(kinds: Kinds, name: str, scope: Scope) -> None:
    """Raises Unusable when nothing has this name."""
    names = {document.meta.name for document in kinds.devices.items()}
    if name and name not in names:
        widen = "" if not scope.namespace else "; -A looks in all namespaces"
        raise Unusable(f"there is no device {shown(name)!r} {scope}{_instead(name, names)}{widen}")


def one_device(kinds: Kinds, name: str, scope: Scope) -> DeviceView:
    """The device of that name; raises Unusable for none and for several."""
    check_name(kinds, name, scope)
    found = list(views(kinds, name))
    if len(found) > 1:
        spaces = ", ".join(view.namespace for view in found)
        raise Unusable(f"several namespaces have a device {name!r}; say which with -n: {spaces}")
    return found[0]


def one_property(view: DeviceView, name: str) -> PropertyRow:
    """Raises Unusable."""
    for row in view.properties:
        if row.name == name:
            return row
    raise no_property(view.name, name, [row.name for row in view.properties])


def no_property(device: str, name: str, known: Iterable[str]) -> Unusable:
    """What to say of a property that a device has not."""
    return Unusable(f"device {device!r} has no property {shown(name)!r}{_instead(name, known)}")


def plottable(view: DeviceView, name: str) -> Chosen:
    """A property whose values are numbers; raises Unusable."""
    row = one_property(view, name)
    if row.type and row.type not in NUMBERS:
        raise Unusable(
            f"property {shown(name)!r} of device {view.name!r} is {shown(row.type)}, and only numbers are drawn "
            f"({', '.join(sorted(NUMBERS))})"
        )
    if not row.type and row.reported is not None and number_of(row.reported) is None:
        said = shown(row.reported)
        raise Unusable(f"property {shown(name)!r} of device {view.name!r} is {said!r}, which is no number")
    return Chosen(view.namespace, view.name, row)


def _instead(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(shown, close))}?"
    if not names:
        return "; there is none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"; there is {', '.join(map(shown, names[:_LISTED]))}{more}"
