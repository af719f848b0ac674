"""Resource quantities: `500m`, `1Gi`, `1e3`: their value, and the one spelling Kubernetes stores.

For the API server, the scheduler and whoever adds resources up. Pure.
Go: apimachinery/pkg/api/resource/quantity.go
"""

import re
from fractions import Fraction
from typing import Final

FORMAT_TEXT: Final = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"  # as Go says it
)

_CANONICAL: Final = re.compile(r"[1-9][0-9]{0,2}(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?|0")
_GENERAL: Final = re.compile(r"([+-]?)([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?[0-9]{1,3}))?")
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX: Final = {power: suffix for suffix, power in _DECIMAL.items()}
_NANO: Final = Fraction(1, 10**9)


def parse(text: str | int | float) -> Fraction:
    """The exact value; ValueError when it is no quantity."""
    return _split(str(text))[0]


def canonical(text: str | int | float) -> str:
    """The spelling a Kubernetes server answers with: `0.5` is `500m`, `1024Mi` is `1Gi`."""
    text = str(text)
    if _CANONICAL.fullmatch(text):
        return text
    value, binary, exponent = _split(text)
    if value == 0:
        return "0"
    if binary and abs(value) >= 1024:
        return _binary(value)
    value = Fraction(-(-value // _NANO)) * _NANO
    power = 0
    while value % 1:
        value, power = value * 1000, power - 3
    while value % 1000 == 0 and power < 18:
        value, power = value / 1000, power + 3
    return f"{value}e{power}" if exponent and power else f"{value}{_SUFFIX[power]}"


def _split(text: str) -> tuple[Fraction, bool, bool]:
    match = _GENERAL.fullmatch(text) if len(text) <= 64 else None
    if match is None:
        raise ValueError(FORMAT_TEXT)
    sign, digits, suffix, exponent = match.groups()
    value = Fraction(digits) * (-1 if sign == "-" else 1)
    if suffix in _BINARY:
        return value * 1024 ** _BINARY[suffix], True, False
    return value * Fraction(10) ** (int(exponent) if exponent else _DECIMAL[suffix or ""]), False, bool(exponent)


def _binary(value: Fraction) -> str:
    whole, power = -(-value.numerator // value.denominator), 0
    while whole % 1024 == 0 and power < 6:
        whole, power = whole // 1024, power + 1
    return f"{whole}{['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'][power]}"
