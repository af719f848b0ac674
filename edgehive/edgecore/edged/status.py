"""The status a pod is in: (desired, observed, plan, notes, instant) -> PodStatus, and the patch between two. Pure.

`pods.py` computes, `reporter.py` sends. A status is a plain JSON mapping, since it is written, never only read.
What the last report said is used for what cannot be seen any more: the start time, the moment a condition
changed, how a container ended whose record is gone. Conditions others own are left alone.

Go: pkg/kubelet/kubelet_pods.go (generateAPIPodStatus, getPhase), pkg/kubelet/status/generate.go
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgehive.api.core import Container
from edgehive.edgecore.edged.plan import (
    TERMINAL_PHASES,
    Desired,
    Notes,
    ObservedContainer,
    ObservedPod,
    Plan,
    State,
    is_sidecar,
    outcome,
)

Status = dict[str, Any]
_UNKNOWN = {
    "exitCode": 137,
    "reason": "ContainerStatusUnknown",
    "message": "The container could not be located when the pod was terminated",
    "startedAt": None,
    "finishedAt": None,
}
#: Keys of PodStatus this node writes; what it does not write any more is taken back.
_OWNED = (
    "phase",
    "reason",
    "message",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the status tells of the node: its address, and the runtime's name for container ids."""

    host_ip: str
    runtime: str = "containerd"
    qos_class: str = ""


def pod_status(
    desired: Desired,
    observed: ObservedPod,
    plan: Plan,
    notes: Notes,
    now: datetime,
    around: Surroundings,
    previous: Mapping[str, Any],
) -> Status:
    """The whole PodStatus as this node sees it."""
    return _Report(desired, observed, plan, notes, now, around, previous).build()


