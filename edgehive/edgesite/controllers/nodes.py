"""Node life: a node whose lease grows old is Unknown, gets taints, and after their patience its pods go.

Staleness is judged by when *we* saw the lease change, so wrong clocks on edges do no harm. When every node is
out of reach the fault is more likely ours: then nobody is evicted. A pod that carries the label
`app-offline.kubeedge.io: autonomy` is never evicted from a node that is merely out of reach.

Go: pkg/controller/nodelifecycle, pkg/controller/tainteviction, pkg/controller/podgc
"""

import asyncio
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from edgehive.api.core import Node, Pod, Taint
from edgehive.api.document import Document
from edgehive.api.meta import Condition
from edgehive.api.registry import LEASES, NODES, PODS
from edgehive.edgesite.controllers import pods
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.edgesite.controllers.ownership import set_condition
from edgehive.edgesite.placement import tolerates_one
from edgehive.kit.clock import parse_rfc3339, rfc3339
from edgehive.kube.client import PatchType
from edgehive.kube.errors import Conflict, NotFound
from edgehive.kube.informer import Change

#: Seconds without a sign of life until a node is Unknown, and until the pods of a node that is gone are removed.
GRACE = 40.0
QUARANTINE = 40.0
LEASE_NAMESPACE = "kube-node-lease"
NOT_READY, UNREACHABLE = "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"
AUTONOMY = ("app-offline.kubeedge.io", "autonomy")
REPORTED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
#: Conditions of a node that keep new pods away.
PRESSURE = {
    "MemoryPressure": "node.kubernetes.io/memory-pressure",
    "DiskPressure": "node.kubernetes.io/disk-pressure",
    "PIDPressure": "node.kubernetes.io/pid-pressure",
}
OURS = {NOT_READY, UNREACHABLE, "node.kubernetes.io/unschedulable", *PRESSURE.values()}


