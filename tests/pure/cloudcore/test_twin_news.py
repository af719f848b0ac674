"""Reports merged and applied: of each value the newest, in the order of the device, whatever comes again or late."""

import random
from typing import Any

import pytest

from edgehive.cloudcore.devicecontroller.twin_news import (
    OBSERVED_DESIRED,
    REPORTED,
    Mark,
    marks_of,
    overtaken,
    values_of,
    with_values,
)
from edgehive.wire.devices import Twin, TwinValue, TwinVersion, TypeMetadata, ValueMetadata


def twin(value: str | None, timestamp: int = 5, edge: int = 1, type: str = "int") -> Twin:
    said = TwinValue(value, ValueMetadata(timestamp))
    return Twin(actual=said, metadata=TypeMetadata(type), actual_version=TwinVersion(0, edge))


def test_a_value_keeps_its_time_and_type_as_text() -> None:
    found = values_of({"t": twin("1"), "other": twin("2")}, ["t"])
    assert {slot: value.content for slot, value in found.items()} == {
        ("t", REPORTED): {"value": "1", "metadata": {"timestamp": "5", "type": "int"}}
    }
    bare = values_of({"t": Twin(actual=TwinValue("1"), expected=TwinValue(""))}, ["t"])
    assert bare["t", REPORTED].content == {"value": "1", "metadata": {}}
    assert bare["t", OBSERVED_DESIRED].content == {"value": "", "metadata": {}}


@pytest.mark.parametrize("said", [None, twin(None), twin(None, type="deleted"), Twin()])
def test_what_is_deleted_says_nothing(said: Twin | None) -> None:
    assert values_of({"t": said}, ["t"]) == {}


V = TwinVersion


@pytest.mark.parametrize(
    ("mark", "last", "expected"),
    [
        (Mark(1, V(0, 1)), None, False),
        (Mark(1, V(0, 1)), Mark(2, V(0, 2)), True),
        (Mark(2, V(0, 2)), Mark(2, V(0, 2)), False),
        (Mark(3, V(0, 1)), Mark(2, V(0, 9)), False),  # the edge lost its database
        (Mark(1, V(0, 3)), Mark(2, V(0, 2)), False),  # its clock was set back
        (Mark(1, V(7, 0)), Mark(2, V(6, 2)), False),  # the cloud's value was taken
        (Mark(1, V(0, 3)), Mark(2), True),  # only the time is known, after a restart
        (Mark(1), Mark(2, V(0, 1)), True),
    ],
)
def test_what_is_older_by_time_and_no_newer_by_counters_is_overtaken(
    mark: Mark, last: Mark | None, expected: bool
) -> None:
    assert overtaken(mark, last) is expected


def test_twins_stand_in_the_order_of_the_device_and_keep_what_is_not_told() -> None:
    before: list[dict[str, Any]] = [
        {"propertyName": "gone", REPORTED: {"value": "1"}},
        {"propertyName": "b", REPORTED: {"value": "1"}, "later": True},
    ]
    values = values_of({"a": twin("2"), "b": Twin(expected=TwinValue("3"))}, ["a", "b"])
    after = with_values(before, values, ["a", "b", "c", "a"])
    assert [one["propertyName"] for one in after] == ["a", "b"]
    assert after[1] == {
        "propertyName": "b",
        REPORTED: {"value": "1"},
        "later": True,
        OBSERVED_DESIRED: {"value": "3", "metadata": {}},
    }
    assert before[1].keys() == {"propertyName", REPORTED, "later"}


def test_marks_are_read_from_a_status_of_any_shape() -> None:
    twins: list[dict[str, Any]] = [
        {
            "propertyName": "t",
            REPORTED: {"value": "1", "metadata": {"timestamp": "7"}},
            OBSERVED_DESIRED: {"value": ""},
        },
        {"propertyName": "u", REPORTED: {"metadata": {"timestamp": "soon"}}},
        {},
    ]
    assert marks_of(twins) == {("t", REPORTED): Mark(7)}


def test_in_whatever_order_reports_come_the_newest_stays() -> None:
    for seed in range(200):
        reports = [values_of({"t": twin(str(n), timestamp=n, edge=n)}, ["t"]) for n in range(1, 8)]
        random.Random(seed).shuffle(reports)
        kept: dict[Any, Any] = {}
        for values in reports:
            for slot, value in values.items():
                if slot not in kept or not overtaken(value.mark, kept[slot].mark):
                    kept[slot] = value
        assert kept["t", REPORTED].content["value"] == "7"