class _Report:
    def __init__(
        self,
        desired: Desired,
        observed: ObservedPod,
        plan: Plan,
        notes: Notes,
        now: datetime,
        around: Surroundings,
        previous: Mapping[str, Any],
    ) -> None:
        self.desired, self.observed, self.plan, self.notes = desired, observed, plan, notes
        self.now, self.around, self.previous = now, around, previous
        self.spec = desired.pod.spec
        self.over = plan.finished and observed.stopped

    def build(self) -> Status:
        initialized = self._initialized()
        inits = [self._container(item, initialized=True, init=True) for item in self.spec.init_containers or ()]
        mains = [self._container(item, initialized=initialized) for item in self.spec.containers]
        phase = self._phase(inits, mains, initialized)
        status: Status = {"phase": phase, "startTime": self._start_time()}
        status["conditions"] = self._conditions(phase, inits, mains, initialized)
        status |= self._addresses() | self._explanation(phase)
        if inits:
            status["initContainerStatuses"] = inits
        status["containerStatuses"] = mains
        if self.spec.ephemeral_containers:
            status["ephemeralContainerStatuses"] = [self._ephemeral(item) for item in self.spec.ephemeral_containers]
        qos = self.previous.get("qosClass") or self.around.qos_class
        return status | ({"qosClass": qos} if qos else {})

    # parts

    def _start_time(self) -> str:
        return str(self.previous.get("startTime") or _time(self.desired.started_at or self.now))

    def _addresses(self) -> Status:
        addresses: Status = {"hostIP": self.around.host_ip, "hostIPs": [{"ip": self.around.host_ip}]}
        sandbox = self.observed.sandbox
        ips = list(sandbox.ips) if sandbox else []
        if self.spec.host_network:
            ips = [self.around.host_ip] if sandbox and sandbox.ready else []
        if ips:
            return addresses | {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]}
        return addresses | {key: self.previous[key] for key in ("podIP", "podIPs") if self.previous.get(key)}

    def _explanation(self, phase: str) -> Status:
        ending = self.plan.termination
        if ending is None or not ending.reason or phase != "Failed":
            return {}
        return {"reason": ending.reason, "message": ending.message}

    def _initialized(self) -> bool:
        if any(self.observed.current(item.name) for item in self.spec.containers) or self.over:
            return all(self._init_done(item) for item in self.spec.init_containers or ()) or bool(
                any(self.observed.latest(item.name) for item in self.spec.containers)
            )
        return all(self._init_done(item) for item in self.spec.init_containers or ())

    def _init_done(self, container: Container) -> bool:
        seen = self.observed.current(container.name)
        if seen is None:
            return False
        if is_sidecar(container):
            return seen.state is State.EXITED or (seen.state is State.RUNNING and self.notes.startup.get(seen.id, True))
        return seen.succeeded

    # containers

    def _container(self, container: Container, *, initialized: bool, init: bool = False) -> Status:
        seen = self.observed.latest(container.name)
        before = self._before(container.name)
        state, last = self._states(container, seen, before, initialized)
        running = seen is not None and "running" in state
        started = running and seen is not None and self.notes.startup.get(seen.id, True)
        ready = started and seen is not None and self.notes.readiness.get(seen.id, True)
        if init and not is_sidecar(container):
            ready = seen is not None and seen.succeeded
        status: Status = {"name": container.name, "state": state, "lastState": last, "ready": ready}
        status["restartCount"] = seen.attempt if seen else int(before.get("restartCount", 0))
        status["image"] = (seen.image if seen else "") or container.image
        status["imageID"] = seen.image_id if seen else str(before.get("imageID", ""))
        status["started"] = started
        if seen is not None or before.get("containerID"):
            status["containerID"] = self._id(seen.id) if seen else before["containerID"]
        return status

    def _ephemeral(self, container: Container) -> Status:
        """Never ready, since nobody sends it work."""
        status = self._container(container, initialized=True) | {"ready": False}
        del status["started"]
        return status

    def _states(
        self, container: Container, seen: ObservedContainer | None, before: Mapping[str, Any], initialized: bool
    ) -> tuple[Status, Status]:
        """`state` and `lastState`."""
        waiting = self._waiting(container.name)
        earlier = self._earlier(container.name, before)
        if seen is None:
            if self.over and before.get("containerID"):
                return {"terminated": dict(before.get("state", {}).get("terminated") or _UNKNOWN)}, earlier
            lost = before.get("state", {}).get("terminated") if before else None
            default = {"reason": "ContainerCreating" if initialized else "PodInitializing"}
            return {"waiting": waiting or default}, {"terminated": lost} if lost else earlier
        if seen.state is State.RUNNING:
            return {"running": {"startedAt": _time(seen.started_at or seen.created_at)}}, earlier
        if seen.state is State.EXITED:
            ended = {"terminated": self._terminated(seen)}
            return ({"waiting": waiting}, ended) if waiting and not self.over else (ended, earlier)
        if seen.state is State.UNKNOWN and self.over:
            return {"terminated": dict(_UNKNOWN)}, earlier
        return {"waiting": waiting or {"reason": "ContainerCreating"}}, earlier

    def _waiting(self, name: str) -> Status | None:
        """The reason this container is not running, if one is known."""
        reason, message = self.plan.held.get(name, ("", ""))
        failure = self.notes.failures.get(name)
        if not reason and failure is not None:
            reason, message = failure.reason, failure.message
        return _without_empty({"reason": reason, "message": message}) if reason else None

    def _earlier(self, name: str, before: Mapping[str, Any]) -> Status:
        """How the attempt before the latest ended: as the runtime still knows, else as it was reported."""
        attempts = list(self.observed.attempts(name))
        if len(attempts) > 1 and attempts[1].state is State.EXITED:
            return {"terminated": self._terminated(attempts[1])}
        if attempts and before.get("containerID") not in (None, self._id(attempts[0].id)):
            ended = before.get("state", {}).get("terminated")
            if ended:
                return {"terminated": ended}
        return dict(before.get("lastState") or {})

    def _terminated(self, seen: ObservedContainer) -> Status:
        reason = seen.reason or ("Completed" if seen.exit_code == 0 else "Error")
        return _without_empty(
            {
                "exitCode": seen.exit_code,
                "reason": reason,
                "message": seen.message,
                "startedAt": _time(seen.started_at),
                "finishedAt": _time(seen.finished_at),
                "containerID": self._id(seen.id),
            }
        )

    def _id(self, container_id: str) -> str:
        return f"{self.around.runtime}://{container_id}"

    def _before(self, name: str) -> Mapping[str, Any]:
        reported = [
            *(self.previous.get("initContainerStatuses") or ()),
            *(self.previous.get("containerStatuses") or ()),
            *(self.previous.get("ephemeralContainerStatuses") or ()),
        ]
        found: Mapping[str, Any] = next((item for item in reported if item.get("name") == name), {})
        return found

    # phase

    def _phase(self, inits: list[Status], mains: list[Status], initialized: bool) -> str:
        known = str(self.previous.get("phase", ""))
        if known in TERMINAL_PHASES:
            return known
        if self.over:
            ending = self.plan.termination
            return "Failed" if ending and ending.reason else outcome(self.desired.pod, self.observed)
        policy = self.spec.restart_policy
        if not initialized:
            failed = any("terminated" in item["state"] and item["state"]["terminated"]["exitCode"] for item in inits)
            return "Failed" if policy == "Never" and failed and self.observed.stopped else "Pending"
        waiting = [item for item in mains if "waiting" in item["state"] and not item["lastState"]]
        if waiting:
            return "Pending"
        if any("running" in item["state"] for item in mains) or policy == "Always" or not self.observed.stopped:
            return "Running"
        return "Running" if policy == "OnFailure" else outcome(self.desired.pod, self.observed)

    # conditions

    def _conditions(self, phase: str, inits: list[Status], mains: list[Status], initialized: bool) -> list[Status]:
        sandbox = self.observed.sandbox
        networked = bool(sandbox and sandbox.ready and (sandbox.ips or self.spec.host_network))
        containers_ready = self._containers_ready(phase, [*self._sidecars(inits), *mains])
        conditions = [
            self._condition("PodReadyToStartContainers", networked),
            self._initialized_condition(phase, inits, initialized),
            self._ready(containers_ready),
            self._condition("ContainersReady", *containers_ready),
            self._condition("PodScheduled", True),
        ]
        if self.desired.evicted is not None and self.desired.evicted.disruption:
            message = self.desired.evicted.message
            conditions.insert(0, self._condition("DisruptionTarget", True, "TerminationByKubelet", message))
        return conditions

    def _sidecars(self, inits: list[Status]) -> list[Status]:
        names = {item.name for item in self.spec.init_containers or () if is_sidecar(item)}
        return [item for item in inits if item["name"] in names]

    def _initialized_condition(self, phase: str, inits: list[Status], initialized: bool) -> Status:
        if phase == "Succeeded":
            return self._condition("Initialized", True, "PodCompleted")
        if initialized:
            return self._condition("Initialized", True)
        waiting = [item["name"] for item in inits if not item["ready"]]
        message = f"containers with incomplete status: [{' '.join(waiting)}]"
        return self._condition("Initialized", False, "ContainersNotInitialized", message)

    def _containers_ready(self, phase: str, statuses: Iterable[Status]) -> tuple[bool, str, str]:
        if phase == "Succeeded":
            return False, "PodCompleted", ""
        if phase == "Failed":
            return False, "PodFailed", ""
        unready = [item["name"] for item in statuses if not item["ready"]]
        if unready:
            return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
        return True, "", ""

    def _ready(self, containers_ready: tuple[bool, str, str]) -> Status:
        if not containers_ready[0]:
            return self._condition("Ready", *containers_ready)
        reported = {item.get("type"): item.get("status") for item in self.previous.get("conditions") or ()}
        problems = []
        for gate in self.spec.readiness_gates or ():
            name = f'corresponding condition of pod readiness gate "{gate.condition_type}"'
            if gate.condition_type not in reported:
                problems.append(f"{name} does not exist.")
            elif (value := reported[gate.condition_type]) != "True":
                problems.append(f'the status of pod readiness gate "{gate.condition_type}" is not "True", but {value}')
        if problems:
            return self._condition("Ready", False, "ReadinessGatesNotReady", ", ".join(problems))
        return self._condition("Ready", True)

    def _condition(self, type: str, value: bool, reason: str = "", message: str = "") -> Status:
        text = "True" if value else "False"
        before = self.previous.get("conditions") or ()
        old: Mapping[str, Any] = next((item for item in before if item.get("type") == type), {})
        changed = old.get("lastTransitionTime") if old.get("status") == text else None
        condition = {"type": type, "status": text, "lastProbeTime": None}
        condition["lastTransitionTime"] = changed or _time(self.now)
        return condition | _without_empty({"reason": reason, "message": message})


