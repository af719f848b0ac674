"""When the node is short of something: thresholds -> pressure conditions, and which pod has to go. Pure.

For `node.py` and `evictor.py`. Figures are read in `machine.py` and `stats.py`.

Go: pkg/kubelet/eviction/helpers.go
"""

from collections.abc import Iterable, Mapping
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

CONDITIONS = {
    "memory.available": "MemoryPressure",
    "nodefs.available": "DiskPressure",
    "nodefs.inodesFree": "DiskPressure",
    "imagefs.available": "DiskPressure",
    "imagefs.inodesFree": "DiskPressure",
    "pid.available": "PIDPressure",
}
MEMORY, DISK, INODES = "memory", "ephemeral-storage", "inodes"
#: What evicting a pod gives back, most urgent first; the rest only shows as a condition.
_RESOURCES = {
    "memory.available": MEMORY,
    "nodefs.available": DISK,
    "nodefs.inodesFree": INODES,
    "imagefs.available": DISK,
    "imagefs.inodesFree": INODES,
}


@dataclass(frozen=True, slots=True)
class Shortage:
    """Less of a signal is available than its threshold asks for."""

    signal: str
    threshold: int
    available: int

    @property
    def condition(self) -> str:
        return CONDITIONS[self.signal]

    @property
    def resource(self) -> str:
        """What to take from pods; "" when that would not help."""
        return _RESOURCES.get(self.signal, "")


@dataclass(frozen=True, slots=True)
class Share:
    """What one container uses and asked for."""

    container: str
    used: int
    requested: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running pod, its containers' shares of what is short, and what it uses beside them (volumes)."""

    uid: str
    shares: tuple[Share, ...]
    priority: int = 0
    beside: int = 0

    @property
    def used(self) -> int:
        return self.beside + sum(item.used for item in self.shares)

    @property
    def requested(self) -> int:
        return sum(item.requested for item in self.shares)


def threshold(text: str, capacity: int) -> int:
    """`100Mi`, or `10%` of the capacity; raises ValueError."""
    if text.endswith("%"):
        return int(Fraction(text[:-1]) / 100 * capacity)
    return int(quantity.parse(text))


def shortages(signals: Signals, thresholds: Mapping[str, str], more: Mapping[str, str] | None = None) -> list[Shortage]:
    """Every threshold that is met, the most urgent first; `more` has to be free on top before it is over."""
    found = []
    for name, text in thresholds.items():
        if name in signals and name in CONDITIONS:
            amount = signals[name]
            wanted = threshold(text, amount.capacity)
            if more and name in more:
                wanted += threshold(more[name], amount.capacity)
            if amount.available < wanted:
                found.append(Shortage(name, wanted, amount.available))
    order = list(_RESOURCES)
    return sorted(found, key=lambda item: order.index(item.signal) if item.signal in order else len(order))


def pressures(signals: Signals, hard: Mapping[str, str]) -> set[str]:
    """Conditions that hold."""
    return {item.condition for item in shortages(signals, hard)}


def rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Who goes first: who uses more than it asked for, then the less important, then the greediest."""
    return sorted(candidates, key=lambda item: (item.used <= item.requested, item.priority, item.requested - item.used))


def message(shortage: Shortage, candidate: Candidate) -> str:
    """What the pod's status and its event say."""
    text = (
        f"The node was low on resource: {shortage.resource}. "
        f"Threshold quantity: {binary_units(shortage.threshold)}, available: {binary_units(shortage.available)}. "
    )
    for item in candidate.shares:
        if item.used > item.requested:
            text += (
                f"Container {item.container} was using {binary_units(item.used)}, "
                f"request is {binary_units(item.requested)}, has larger consumption of {shortage.resource}. "
            )
    return text


def binary_units(amount: int) -> str:
    """The largest binary unit that holds it exactly, as Kubernetes prints quantities."""
    for unit in ("", "Ki", "Mi", "Gi"):
        if amount % 1024 or not amount:
            return f"{amount}{unit}"
        amount //= 1024
    return f"{amount}Ti"
