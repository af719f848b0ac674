"""The scheduler: gives every pod without a node the best one, within milliseconds of its creation.

Pods and nodes come from informers; `placement` decides. A chosen node is charged at once (the pod is *assumed*
there), so the next decision already knows it, and the binding is written meanwhile. A pod nobody can take waits
until a node or another pod changes.

Go: pkg/scheduler/scheduler.go, schedule_one.go
"""

import asyncio
import logging
from collections.abc import Iterable

from edgehive.api.core import Node, Pod
from edgehive.api.document import Document
from edgehive.api.registry import NODES, PODS
from edgehive.edgesite.controllers.engine import Key
from edgehive.edgesite.placement import Demand, NodeState, Unschedulable, choose
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, rfc3339
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound
from edgehive.kube.informer import Change, Informers
from edgehive.kube.recorder import Recorder

NAME = "default-scheduler"
#: Bindings written at the same time.
BINDINGS = 16

log = logging.getLogger("edgehive.edgesite.scheduler")


class Cluster:
    """What is where, assumed pods included. Pure state, fed by changes."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeState] = {}
        self._place: dict[str, str] = {}

    def nodes(self) -> list[NodeState]:
        """The nodes that exist (pods may name others)."""
        return [state for state in self._nodes.values() if state.name]

    def set_node(self, node: Node) -> None:
        self._state(node.metadata.name).set_node(node)

    def remove_node(self, name: str) -> None:
        state = self._nodes.get(name)
        if state is not None and state.pods:
            state.set_node(Node())
        else:
            self._nodes.pop(name, None)

    def put(self, pod: Pod, node: str) -> None:
        """The pod is (assumed) on the node."""
        self.remove(pod.metadata.uid)
        self._state(node).pods[pod.metadata.uid] = (pod, Demand.of(pod))
        self._place[pod.metadata.uid] = node

    def remove(self, uid: str) -> None:
        node = self._place.pop(uid, None)
        if node is not None:
            self._nodes[node].pods.pop(uid, None)

    def holds(self, uid: str) -> bool:
        return uid in self._place

    def _state(self, name: str) -> NodeState:
        return self._nodes.setdefault(name, NodeState(Node()))


class Scheduler:
    """Runs until cancelled."""

    def __init__(self, client: Client, informers: Informers, recorder: Recorder, clock: Clock) -> None:
        self._client = client
        self._pods = informers.of(PODS)
        self._nodes = informers.of(NODES)
        self._recorder = recorder
        self._clock = clock
        self._cluster = Cluster()
        self._ready: dict[Key, None] = {}
        self._parked: dict[Key, None] = {}
        self._failures: dict[str, int] = {}
        self._backoff = Backoff(first=0.1, limit=10.0)
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(BINDINGS)

    async def run(self) -> None:
        await self._nodes.wait_synced()
        await self._pods.wait_synced()
        # What is known at the start is taken in before the first decision, else full nodes would look empty.
        for document in self._nodes.items():
            self._take_node_safely(Change(None, document))
        for document in self._pods.items():
            self._take_pod_safely(Change(None, document))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_nodes(), name="scheduler: nodes")
            group.create_task(self._follow_pods(), name="scheduler: pods")
            await self._schedule_forever(group)

    async def _follow_nodes(self) -> None:
        async for change in self._nodes.changes():
            self._take_node_safely(change)

    def _take_node_safely(self, change: Change) -> None:
        try:
            self._take_node(change)
        except ValueError as error:
            log.warning("ignored node %s, which cannot be read: %s", change.key[1], error)

    def _take_node(self, change: Change) -> None:
        if change.new is not None:
            self._cluster.set_node(change.new.read(Node))
        else:
            self._cluster.remove_node(change.key[1])
        if _matters(change):
            self._unpark()

    async def _follow_pods(self) -> None:
        async for change in self._pods.changes():
            self._take_pod_safely(change)

    def _take_pod_safely(self, change: Change) -> None:
        """One pod that cannot be read (a wrong type, a bad quantity) must not stop the others."""
        try:
            self._take_pod(change)
        except ValueError as error:
            log.warning("ignored pod %s/%s, which cannot be read: %s", *change.key, error)

    def _take_pod(self, change: Change) -> None:
        key = change.key
        if change.new is None:
            self._forget(key, change.document.meta.uid)
            self._unpark()
            return
        pod = change.new.read(Pod)
        if pod.status.phase in ("Succeeded", "Failed"):
            self._forget(key, pod.metadata.uid)
            self._unpark()
        elif pod.spec.node_name:
            self._ready.pop(key, None)
            self._parked.pop(key, None)
            self._cluster.put(pod, pod.spec.node_name)
        elif _ours(pod) and not self._cluster.holds(pod.metadata.uid) and self._is_news(key, change):
            self._enqueue(key)

    def _is_news(self, key: Key, change: Change) -> bool:
        return key not in self._parked or _respecified(change)

    def _forget(self, key: Key, uid: str) -> None:
        self._cluster.remove(uid)
        self._ready.pop(key, None)
        self._parked.pop(key, None)
        self._failures.pop(uid, None)

    def _enqueue(self, key: Key) -> None:
        self._parked.pop(key, None)
        self._ready[key] = None
        self._wake.set()

    def _unpark(self) -> None:
        for key in list(self._parked):
            self._enqueue(key)

    async def _schedule_forever(self, group: asyncio.TaskGroup) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            for key, document, pod in self._batch():
                try:
                    node = choose(pod, self._cluster.nodes())
                except (Unschedulable, ValueError) as why:
                    self._parked[key] = None
                    await self._report_failure(document, pod, str(why))
                    continue
                await self._slots.acquire()
                self._cluster.put(pod, node)
                group.create_task(self._bind(key, document, pod, node), name=f"scheduler: bind {key[0]}/{key[1]}")

    def _batch(self) -> list[tuple[Key, Document, Pod]]:
        """Who waits, highest priority first, then oldest; pods that went or were bound meanwhile are dropped."""
        keys, self._ready = list(self._ready), {}
        batch: list[tuple[Key, Document, Pod]] = []
        for key in keys:
            document = self._pods.get(key[1], key[0])
            pod = document.read(Pod) if document is not None else None
            if document is not None and pod is not None and not pod.spec.node_name and _ours(pod):
                batch.append((key, document, pod))
        batch.sort(key=lambda item: (-(item[2].spec.priority or 0), item[2].metadata.creation_timestamp or ""))
        return batch

    async def _bind(self, key: Key, document: Document, pod: Pod, node: str) -> None:
        meta = pod.metadata
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.create(PODS, binding, meta.namespace, name=meta.name, subresource="binding")
        except (NotFound, Conflict):
            # Gone, or bound by someone else: its own event tells the rest.
            self._cluster.remove(meta.uid)
        except ApiError as error:
            self._cluster.remove(meta.uid)
            log.warning("cannot bind %s/%s to %s: %s", *key, node, error)
            self._retry_later(key, meta.uid)
        else:
            self._failures.pop(meta.uid, None)
            text = f"Successfully assigned {meta.namespace}/{meta.name} to {node}"
            await self._recorder.event(document, "Normal", "Scheduled", text)
        finally:
            self._slots.release()

    def _retry_later(self, key: Key, uid: str) -> None:
        failures = self._failures[uid] = self._failures.get(uid, 0) + 1
        asyncio.get_running_loop().call_later(self._backoff.delay(failures - 1), self._enqueue, key)

    async def _report_failure(self, document: Document, pod: Pod, message: str) -> None:
        old = pod.status.condition("PodScheduled")
        if old is not None and old.status == "False" and old.message == message:
            return
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": None,
            "lastTransitionTime": rfc3339(self._clock.now()),
        }
        meta = pod.metadata
        try:
            await self._recorder.event(document, "Warning", "FailedScheduling", message)
            await self._client.patch(
                PODS,
                meta.name,
                {"status": {"conditions": [condition]}},
                meta.namespace,
                type=PatchType.STRATEGIC,
                subresource="status",
            )
        except ApiError as error:
            log.debug("cannot report on %s/%s: %s", meta.namespace, meta.name, error)


def _ours(pod: Pod) -> bool:
    waits = pod.metadata.deletion_timestamp or pod.spec.scheduling_gates
    return not waits and pod.spec.scheduler_name in ("", NAME)


def _respecified(change: Change) -> bool:
    """Whether more than the status changed (our own report must not wake the pod again)."""
    if change.old is None or change.new is None:
        return True
    old, new = change.old.read(Pod), change.new.read(Pod)
    return old.spec != new.spec or old.metadata.labels != new.metadata.labels


def _matters(change: Change) -> bool:
    """Whether a node changed in what decisions rest on (heartbeats do not)."""
    if change.old is None or change.new is None:
        return True
    return _facts(change.old.read(Node)) != _facts(change.new.read(Node))


def _facts(node: Node) -> Iterable[object]:
    return (node.metadata.labels, node.spec, node.status.allocatable)
