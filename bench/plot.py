"""Lines over time as an SVG file: one panel for each series, all with the same time below. Pure but for the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, GAP, HEAD = 900, 110, 90, 34, 30
_STYLE = "font-family:sans-serif;font-size:12px;fill:#333"


def write_svg(path: Path, title: str, minutes: Sequence[float], series: Mapping[str, Sequence[float]]) -> None:
    """Series by name, with a value for each of the `minutes`."""
    height = HEAD + len(series) * (HEIGHT + GAP) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + LEFT + 20}" height="{height}">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18" style="{_STYLE};font-weight:bold">{escape(title)}</text>',
    ]
    for number, (name, values) in enumerate(series.items()):
        parts += _panel(HEAD + number * (HEIGHT + GAP), name, minutes, values)
    last = minutes[-1] if minutes else 0.0
    parts.append(f'<text x="{LEFT}" y="{height - 8}" style="{_STYLE}">0 to {last:.1f} minutes</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def _panel(top: float, name: str, minutes: Sequence[float], values: Sequence[float]) -> list[str]:
    """From zero to the largest value, so that a slope looks as steep as it is."""
    most = max(values, default=0.0) or 1.0
    span = (minutes[-1] if minutes else 0.0) or 1.0
    points = " ".join(
        f"{LEFT + minute / span * WIDTH:.1f},{top + 18 + (1 - value / most) * (HEIGHT - 18):.1f}"
        for minute, value in zip(minutes, values, strict=True)
    )
    return [
        f'<text x="{LEFT}" y="{top + 12}" style="{_STYLE}">{escape(name)}</text>',
        f'<rect x="{LEFT}" y="{top + 18}" width="{WIDTH}" height="{HEIGHT - 18}" fill="none" stroke="#ccc"/>',
        f'<text x="{LEFT - 6}" y="{top + 28}" text-anchor="end" style="{_STYLE}">{most:,.6g}</text>',
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end" style="{_STYLE}">0</text>',
        f'<polyline points="{points}" fill="none" stroke="#1f6fb4" stroke-width="1.5"/>',
    ]
