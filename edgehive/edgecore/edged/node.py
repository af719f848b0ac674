"""This node's Node object and Lease: registered, kept up to date, and made again when somebody deletes them.

For `edged.py`. The node's state is gathered and compared every ten seconds, sent when it changed, and at least
every five minutes. While the cloud is away nothing is lost: the next report is a fresh one.

Go: pkg/kubelet/kubelet_node_status.go, pkg/kubelet/nodestatus/setters.go, component-helpers/apimachinery/lease
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgehive import KUBEEDGE_VERSION, KUBERNETES_VERSION
from edgehive.api.config.durations import seconds
from edgehive.api.config.edgecore import Edged as EdgedConfig
from edgehive.api.document import Document
from edgehive.api.registry import LEASES, NODES
from edgehive.edgecore.edged.eviction import Amount, pressures
from edgehive.edgecore.edged.machine import System
from edgehive.edgecore.edged.status import condition_changes
from edgehive.kit.clock import Clock, rfc3339, rfc3339_micro
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, ApiError, Conflict, NotFound

log = logging.getLogger("edgehive.edged")

LEASE_NAMESPACE = "kube-node-lease"
_RESERVED_MEMORY = 100 * 1024 * 1024
_PRESSURES = {
    "MemoryPressure": (
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ),
}


@dataclass(frozen=True, slots=True)
class NodeView:
    """What was gathered about this node."""

    system: System
    address: str
    cpus: int
    amounts: Mapping[str, Amount]
    runtime_version: str = ""
    kubelet_port: int = 10350
    #: "" when the node can run pods, else one sentence.
    trouble: str = ""
    images: Sequence[Mapping[str, Any]] = ()
    #: Pressure that was there a moment ago.
    lasting: frozenset[str] = frozenset()


# --- pure -------------------------------------------------------------------------------------------------


def node_object(name: str, config: EdgedConfig, system: System) -> dict[str, Any]:
    """The Node as it is registered, without status."""
    taints = [*config.tailored_kubelet_config.register_with_taints]
    if not config.register_schedulable:
        taints.append({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"})
    spec: dict[str, Any] = {"taints": taints} if taints else {}
    if not config.register_schedulable:
        spec["unschedulable"] = True
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": labels(name, config, system),
            "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        },
        "spec": spec,
    }


def labels(name: str, config: EdgedConfig, system: System) -> dict[str, str]:
    """What an edge node is recognised by; configured labels win."""
    return {
        "beta.kubernetes.io/arch": system.architecture,
        "beta.kubernetes.io/os": "linux",
        "kubernetes.io/arch": system.architecture,
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "node-role.kubernetes.io/agent": "",
        "node-role.kubernetes.io/edge": "",
    } | dict(config.node_labels)


def node_status(
    name: str, config: EdgedConfig, view: NodeView, now: datetime, previous: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole NodeStatus this node reports."""
    capacity, allocatable = resources(config, view)
    version = f"{KUBERNETES_VERSION}-kubeedge-{KUBEEDGE_VERSION}"
    status: dict[str, Any] = {
        "capacity": capacity,
        "allocatable": allocatable,
        "conditions": _conditions(config, view, now, previous),
        "addresses": [{"type": "InternalIP", "address": view.address}, {"type": "Hostname", "address": name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": view.kubelet_port}},
        "nodeInfo": {
            "machineID": view.system.machine_id,
            "systemUUID": view.system.machine_id,
            "bootID": view.system.boot_id,
            "kernelVersion": view.system.kernel,
            "osImage": view.system.os_image,
            "containerRuntimeVersion": view.runtime_version,
            "kubeletVersion": version,
            "kubeProxyVersion": KUBEEDGE_VERSION,
            "operatingSystem": "linux",
            "architecture": view.system.architecture,
        },
    }
    if view.images:
        status["images"] = list(view.images)
    return status


def resources(config: EdgedConfig, view: NodeView) -> tuple[dict[str, str], dict[str, str]]:
    """(capacity, allocatable)."""
    memory = view.amounts.get("memory.available", Amount(0, 0)).capacity
    disk = view.amounts.get("nodefs.available", Amount(0, 0)).capacity
    both = {"cpu": str(view.cpus), "pods": str(config.tailored_kubelet_config.max_pods)}
    capacity = both | {"memory": f"{memory // 1024}Ki", "ephemeral-storage": f"{disk // 1024}Ki"}
    free = max(0, memory - _RESERVED_MEMORY)
    allocatable = both | {"memory": f"{free // 1024}Ki", "ephemeral-storage": str(disk * 9 // 10)}
    return capacity, allocatable


def _conditions(
    config: EdgedConfig, view: NodeView, now: datetime, previous: Mapping[str, Any]
) -> list[dict[str, Any]]:
    under = pressures(view.amounts, config.tailored_kubelet_config.eviction_hard) | view.lasting
    wanted = [(type, type in under, *texts[0 if type in under else 1]) for type, texts in _PRESSURES.items()]
    if view.trouble:
        wanted.append(("Ready", False, "EdgeNotReady", view.trouble))
    else:
        wanted.append(("Ready", True, "EdgeReady", "edge is posting ready status"))
    before = {item.get("type"): item for item in previous.get("conditions") or ()}
    return [_condition(*item, now=rfc3339(now), old=before.get(item[0], {})) for item in wanted]


def _condition(
    type: str, value: bool, reason: str, message: str, *, now: str, old: Mapping[str, Any]
) -> dict[str, Any]:
    text = "True" if value else "False"
    changed = old.get("lastTransitionTime") if old.get("status") == text else None
    return {
        "type": type,
        "status": text,
        "lastHeartbeatTime": now,
        "lastTransitionTime": changed or now,
        "reason": reason,
        "message": message,
    }


def status_changes(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A strategic-merge patch with what differs; `conditions` and `addresses` are merged by type."""
    changes = {
        key: value
        for key, value in wanted.items()
        if key not in ("conditions", "addresses") and value != known.get(key)
    }
    if wanted["addresses"] != known.get("addresses"):
        changes["addresses"] = wanted["addresses"]
    conditions = condition_changes(known.get("conditions") or (), wanted["conditions"])
    if conditions:
        changes["$setElementOrder/conditions"] = [{"type": item["type"]} for item in wanted["conditions"]]
        changes["conditions"] = conditions
    return {"status": changes}


def worth_telling(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Anything but the heartbeat changed."""
    return _without_heartbeat(known) != _without_heartbeat(wanted)


def _without_heartbeat(status: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: status.get(key) for key in ("capacity", "allocatable", "addresses", "daemonEndpoints", "nodeInfo")}
    plain["images"] = status.get("images") or []
    plain["conditions"] = {
        item.get("type"): (item.get("status"), item.get("reason"), item.get("message"))
        for item in status.get("conditions") or ()
        if item.get("type") in _PRESSURES or item.get("type") == "Ready"
    }
    return plain


# --- the reporter -----------------------------------------------------------------------------------------


class NodeReporter:
    """`run` for ever; `tell` is called with (type, reason, message) for the node's events."""

    def __init__(
        self,
        client: Client,
        name: str,
        config: EdgedConfig,
        clock: Clock,
        gather: Callable[[], Awaitable[NodeView]],
        tell: Callable[[str, str, str], None],
    ) -> None:
        self._client = client
        self._name = name
        self._config = config
        self._clock = clock
        self._gather = gather
        self._tell = tell
        self._known: Mapping[str, Any] = {}
        self._node_uid = ""
        #: Whether the API holds `_known`: a report whose answer was lost may have been written all the same.
        self._sure = False
        #: By the loop's time: a date that is set back must not silence the node.
        self._told_at: float | None = None
        self._ready: bool | None = None
        self._held_lease: dict[str, Any] | None = None
        self._changed = asyncio.Event()
        self._connected = asyncio.Event()

    def cloud_connected(self) -> None:
        """Tell everything afresh: the Node may have been deleted meanwhile."""
        self._told_at = None
        self._changed.set()
        self._connected.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_status(), name="node status")
            group.create_task(self._keep_lease(), name="node lease")

    # status

    async def _keep_status(self) -> None:
        pause = seconds(self._config.tailored_kubelet_config.node_status_update_frequency)
        while True:
            self._changed.clear()
            try:
                await self.report()
            except ApiError as error:
                log.log(logging.INFO if error.transient else logging.WARNING, "node status not delivered: %s", error)
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def report(self) -> None:
        """Register if need be; send the status if it changed or has not been sent for long."""
        view = await self._gather()
        if not self._node_uid:
            await self._register(view)
        now = self._clock.now()
        wanted = node_status(self._name, self._config, view, now, self._known)
        self._note_ready(not view.trouble)
        longest = seconds(self._config.tailored_kubelet_config.node_status_report_frequency)
        time = asyncio.get_running_loop().time()
        fresh = self._told_at is not None and time - self._told_at < longest
        if fresh and not worth_telling(self._known, wanted):
            return
        try:
            await self._send(wanted)
        except NotFound:
            log.warning("node %s was deleted; registering it again", self._name)
            self._node_uid, self._known = "", {}
            await self._register(view)
            await self._send(wanted)
        self._told_at = time

    async def _send(self, wanted: Mapping[str, Any]) -> None:
        changes = status_changes(self._known if self._sure else {}, wanted)
        self._sure = False
        answer = await self._client.patch(NODES, self._name, changes, type=PatchType.STRATEGIC, subresource="status")
        self._sure = True
        self._learn(answer)
        self._known = dict(self._known) | dict(wanted)

    def _note_ready(self, ready: bool) -> None:
        if ready != self._ready and (ready or self._ready is not None):
            text = "NodeReady" if ready else "NodeNotReady"
            self._tell("Normal", text, f"Node {self._name} status is now: {text}")
        self._ready = ready

    async def _register(self, view: NodeView) -> None:
        wanted = node_object(self._name, self._config, view.system)
        try:
            found = await self._client.get(NODES, self._name)
        except NotFound:
            await self._create(wanted, view)
            return
        self._learn(found)
        missing = {key: value for key, value in wanted["metadata"]["labels"].items() if
                   (found.meta.labels or {}).get(key) != value}  # fmt: skip
        if missing:
            await self._client.patch(NODES, self._name, {"metadata": {"labels": missing}}, type=PatchType.STRATEGIC)

    async def _create(self, wanted: dict[str, Any], view: NodeView) -> None:
        if not self._config.tailored_kubelet_config.register_node:
            raise NotFound(f'nodes "{self._name}" not found and registerNode is false: create the Node object')
        status = node_status(self._name, self._config, view, self._clock.now(), {})
        try:
            created = await self._client.create(NODES, wanted | {"status": status})
        except AlreadyExists:
            # Whoever answers get keeps a copy that has not heard of it; the status patch will bring it.
            log.info("node %s is registered already", self._name)
            return
        self._learn(created)
        self._tell("Normal", "RegisteredNode", f"Node {self._name} registered")

    def _learn(self, document: Document) -> None:
        if document.meta.uid:
            self._node_uid = document.meta.uid
            self._known = document.to_dict().get("status") or {}

    # lease

    async def _keep_lease(self) -> None:
        duration = self._config.tailored_kubelet_config.node_lease_duration_seconds
        while True:
            self._connected.clear()
            try:
                await self.renew(duration)
            except ApiError as error:
                self._held_lease = None
                log.log(logging.DEBUG if error.transient else logging.WARNING, "node lease not renewed: %s", error)
            try:
                async with asyncio.timeout(duration / 4):
                    await self._connected.wait()
            except TimeoutError:
                continue

    async def renew(self, duration: int) -> None:
        """Write the lease once; the last answer is the next one's base, so one call is the rule."""
        try:
            held = self._held_lease or (await self._client.get(LEASES, self._name, LEASE_NAMESPACE)).to_dict()
            answer = await self._client.update(LEASES, self._lease(held, duration), LEASE_NAMESPACE)
        except Conflict:
            fresh = (await self._client.get(LEASES, self._name, LEASE_NAMESPACE)).to_dict()
            answer = await self._client.update(LEASES, self._lease(fresh, duration), LEASE_NAMESPACE)
        except NotFound:
            # It goes with the Node: perhaps that was deleted, so the status is told at once.
            self._told_at = None
            self._changed.set()
            answer = await self._client.create(LEASES, self._lease({}, duration), LEASE_NAMESPACE)
        self._held_lease = answer.to_dict()

    def _lease(self, body: dict[str, Any], duration: int) -> dict[str, Any]:
        meta = dict(body.get("metadata") or {}) | {"name": self._name, "namespace": LEASE_NAMESPACE}
        if self._node_uid:
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": self._node_uid}
            meta["ownerReferences"] = [owner]
        spec = dict(body.get("spec") or {}) | {
            "holderIdentity": self._name,
            "leaseDurationSeconds": duration,
            "renewTime": rfc3339_micro(self._clock.now()),
        }
        return body | {"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": meta, "spec": spec}
