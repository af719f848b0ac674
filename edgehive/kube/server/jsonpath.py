"""The small JSONPath custom resources may use: `.a.b`, `['x.y']`, `[0]`, `[*]` and `[?(@.a=="b")]`. Pure."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

_STEP: Final = re.compile(
    r"""\.?(?:
        \[\s*'(?P<quoted>[^']*)'\s*\] | \[\s*"(?P<double>[^"]*)"\s*\]
      | \[\s*(?P<index>-?\d+)\s*\] | (?P<all>\[\s*\*\s*\]|\*)
      | \[\s*\?\(\s*@\.(?P<field>[\w.-]+)\s*==\s*(?P<value>"[^"]*"|'[^']*'|[\w.-]+)\s*\)\s*\]
      | (?P<name>(?:[\w-]|\\.)+)
    )""",
    re.VERBOSE,
)


def find(document: Any, path: str) -> list[Any]:
    """Every value the path leads to; none for a path that leads nowhere. ValueError for one that is not understood."""
    found = [document]
    for step in _steps(path):
        found = [below for item in found for below in _take(item, *step)]
    return found


@lru_cache(maxsize=512)
def _steps(path: str) -> tuple[tuple[str, str, str], ...]:
    text, position = path.strip().removeprefix("{").removesuffix("}").removeprefix("$"), 0
    steps: list[tuple[str, str, str]] = []
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None or match.end() == position:
            raise ValueError(f"the JSON path {path!r} is not understood at {text[position:]!r}")
        position = match.end()
        kind = next(name for name in ("quoted", "double", "index", "all", "field", "name") if match[name] is not None)
        value = (match["value"] or "").strip("\"'")
        steps.append((kind, re.sub(r"\\(.)", r"\1", match[kind]), value))
    return tuple(steps)


def _take(item: Any, kind: str, name: str, value: str) -> list[Any]:
    if kind in ("quoted", "double", "name"):
        return [item[name]] if isinstance(item, Mapping) and name in item else []
    if kind == "all":
        return list(item.values()) if isinstance(item, Mapping) else list(item) if isinstance(item, list) else []
    if not isinstance(item, list):
        return []
    if kind == "index":
        return item[int(name) :][:1]
    return [below for below in item if [str(found) for found in find(below, "." + name)] == [value]]
