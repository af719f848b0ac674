"""DaemonSets: one pod on every node that will have it, placed there by the scheduler.

Its pods tolerate nodes that are not ready or out of reach, so they are never evicted; a failed one is replaced
at a growing distance. Templates are recorded as ControllerRevisions.

Go: pkg/controller/daemon/daemon_controller.go, update.go
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from edgehive.api.apps import DaemonSet
from edgehive.api.core import Node, Pod, Toleration
from edgehive.api.document import Document
from edgehive.api.registry import CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS
from edgehive.edgesite.controllers import pods, rollout
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key, owner_keys
from edgehive.edgesite.controllers.expectations import Expectations
from edgehive.edgesite.controllers.orphans import orphan_keys
from edgehive.edgesite.controllers.ownership import Claims, slow_start, write_status
from edgehive.edgesite.controllers.pods import PodItem
from edgehive.edgesite.placement import NodeState, matches_affinity, untolerated
from edgehive.kit.backoff import Backoff
from edgehive.kube.errors import AlreadyExists, ApiError, NotFound
from edgehive.kube.informer import Change
from edgehive.kube.selectors import labels_from_object

REVISION_LABEL = "controller-revision-hash"
#: Taints every daemon pod bears: (key, effect).
BORNE = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)
HOST_NETWORK_BORNE = ("node.kubernetes.io/network-unavailable", "NoSchedule")


class DaemonSets:
    name = "daemonsets"

    def __init__(self, deps: ControllerDeps) -> None:
        self._deps = deps
        self._client = deps.client
        self._sets = deps.informers.of(DAEMON_SETS)
        self._pods = deps.informers.of(PODS)
        self._nodes = deps.informers.of(NODES)
        self._revisions = deps.informers.of(CONTROLLER_REVISIONS)
        self._expected = Expectations(self._pods)
        self._claims = Claims(deps.client, DAEMON_SETS, self._pods, _reference)
        self._backoff = Backoff(first=1.0, limit=900.0, jitter=0.1)
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._sets, own_key),
            Source(self._pods, owner_keys("DaemonSet")),
            Source(self._pods, orphan_keys(self._sets)),
            Source(self._nodes, self._all_sets),
        )

    def _all_sets(self, change: Change) -> Iterable[Key]:
        if change.old is not None and change.new is not None:
            old, new = change.old.read(Node), change.new.read(Node)
            if (old.metadata.labels, old.spec) == (new.metadata.labels, new.spec):
                return []
        return [(item.meta.namespace, item.meta.name) for item in self._sets.items()]

    async def reconcile(self, key: Key) -> float | None:
        document = self._sets.get(key[1], key[0])
        if document is None:
            return None
        lens = document.read(DaemonSet)
        selector = labels_from_object(lens.spec.selector)
        if self._expected.pending(key):
            return 1.0
        if not selector:
            return None
        revision = rollout.template_hash(lens.spec.template)
        owned = [PodItem.of(item) for item in await self._claims.of(document, selector)]
        by_node = _group(owned)
        again: float | None = None
        if not document.meta.deletion_timestamp:
            await self._record(document, lens, revision)
            again = await self._place(key, document, lens, revision, by_node)
            if lens.spec.update_strategy.type == "RollingUpdate" and not self._expected.pending(key):
                await self._update(key, lens, revision, by_node)
        await self._write_status(document, lens, revision, by_node)
        return again

    async def _place(
        self,
        key: Key,
        document: Document,
        lens: DaemonSet,
        revision: str,
        by_node: dict[str, list[PodItem]],
    ) -> float | None:
        """Create what is missing, delete what is failed or does not belong; seconds until a failed one's turn."""
        missing, surplus, waits = [], [], []
        for document_of_node in self._nodes.items():
            node = document_of_node.read(Node)
            name = node.metadata.name
            here = by_node.get(name, [])
            run, stay = _fits(lens, node)
            failed = [item for item in here if item.pod.status.phase == "Failed" and _lives(item)]
            living = [item for item in here if item.pod.status.phase != "Failed"]
            if failed:
                surplus += failed
                self._note_failure(document.meta.uid, name)
            if not stay:
                surplus += [item for item in living if _lives(item)]
            elif run and not living and not failed:
                wait = self._wait(document.meta.uid, name)
                waits += [wait] if wait > 0 else []
                missing += [name] if wait <= 0 else []
            elif len(living) > 1:
                surplus += pods.deletion_order([item for item in living if _lives(item)])[:-1]
        gone = by_node.keys() - {item.meta.name for item in self._nodes.items()} - {""}
        surplus += [item for name in gone for item in by_node[name] if _lives(item)]
        await asyncio.gather(*(self._delete(key, document, item) for item in surplus))
        await slow_start(len(missing), lambda n: self._create(key, document, lens, revision, missing[n]))
        return min(waits, default=None)

    def _note_failure(self, uid: str, node: str) -> None:
        count = self._failures.get((uid, node), (0, 0.0))[0]
        until = asyncio.get_running_loop().time() + self._backoff.delay(count)
        self._failures[(uid, node)] = (count + 1, until)

    def _wait(self, uid: str, node: str) -> float:
        return self._failures.get((uid, node), (0, 0.0))[1] - asyncio.get_running_loop().time()

    async def _update(self, key: Key, lens: DaemonSet, revision: str, by_node: dict[str, list[PodItem]]) -> None:
        """Replace pods of older templates: those not available at once, the others as many as may be missing."""
        now = self._deps.clock.now()
        min_ready = lens.spec.min_ready_seconds or 0
        wanted = sum(_fits(lens, item.read(Node))[0] for item in self._nodes.items())
        rolling = lens.spec.update_strategy.rolling_update
        allowed = max(1, rollout.resolve(rolling.max_unavailable if rolling else 1, wanted, up=True))
        living = [item for items in by_node.values() for item in items if _lives(item)]
        available = [item for item in living if pods.is_available(item.pod, min_ready, now)]
        old = [item for item in living if (item.pod.metadata.labels or {}).get(REVISION_LABEL) != revision]
        broken = [item for item in old if item not in available]
        spare = max(0, allowed - (wanted - len(available)))
        healthy = [item for item in old if item in available][:spare]
        for item in (*broken, *healthy):
            await self._delete(key, None, item)

    async def _create(self, key: Key, document: Document, lens: DaemonSet, revision: str, node: str) -> None:
        body = _daemon_pod(document, lens, revision, node)
        try:
            created = await self._client.create(PODS, body, key[0])
        except ApiError as error:
            await self._deps.recorder.event(document, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._expected.created(key, created)
        await self._deps.recorder.event(document, "Normal", "SuccessfulCreate", f"Created pod: {created.meta.name}")

    async def _delete(self, key: Key, document: Document | None, item: PodItem) -> None:
        meta = item.document.meta
        try:
            await self._client.delete(PODS, meta.name, meta.namespace, uid=meta.uid)
        except NotFound:
            return
        self._expected.deleted(key, item.document)
        owner = document or self._sets.get(key[1], key[0])
        if owner is not None:
            await self._deps.recorder.event(owner, "Normal", "SuccessfulDelete", f"Deleted pod: {meta.name}")

    async def _record(self, document: Document, lens: DaemonSet, revision: str) -> None:
        """Keep the template as a ControllerRevision, newest last, and forget those beyond the limit."""
        meta = document.meta
        mine = [item for item in self._revisions.items(meta.namespace) if _owned_by(item, meta.uid)]
        mine.sort(key=_number)
        name = f"{meta.name}-{revision}"
        newest = _number(mine[-1]) if mine else 0
        present = next((item for item in mine if item.meta.name == name), None)
        if present is None:
            body = _revision(document, lens, name, revision, newest + 1)
            try:
                await self._client.create(CONTROLLER_REVISIONS, body, meta.namespace)
            except AlreadyExists:
                return
        elif _number(present) < newest:
            await self._client.update(CONTROLLER_REVISIONS, {**present.to_dict(), "revision": newest + 1})
        limit = lens.spec.revision_history_limit
        old = [item for item in mine if item.meta.name != name]
        for item in old[: max(0, len(old) - (10 if limit is None else limit))]:
            await self._client.delete(CONTROLLER_REVISIONS, item.meta.name, meta.namespace, uid=item.meta.uid)

    async def _write_status(
        self, document: Document, lens: DaemonSet, revision: str, by_node: dict[str, list[PodItem]]
    ) -> None:
        now, min_ready = self._deps.clock.now(), lens.spec.min_ready_seconds or 0
        status = dict.fromkeys(
            ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"), 0
        )
        updated = available = 0
        for item in self._nodes.items():
            run, _ = _fits(lens, item.read(Node))
            here = [one for one in by_node.get(item.meta.name, []) if _lives(one)]
            status["desiredNumberScheduled"] += run
            if not run:
                status["numberMisscheduled"] += bool(here)
                continue
            status["currentNumberScheduled"] += bool(here)
            if here:
                newest = max(here, key=lambda one: one.pod.metadata.creation_timestamp or "")
                status["numberReady"] += pods.is_ready(newest.pod)
                available += pods.is_available(newest.pod, min_ready, now)
                updated += (newest.pod.metadata.labels or {}).get(REVISION_LABEL) == revision
        missing = status["desiredNumberScheduled"] - available
        extra = {"updatedNumberScheduled": updated, "numberAvailable": available, "numberUnavailable": missing}
        status |= {name: count for name, count in extra.items() if count}
        if document.meta.generation:
            status["observedGeneration"] = document.meta.generation
        await write_status(self._client, DAEMON_SETS, document, status)


def _group(items: Iterable[PodItem]) -> dict[str, list[PodItem]]:
    """Pods by the node they are on, or are meant for."""
    groups: defaultdict[str, list[PodItem]] = defaultdict(list)
    for item in items:
        groups[item.pod.spec.node_name or _target(item.pod)].append(item)
    return groups


def _target(pod: Pod) -> str:
    required = ((pod.spec.affinity or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    ) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("values"):
                return str(field["values"][0])
    return ""


def _lives(item: PodItem) -> bool:
    return item.pod.metadata.deletion_timestamp is None


def _fits(lens: DaemonSet, node: Node) -> tuple[bool, bool]:
    """(should run there, may stay there): the pod's own wishes, and the taints it does not bear."""
    pod = Document.of({"spec": lens.spec.template.get("spec") or {}}).read(Pod)
    borne = [Toleration(key=key, operator="Exists", effect=effect) for key, effect in _borne(pod.spec.host_network)]
    state = NodeState(node)
    if not matches_affinity(pod, state) or pod.spec.node_name not in ("", node.metadata.name):
        return False, False
    taints = untolerated([*(pod.spec.tolerations or ()), *borne], node.spec.taints or ())
    return not taints, not any(taint.effect == "NoExecute" for taint in taints)


def _borne(host_network: bool) -> tuple[tuple[str, str], ...]:
    return (*BORNE, HOST_NETWORK_BORNE) if host_network else BORNE


def _daemon_pod(document: Document, lens: DaemonSet, revision: str, node: str) -> dict[str, Any]:
    body = pods.from_template(lens.spec.template, _reference(document), document.meta.namespace)
    body["metadata"]["labels"] = {**body["metadata"].get("labels", {}), REVISION_LABEL: revision}
    spec = body["spec"]
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    affinity = dict(spec.get("affinity") or {})
    node_affinity = dict(affinity.get("nodeAffinity") or {})
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    terms = (node_affinity.get(required) or {}).get("nodeSelectorTerms") or [{}]
    node_affinity[required] = {"nodeSelectorTerms": [{**own, **term} for own in terms]}
    spec["affinity"] = {**affinity, "nodeAffinity": node_affinity}
    tolerations = list(spec.get("tolerations") or [])
    for key, effect in _borne(bool(spec.get("hostNetwork"))):
        toleration = {"key": key, "operator": "Exists", "effect": effect}
        tolerations += [] if toleration in tolerations else [toleration]
    spec["tolerations"] = tolerations
    return body


def _revision(document: Document, lens: DaemonSet, name: str, revision: str, number: int) -> dict[str, Any]:
    labels = {**((lens.spec.template.get("metadata") or {}).get("labels") or {}), REVISION_LABEL: revision}
    return {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            "name": name,
            "namespace": document.meta.namespace,
            "labels": labels,
            "ownerReferences": [_reference(document)],
        },
        "data": {"spec": {"template": {**lens.spec.template, "$patch": "replace"}}},
        "revision": number,
    }


def _owned_by(document: Document, uid: str) -> bool:
    ref = document.meta.controller_ref
    return ref is not None and ref.uid == uid


def _number(document: Document) -> int:
    return int(document.to_dict().get("revision") or 0)


def _reference(document: Document) -> dict[str, Any]:
    return pods.owner_reference(document, "apps/v1", "DaemonSet")