# --- the patch between two statuses -----------------------------------------------------------------------


def status_patch(
    uid: str, known: Mapping[str, Any], wanted: Mapping[str, Any], *, sure: bool = True
) -> dict[str, Any] | None:
    """A strategic-merge patch of the status subresource with only what changed; None when nothing did.

    Where it is not sure that the API holds what is known, everything is told.
    """
    changes: Status = {}
    for key in _OWNED:
        if not sure or wanted.get(key) != known.get(key):
            changes[key] = wanted.get(key)
    for key in ("podIPs", "hostIPs"):
        if changes.get(key):
            changes[key] = _keyed_by_ip(known.get(key) or (), wanted[key])
    told = known.get("conditions") or () if sure else ()
    conditions = condition_changes(told, wanted.get("conditions") or ())
    if conditions:
        changes["$setElementOrder/conditions"] = [{"type": item["type"]} for item in wanted["conditions"]]
        changes["conditions"] = conditions
    return {"metadata": {"uid": uid}, "status": changes} if changes else None


def condition_changes(known: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> list[Status]:
    """Elements for a list merged by `type`: what changed in each condition, null for what went."""
    before = {item["type"]: item for item in known}
    changes = []
    for item in wanted:
        old = before.get(item["type"], {})
        fields = {key: item.get(key) for key in {*item, *(_MEANT & old.keys())} if item.get(key) != old.get(key)}
        fields = {key: value for key, value in fields.items() if key != "type"}
        if fields:
            changes.append({"type": item["type"], **fields})
    return changes


_MEANT = {"reason", "message"}


def _keyed_by_ip(known: Iterable[Mapping[str, Any]], wanted: list[Status]) -> list[Status]:
    """IP lists merge by `ip`, so one that went has to be deleted by name."""
    kept = {item["ip"] for item in wanted}
    return [*wanted, *({"ip": item["ip"], "$patch": "delete"} for item in known if item["ip"] not in kept)]


def _without_empty(fields: Status) -> Status:
    return {key: value for key, value in fields.items() if value not in ("", None)}


def _time(instant: datetime | None) -> str | None:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if instant else None
