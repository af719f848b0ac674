"""Quantities are valued exactly and spelled as a Kubernetes server spells them."""

from fractions import Fraction

import pytest

from edgehive.kube import quantity


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("0.5", "500m"), ("1000m", "1"), ("1500m", "1500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("0.5Gi", "512Mi"),
        ("1000", "1k"), (2, "2"), (0.25, "250m"), ("0m", "0"), ("512Ki", "512Ki"), ("1023", "1023"), ("-2", "-2"),
        ("1e3", "1e3"), ("100m", "100m"), ("1234567", "1234567"), ("0.1n", "1n"), ("1Ki", "1Ki"),
    ],
)  # fmt: skip
def test_canonical(given: str | int | float, wanted: str) -> None:
    assert quantity.canonical(given) == wanted


def test_value() -> None:
    assert quantity.parse("1500m") == Fraction(3, 2)
    assert quantity.parse("2Gi") == 2 * 1024**3


@pytest.mark.parametrize("given", ["", "abc", "1x", "1..2", "1 Gi", "--1", "9" * 100, "1e9999"])
def test_nonsense_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity.parse(given)
