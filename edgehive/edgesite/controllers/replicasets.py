"""ReplicaSets: as many pods of one template as `spec.replicas` says.

Creates in growing batches, deletes those missed least first, and waits for its own writes to show in the
cache before it counts again. A terminating pod does not count, wherever its node may be.

Go: pkg/controller/replicaset/replica_set.go
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from edgehive.api.apps import ReplicaSet
from edgehive.api.document import Document
from edgehive.api.registry import PODS, REPLICA_SETS
from edgehive.edgesite.controllers import pods
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key, owner_keys
from edgehive.edgesite.controllers.expectations import Expectations
from edgehive.edgesite.controllers.orphans import orphan_keys
from edgehive.edgesite.controllers.ownership import Claims, set_condition, slow_start, write_status
from edgehive.edgesite.controllers.pods import PodItem
from edgehive.kit.clock import rfc3339
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.selectors import labels_from_object

#: At most so many pods are created or deleted in one go.
BURST = 500


class ReplicaSets:
    name = "replicasets"

    def __init__(self, deps: ControllerDeps) -> None:
        self._deps = deps
        self._client = deps.client
        self._sets = deps.informers.of(REPLICA_SETS)
        self._pods = deps.informers.of(PODS)
        self._expected = Expectations(self._pods)
        self._claims = Claims(deps.client, REPLICA_SETS, self._pods, _reference)

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._sets, own_key),
            Source(self._pods, owner_keys("ReplicaSet")),
            Source(self._pods, orphan_keys(self._sets)),
        )

    async def reconcile(self, key: Key) -> float | None:
        document = self._sets.get(key[1], key[0])
        if document is None:
            return None
        lens = document.read(ReplicaSet)
        if self._expected.pending(key):
            return 1.0
        selector = labels_from_object(lens.spec.selector)
        if selector is None:
            return None
        owned = [PodItem.of(item) for item in await self._claims.of(document, selector)]
        active = [item for item in owned if pods.is_active(item.pod)]
        failure: ApiError | None = None
        if not document.meta.deletion_timestamp:
            failure = await self._scale(key, document, lens, active)
        await self._write_status(document, lens, active, failure)
        if failure is not None:
            raise failure
        waiting = [item.pod for item in active]
        return pods.seconds_until_available(waiting, lens.spec.min_ready_seconds or 0, self._deps.clock.now())

    async def _scale(self, key: Key, document: Document, lens: ReplicaSet, active: list[PodItem]) -> ApiError | None:
        """Create or delete pods until there are enough; the error that stopped it, if any."""
        wanted = 1 if lens.spec.replicas is None else lens.spec.replicas
        missing = wanted - len(active)
        try:
            if missing > 0:
                await slow_start(min(missing, BURST), lambda _: self._create(key, document, lens))
            elif missing < 0:
                surplus = pods.deletion_order(active)[: min(-missing, BURST)]
                await asyncio.gather(*(self._delete(key, document, item) for item in surplus))
        except ApiError as error:
            return error
        return None

    async def _create(self, key: Key, document: Document, lens: ReplicaSet) -> None:
        body = pods.from_template(lens.spec.template, _reference(document), key[0])
        try:
            created = await self._client.create(PODS, body, key[0])
        except ApiError as error:
            await self._deps.recorder.event(document, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._expected.created(key, created)
        await self._deps.recorder.event(document, "Normal", "SuccessfulCreate", f"Created pod: {created.meta.name}")

    async def _delete(self, key: Key, document: Document, item: PodItem) -> None:
        try:
            await self._client.delete(PODS, item.name, key[0], uid=item.document.meta.uid)
        except NotFound:
            return
        self._expected.deleted(key, item.document)
        await self._deps.recorder.event(document, "Normal", "SuccessfulDelete", f"Deleted pod: {item.name}")

    async def _write_status(
        self, document: Document, lens: ReplicaSet, active: list[PodItem], failure: ApiError | None
    ) -> None:
        now = self._deps.clock.now()
        labels = ((lens.spec.template.get("metadata") or {}).get("labels") or {}).items()
        min_ready = lens.spec.min_ready_seconds or 0
        counts = {
            "fullyLabeledReplicas": sum(labels <= (item.pod.metadata.labels or {}).items() for item in active),
            "readyReplicas": sum(pods.is_ready(item.pod) for item in active),
            "availableReplicas": sum(pods.is_available(item.pod, min_ready, now) for item in active),
        }
        status: dict[str, Any] = {"replicas": len(active), **{name: n for name, n in counts.items() if n}}
        if document.meta.generation:
            status["observedGeneration"] = document.meta.generation
        conditions = (document.to_dict().get("status") or {}).get("conditions") or []
        conditions = _with_failure(conditions, failure, rfc3339(now))
        if conditions:
            status["conditions"] = conditions
        await write_status(self._client, REPLICA_SETS, document, status)


def _with_failure(conditions: list[dict[str, Any]], failure: ApiError | None, now: str) -> list[dict[str, Any]]:
    if failure is None:
        return [item for item in conditions if item.get("type") != "ReplicaFailure"]
    new = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": str(failure)}
    return set_condition(conditions, new, now)


def _reference(document: Document) -> dict[str, Any]:
    return pods.owner_reference(document, "apps/v1", "ReplicaSet")
