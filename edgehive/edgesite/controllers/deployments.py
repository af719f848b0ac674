"""Deployments: one ReplicaSet per pod template, moved towards the newest as the strategy allows.

It reads the world once into a `Rollout`, lets `rollout.py` do the arithmetic, writes ReplicaSets and then
the status. Names of ReplicaSets follow from the template, so that creating one twice is impossible.

Go: pkg/controller/deployment/deployment_controller.go, sync.go, rolling.go, recreate.go
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgehive.api.apps import Deployment, ReplicaSet
from edgehive.api.document import Document
from edgehive.api.registry import DEPLOYMENTS, PODS, REPLICA_SETS
from edgehive.edgesite.controllers import deployment_status, pods, rollout
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key, owner_keys
from edgehive.edgesite.controllers.orphans import orphan_keys
from edgehive.edgesite.controllers.ownership import Claims, by_controller
from edgehive.edgesite.controllers.pods import PodItem
from edgehive.edgesite.controllers.rollout import HASH_LABEL, Generation, Limits
from edgehive.kube.errors import AlreadyExists, ApiError, NotFound
from edgehive.kube.informer import Change
from edgehive.kube.selectors import labels_from_object

REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAXIMUM = "deployment.kubernetes.io/max-replicas"
#: Annotations of a Deployment that its ReplicaSets do not inherit.
PRIVATE = ("kubectl.kubernetes.io/last-applied-configuration", REVISION, REVISION_HISTORY, DESIRED, MAXIMUM,
           "deprecated.deployment.rollback.to")  # fmt: skip


@dataclass(frozen=True)
class OwnedSet:
    """A ReplicaSet of the Deployment."""

    document: Document
    lens: ReplicaSet

    @classmethod
    def of(cls, document: Document) -> "OwnedSet":
        return cls(document, document.read(ReplicaSet))

    @property
    def name(self) -> str:
        return self.document.meta.name

    @property
    def replicas(self) -> int:
        return 1 if self.lens.spec.replicas is None else self.lens.spec.replicas

    @property
    def annotations(self) -> dict[str, str]:
        return self.document.meta.annotations or {}

    @property
    def revision(self) -> int:
        text = self.annotations.get(REVISION, "0")
        return int(text) if text.isdigit() else 0

    @property
    def generation(self) -> Generation:
        before = self.annotations.get(MAXIMUM, "")
        created = self.document.meta.creation_timestamp or ""
        available = self.lens.status.available_replicas
        return Generation(self.replicas, available, created, int(before) if before.isdigit() else 0)


@dataclass
class Rollout:
    """A Deployment and its ReplicaSets, oldest first."""

    document: Document
    lens: Deployment
    new: OwnedSet | None
    old: list[OwnedSet]

    @property
    def wanted(self) -> int:
        return 1 if self.lens.spec.replicas is None else self.lens.spec.replicas

    @property
    def all(self) -> list[OwnedSet]:
        return [*self.old, *([self.new] if self.new else [])]

    @property
    def limits(self) -> Limits:
        rolling = self.lens.spec.strategy.rolling_update
        if self.lens.spec.strategy.type == "Recreate" or rolling is None:
            return Limits(0, 0 if self.lens.spec.strategy.type == "Recreate" else 1)
        return Limits.of(self.wanted, rolling.max_surge, rolling.max_unavailable)


class Deployments:
    name = "deployments"

    def __init__(self, deps: ControllerDeps) -> None:
        self._deps = deps
        self._client = deps.client
        self._deployments = deps.informers.of(DEPLOYMENTS)
        self._sets = deps.informers.of(REPLICA_SETS)
        self._pods = deps.informers.of(PODS, indexers={"controller": by_controller})
        self._claims = Claims(deps.client, DEPLOYMENTS, self._sets, _reference)

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._deployments, own_key),
            Source(self._sets, owner_keys("Deployment")),
            Source(self._sets, orphan_keys(self._deployments)),
            Source(self._pods, self._recreated_keys),
        )

    def _recreated_keys(self, change: Change) -> Iterable[Key]:
        """A pod that vanished may be the last one a Recreate waited for."""
        ref = change.old.meta.controller_ref if change.old is not None and change.new is None else None
        if change.old is None or ref is None or ref.kind != "ReplicaSet":
            return
        replica_set = self._sets.get(ref.name, change.old.meta.namespace)
        owner = replica_set.meta.controller_ref if replica_set is not None else None
        if owner is not None and owner.kind == "Deployment":
            yield (change.old.meta.namespace, owner.name)

    async def reconcile(self, key: Key) -> float | None:
        document = self._deployments.get(key[1], key[0])
        if document is None:
            return None
        lens = document.read(Deployment)
        selector = labels_from_object(lens.spec.selector)
        if not selector:
            return None
        owned = [OwnedSet.of(item) for item in await self._claims.of(document, selector)]
        owned = [item for item in owned if not item.document.meta.deletion_timestamp]
        plan = _sort_out(document, lens, owned)
        if document.meta.deletion_timestamp:
            return await self._report(plan)
        if lens.spec.paused:
            await self._resize_all(plan)
            await self._prune(plan)
            return await self._report(plan)
        if plan.new is not None and _resized(plan):
            await self._resize_all(plan)
            return await self._report(plan)
        if lens.spec.strategy.type == "Recreate":
            await self._recreate(plan)
        else:
            await self._roll(plan)
        if _complete(plan):
            await self._prune(plan)
        return await self._report(plan)

    async def _recreate(self, plan: Rollout) -> None:
        """Everything old goes first; the new template starts when its last pod is gone."""
        await self._adjust_revision(plan)
        if any([await self._resize(plan, item, 0) for item in plan.old]):
            return
        if any(self._living(item) for item in plan.old):
            return
        await self._ensure_new(plan, plan.wanted)
        if plan.new is not None:
            await self._resize(plan, plan.new, plan.wanted)

    def _living(self, item: OwnedSet) -> bool:
        pods_of = (PodItem.of(pod) for pod in self._pods.by_index("controller", item.document.meta.uid))
        return any(not pods.is_finished(pod.pod) for pod in pods_of)

    async def _roll(self, plan: Rollout) -> None:
        """One step of a rolling update: grow the new set, else shrink the old ones."""
        await self._adjust_revision(plan)
        total = sum(item.replicas for item in plan.all)
        if plan.new is None:
            await self._ensure_new(plan, rollout.new_size(plan.wanted, plan.limits, 0, total))
            return
        size = rollout.new_size(plan.wanted, plan.limits, plan.new.replicas, total)
        if await self._resize(plan, plan.new, size):
            return
        sizes = rollout.old_sizes(plan.wanted, plan.limits, plan.new.generation, [item.generation for item in plan.old])
        for item, size in zip(plan.old, sizes, strict=True):
            await self._resize(plan, item, size)

    async def _resize_all(self, plan: Rollout) -> None:
        """Follow a changed `spec.replicas`: all on the one active set, else each in its proportion."""
        active = [item for item in plan.all if item.replicas > 0]
        if len(active) <= 1:
            target = active[0] if active else plan.new
            if target is not None:
                await self._resize(plan, target, plan.wanted)
            return
        if plan.new is not None and plan.new.lens.status.available_replicas == plan.wanted == plan.new.replicas:
            for item in plan.old:
                await self._resize(plan, item, 0)
            return
        sizes = rollout.proportional(plan.wanted, plan.limits, [item.generation for item in active])
        for item, size in zip(active, sizes, strict=True):
            await self._resize(plan, item, size)

    async def _ensure_new(self, plan: Rollout, size: int) -> None:
        """Create the ReplicaSet of the present template."""
        if plan.new is not None:
            return
        collisions = plan.lens.status.collision_count or 0
        body = _replica_set(plan, size, rollout.template_hash(plan.lens.spec.template, collisions))
        try:
            created = OwnedSet.of(await self._client.create(REPLICA_SETS, body, plan.document.meta.namespace))
        except AlreadyExists:
            await self._settle_name_clash(plan, body["metadata"]["name"])
            raise
        except ApiError as error:
            text = f'Failed to create new replica set "{body["metadata"]["name"]}": {error}'
            await self._deps.recorder.event(plan.document, "Warning", "ReplicaSetCreateError", text)
            raise
        plan.new = created
        await self._set_revision(plan, created.annotations[REVISION])
        if size:
            await self._announce(plan, created.name, 0, size)

    async def _settle_name_clash(self, plan: Rollout, name: str) -> None:
        """Ours already (the cache is behind): try again. Another's: count a collision, which makes a new name."""
        meta = plan.document.meta
        there = OwnedSet.of(await self._client.get(REPLICA_SETS, name, meta.namespace))
        ref = there.document.meta.controller_ref
        ours = ref is not None and ref.uid == meta.uid
        if ours and rollout.same_template(there.lens.spec.template, plan.lens.spec.template):
            return
        status = dict(plan.document.to_dict().get("status") or {})
        status["collisionCount"] = (plan.lens.status.collision_count or 0) + 1
        body = {**plan.document.to_dict(), "status": status}
        await self._client.update(DEPLOYMENTS, body, meta.namespace, name=meta.name, subresource="status")

    async def _adjust_revision(self, plan: Rollout) -> None:
        """An existing ReplicaSet that becomes the newest again (a rollback) takes the next revision number."""
        if plan.new is None:
            return
        revision = _next_revision(plan.old)
        body = plan.new.document.to_dict()
        annotations = {**(body["metadata"].get("annotations") or {}), **_inherited(plan.document)}
        if plan.new.revision < revision:
            history = [item for item in annotations.get(REVISION_HISTORY, "").split(",") if item]
            if plan.new.revision:
                annotations[REVISION_HISTORY] = ",".join([*history, str(plan.new.revision)])
            annotations[REVISION] = str(revision)
        min_ready = plan.lens.spec.min_ready_seconds or 0
        if annotations != plan.new.annotations or min_ready != (plan.new.lens.spec.min_ready_seconds or 0):
            body["metadata"]["annotations"] = annotations
            body["spec"]["minReadySeconds"] = min_ready
            updated = await self._client.update(REPLICA_SETS, body)
            plan.new = OwnedSet.of(updated)
        await self._set_revision(plan, annotations.get(REVISION, ""))

    async def _set_revision(self, plan: Rollout, revision: str) -> None:
        if (plan.document.meta.annotations or {}).get(REVISION) == revision:
            return
        patch = {"metadata": {"annotations": {REVISION: revision}}}
        meta = plan.document.meta
        plan.document = await self._client.patch(DEPLOYMENTS, meta.name, patch, meta.namespace)

    async def _resize(self, plan: Rollout, item: OwnedSet, size: int) -> bool:
        """Write the size (and the figures later proportions need); True when the number of replicas changed."""
        figures = _figures(plan)
        before = item.replicas
        if before == size and figures.items() <= item.annotations.items():
            return False
        body = item.document.to_dict()
        body["spec"]["replicas"] = size
        body["metadata"]["annotations"] = {**item.annotations, **figures}
        updated = OwnedSet.of(await self._client.update(REPLICA_SETS, body))
        if plan.new is item:
            plan.new = updated
        else:
            plan.old[plan.old.index(item)] = updated
        if before != size:
            await self._announce(plan, item.name, before, size)
        return before != size

    async def _announce(self, plan: Rollout, name: str, before: int, size: int) -> None:
        way = "up" if size > before else "down"
        text = f"Scaled {way} replica set {name} from {before} to {size}"
        await self._deps.recorder.event(plan.document, "Normal", "ScalingReplicaSet", text)

    async def _prune(self, plan: Rollout) -> None:
        """Forget the oldest empty ReplicaSets beyond the history limit."""
        limit = plan.lens.spec.revision_history_limit
        if limit is None:
            return
        empty = [item for item in plan.old if not item.replicas and not item.lens.status.replicas]
        empty = [item for item in empty if item.lens.status.observed_generation >= (item.document.meta.generation or 0)]
        empty.sort(key=lambda item: item.revision)
        for item in empty[: max(0, len(plan.old) - limit)]:
            meta = item.document.meta
            try:
                await self._client.delete(REPLICA_SETS, meta.name, meta.namespace, uid=meta.uid)
            except NotFound:
                continue

    async def _report(self, plan: Rollout) -> float | None:
        """Write the status; seconds until the progress deadline is worth another look."""
        now = self._deps.clock.now()
        current = plan.document.to_dict()
        status, again = deployment_status.compute(
            plan.lens,
            current.get("status") or {},
            plan.document.meta.generation,
            deployment_status.Totals.of(
                [item.lens for item in plan.all],
                plan.new.lens if plan.new else None,
                sum(item.replicas for item in plan.all),
                plan.new.name if plan.new else "",
            ),
            plan.limits.unavailable,
            now,
        )
        if status != (current.get("status") or {}):
            meta = plan.document.meta
            body = {**current, "status": status}
            await self._client.update(DEPLOYMENTS, body, meta.namespace, name=meta.name, subresource="status")
        return again


