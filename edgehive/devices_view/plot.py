"""A property over time, drawn with braille dots. Pure.

A value holds until the next one, so the line has steps. Nothing is drawn before the first value that is known.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Dots of one braille letter, by column and row from the top, and how many there are each way.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_ACROSS, _DOWN = 2, 4
_BLANK = 0x2800
SMALLEST_WIDTH, SMALLEST_HEIGHT = 30, 6
#: Lines below the area: the axis and its labels.
_AXIS_LINES = 2
#: Values that are kept; more in one window are more than a terminal has columns.
HISTORY_LIMIT = 8192


class Sample(NamedTuple):
    """A value and since when it holds, in seconds."""

    at: float
    value: float


class History:
    """The newest samples of one window; the last one before it is kept too, as it holds into it."""

    def __init__(self, window: float) -> None:
        self.window = window
        self._samples: deque[Sample] = deque(maxlen=HISTORY_LIMIT)

    def add(self, sample: Sample) -> None:
        """Samples come in the order of their time; what the window has passed is forgotten."""
        self._samples.append(sample)
        while len(self._samples) > 1 and self._samples[1].at <= sample.at - self.window:
            self._samples.popleft()

    def samples(self) -> list[Sample]:
        return list(self._samples)


class Scale(NamedTuple):
    """What the lowest and the highest dot mean."""

    low: float
    high: float

    def row(self, value: float, rows: int) -> int:
        """The dot row of a value, 0 at the top."""
        share = (value - self.low) / (self.high - self.low)
        return min(max(round((1 - share) * (rows - 1)), 0), rows - 1)


def draw(samples: Sequence[Sample], *, start: float, end: float, width: int, height: int) -> list[str]:
    """The curve between two instants with its axes: `height` lines, none longer than `width`."""
    width, height = max(width, SMALLEST_WIDTH), max(height, SMALLEST_HEIGHT)
    seen = visible(samples, start, end)
    scale = scale_of(sample.value for sample in seen)
    lines = height - _AXIS_LINES
    labels = _labels(scale, lines)
    margin = max(map(len, labels))
    columns = width - margin - 2
    area = _area(seen, scale, start, end, columns, lines)
    drawn = [f"{label:>{margin}} {'┤' if label else '│'}{line}" for label, line in zip(labels, area, strict=True)]
    return [*drawn, " " * (margin + 1) + "└" + "─" * columns, " " * (margin + 2) + _times(end - start, columns)]


def summary(samples: Sequence[Sample], start: float, end: float, unit: str = "") -> str:
    """The figures under a curve."""
    seen = visible(samples, start, end)
    if not seen:
        return "no value yet"
    numbers = [sample.value for sample in seen]
    figures = [("min", min(numbers)), ("max", max(numbers)), ("last", numbers[-1])]
    suffix = f" {unit}" if unit else ""
    return "  ".join(f"{name} {number:.6g}{suffix}" for name, number in figures)


def visible(samples: Iterable[Sample], start: float, end: float) -> list[Sample]:
    """The samples of a window; the one that holds when it begins is moved to its beginning."""
    known = [sample for sample in samples if sample.at <= end]
    before = [sample for sample in known if sample.at < start]
    return [Sample(start, sample.value) for sample in before[-1:]] + [sample for sample in known if sample.at >= start]


def scale_of(values: Iterable[float]) -> Scale:
    """From the least to the greatest; around a single one, so that it lies in the middle."""
    known = list(values) or [0.0]
    low, high = min(known), max(known)
    # Half of each, as the difference of two large ones may be infinite.
    if high / 2 - low / 2 > max(abs(low), abs(high)) * 1e-12:
        return Scale(low, high) if math.isfinite(high - low) else Scale(low / 2, high / 2)
    around = max(abs(low) * 0.05, 1.0)
    return Scale(low - around, high + around)


def duration_text(seconds: float) -> str:
    """The largest unit in which it is 1 or more."""
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.3g}{letter}"
    return f"{seconds:.3g}s"


def _area(seen: Sequence[Sample], scale: Scale, start: float, end: float, columns: int, lines: int) -> list[str]:
    dots, rows = columns * _ACROSS, lines * _DOWN
    cells = [[0] * columns for _ in range(lines)]
    for x, values in enumerate(_held(seen, start, end, dots)):
        if values:
            reached = [scale.row(value, rows) for value in values]
            for y in range(min(reached), max(reached) + 1):
                cells[y // _DOWN][x // _ACROSS] |= _DOTS[x % _ACROSS][y % _DOWN]
    return ["".join(chr(_BLANK + cell) if cell else " " for cell in line) for line in cells]


def _held(seen: Sequence[Sample], start: float, end: float, dots: int) -> list[list[float]]:
    """Per dot column the value it begins with and those that came within it."""
    columns: list[list[float]] = [[] for _ in range(dots)]
    for sample in seen:
        share = (sample.at - start) / (end - start) if end > start else 1.0
        columns[min(int(share * dots), dots - 1)].append(sample.value)
    held: float | None = None
    for column in columns:
        before, held = held, column[-1] if column else held
        if before is not None:
            column.insert(0, before)
    return columns


def _labels(scale: Scale, lines: int) -> list[str]:
    """What the top, the middle and the bottom mean, with as many digits as tell them apart."""
    middle = scale.low / 2 + scale.high / 2
    digits = next((n for n in range(3, 17) if len({f"{v:.{n}g}" for v in (scale.low, middle, scale.high)}) == 3), 17)
    labels = [""] * lines
    labels[0], labels[lines // 2], labels[-1] = (f"{v:.{digits}g}" for v in (scale.high, middle, scale.low))
    return labels


def _times(seconds: float, columns: int) -> str:
    first, middle, last = f"-{duration_text(seconds)}", f"-{duration_text(seconds / 2)}", "now"
    half = columns // 2
    line = first.ljust(half - len(middle) // 2) + middle
    return line + last.rjust(max(columns - len(line), len(last) + 1))
