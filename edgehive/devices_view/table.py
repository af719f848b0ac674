"""The pictures of devices: a rich table for a terminal, plain columns for pipes, JSON for programs. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehive.devices_view.rows import DeviceView, PropertyRow, shown
from edgehive.kit.clock import rfc3339_micro

TITLES = ("namespace", "device", "node", "protocol", "state", "property", "desired", "reported", "unit", "age", "marks")
#: Lines of a terminal that are no rows: the table's frame, and what is said below it.
_FRAME_LINES = 7
#: What is left out where the terminal has fewer columns.
_LEFT_OUT = ((118, frozenset({"node", "protocol"})), (100, frozenset({"namespace"})))
_COLOURS = {"online": "green", "ok": "green", "offline": "red", "unhealthy": "yellow", "unknown": "dim"}


@dataclass(frozen=True, slots=True)
class Judge:
    """What is said about a value at one instant."""

    now: datetime
    stale_after: timedelta | None = None

    def marks(self, view: DeviceView, row: PropertyRow) -> list[tuple[str, str]]:
        """Each with its colour."""
        found: list[tuple[str, str]] = []
        if row.conflict is not None:
            found.append((f"conflict: {shown(row.conflict.value or '')} gave way to the {_winner(row)}'s", "red"))
        if row.differs:
            found.append(("differs", "yellow"))
        if view.stale(row, self.now, self.stale_after):
            found.append(("stale", "dim"))
        return found

    def age(self, row: PropertyRow) -> str:
        age = row.age(self.now)
        return age_text(age) if age is not None else ""


def age_text(age: timedelta) -> str:
    """In the largest unit, as kubectl does."""
    seconds = int(age.total_seconds())
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{seconds}s"


# A terminal


def picture(
    views: Iterable[DeviceView], total: int, judge: Judge, size: tuple[int, int], note: str = ""
) -> RenderableType:
    """As many devices of `total` as fit into columns and lines; the rest is told by its number."""
    width, height = size
    hidden = {title for below, titles in _LEFT_OUT if width < below for title in titles}
    columns = [number for number, title in enumerate(TITLES) if title not in hidden]
    table = Table(expand=True, header_style="bold", box=SIMPLE_HEAD)
    for title in (TITLES[number] for number in columns[:-1]):
        table.add_column(title, justify="right" if title in ("desired", "reported", "age") else "left", no_wrap=True)
    # Where it is narrow, marks give way first.
    table.add_column(TITLES[-1], no_wrap=True, ratio=1, min_width=8)
    left, drawn = max(height - _FRAME_LINES, 1), 0
    for view in views:
        for cells in _coloured(view, judge, left):
            table.add_row(*(cells[number] for number in columns))
            left -= 1
        drawn += 1
        if left <= 0:
            break
    said = [one_line(note, "red")] if note else []
    if drawn < total:
        said.append(Text(f"{total - drawn} more; narrow with NAME, -n or -l", "dim"))
    elif not total:
        said.append(Text("no devices", "dim"))
    return Group(table, *said)


def one_line(text: str, colour: str = "") -> Text:
    """A sentence that is cut rather than made two lines of."""
    return Text(text, colour, no_wrap=True, overflow="ellipsis")


def _coloured(view: DeviceView, judge: Judge, limit: int) -> Iterator[list[Text]]:
    state = Text(shown(view.state), _COLOURS.get(view.state, ""))
    head = [Text(text) for text in (view.namespace, view.name, shown(view.node), shown(view.protocol))] + [state]
    if not view.properties or view.faults:
        yield head + [Text("")] * 5 + [Text(shown("; ".join(view.faults), 200), "red")]
        head, limit = [Text("")] * 5, limit - 1
    for number, row in enumerate(view.properties):
        if number >= limit - 1 and len(view.properties) - number > 1:
            yield head + [Text(f"… {len(view.properties) - number} more", "dim")] + [Text("")] * 5
            return
        yield head + _value_cells(view, row, judge)
        head = [Text("")] * 5


def _value_cells(view: DeviceView, row: PropertyRow, judge: Judge) -> list[Text]:
    marks = Text(", ").join(Text(text, colour) for text, colour in judge.marks(view, row))
    reported = Text(shown(row.reported or ""), "dim" if view.stale(row, judge.now, judge.stale_after) else "bold")
    desired = Text(shown(row.desired or ""), "yellow" if row.differs else "green")
    return [Text(shown(row.name)), desired, reported, Text(shown(row.unit)), Text(judge.age(row)), marks]


# A pipe


def plain(views: Iterable[DeviceView], judge: Judge) -> list[str]:
    """Lines of columns, every cell filled ("-" for nothing), for people and for `awk`."""
    rows = [list(map(str.upper, TITLES))]
    for view in views:
        head = [view.namespace, view.name, view.node, view.protocol, view.state]
        for row in view.properties:
            marks = ", ".join(text for text, _ in judge.marks(view, row))
            rows.append([*head, row.name, row.desired or "", row.reported or "", row.unit, judge.age(row), marks])
        if not view.properties or view.faults:
            rows.append([*head, "", "", "", "", "", "; ".join(view.faults)])
    cells = [[shown(cell, 200) or "-" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(TITLES))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


# A program


def as_json(views: Iterable[DeviceView], judge: Judge) -> dict[str, Any]:
    """Everything that is known, values as they are."""
    return {"devices": [_device_json(view, judge) for view in views]}


def _device_json(view: DeviceView, judge: Judge) -> dict[str, Any]:
    return {
        "namespace": view.namespace,
        "name": view.name,
        "node": view.node,
        "protocol": view.protocol,
        "model": view.model,
        "state": view.state,
        "faults": list(view.faults),
        "properties": [_property_json(view, row, judge) for row in view.properties],
    }


def _property_json(view: DeviceView, row: PropertyRow, judge: Judge) -> dict[str, Any]:
    age = row.age(judge.now)
    return {
        "name": row.name,
        "type": row.type,
        "unit": row.unit,
        "desired": row.desired,
        "reported": row.reported,
        "reportedAt": rfc3339_micro(row.reported_at) if row.reported_at is not None else None,
        "ageSeconds": age.total_seconds() if age is not None else None,
        "differs": row.differs,
        "stale": view.stale(row, judge.now, judge.stale_after),
        "conflict": {"value": row.conflict.value, "winner": row.conflict.winner} if row.conflict is not None else None,
    }


def _winner(row: PropertyRow) -> str:
    return "edge" if row.conflict is not None and row.conflict.winner == "edge" else "cloud"
