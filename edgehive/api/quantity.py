"""Kubernetes quantities (`250m`, `1Gi`, `2e3`) as exact integers in thousandths. Pure.

Go: k8s.io/apimachinery/pkg/api/resource
"""

import math
import re
from decimal import Decimal, InvalidOperation

_FORM = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]|[KMGTPE]i)?")
_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")}
_UNITS |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)}
_UNITS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


def milli(quantity: str | int | float) -> int:
    """Thousandths, rounded up as Kubernetes does; raises ValueError naming the text."""
    match = _FORM.fullmatch(str(quantity).strip())
    try:
        if match is None:
            raise InvalidOperation
        return math.ceil(Decimal(match[1]) * _UNITS.get(match[2] or "", Decimal(1)) * 1000)
    except InvalidOperation:
        raise ValueError(f"{quantity!r} is not a quantity such as 250m, 1.5 or 64Mi") from None


def whole(quantity: str | int | float) -> int:
    """Whole units (bytes, pods), rounded up."""
    return -(-milli(quantity) // 1000)
