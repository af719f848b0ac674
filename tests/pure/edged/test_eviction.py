"""What is short, who goes first, and what is said of it."""

import pytest

from edgehive.edgecore.edged.eviction import Amount, Candidate, Share, Shortage, message, pressures, rank, shortages

MIB = 1024 * 1024
SIGNALS = {
    "memory.available": Amount(1000 * MIB, 90 * MIB),
    "nodefs.available": Amount(1000 * MIB, 99 * MIB),
    "nodefs.inodesFree": Amount(1000, 50),
}
HARD = {"imagefs.available": "15%", "nodefs.inodesFree": "5%", "nodefs.available": "10%", "memory.available": "100Mi"}


def test_memory_is_more_urgent_than_disk_and_a_full_threshold_is_not_met() -> None:
    found = shortages(SIGNALS, HARD)
    assert [(item.signal, item.resource, item.condition) for item in found] == [
        ("memory.available", "memory", "MemoryPressure"),
        ("nodefs.available", "ephemeral-storage", "DiskPressure"),
    ]
    assert found[0] == Shortage("memory.available", 100 * MIB, 90 * MIB)
    assert pressures(SIGNALS, HARD) == {"MemoryPressure", "DiskPressure"}


def test_what_has_to_be_reclaimed_counts_on_top() -> None:
    enough = {"memory.available": Amount(1000 * MIB, 110 * MIB)}
    assert shortages(enough, HARD) == []
    assert [item.threshold for item in shortages(enough, HARD, {"memory.available": "5%"})] == [150 * MIB]


def candidate(uid: str, used: int, requested: int = 0, priority: int = 0) -> Candidate:
    return Candidate(uid, (Share("c", used, requested),), priority)


def test_who_exceeds_goes_before_who_does_not_then_priority_then_greed() -> None:
    pods = [
        candidate("modest", 50, 100),
        candidate("important", 900, 0, priority=1000),
        candidate("greedy", 500, 100),
        candidate("hungry", 450, 0),
        candidate("modest and large", 900, 1000, priority=-1),
    ]
    assert [item.uid for item in rank(pods)] == ["hungry", "greedy", "important", "modest and large", "modest"]


def test_the_message_is_kubernetes_own() -> None:
    short = Shortage("memory.available", 100 * MIB, 96 * MIB + 512 * 1024)
    pod = Candidate("u", (Share("a", 704512, 0), Share("b", 10, 20)))
    assert message(short, pod) == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 98816Ki. "
        "Container a was using 688Ki, request is 0, has larger consumption of memory. "
    )


@pytest.mark.parametrize("text", ["lots", "10x%", ""])
def test_a_threshold_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        shortages(SIGNALS, {"memory.available": text})