class Nodes:
    name = "nodes"

    def __init__(self, deps: ControllerDeps) -> None:
        self._deps = deps
        self._client = deps.client
        self._nodes = deps.informers.of(NODES)
        self._leases = deps.informers.of(LEASES)
        self._pods = deps.informers.of(PODS, indexers={"node": by_node})
        self._signs: dict[str, tuple[tuple[str, str | None], float]] = {}
        self._gone: dict[str, float] = {}

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._nodes, own_key),
            Source(self._leases, _node_of_lease),
            Source(self._pods, _node_of_pod),
        )

    async def reconcile(self, key: Key) -> float | None:
        name = key[1]
        document = self._nodes.get(name)
        if document is None:
            return await self._bury(name)
        self._gone.pop(name, None)
        node = document.read(Node)
        quiet = asyncio.get_running_loop().time() - self._last_sign(name, node)
        if quiet >= GRACE and any(c.status != "Unknown" for c in _reported(node)):
            await self._lose(document, node)
            return 0.0
        await self._taint(document, node)
        ready = node.status.condition("Ready")
        if ready is None or ready.status != "True":
            await self._mark_pods(name)
        again = [GRACE - quiet + 0.01] if quiet < GRACE else []
        evict = await self._evict(node)
        return min(again + ([evict] if evict is not None else []), default=None)

    def _last_sign(self, name: str, node: Node) -> float:
        """When (loop time) the lease or the heartbeat last changed before our eyes."""
        lease = self._leases.get(name, LEASE_NAMESPACE)
        ready = node.status.condition("Ready")
        heard = ready is not None and ready.status != "Unknown"
        mark = (lease.meta.resource_version if lease else "", ready.last_heartbeat_time if ready and heard else None)
        known = self._signs.get(name)
        if known is None or (known[0] != mark and (heard or known[0][0] != mark[0])):
            self._signs[name] = known = (mark, asyncio.get_running_loop().time())
        return known[1]

    async def _lose(self, document: Document, node: Node) -> None:
        """No sign of life: what the node once reported is no longer known."""
        now = rfc3339(self._deps.clock.now())
        body = document.to_dict()
        conditions = (body.get("status") or {}).get("conditions") or []
        for type in REPORTED:
            old = node.status.condition(type)
            if old is not None and old.status == "Unknown":
                continue
            reason, text = "NodeStatusUnknown", "Kubelet stopped posting node status."
            if old is None:
                reason, text = "NodeStatusNeverUpdated", "Kubelet never posted node status."
            new: dict[str, Any] = {"type": type, "status": "Unknown", "reason": reason, "message": text}
            heartbeat = (old.last_heartbeat_time if old else None) or node.metadata.creation_timestamp
            conditions = set_condition(conditions, {**new, "lastHeartbeatTime": heartbeat}, now)
        body["status"] = {**(body.get("status") or {}), "conditions": conditions}
        await self._client.update(NODES, body, name=document.meta.name, subresource="status")
        text = f"Node {document.meta.name} status is now: NodeNotReady"
        await self._deps.recorder.event(document, "Normal", "NodeNotReady", text)

    async def _taint(self, document: Document, node: Node) -> None:
        wanted = self._wanted_taints(node)
        present = [item for item in node.spec.taints or () if item.key in OURS]
        if {(item.key, item.effect) for item in present} == set(wanted):
            return
        body = document.to_dict()
        spec = body.setdefault("spec", {})
        kept = [item for item in spec.get("taints") or [] if item.get("key") not in OURS]
        added = {(item.key, item.effect): item.time_added for item in present}
        now = rfc3339(self._deps.clock.now())
        for key, effect in wanted:
            taint = {"key": key, "effect": effect}
            stamp = added.get((key, effect)) or now
            kept.append(
                {**taint, "timeAdded": stamp} if effect == "NoExecute" or key in (NOT_READY, UNREACHABLE) else taint
            )
        spec["taints"] = kept
        await self._client.update(NODES, body, name=document.meta.name)

    def _wanted_taints(self, node: Node) -> list[tuple[str, str]]:
        wanted = [("node.kubernetes.io/unschedulable", "NoSchedule")] if node.spec.unschedulable else []
        ready = node.status.condition("Ready")
        key = {"True": "", "False": NOT_READY}.get(ready.status if ready else "False", UNREACHABLE)
        if key:
            wanted.append((key, "NoSchedule"))
            if not self._all_lost():
                wanted.append((key, "NoExecute"))
        for type, taint in PRESSURE.items():
            condition = node.status.condition(type)
            if condition is not None and condition.status == "True":
                wanted.append((taint, "NoSchedule"))
        return wanted

    def _all_lost(self) -> bool:
        """Whether no node at all is ready: then the fault is ours, not theirs."""
        conditions = (item.read(Node).status.condition("Ready") for item in self._nodes.items())
        return not any(condition is not None and condition.status == "True" for condition in conditions)

    async def _mark_pods(self, name: str) -> None:
        """Pods of a lost node are no longer Ready for services."""
        now = rfc3339(self._deps.clock.now())
        for document in self._pods.by_index("node", name):
            pod = document.read(Pod)
            if not pods.is_ready(pod) or pod.metadata.deletion_timestamp:
                continue
            condition = {"type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now}
            patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
            await self._client.patch(
                PODS,
                pod.metadata.name,
                patch,
                pod.metadata.namespace,
                type=PatchType.STRATEGIC,
                subresource="status",
            )

    async def _evict(self, node: Node) -> float | None:
        """Delete pods whose patience with the node's NoExecute taints has run out; seconds to the next one."""
        taints = [item for item in node.spec.taints or () if item.effect == "NoExecute"]
        if not taints:
            return None
        now = self._deps.clock.now()
        waits = []
        for document in self._pods.by_index("node", node.metadata.name):
            pod = document.read(Pod)
            if pod.metadata.deletion_timestamp or pods.is_finished(pod):
                continue
            patience = _patience(pod, taints)
            if patience is None:
                continue
            since = min((parse_rfc3339(item.time_added) for item in taints if item.time_added), default=now)
            left = (since + timedelta(seconds=patience) - now).total_seconds()
            if left > 0:
                waits.append(left + 0.01)
                continue
            text = f"Marking for deletion Pod {pod.metadata.namespace}/{pod.metadata.name}"
            await self._deps.recorder.event(document, "Normal", "TaintManagerEviction", text)
            await self._delete(document)
        return min(waits, default=None)

    async def _bury(self, name: str) -> float | None:
        """The node's object is gone: after a quarantine, and a live look, its pods follow."""
        left_behind = self._pods.by_index("node", name)
        self._signs.pop(name, None)
        if not left_behind:
            self._gone.pop(name, None)
            return None
        now = asyncio.get_running_loop().time()
        since = self._gone.setdefault(name, now)
        if now - since < QUARANTINE:
            return QUARANTINE - (now - since)
        try:
            await self._client.get(NODES, name)
        except NotFound:
            for document in left_behind:
                await self._delete(document, grace=0)
        return None

    async def _delete(self, document: Document, grace: int | None = None) -> None:
        meta = document.meta
        try:
            await self._client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period_seconds=grace)
        except (NotFound, Conflict):
            return


def by_node(document: Document) -> Iterable[str]:
    """Index: the node a pod is bound to."""
    name = document.read(Pod).spec.node_name
    return [name] if name else []


def _node_of_lease(change: Change) -> Iterable[Key]:
    return [("", change.key[1])] if change.key[0] == LEASE_NAMESPACE else []


def _node_of_pod(change: Change) -> Iterable[Key]:
    return [("", name) for name in by_node(change.document)] if change.new is not None else []


def _reported(node: Node) -> list[Condition]:
    """The conditions a kubelet owns; one that is missing counts as not known to be Unknown yet."""
    return [node.status.condition(type) or Condition(type=type) for type in REPORTED]


def _patience(pod: Pod, taints: Sequence[Taint]) -> float | None:
    """Seconds the pod bears these taints; None for ever."""
    bounds: list[float] = []
    for taint in taints:
        if taint.key in (NOT_READY, UNREACHABLE) and (pod.metadata.labels or {}).get(AUTONOMY[0]) == AUTONOMY[1]:
            continue
        tolerations = [item for item in pod.spec.tolerations or () if tolerates_one(item, taint)]
        if not tolerations:
            return 0.0
        if any(item.toleration_seconds is None for item in tolerations):
            continue
        bounds.append(float(min(item.toleration_seconds or 0 for item in tolerations)))
    return max(0.0, min(bounds)) if bounds else None
