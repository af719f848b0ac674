"""status.py: phases, conditions, container states, and the patch between two reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.edgecore.edged.plan import (
    Desired,
    Failure,
    Notes,
    ObservedContainer,
    ObservedPod,
    ObservedSandbox,
    State,
    plan,
)
from edgehive.edgecore.edged.status import Surroundings, condition_changes, pod_status, status_patch

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
READY = ObservedSandbox("s", True, 0, NOW, ("10.0.0.2",))
AROUND = Surroundings("192.0.2.2", qos_class="BestEffort")


def pod(**spec: Any) -> Pod:
    spec.setdefault("containers", [{"name": "c", "image": "busybox"}])
    return Document.of({"metadata": {"name": "p", "namespace": "d", "uid": "u"}, "spec": spec}).read(Pod)


def one(state: State, code: int = 0, **more: Any) -> ObservedContainer:
    ended = NOW if state is State.EXITED else None
    return ObservedContainer("x", "c", "s", state, started_at=NOW, finished_at=ended, exit_code=code, **more)


def status(wanted: Pod, observed: ObservedPod, notes: Notes | None = None, **previous: Any) -> dict[str, Any]:
    desired, notes = Desired(wanted), notes or Notes()
    return pod_status(desired, observed, plan(desired, observed, notes, NOW), notes, NOW, AROUND, previous)


def conditions(found: dict[str, Any]) -> dict[str, str]:
    return {item["type"]: item["status"] for item in found["conditions"]}


def test_a_pod_being_created() -> None:
    found = status(pod(), ObservedPod())
    assert found["phase"] == "Pending"
    assert found["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert found["hostIP"] == "192.0.2.2"
    assert "podIP" not in found
    assert conditions(found) == {
        "PodReadyToStartContainers": "False",
        "Initialized": "True",
        "Ready": "False",
        "ContainersReady": "False",
        "PodScheduled": "True",
    }


def test_a_running_pod() -> None:
    found = status(pod(), ObservedPod((READY,), (one(State.RUNNING),)))
    assert (found["phase"], found["podIP"], found["qosClass"]) == ("Running", "10.0.0.2", "BestEffort")
    assert set(conditions(found).values()) == {"True"}
    assert found["containerStatuses"][0]["containerID"] == "containerd://x"


def test_probes_hold_ready_back() -> None:
    observed = ObservedPod((READY,), (one(State.RUNNING),))
    found = status(pod(), observed, Notes(readiness={"x": False}))
    assert (found["phase"], conditions(found)["Ready"]) == ("Running", "False")
    assert found["containerStatuses"][0]["started"] is True
    assert status(pod(), observed, Notes(startup={"x": False}))["containerStatuses"][0]["started"] is False


@pytest.mark.parametrize(
    ("policy", "code", "phase", "reason"),
    [
        ("Never", 0, "Succeeded", "Completed"),
        ("Never", 1, "Failed", "Error"),
        ("OnFailure", 0, "Succeeded", "Completed"),
    ],
)
def test_pods_that_end(policy: str, code: int, phase: str, reason: str) -> None:
    down = ObservedSandbox("s", False)
    found = status(pod(restartPolicy=policy), ObservedPod((down,), (one(State.EXITED, code),)))
    assert found["phase"] == phase
    assert found["containerStatuses"][0]["state"]["terminated"]["reason"] == reason
    assert conditions(found)["Ready"] == "False"


def test_the_runtimes_own_reason_is_passed_on() -> None:
    found = status(pod(), ObservedPod((READY,), (one(State.EXITED, 137, reason="OOMKilled"),)))
    assert found["containerStatuses"][0]["state"]["terminated"]["reason"] == "OOMKilled"
    assert found["phase"] == "Running"


def test_a_failure_is_the_waiting_reason_and_the_last_end_is_kept() -> None:
    notes = Notes(failures={"c": Failure("ErrImagePull", "no route", NOW + timedelta(seconds=9))})
    found = status(pod(), ObservedPod((READY,), (one(State.EXITED, 2),)), notes)["containerStatuses"][0]
    assert found["state"] == {"waiting": {"reason": "ErrImagePull", "message": "no route"}}
    assert found["lastState"]["terminated"]["exitCode"] == 2


def test_pods_wait_for_their_init_containers() -> None:
    wanted = pod(initContainers=[{"name": "i", "image": "b"}])
    found = status(wanted, ObservedPod((READY,)))
    assert found["phase"] == "Pending"
    assert found["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    assert conditions(found)["Initialized"] == "False"


def test_host_network_pods_report_the_nodes_address() -> None:
    sandbox = ObservedSandbox("s", True)
    assert status(pod(hostNetwork=True), ObservedPod((sandbox,)))["podIP"] == "192.0.2.2"


def test_a_condition_keeps_the_moment_it_changed() -> None:
    before = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}]
    found = status(pod(), ObservedPod(), conditions=before)
    times = {item["type"]: item["lastTransitionTime"] for item in found["conditions"]}
    assert times["PodScheduled"] == "2025-01-01T00:00:00Z"
    assert times["Ready"] == "2026-01-01T12:00:00Z"


def test_terminal_phases_stay() -> None:
    assert status(pod(), ObservedPod((READY,), (one(State.RUNNING),)), phase="Failed")["phase"] == "Failed"


def test_readiness_gates_wait_for_their_condition() -> None:
    wanted = pod(readinessGates=[{"conditionType": "lb"}])
    observed = ObservedPod((READY,), (one(State.RUNNING),))
    assert conditions(status(wanted, observed))["Ready"] == "False"
    assert conditions(status(wanted, observed, conditions=[{"type": "lb", "status": "True"}]))["Ready"] == "True"


def test_the_patch_holds_only_what_changed() -> None:
    first = status(pod(), ObservedPod())
    second = status(pod(), ObservedPod((READY,), (one(State.RUNNING),)), **first)
    assert status_patch("u", first, first) is None
    patch = status_patch("u", first, second)
    assert patch is not None
    assert patch["metadata"] == {"uid": "u"}
    assert set(patch["status"]) == {
        "phase",
        "podIP",
        "podIPs",
        "conditions",
        "containerStatuses",
        "$setElementOrder/conditions",
    }
    ready = next(item for item in patch["status"]["conditions"] if item["type"] == "Ready")
    assert (ready["status"], ready["reason"], ready["message"]) == ("True", None, None)


def test_an_address_that_went_is_deleted_by_name() -> None:
    patch = status_patch("u", {"podIPs": [{"ip": "a"}]}, {"podIPs": [{"ip": "b"}], "conditions": []})
    assert patch is not None
    assert patch["status"]["podIPs"] == [{"ip": "b"}, {"ip": "a", "$patch": "delete"}]


def test_conditions_of_others_are_left_alone() -> None:
    assert condition_changes([{"type": "lb", "status": "True"}], []) == []
