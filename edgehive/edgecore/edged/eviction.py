"""When the node is short of something: eviction thresholds -> pressure conditions. Pure.

For `node.py`. Figures are read in `machine.py`.

Go: pkg/kubelet/eviction
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from edgehive.kube import quantity


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is, and how much of it is free."""

    capacity: int
    available: int


#: Signal name (`memory.available`) -> its figures; signals nobody can measure here are left out.
Signals = Mapping[str, Amount]

_CONDITION = {
    "memory.available": "MemoryPressure",
    "nodefs.available": "DiskPressure",
    "nodefs.inodesFree": "DiskPressure",
    "imagefs.available": "DiskPressure",
    "imagefs.inodesFree": "DiskPressure",
    "pid.available": "PIDPressure",
}


def threshold(text: str, capacity: int) -> int:
    """`100Mi`, or `10%` of the capacity; raises ValueError."""
    if text.endswith("%"):
        return int(Fraction(text[:-1]) / 100 * capacity)
    return int(quantity.parse(text))


def pressures(signals: Signals, hard: Mapping[str, str]) -> set[str]:
    """Conditions that hold: less is available than a threshold asks for."""
    return {
        _CONDITION[name]
        for name, text in hard.items()
        if name in signals and name in _CONDITION and signals[name].available < threshold(text, signals[name].capacity)
    }
