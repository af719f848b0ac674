"""The twin state machine: whatever happens in whatever order, both sides end with one value and nothing is refused for
ever (decision record 0021). The tables of single cases are in tests/modules/devicetwin, where users see them.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgehive.edgecore.devicetwin import twins
from edgehive.edgecore.devicetwin.twins import Record, Refused
from edgehive.wire.devices import Twin, TwinValue, TypeMetadata

VALUES = st.sampled_from(["1", "2", "3"])


class Cloud:
    """The rule a cloud of ours follows: a local value becomes desired when nothing else was desired meanwhile."""

    def __init__(self, applies: bool) -> None:
        self.applies = applies
        self.desired: str | None = None
        self.version = 1
        self.changed_at = 1

    def set(self, value: str | None) -> None:
        self.version += 1
        if value != self.desired:
            self.desired, self.changed_at = value, self.version

    def hear(self, told: Twin) -> int:
        local = told.local
        lost = local is not None and local.conflict is not None and local.conflict.winner == "cloud"
        if self.applies and local is not None and not lost and local.base == self.desired and told.expected is not None:
            self.set(told.expected.value)
        return self.version if self.applies else 0


class TwoSides(RuleBasedStateMachine):
    """One property; messages between the sides are delivered late and repeated."""

    applies = True
    edge_owns = False

    def __init__(self) -> None:
        super().__init__()
        self.cloud = Cloud(self.applies)
        self.record: Record | None = None
        self.down: list[tuple[str | None, int]] = []
        self.unconfirmed = False
        self.now = 0

    def take(self, change: twins.Changed | None) -> None:
        if change is not None:
            self.record = change.record
            self.unconfirmed = self.unconfirmed or change.news

    @rule(value=VALUES)
    def cloud_sets(self, value: str) -> None:
        self.cloud.set(value)
        self.down.append((self.cloud.desired, self.cloud.version))

    @rule(value=VALUES)
    def edge_sets(self, value: str) -> None:
        self.now += 1
        said = Twin(expected=TwinValue(value))
        self.take(twins.set_at_edge(self.record, said, self.now))

    @rule(value=VALUES)
    def mapper_reports(self, value: str) -> None:
        self.now += 1
        before = self.record.desired if self.record is not None else None
        self.take(twins.observed(self.record, value, value, "string", self.now))
        assert self.record is not None
        assert before is None or self.record.desired == before

    @rule()
    def device_arrives(self) -> None:
        if self.down:
            self.deliver(*self.down.pop(0))

    @rule()
    def newest_device_arrives_again(self) -> None:
        self.deliver(self.cloud.desired, self.cloud.version)

    def deliver(self, value: str | None, version: int) -> None:
        self.now += 1
        self.take(twins.desired_by_cloud(self.record, value, version, self.now, edge_owns=self.edge_owns))

    @rule()
    def report_is_confirmed(self) -> None:
        if self.record is None or not self.unconfirmed:
            return
        sent = self.record
        version = self.cloud.hear(twins.reported(sent))
        self.record, self.unconfirmed = twins.confirmed(self.record, sent, version)
        self.down.append((self.cloud.desired, self.cloud.version))

    @rule(value=VALUES)
    def the_cloud_is_never_refused_for_ever(self, value: str) -> None:
        """All is delivered; then the next change in the cloud is what is desired."""
        self.settle()
        if value == self.cloud.desired:
            return
        self.cloud_sets(value)
        self.settle()
        assert self.record is not None
        assert self.record.desired == value
        assert self.cloud.desired == value

    def settle(self) -> None:
        for _ in range(6):
            while self.down:
                self.device_arrives()
            self.report_is_confirmed()
        assert not self.unconfirmed
        if self.applies and self.record is not None and self.cloud.desired is not None:
            assert self.record.desired == self.cloud.desired

    @invariant()
    def versions_never_go_back(self) -> None:
        version = self.record.expected if self.record is not None else None
        last = getattr(self, "last", None)
        if version is not None and last is not None:
            assert (version.cloud, version.edge) >= (last.cloud, 0)
            assert version.edge >= last.edge
        if version is not None:
            self.last = version


class WithAGoCloud(TwoSides):
    applies = False


class WhereTheEdgeOwns(TwoSides):
    edge_owns = True


class WhereTheEdgeOwnsUnderAGoCloud(TwoSides):
    applies = False
    edge_owns = True


for machine in (TwoSides, WithAGoCloud, WhereTheEdgeOwns, WhereTheEdgeOwnsUnderAGoCloud):
    machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)

TestOurs = TwoSides.TestCase
TestGo = WithAGoCloud.TestCase
TestOwned = WhereTheEdgeOwns.TestCase
TestOwnedGo = WhereTheEdgeOwnsUnderAGoCloud.TestCase


@pytest.mark.parametrize(
    ("type", "good", "bad"),
    [
        ("int", ["0", "-5", "+7", "9223372036854775807"], ["", "1.0", " 1", "1_0", "９", "9223372036854775808"]),
        ("integer", ["3"], ["x"]),
        ("float", ["1", "-1.5e3", ".5", "1.", "inf", "NaN"], ["", "1,5", "0x10", "1_0"]),
        ("boolean", ["true", "false"], ["True", "1", ""]),
        ("string", ["", "x"], []),
        ("", ["x"], []),
    ],
)
def test_types(type: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        twins.check_type(type, value)
    for value in bad:
        with pytest.raises(Refused):
            twins.check_type(type, value)


def test_a_deleted_twin_comes_back_with_its_versions_above() -> None:
    change = twins.set_at_edge(None, Twin(actual=TwinValue("1"), metadata=TypeMetadata("int")), 1)
    assert change is not None
    gone = twins.set_at_edge(change.record, None, 2)
    assert gone is not None
    back = twins.set_at_edge(gone.record, Twin(actual=TwinValue("x")), 3)
    assert back is not None
    assert back.record.actual is not None
    assert (back.record.type, back.record.actual.value, back.record.actual.edge) == ("string", "x", 3)


def test_the_cloud_may_go_back_to_the_value_before_the_one_it_took_over() -> None:
    """Even when the Device that took it over never came here: two changes in the cloud travel as one."""
    record = twins.desired_by_cloud(None, "1", 5, 0).record
    changed = twins.set_at_edge(record, Twin(expected=TwinValue("2")), 1)
    assert changed is not None
    record = twins.telling(changed.record)
    record = twins.confirmed(record, record, 7).record
    assert twins.desired_by_cloud(record, "1", 6, 2).record.desired == "2"
    assert twins.desired_by_cloud(record, "1", 8, 2).record.desired == "1"


def test_values_the_cloud_takes_over_late_end_nothing_that_was_set_since() -> None:
    record = twins.desired_by_cloud(None, "1", 5, 0).record
    for value in ("2", "3", "4"):
        changed = twins.set_at_edge(record, Twin(expected=TwinValue(value)), 1)
        assert changed is not None
        record = twins.telling(changed.record)
    for version, value in ((6, "2"), (7, "3")):
        record = twins.desired_by_cloud(record, value, version, 2).record
        assert (record.desired, record.merge.base, record.merge.conflict) == ("4", value, None)
    assert not twins.desired_by_cloud(record, "4", 8, 2).record.merge.local
