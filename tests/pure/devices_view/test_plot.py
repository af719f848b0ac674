"""The curve: what is where, what the axes say, and that no input breaks it."""

import math

import pytest

from edgehive.devices_view.plot import (
    HISTORY_LIMIT,
    History,
    Sample,
    draw,
    duration_text,
    scale_of,
    summary,
    visible,
)

BLANK = " "


def area(lines: list[str]) -> list[str]:
    """The lines right of the axis."""
    return [line.split("┤" if "┤" in line else "│", 1)[1] for line in lines if "┤" in line or "│" in line]


def test_a_step_is_drawn_where_it_happened() -> None:
    samples = [Sample(0, 10), Sample(50, 20)]
    lines = draw(samples, start=0, end=100, width=44, height=8)
    top, bottom = area(lines)[0], area(lines)[-1]
    half = len(top) // 2
    assert top[: half - 1].strip() == "" and BLANK not in top[half + 1 :]
    assert BLANK not in bottom[: half - 1] and bottom[half + 1 :].strip() == ""
    # The step itself joins both.
    assert all(line[half - 1 : half + 1].strip() for line in area(lines))


def test_the_picture_as_it_is() -> None:
    samples = [Sample(number, value) for number, value in enumerate((1, 2, 3, 4, 3, 2, 1, 2))]
    assert [line.rstrip() for line in draw(samples, start=0, end=8, width=32, height=6)] == [
        "  4 ┤          ⡏⠉⠉⢹",
        "    │      ⢰⠒⠒⠒⠃  ⠘⠒⠒⢲",
        "2.5 ┤   ⡤⠤⠤⠼         ⠸⠤⠤⠤⡄  ⢠⠤⠤⠤",
        "  1 ┤⣀⣀⣀⡇                ⣇⣀⣀⣸",
        "    └───────────────────────────",
        "     -8s         -4s         now",
    ]


def test_axes_name_the_range_and_the_time() -> None:
    lines = draw([Sample(0, 10), Sample(50, 20)], start=0, end=300, width=60, height=10)
    assert lines[0].startswith("20 ┤") and lines[4].startswith("15 ┤") and lines[7].startswith("10 ┤")
    assert lines[-1].split() == ["-5m", "-2.5m", "now"]
    assert len(lines) == 10 and max(map(len, lines)) <= 60


def test_before_the_first_value_nothing_is_drawn() -> None:
    lines = area(draw([Sample(80, 5)], start=0, end=100, width=44, height=8))
    drawn = {column for line in lines for column, letter in enumerate(line) if letter != BLANK}
    assert min(drawn) == int(0.8 * len(lines[0])) and max(drawn) == len(lines[0]) - 1


def test_a_value_from_before_the_window_holds_into_it() -> None:
    samples = [Sample(-90, 1), Sample(-50, 7)]
    assert visible(samples, 0, 100) == [Sample(0, 7)]
    assert summary(samples, 0, 100, "C") == "min 7 C  max 7 C  last 7 C"


def test_the_figures() -> None:
    assert summary([Sample(1, 20.5), Sample(2, -3), Sample(3, 7)], 0, 10) == "min -3  max 20.5  last 7"
    assert summary([], 0, 10) == "no value yet"


def test_no_value_is_an_empty_area() -> None:
    lines = draw([], start=0, end=10, width=40, height=8)
    assert "".join(area(lines)).strip() == "" and len(lines) == 8


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [1e308, -1e308],
        [1e-320, 0.0],
        [1e300, 1e300 * (1 + 1e-15)],
        [20.001, 20.002, 20.003],
        [1e20, 1e20],
        [-5.0] * 3,
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (30, 6), (200, 50)])
def test_any_range_and_size_can_be_drawn(values: list[float], size: tuple[int, int]) -> None:
    samples = [Sample(number, value) for number, value in enumerate(values)]
    lines = draw(samples, start=0, end=len(values), width=size[0], height=size[1])
    assert len(lines) == max(size[1], 6)
    assert "".join(area(lines)).strip()


def test_labels_of_near_values_differ() -> None:
    lines = draw([Sample(0, 20.001), Sample(1, 20.002)], start=0, end=2, width=60, height=8)
    labels = [line.split("┤")[0].strip() for line in lines if "┤" in line]
    assert len(set(labels)) == 3 and all(labels)


def test_one_value_lies_in_the_middle() -> None:
    scale = scale_of([20])
    assert scale.low < 20 < scale.high and math.isclose(scale.high - 20, 20 - scale.low)


def test_history_forgets_what_the_window_has_passed_but_not_what_holds() -> None:
    history = History(window=10)
    for at in range(100):
        history.add(Sample(at, at))
    kept = history.samples()
    assert [sample.at for sample in kept] == list(range(89, 100))
    history.add(Sample(1000, 0))
    assert history.samples() == [Sample(99, 99), Sample(1000, 0)]


def test_history_is_bounded() -> None:
    history = History(window=1e9)
    for at in range(HISTORY_LIMIT + 100):
        history.add(Sample(at, 1))
    assert len(history.samples()) == HISTORY_LIMIT


@pytest.mark.parametrize(("seconds", "text"), [(30, "30s"), (300, "5m"), (150, "2.5m"), (7200, "2h"), (86400, "1d")])
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
