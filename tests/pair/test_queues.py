"""No queue grows without end: each tells how long it ever was, schedules look at it, and a small one loses nothing."""

from functools import partial

import pytest

from edgehive.cloudcore.cloudhub import sessions
from edgehive.cloudcore.cloudhub.outbox import Outbox
from edgehive.testing.pair import invariants
from edgehive.testing.pair.simulation import Broken, simulate


def test_a_schedule_that_fills_a_queue_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "QUEUED", 0)
    with pytest.raises(Broken) as broken:
        simulate(7, [])
    for name in ("cloud mailbox_most cloudhub", "cloud hub_most_waiting_messages", "edge mailbox_most metamanager"):
        assert f"waited in {name}" in broken.value.summary


@pytest.mark.parametrize("seed", range(8))
def test_an_outbox_with_room_for_two_loses_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "Outbox", partial(Outbox, pushes=2))
    simulate(seed)