def _sort_out(document: Document, lens: Deployment, owned: list[OwnedSet]) -> Rollout:
    """Which ReplicaSet has the present template (the oldest, if several do)."""
    owned.sort(key=lambda item: (item.document.meta.creation_timestamp or "", item.name))
    matching = [item for item in owned if rollout.same_template(item.lens.spec.template, lens.spec.template)]
    new = matching[0] if matching else None
    return Rollout(document, lens, new, [item for item in owned if item is not new])


def _resized(plan: Rollout) -> bool:
    """Whether `spec.replicas` changed since the sizes were set."""
    active = [item for item in plan.all if item.replicas > 0]
    wanted = str(plan.wanted)
    return any(item.annotations.get(DESIRED, wanted) != wanted for item in active)


def _complete(plan: Rollout) -> bool:
    if plan.new is None or any(item.replicas for item in plan.old):
        return False
    return plan.new.replicas == plan.wanted == plan.new.lens.status.available_replicas


def _next_revision(old: Iterable[OwnedSet]) -> int:
    return max((item.revision for item in old), default=0) + 1


def _inherited(document: Document) -> dict[str, str]:
    return {key: value for key, value in (document.meta.annotations or {}).items() if key not in PRIVATE}


def _figures(plan: Rollout) -> dict[str, str]:
    return {DESIRED: str(plan.wanted), MAXIMUM: str(plan.wanted + plan.limits.surge)}


def _replica_set(plan: Rollout, size: int, hash: str) -> dict[str, Any]:
    """The ReplicaSet of the present template: template, labels and selector carry its hash."""
    meta, spec = plan.document.meta, plan.lens.spec
    template = dict(spec.template)
    metadata = dict(template.get("metadata") or {})
    labels = {**(metadata.get("labels") or {}), HASH_LABEL: hash}
    selector = dict(spec.selector or {})
    selector["matchLabels"] = {**(selector.get("matchLabels") or {}), HASH_LABEL: hash}
    annotations = {**_inherited(plan.document), **_figures(plan), REVISION: str(_next_revision(plan.old))}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{meta.name}-{hash}",
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [_reference(plan.document)],
        },
        "spec": {
            "replicas": size,
            "minReadySeconds": spec.min_ready_seconds or 0,
            "selector": selector,
            "template": {**template, "metadata": {**metadata, "labels": labels}},
        },
    }


def _reference(document: Document) -> dict[str, Any]:
    return pods.owner_reference(document, "apps/v1", "Deployment")
