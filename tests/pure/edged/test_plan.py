"""plan.py: what happens next to a pod, as tables of situations."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.edgecore.edged.plan import (
    POD,
    CrashDelay,
    CreateSandbox,
    Desired,
    Failure,
    Notes,
    ObservedContainer,
    ObservedPod,
    ObservedSandbox,
    RemoveContainer,
    RemoveSandbox,
    StartContainer,
    State,
    StopContainer,
    StopPod,
    crash_after_restart,
    newest_first,
    plan,
    spec_hash,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY = ObservedSandbox("s0", True, 0, NOW - timedelta(hours=1), ("10.0.0.2",))


def pod(*names: str, init: list[dict[str, Any]] | None = None, meta: dict[str, Any] | None = None, **spec: Any) -> Pod:
    body = {
        "metadata": {"name": "p", "namespace": "default", "uid": "u", **(meta or {})},
        "spec": {"containers": [{"name": name, "image": "i"} for name in names or ("c",)], **spec},
    }
    if init:
        body["spec"]["initContainers"] = init
    return Document.of(body).read(Pod)


def seen(
    name: str = "c",
    state: State = State.RUNNING,
    *,
    attempt: int = 0,
    code: int = 0,
    ago: float = 1,
    sandbox: str = "s0",
) -> ObservedContainer:
    ended = NOW - timedelta(seconds=ago) if state is State.EXITED else None
    created = NOW - timedelta(minutes=30) + timedelta(seconds=attempt)
    return ObservedContainer(
        f"{name}{attempt}", name, sandbox, state, attempt, created_at=created, finished_at=ended, exit_code=code
    )


def steps(wanted: Pod, *containers: ObservedContainer, notes: Notes | None = None) -> tuple[Any, ...]:
    return plan(Desired(wanted), newest_first([READY], containers), notes or Notes(), NOW).actions


def test_a_new_pod_gets_a_sandbox_then_its_containers() -> None:
    assert plan(Desired(pod()), ObservedPod(), Notes(), NOW).actions == (CreateSandbox(0),)
    assert steps(pod("a", "b")) == (StartContainer("a", 0), StartContainer("b", 0))


def test_what_runs_is_left_alone() -> None:
    assert steps(pod("a", "b"), seen("a"), seen("b")) == ()


@pytest.mark.parametrize(
    ("policy", "code", "restarts"),
    [("Always", 0, True), ("Always", 1, True), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Never", 1, False)],
)
def test_restart_policies(policy: str, code: int, restarts: bool) -> None:
    actions = steps(pod(restartPolicy=policy), seen(state=State.EXITED, code=code))
    assert (StartContainer("c", 1) in actions) is restarts
    if not restarts:
        assert actions == (StopPod((), ("s0",)),)


def test_a_second_crash_waits_and_says_until_when() -> None:
    notes = Notes(crashes={"c": CrashDelay(20, NOW - timedelta(seconds=30))})
    result = plan(Desired(pod()), newest_first([READY], [seen(state=State.EXITED, code=1, ago=5)]), notes, NOW)
    assert result.actions == ()
    assert result.wake_at == NOW + timedelta(seconds=15)
    assert result.held["c"][0] == "CrashLoopBackOff"
    assert result.held["c"][1].startswith("back-off 20s restarting failed container=c pod=p_default(u)")


def test_back_off_doubles_to_its_limit_and_is_forgiven() -> None:
    crash, waits, end = None, [], NOW
    for _ in range(8):
        crash = crash_after_restart(crash, end, end)
        waits.append(crash.seconds)
        end += timedelta(seconds=1)
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    assert crash_after_restart(crash, end + timedelta(minutes=11), end).seconds == 10


def test_init_containers_run_one_after_the_other() -> None:
    wanted = pod(init=[{"name": "i1", "image": "i"}, {"name": "i2", "image": "i"}])
    done = seen("i1", State.EXITED)
    assert steps(wanted) == (StartContainer("i1", 0, True),)
    assert steps(wanted, seen("i1")) == ()
    assert steps(wanted, done) == (StartContainer("i2", 0, True),)
    assert steps(wanted, done, seen("i2", State.EXITED)) == (StartContainer("c", 0),)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    wanted = pod(init=[{"name": "i1", "image": "i"}], restartPolicy="Never")
    assert steps(wanted, seen("i1", State.EXITED, code=1)) == (StopPod((), ("s0",)),)
    down = ObservedSandbox("s0", False)
    over = newest_first([down], [seen("i1", State.EXITED, code=1)])
    assert plan(Desired(wanted), over, Notes(), NOW).finished


def test_a_sidecar_starts_first_runs_on_and_ends_with_the_work() -> None:
    wanted = pod(init=[{"name": "side", "image": "i", "restartPolicy": "Always"}], restartPolicy="Never")
    assert steps(wanted) == (StartContainer("side", 0, True),)
    assert steps(wanted, seen("side")) == (StartContainer("c", 0),)
    assert steps(wanted, seen("side"), seen()) == ()
    (stop,) = steps(wanted, seen("side"), seen(state=State.EXITED))
    assert isinstance(stop, StopPod)
    assert [item.name for item in stop.containers] == ["side"]


def test_a_dead_sandbox_is_replaced_under_the_next_attempt() -> None:
    dead = ObservedSandbox("s0", False, 3)
    result = plan(Desired(pod()), newest_first([dead], [seen(state=State.EXITED, code=255)]), Notes(), NOW)
    assert result.actions == (StopPod((), ("s0",)), CreateSandbox(4))


def test_a_finished_pod_is_not_started_again_after_a_reboot() -> None:
    dead = ObservedSandbox("s0", False)
    for policy, code in (("Never", 1), ("Never", 0), ("OnFailure", 0)):
        over = newest_first([dead], [seen(state=State.EXITED, code=code)])
        assert plan(Desired(pod(restartPolicy=policy)), over, Notes(), NOW).finished


def test_the_restart_count_goes_on_when_the_runtime_forgot_everything() -> None:
    body = {"containerStatuses": [{"name": "c", "restartCount": 4, "containerID": "containerd://x"}]}
    wanted = Document.of({"metadata": {"uid": "u"}, "spec": {"containers": [{"name": "c"}]}, "status": body}).read(Pod)
    assert plan(Desired(wanted), ObservedPod((READY,)), Notes(), NOW).actions == (StartContainer("c", 5),)


def test_deletion_stops_everything_within_the_grace_asked_for() -> None:
    meta = {"deletionTimestamp": "2026-01-01T12:00:00Z", "deletionGracePeriodSeconds": 7}
    (stop,) = steps(pod(meta=meta), seen())
    assert stop == StopPod((StopContainer("c0", "c", 7, "Stopping container c"),), ("s0",))
    assert plan(Desired(pod(meta=meta)), ObservedPod(), Notes(), NOW).finished


def test_a_removed_pod_is_stopped_even_without_a_deletion_timestamp() -> None:
    result = plan(Desired(pod(), removed=True), newest_first([READY], [seen()]), Notes(), NOW)
    assert isinstance(result.actions[0], StopPod)


def test_the_active_deadline_ends_a_pod() -> None:
    wanted = Desired(pod(activeDeadlineSeconds=60), started_at=NOW - timedelta(seconds=61))
    result = plan(wanted, newest_first([READY], [seen()]), Notes(), NOW)
    assert result.termination is not None
    assert result.termination.reason == "DeadlineExceeded"
    early = Desired(pod(activeDeadlineSeconds=60), started_at=NOW)
    assert plan(early, newest_first([READY], [seen()]), Notes(), NOW).wake_at == NOW + timedelta(seconds=60)


def test_a_pod_reported_as_failed_never_runs_again() -> None:
    wanted = Document.of({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Failed"}}).read(Pod)
    assert plan(Desired(wanted), ObservedPod(), Notes(), NOW).finished


def test_an_unhealthy_container_and_a_changed_image_are_stopped_with_a_reason() -> None:
    notes = Notes(unhealthy={"c0": "Container c failed liveness probe, will be restarted"})
    (stop,) = steps(pod(), seen(), notes=notes)
    assert "liveness" in stop.message
    old = ObservedContainer("x", "c", "s0", State.RUNNING, spec_hash="other")
    (stop,) = steps(pod(), old)
    assert stop.message == "Container c definition changed, will be restarted"


def test_failures_are_tried_again_when_their_time_has_come() -> None:
    later = NOW + timedelta(seconds=5)
    notes = Notes(failures={"c": Failure("ErrImagePull", "no route", later)})
    result = plan(Desired(pod()), ObservedPod((READY,)), notes, NOW)
    assert (result.actions, result.wake_at, result.held["c"]) == ((), later, ("ErrImagePull", "no route"))
    assert plan(Desired(pod()), ObservedPod((READY,)), notes, later).actions == (StartContainer("c", 0),)
    notes = Notes(failures={POD: Failure("", "no sandbox", later)})
    assert plan(Desired(pod()), ObservedPod(), notes, NOW).wake_at == later


def test_superseded_records_are_removed() -> None:
    old = ObservedSandbox("old", False, 0)
    new = ObservedSandbox("new", True, 1)
    past = [seen(state=State.EXITED, attempt=n, sandbox="new") for n in range(3)]
    live = seen(attempt=3, sandbox="new")
    result = plan(Desired(pod()), newest_first([old, new], [*past, live]), Notes(), NOW)
    assert set(result.actions) == {RemoveContainer("c0"), RemoveContainer("c1"), RemoveSandbox("old")}


states = st.sampled_from(list(State))


@given(
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    sandbox=st.booleans(),
    parts=st.lists(st.tuples(st.sampled_from(["a", "b"]), states, st.integers(0, 3), st.integers(0, 2)), max_size=5),
)
def test_a_running_container_is_never_stopped_or_started_twice_without_a_reason(
    policy: str, sandbox: bool, parts: list[tuple[str, State, int, int]]
) -> None:
    containers = [seen(name, state, attempt=attempt, code=code) for name, state, attempt, code in parts]
    observed = newest_first([ObservedSandbox("s0", sandbox)], containers)
    result = plan(Desired(pod("a", "b", restartPolicy=policy)), observed, Notes(), NOW)
    started = [item.name for item in result.actions if isinstance(item, StartContainer)]
    assert len(started) == len(set(started))
    current = {name: observed.current(name) for name in ("a", "b")}
    running = {name for name, item in current.items() if item is not None and item.state is State.RUNNING}
    assert not running & set(started)
    if sandbox and running:
        stopped = {item.name for item in result.actions if isinstance(item, StopContainer)}
        assert not running & stopped
        assert not any(isinstance(item, StopPod) for item in result.actions)


def test_the_hash_depends_on_name_and_image_alone() -> None:
    first, second = pod("a").spec.containers[0], pod("a", restartPolicy="Never").spec.containers[0]
    assert spec_hash(first) == spec_hash(second)


def test_an_ephemeral_container_is_started_once_and_changes_nothing_else() -> None:
    debug = [{"name": "debug", "image": "d"}]
    wanted = pod("c", ephemeralContainers=debug)
    assert steps(wanted, seen("c")) == (StartContainer("debug", 0),)
    assert steps(wanted) == (StartContainer("c", 0), StartContainer("debug", 0))
    for state in (State.RUNNING, State.EXITED, State.UNKNOWN):
        assert steps(wanted, seen("c"), seen("debug", state, code=1)) == ()
    waiting = Notes(failures={"debug": Failure("ErrImagePull", "", NOW + timedelta(seconds=5))})
    assert steps(wanted, seen("c"), notes=waiting) == ()


def test_an_ephemeral_container_looks_into_a_pod_whose_init_hangs_but_holds_no_pod_that_is_done() -> None:
    debug = [{"name": "debug", "image": "d"}]
    stuck = pod("c", init=[{"name": "i", "image": "i"}], ephemeralContainers=debug)
    assert steps(stuck, seen("i")) == (StartContainer("debug", 0),)
    done = pod("c", restartPolicy="Never", ephemeralContainers=debug)
    (stop,) = steps(done, seen("c", State.EXITED), seen("debug"))
    assert isinstance(stop, StopPod)
    assert [item.name for item in stop.containers] == ["debug"]


def test_the_newest_container_is_the_one_with_the_most_attempts_whatever_the_clock_said() -> None:
    old, new = seen(attempt=3, state=State.EXITED, code=1), seen(attempt=4)
    set_back = replace(new, created_at=NOW - timedelta(days=30))
    assert newest_first([READY], [old, set_back]).latest("c") is set_back


def test_a_back_off_lasts_as_long_as_it_should_when_the_clock_is_set_back() -> None:
    crashed = newest_first([READY], [seen(state=State.EXITED, code=1, ago=5)])
    notes = Notes(crashes={"c": CrashDelay(20, NOW - timedelta(seconds=30))})
    notes.note_ends(crashed, NOW)
    month = timedelta(days=-30)
    notes.clock_was_set(month)
    notes.note_ends(crashed, NOW + month)
    result = plan(Desired(pod()), crashed, notes, NOW + month)
    assert result.wake_at == NOW + month + timedelta(seconds=15)


def test_what_failed_is_tried_again_in_time_when_the_clock_is_set() -> None:
    for jump in (timedelta(days=-30), timedelta(days=30)):
        notes = Notes(failures={"c": Failure("ErrImagePull", "no route", NOW + timedelta(seconds=9))})
        notes.clock_was_set(jump)
        result = plan(Desired(pod()), newest_first([READY], []), notes, NOW + jump)
        assert result.wake_at == NOW + jump + timedelta(seconds=9)
