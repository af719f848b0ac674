"""The arithmetic of rollouts and Jobs."""

from hypothesis import given
from hypothesis import strategies as st

from edgehive.edgesite.controllers import job_counts, rollout
from edgehive.edgesite.controllers.rollout import Generation, Limits

TEMPLATE = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "x"}]}}


def test_the_hash_does_not_depend_on_the_order_of_keys_and_collisions_change_it() -> None:
    swapped = {"spec": TEMPLATE["spec"], "metadata": TEMPLATE["metadata"]}
    assert rollout.template_hash(TEMPLATE) == rollout.template_hash(swapped)
    assert rollout.template_hash(TEMPLATE) != rollout.template_hash(TEMPLATE, 1)


def test_templates_are_compared_without_their_hash_label() -> None:
    labelled = {**TEMPLATE, "metadata": {"labels": {"app": "a", "pod-template-hash": "x"}, "creationTimestamp": None}}
    assert rollout.same_template(TEMPLATE, labelled)
    assert not rollout.same_template(TEMPLATE, {**labelled, "spec": {}})


def test_percentages_round_up_for_surge_and_down_for_unavailable() -> None:
    assert Limits.of(10, "25%", "25%") == Limits(3, 2)
    assert Limits.of(1, "25%", "25%") == Limits(1, 0)
    assert Limits.of(4, 0, "0%") == Limits(0, 1)


@given(
    wanted=st.integers(1, 30),
    surge=st.integers(0, 10),
    unavailable=st.integers(0, 10),
    broken=st.integers(0, 30),
)
def test_a_rollout_always_arrives_and_stays_within_its_limits(
    wanted: int, surge: int, unavailable: int, broken: int
) -> None:
    limits = Limits.of(wanted, surge, unavailable)
    old, new = wanted, 0
    healthy = wanted - min(broken, wanted)
    for _ in range(10 * wanted + 10):
        new = rollout.new_size(wanted, limits, new, old + new)
        assert old + new <= max(wanted + limits.surge, old)
        (size,) = rollout.old_sizes(wanted, limits, Generation(new, new), [Generation(old, healthy)])
        gone = old - size
        lost = max(0, gone - (old - healthy))
        old, healthy = size, healthy - lost
        if lost:
            assert healthy + new >= wanted - limits.unavailable
    assert (old, new) == (0, wanted)


def test_new_pods_that_do_not_come_up_stop_the_rollout() -> None:
    limits = Limits(1, 1)
    assert rollout.old_sizes(4, limits, Generation(2, 0), [Generation(3, 3)]) == [3]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=4), st.integers(1, 100))
def test_a_proportional_change_gives_exactly_what_is_allowed(sizes: list[int], wanted: int) -> None:
    limits = Limits(1, 1)
    sets = [Generation(size, size, str(index), sum(sizes)) for index, size in enumerate(sizes)]
    result = rollout.proportional(wanted, limits, sets)
    assert all(size >= 0 for size in result)
    assert sum(result) == wanted + 1


def test_proportions_are_kept() -> None:
    sets = [Generation(8, 8, "1", 13), Generation(5, 5, "2", 13)]
    assert rollout.proportional(20, Limits(6, 0), sets) == [16, 10]


@given(st.sets(st.integers(0, 200)))
def test_indexes_survive_their_notation(indexes: set[int]) -> None:
    assert job_counts.parse_indexes(job_counts.format_indexes(indexes)) == indexes


def test_index_notation() -> None:
    assert job_counts.format_indexes({0, 1, 2, 5, 7, 8}) == "0-2,5,7-8"


def test_failed_pods_are_replaced_at_a_growing_distance() -> None:
    assert [job_counts.delay(count) for count in (1, 2, 3, 10)] == [10, 20, 40, 360]
