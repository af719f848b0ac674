"""The one word kubectl shows for a pod's state, and the cells around it. Pure.

Go: pkg/printers/internalversion/printers.go printPod
"""

from datetime import datetime
from typing import Any, Final

from edgehive.kube.server.cells import NONE, Json, age, conditions, human_duration, instant_of, part

_FINISHED: Final = {
    "Succeeded": ("Succeeded", "The pod has completed successfully."),
    "Failed": ("Failed", "The pod failed."),
}


def pod_row(pod: Json, now: datetime) -> list[Any]:
    """NAME READY STATUS RESTARTS AGE, and wide IP NODE NOMINATED READINESS."""
    spec, status = part(pod, "spec"), part(pod, "status")
    view = _View(pod)
    addresses = [item.get("ip", "") for item in status.get("podIPs") or ()]
    return [
        part(pod, "metadata").get("name", ""),
        f"{view.ready}/{view.total}",
        view.state(),
        view.restart_text(now),
        age(pod, now),
        next(iter(addresses), status.get("podIP")) or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(pod),
    ]


def pod_row_conditions(pod: Json) -> list[dict[str, str]] | None:
    """Finished pods are marked, so that `kubectl get` may hide them."""
    finished = _FINISHED.get(part(pod, "status").get("phase", ""))
    if finished is None:
        return None
    return [{"type": "Completed", "status": "True", "reason": finished[0], "message": finished[1]}]


def _gates(pod: Json) -> str:
    gates = part(pod, "spec").get("readinessGates") or ()
    if not gates:
        return NONE
    found = conditions(pod)
    passed = sum(found.get(gate.get("conditionType"), {}).get("status") == "True" for gate in gates)
    return f"{passed}/{len(gates)}"


class _View:
    """What the container statuses add up to."""

    def __init__(self, pod: Json) -> None:
        self._pod = pod
        self._spec, self._status = part(pod, "spec"), part(pod, "status")
        self._sidecars = {
            item.get("name") for item in self._spec.get("initContainers") or () if item.get("restartPolicy") == "Always"
        }
        self.total = len(self._spec.get("containers") or ()) + len(self._sidecars)
        self.ready = self.restarts = 0
        self._last: list[str] = []
        self._reason = self._status.get("reason") or self._status.get("phase") or ""
        if conditions(pod).get("PodScheduled", {}).get("reason") == "SchedulingGated":
            self._reason = "SchedulingGated"
        initializing = self._init_containers()
        if not initializing or conditions(pod).get("Initialized", {}).get("status") == "True":
            self._containers()

    def state(self) -> str:
        if part(self._pod, "metadata").get("deletionTimestamp"):
            if self._status.get("reason") == "NodeLost":
                return "Unknown"
            if self._status.get("phase") not in _FINISHED:
                return "Terminating"
        return self._reason

    def restart_text(self, now: datetime) -> str:
        moments = [moment for moment in map(instant_of, self._last) if moment]
        if not self.restarts or not moments:
            return str(self.restarts)
        return f"{self.restarts} ({human_duration(now - max(moments))} ago)"

    def _count(self, status: Json) -> None:
        self.restarts += status.get("restartCount") or 0
        self._last.append(part(status, "lastState", "terminated").get("finishedAt") or "")

    def _init_containers(self) -> bool:
        """True while one of them holds the pod up."""
        total = len(self._spec.get("initContainers") or ())
        for index, status in enumerate(self._status.get("initContainerStatuses") or ()):
            self._count(status)
            state, is_sidecar = part(status, "state"), status.get("name") in self._sidecars
            if is_sidecar and status.get("started"):
                self.ready += bool(status.get("ready"))
                continue
            ended = state.get("terminated")
            if ended is not None and not ended.get("exitCode"):
                continue
            waiting = part(state, "waiting").get("reason")
            if ended is not None:
                self._reason = f"Init:{_ending(ended)}"
            elif waiting and waiting != "PodInitializing":
                self._reason = f"Init:{waiting}"
            else:
                self._reason = f"Init:{index}/{total}"
            return True
        return False

    def _containers(self) -> None:
        self.restarts, self._last = 0, []
        for status in self._status.get("initContainerStatuses") or ():
            if status.get("name") in self._sidecars:
                self._count(status)
        running = False
        for status in reversed(self._status.get("containerStatuses") or ()):
            self._count(status)
            state = part(status, "state")
            if part(state, "waiting").get("reason"):
                self._reason = state["waiting"]["reason"]
            elif state.get("terminated") is not None:
                self._reason = _ending(state["terminated"])
            elif status.get("ready") and state.get("running") is not None:
                running = True
                self.ready += 1
        if self._reason == "Completed" and running:
            is_ready = conditions(self._pod).get("Ready", {}).get("status") == "True"
            self._reason = "Running" if is_ready else "NotReady"


def _ending(terminated: Json) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode', 0)}"
