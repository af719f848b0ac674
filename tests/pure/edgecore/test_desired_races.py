"""Desired values set on both sides while reports, confirmations and Devices overtake one another (decision 0021).

The edge's rule and the cloud's, played against each other in thousands of orders; what once went wrong has a case.
"""

import random
from collections import deque

import pytest

from edgehive.cloudcore.devicecontroller.desired_values import Wish, wishes_of, with_wishes
from edgehive.edgecore.devicetwin import twins
from edgehive.edgecore.devicetwin.twins import Changed, Record
from edgehive.wire.devices import Conflict, Twin, TwinValue


class Cloud:
    """One Device with one property."""

    def __init__(self) -> None:
        self.value: str | None = "x"
        self.version = 1
        self.taken: dict[str, str] = {}

    def set(self, value: str | None) -> bool:
        is_new = value != self.value
        self.value, self.version = value, self.version + is_new
        return is_new

    def hear(self, told: Twin) -> bool:
        wishes: dict[str, Wish] = wishes_of({"p": told}, ["p"])
        (after,) = with_wishes([{"name": "p", "desired": {"value": self.value}}], wishes, self.taken)
        is_new = self.set(after["desired"]["value"])
        if is_new:
            self.taken = {"p": wishes["p"].value}
        return is_new


class Story:
    """Both sides and what is on its way between them; Devices may be coalesced, as the hub does."""

    def __init__(self) -> None:
        self.cloud = Cloud()
        self.record: Record | None = None
        self.has_news = self.is_reporting = False
        self.devices = deque([(self.cloud.value, self.cloud.version)])
        self.reports: deque[Record] = deque()
        self.confirmations: deque[tuple[Record, int]] = deque()
        self.conflicts: list[Conflict] = []
        self.now = 0

    def edge_sets(self, value: str) -> None:
        self.now += 1
        self._take(twins.set_at_edge(self.record, Twin(expected=TwinValue(value)), self.now))

    def cloud_sets(self, value: str) -> None:
        if self.cloud.set(value):
            self.devices.append((self.cloud.value, self.cloud.version))

    def device_arrives(self) -> None:
        self._arrive(*self.devices.popleft())

    def _arrive(self, value: str | None, version: int) -> None:
        self.now += 1
        before = self.record.merge.conflict if self.record else None
        change = twins.desired_by_cloud(self.record, value, version, self.now)
        if self.record is not None or change.news:
            self._take(change)
        conflict = self.record.merge.conflict if self.record else None
        if conflict is not None and conflict != before:
            self.conflicts.append(conflict)

    def _take(self, change: Changed | None) -> None:
        if change is not None:
            self.record, self.has_news = change.record, self.has_news or change.news

    def report(self) -> None:
        assert self.record is not None
        self.record, self.is_reporting = twins.telling(self.record), True
        self.reports.append(self.record)

    def report_arrives(self) -> None:
        sent = self.reports.popleft()
        if self.cloud.hear(twins.reported(sent)):
            self.devices.append((self.cloud.value, self.cloud.version))
        self.confirmations.append((sent, self.cloud.version))

    def confirmation_arrives(self) -> None:
        assert self.record is not None
        self.record, self.has_news = twins.confirmed(self.record, *self.confirmations.popleft())
        self.is_reporting = False
        if twins.overruled(self.record):
            self._arrive(self.record.merge.base, self.record.merge.seen)

    def possible(self) -> list[str]:
        found = {
            "device_arrives": self.devices,
            "report_arrives": self.reports,
            "confirmation_arrives": self.confirmations,
            "report": self.has_news and not self.is_reporting,
        }
        return [name for name, is_possible in found.items() if is_possible]

    def settle(self, chance: random.Random | None = None) -> None:
        for _ in range(300):
            if not (names := self.possible()):
                return
            getattr(self, chance.choice(names) if chance else names[0])()
        raise AssertionError("it never comes to rest")


def play(seed: int, *, cloud_writes: bool) -> tuple[Story, str]:
    """A story and what the edge set last."""
    chance, story, last = random.Random(seed), Story(), ""
    story.device_arrives()
    for _ in range(chance.randrange(3, 14)):
        step = chance.choice([*story.possible() * 2, "edge", *(["cloud"] if cloud_writes else [])])
        if step == "edge":
            last = chance.choice("ABC")
            story.edge_sets(last)
        elif step == "cloud":
            story.cloud_sets(chance.choice("ABCxy"))
        else:
            while step == "device_arrives" and len(story.devices) > 1 and chance.random() < 0.3:
                story.devices.popleft()
            getattr(story, step)()
    story.settle(chance)
    return story, last


@pytest.mark.parametrize("thousand", range(4))
def test_what_the_edge_alone_sets_is_never_lost_and_never_a_conflict(thousand: int) -> None:
    for seed in range(thousand * 1000, thousand * 1000 + 1000):
        story, last = play(seed, cloud_writes=False)
        assert story.record is not None
        assert story.conflicts == [], seed
        assert story.record.desired == story.cloud.value == (last or "x"), seed


@pytest.mark.parametrize("thousand", range(6))
def test_both_sides_always_end_with_one_value(thousand: int) -> None:
    for seed in range(thousand * 1000, thousand * 1000 + 1000):
        story, _ = play(seed, cloud_writes=True)
        assert story.record is not None
        assert story.record.desired == story.cloud.value, seed


def test_a_value_set_again_while_another_was_on_its_way_is_not_taken_for_the_one_before() -> None:
    story = Story()
    story.device_arrives()
    story.edge_sets("A")
    story.report()
    story.report_arrives()
    story.confirmation_arrives()
    story.edge_sets("B")
    story.report()
    story.edge_sets("A")
    story.device_arrives()  # the cloud took the first A, and will take B
    story.settle()
    assert (story.record and story.record.desired, story.cloud.value, story.conflicts) == ("A", "A", [])


def test_a_cloud_that_went_back_before_its_confirmation_arrived_wins_and_it_is_told() -> None:
    story = Story()
    story.device_arrives()
    story.edge_sets("A")
    story.report()
    story.cloud_sets("y")
    story.report_arrives()
    story.cloud_sets("x")
    story.devices.popleft()  # y and x travel as one
    story.device_arrives()
    story.confirmation_arrives()
    story.settle()
    assert (story.record and story.record.desired, story.cloud.value) == ("x", "x")
    assert [(conflict.value, conflict.winner) for conflict in story.conflicts] == [("A", "cloud")]


def test_a_row_of_an_earlier_version_is_read() -> None:
    """It says what was told, and not when that was answered."""
    record = twins.Record(expected=twins.Value("B", 1, 5, 2), merge=twins.Merge("x", True, told=("A", "B")))
    assert twins.desired_by_cloud(record, "A", 6, 2).record.merge == twins.Merge("A", True, told=("B",), answered=(0,))
