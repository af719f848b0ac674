"""The merge of what both sides wrote of one object (decision record 0023): nothing is lost unsaid."""

import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from edgehive.wire.device_edits import (
    OWNED_DEFINITION_ANNOTATION,
    Lost,
    merged,
    number_of,
    parts,
    same_definition,
    untouched,
    with_annotations,
)

Json = dict[str, Any]

values = st.sampled_from([0, 1, 2])
specs = st.dictionaries(st.sampled_from(["protocol", "methods", "stateReport"]), values, max_size=3)
lists = st.dictionaries(st.sampled_from(["t", "u", "v"]), st.tuples(values, values), max_size=3)
labels = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"]), max_size=2)


def _object(spec: Json, properties: dict[str, tuple[int, int]], labels: dict[str, str]) -> Json:
    listed = [
        {"name": name, "reportCycle": cycle, "desired": {"value": str(value)}}
        for name, (cycle, value) in properties.items()
    ]
    return {"metadata": {"name": "d", "labels": labels}, "spec": {**spec, "properties": listed}}


objects = st.builds(_object, specs, lists, labels)


def known(*objs: Json) -> frozenset[str]:
    names = [{one["name"] for one in obj["spec"]["properties"]} for obj in objs]
    return frozenset(set.intersection(*names))


@given(objects, objects)
def test_what_one_side_alone_wrote_stands(base: Json, written: Json) -> None:
    here = merged(base, written, base)
    assert here.lost == []
    assert parts(here.object, known=known(base, base)) == parts(written, known=known(base, base))
    assert merged(base, base, written).object == written


@given(objects, objects, objects)
def test_of_every_part_written_on_both_sides_the_loser_is_told(base: Json, local: Json, current: Json) -> None:
    after = merged(base, local, current)
    shared = known(base, current)
    was, here, there, now = (parts(obj, known=shared) for obj in (base, local, current, after.object))
    told = {one.part: one.value for one in after.lost}
    for part in was.keys() | here.keys() | there.keys():
        mine, theirs, result = here.get(part), there.get(part), now.get(part)
        if theirs != was.get(part):
            assert result == theirs
            if mine not in (was.get(part), theirs):
                assert told[part] == mine
        else:
            assert result == mine


@given(objects, objects, objects)
def test_merging_again_changes_nothing(base: Json, local: Json, current: Json) -> None:
    once = merged(base, local, current)
    assert merged(current, once.object, current).object == once.object


@given(objects, objects, objects)
def test_what_the_edge_owns_ends_as_the_edge_wrote_it(base: Json, local: Json, current: Json) -> None:
    owned = with_annotations(current, {OWNED_DEFINITION_ANNOTATION: "*"})
    after = merged(base, local, owned)
    shared = known(base, current)
    was, here, now = (parts(obj, known=shared) for obj in (base, local, after.object))
    assert all(now.get(part) == here.get(part) for part in was.keys() | here.keys() if here.get(part) != was.get(part))
    assert all(one.winner == "edge" for one in after.lost)


@given(objects, objects, objects)
def test_desired_values_of_known_properties_stay_the_clouds(base: Json, local: Json, current: Json) -> None:
    after = merged(base, local, current)
    there = {one["name"]: one["desired"] for one in current["spec"]["properties"]}
    for one in after.object["spec"]["properties"]:
        if one["name"] in known(base, current):
            assert one["desired"] == there[one["name"]]


def test_annotations_that_say_who_may_do_what_are_nobody_elses() -> None:
    current: Json = {"metadata": {"name": "d"}, "spec": {}}
    local = with_annotations(current, {OWNED_DEFINITION_ANNOTATION: "*", "note": "1"})
    after = merged(current, local, current)
    assert after.object["metadata"]["annotations"] == {"note": "1"}


def test_a_part_can_be_owned_by_name() -> None:
    base: Json = {"metadata": {}, "spec": {"protocol": 1, "methods": 1}}
    local: Json = {"metadata": {}, "spec": {"protocol": 2, "methods": 2}}
    current = with_annotations(
        {"metadata": {}, "spec": {"protocol": 3, "methods": 3}}, {OWNED_DEFINITION_ANNOTATION: "protocol, properties.t"}
    )
    after = merged(base, local, current)
    assert (after.object["spec"]["protocol"], after.object["spec"]["methods"]) == (2, 3)
    assert after.lost == [Lost("spec.methods", 2, "cloud"), Lost("spec.protocol", 3, "edge")]


def test_of_properties_with_one_name_the_others_stay_where_they_are() -> None:
    twice = [{"name": "t", "reportCycle": 1}, {"name": "t", "reportCycle": 9}, {"name": "u"}]
    base: Json = {"metadata": {}, "spec": {"properties": twice}}
    local: Json = {"metadata": {}, "spec": {"properties": [{"name": "t", "reportCycle": 2}, *twice[1:]]}}
    assert merged(base, local, base).object == local


def test_numbers_that_make_no_sense_are_none() -> None:
    for text in ("", "x", "-1", "1" * 30):
        assert number_of({"metadata": {"annotations": {"edgehive.io/edge-version": text}}}) == 0
    assert number_of(None) == 0
    assert untouched(None, {"metadata": {}, "spec": {}}) is False
    assert same_definition({"spec": {}}, {"metadata": {"labels": {}}, "spec": {}})


def test_of_a_large_value_that_is_lost_as_much_is_kept_as_anybody_reads() -> None:
    def made(letter: str) -> Json:
        return {"metadata": {}, "spec": {"methods": [{"name": letter * 100_000}]}}

    (lost,) = merged(made("a"), made("b"), made("c")).lost
    assert lost.value == '[{"name":"' + "b" * (len(lost.value) - 10)
    assert len(lost.value) < 10_000


def test_many_properties_are_merged_in_no_time() -> None:
    """Both sides merge in their event loops, where one node's edit must not hold up all others."""
    names = [f"{'pq'[n % 2]}{n:05}" for n in range(16_000)]
    base = {"metadata": {}, "spec": {"properties": [{"name": name} for name in names if name[0] == "p"]}}
    local = {"metadata": {}, "spec": {"properties": [{"name": name, "reportCycle": 2} for name in sorted(names)]}}
    began = time.process_time()
    assert merged(base, local, base).object == local
    assert time.process_time() - began < 2.0
