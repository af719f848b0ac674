"""Go's duration texts (`1m0s`, `100ms`) in configuration files. Pure.

Used by config Structs to validate and by modules to get seconds; nothing else writes durations as text.
"""

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds(text: str) -> float:
    """`1m30s` -> 90.0; raises ValueError naming the text and the form it should have."""
    if text == "0":
        return 0.0
    body = text.removeprefix("-")
    parts = _PART.findall(body)
    if not parts or "".join(number + unit for number, unit in parts) != body:
        raise ValueError(f"{text!r} is no duration: write numbers with units, such as 10s, 1m30s or 100ms")
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return -total if text.startswith("-") else total
