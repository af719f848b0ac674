"""Jobs: run pods until enough have succeeded, or too many failed, or time is up.

Every finished pod counts exactly once: it carries a finalizer until its uid has been written into the Job's
status, and only then is it let go. Failed pods are replaced at a growing distance.

Go: pkg/controller/job/job_controller.go
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from edgehive.api.apps import Job
from edgehive.api.document import Document
from edgehive.api.registry import JOBS, PODS
from edgehive.edgesite.controllers import job_counts, pods
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key, owner_keys
from edgehive.edgesite.controllers.expectations import Expectations
from edgehive.edgesite.controllers.job_counts import INDEX
from edgehive.edgesite.controllers.orphans import orphan_keys
from edgehive.edgesite.controllers.ownership import Claims, set_condition, slow_start
from edgehive.edgesite.controllers.pods import PodItem
from edgehive.kit.clock import parse_rfc3339, rfc3339
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.selectors import labels_from_object

FINALIZER = "batch.kubernetes.io/job-tracking"


@dataclass
class Count:
    """What has been counted and what this round adds."""

    succeeded: int
    failed: int
    completed: set[int]
    fresh_succeeded: list[PodItem]
    fresh_failed: list[PodItem]


class Jobs:
    name = "jobs"

    def __init__(self, deps: ControllerDeps) -> None:
        self._deps = deps
        self._client = deps.client
        self._jobs = deps.informers.of(JOBS)
        self._pods = deps.informers.of(PODS)
        self._expected = Expectations(self._pods)
        self._claims = Claims(deps.client, JOBS, self._pods, _reference)
        self._not_before: dict[str, float] = {}

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._jobs, own_key),
            Source(self._pods, owner_keys("Job")),
            Source(self._pods, orphan_keys(self._jobs)),
        )

    async def reconcile(self, key: Key) -> float | None:
        document = self._jobs.get(key[1], key[0])
        if document is None:
            await self._let_go_of_orphans(key)
            return None
        job = document.read(Job)
        if self._expected.pending(key):
            return 1.0
        if document.meta.deletion_timestamp:
            return None
        if _over(job):
            await self._release_all(document)
            return await self._tidy(document, job)
        selector = labels_from_object(job.spec.selector)
        items = [PodItem.of(item) for item in await self._claims.of(document, selector)]
        return await self._advance(key, document, job, items)

    async def _advance(self, key: Key, document: Document, job: Job, items: list[PodItem]) -> float | None:
        status = dict(document.to_dict().get("status") or {})
        now = self._deps.clock.now()
        count = _count(job, status, items)
        active = [item for item in items if pods.is_active(item.pod)]
        if count.fresh_failed:
            wait = job_counts.delay(count.failed)
            self._not_before[document.meta.uid] = asyncio.get_running_loop().time() + wait
        failure = self._failure(job, count, active)
        again: list[float] = []
        if failure is not None or job.spec.suspend:
            await asyncio.gather(*(self._delete(key, item) for item in active))
            active = []
        elif not job_counts.is_complete(job.spec, count.succeeded, len(active)):
            active_now, wait_more = await self._run(key, document, job, active, count)
            active = active_now
            again += [wait_more] if wait_more is not None else []
        if not job.spec.suspend and "startTime" not in status:
            status["startTime"] = rfc3339(now)
        self._fill(status, job, count, active, failure)
        await self._record(document, status, count)
        if job.spec.active_deadline_seconds is not None and job.status.start_time:
            end = parse_rfc3339(job.status.start_time) + timedelta(seconds=job.spec.active_deadline_seconds)
            again.append(max(0.05, (end - now).total_seconds() + 0.05))
        elif job.spec.active_deadline_seconds is not None:
            again.append(float(job.spec.active_deadline_seconds))
        return min(again, default=None)

    def _failure(self, job: Job, count: Count, active: list[PodItem]) -> tuple[str, str] | None:
        """(reason, message) when the Job has failed."""
        limit = 6 if job.spec.backoff_limit is None else job.spec.backoff_limit
        in_place = (job.spec.template.get("spec") or {}).get("restartPolicy") == "OnFailure"
        again = job_counts.restarts(item.pod for item in active) if in_place else 0
        if count.failed > limit or (in_place and again > 0 and again >= max(1, limit)):
            return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
        seconds = job.spec.active_deadline_seconds
        if seconds is not None and job.status.start_time and not job.spec.suspend:
            end = parse_rfc3339(job.status.start_time) + timedelta(seconds=seconds)
            if self._deps.clock.now() >= end:
                return "DeadlineExceeded", "Job was active longer than specified deadline"
        return None

    async def _run(
        self, key: Key, document: Document, job: Job, active: list[PodItem], count: Count
    ) -> tuple[list[PodItem], float | None]:
        """Start or stop pods; the active ones afterwards, and seconds until held-back ones may start."""
        wanted = job_counts.wanted_active(job.spec, count.succeeded, len(active))
        if len(active) > wanted:
            surplus = pods.deletion_order(active)[: len(active) - wanted]
            await asyncio.gather(*(self._delete(key, item) for item in surplus))
            return [item for item in active if item not in surplus], None
        missing = wanted - len(active)
        held = self._not_before.get(document.meta.uid, 0.0) - asyncio.get_running_loop().time()
        if not missing or held > 0:
            return active, held if missing else None
        indexes: list[int | None] = [None] * missing
        if job.spec.completion_mode == "Indexed":
            taken = count.completed | {job_counts.index_of(item.pod) for item in active}
            indexes[:] = [n for n in range(job.spec.completions or 0) if n not in taken][:missing]
        made: list[PodItem] = []
        await slow_start(len(indexes), lambda n: self._create(key, document, job, indexes[n], made))
        return [*active, *made], None

    async def _create(self, key: Key, document: Document, job: Job, index: int | None, made: list[PodItem]) -> None:
        body = _job_pod(document, job, index)
        try:
            created = await self._client.create(PODS, body, key[0])
        except ApiError as error:
            await self._deps.recorder.event(document, "Warning", "FailedCreate", f"Error creating: {error}")
            raise
        self._expected.created(key, created)
        made.append(PodItem.of(created))
        await self._deps.recorder.event(document, "Normal", "SuccessfulCreate", f"Created pod: {created.meta.name}")

    async def _delete(self, key: Key, item: PodItem) -> None:
        # Let go first: a pod we end ourselves is no failure.
        await self._let_go(item.document)
        try:
            await self._client.delete(PODS, item.name, key[0], uid=item.document.meta.uid)
        except NotFound:
            return
        self._expected.deleted(key, item.document)

    def _fill(
        self,
        status: dict[str, Any],
        job: Job,
        count: Count,
        active: list[PodItem],
        failure: tuple[str, str] | None,
    ) -> None:
        """Put counts and conditions into `status`."""
        now = rfc3339(self._deps.clock.now())
        figures = {"active": len(active), "succeeded": count.succeeded, "failed": count.failed}
        figures["ready"] = sum(pods.is_ready(item.pod) for item in active)
        for name, figure in figures.items():
            status[name] = figure
            if not figure and name not in ("ready",):
                del status[name]
        status["terminating"] = 0
        if job.spec.completion_mode == "Indexed":
            status["completedIndexes"] = job_counts.format_indexes(count.completed)
        conditions = status.get("conditions") or []
        if failure is not None:
            conditions = self._end(conditions, "Failed", failure, now)
        elif job_counts.is_complete(job.spec, count.succeeded, len(active)):
            reached = "CompletionsReached", "Reached expected number of succeeded pods"
            conditions = self._end(conditions, "Complete", reached, now)
            status["completionTime"] = now
        elif job.spec.suspend:
            conditions = set_condition(
                conditions, _condition("Suspended", "True", "JobSuspended", "Job suspended"), now
            )
        elif any(item["type"] == "Suspended" and item["status"] == "True" for item in conditions):
            resumed = _condition("Suspended", "False", "JobResumed", "Job resumed")
            conditions = set_condition(conditions, resumed, now)
        if conditions:
            status["conditions"] = conditions

    def _end(self, conditions: list[dict[str, Any]], type: str, why: tuple[str, str], now: str) -> list[dict[str, Any]]:
        """The final condition, announced by the one clients wait for first."""
        first = "FailureTarget" if type == "Failed" else "SuccessCriteriaMet"
        for name in (first, type):
            new = {**_condition(name, "True", *why), "lastProbeTime": now}
            conditions = set_condition(conditions, new, now)
        return conditions

    async def _record(self, document: Document, status: dict[str, Any], count: Count) -> None:
        """Write the count together with the uids it contains, let those pods go, then forget the uids."""
        succeeded = [item.document.meta.uid for item in count.fresh_succeeded]
        failed = [item.document.meta.uid for item in count.fresh_failed]
        before = document.to_dict()
        if succeeded or failed:
            status["uncountedTerminatedPods"] = {
                name: uids for name, uids in (("succeeded", succeeded), ("failed", failed)) if uids
            }
        elif "uncountedTerminatedPods" in status:
            status["uncountedTerminatedPods"] = {}
        if status != (before.get("status") or {}):
            meta = document.meta
            body = {**before, "status": status}
            await self._client.update(JOBS, body, meta.namespace, name=meta.name, subresource="status")
            await self._announce(document, before.get("status") or {}, status)
        for item in (*count.fresh_succeeded, *count.fresh_failed):
            await self._let_go(item.document)

    async def _announce(self, document: Document, old: dict[str, Any], new: dict[str, Any]) -> None:
        had = {item["type"] for item in old.get("conditions") or ()}
        for item in new.get("conditions") or ():
            if item["type"] in had or item["type"] not in ("Complete", "Failed"):
                continue
            if item["type"] == "Complete":
                await self._deps.recorder.event(document, "Normal", "Completed", "Job completed")
            else:
                await self._deps.recorder.event(document, "Warning", item["reason"], item["message"])

    async def _let_go(self, document: Document) -> None:
        """Remove our finalizer from a pod that has been counted."""
        meta = document.meta
        if FINALIZER not in (meta.finalizers or ()):
            return
        patch = {"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
        try:
            await self._client.patch(PODS, meta.name, patch, meta.namespace, type=PatchType.STRATEGIC)
        except NotFound:
            return

    async def _let_go_of_orphans(self, key: Key) -> None:
        """The Job is gone: nobody will count its pods any more."""
        for item in self._pods.items(key[0]):
            ref = item.meta.controller_ref
            if ref is not None and ref.kind == "Job" and ref.name == key[1]:
                await self._let_go(item)

    async def _release_all(self, document: Document) -> None:
        for item in self._pods.by_index("controller", document.meta.uid):
            if pods.is_finished(PodItem.of(item).pod) or item.meta.deletion_timestamp:
                await self._let_go(item)

    async def _tidy(self, document: Document, job: Job) -> float | None:
        """Delete a finished Job when its time to live is over; seconds until then."""
        self._not_before.pop(document.meta.uid, None)
        seconds = job.spec.ttl_seconds_after_finished
        if seconds is None:
            return None
        ended = next(c.last_transition_time for c in job.status.conditions or () if c.type in ("Complete", "Failed"))
        end = parse_rfc3339(ended or rfc3339(self._deps.clock.now())) + timedelta(seconds=seconds)
        left = (end - self._deps.clock.now()).total_seconds()
        if left > 0:
            return left + 0.05
        meta = document.meta
        await self._client.delete(JOBS, meta.name, meta.namespace, uid=meta.uid, propagation="Foreground")
        return None


def _count(job: Job, status: dict[str, Any], items: list[PodItem]) -> Count:
    """Add the finished pods that are not counted yet.

    A pod whose uid stands in `uncountedTerminatedPods` is in the figures already and only waits to be let go.
    """
    uncounted = status.get("uncountedTerminatedPods") or {}
    known = {*(uncounted.get("succeeded") or ()), *(uncounted.get("failed") or ())}
    count = Count(job.status.succeeded, job.status.failed, set(), [], [])
    count.completed = job_counts.parse_indexes(str(status.get("completedIndexes") or ""))
    for item in items:
        meta, phase = item.document.meta, item.pod.status.phase
        if FINALIZER not in (meta.finalizers or ()):
            continue
        # A pod deleted before it finished has failed for this Job.
        if phase not in ("Succeeded", "Failed") and not meta.deletion_timestamp:
            continue
        succeeded = phase == "Succeeded"
        (count.fresh_succeeded if succeeded else count.fresh_failed).append(item)
        if meta.uid in known:
            continue
        index = job_counts.index_of(item.pod)
        if succeeded and index is not None and job.spec.completion_mode == "Indexed":
            count.completed.add(index)
            count.succeeded = len(count.completed)
        elif succeeded:
            count.succeeded += 1
        else:
            count.failed += 1
    return count


def _over(job: Job) -> bool:
    return any(item.type in ("Complete", "Failed") and item.status == "True" for item in job.status.conditions or ())


def _condition(type: str, status: str, reason: str, message: str) -> dict[str, Any]:
    return {"type": type, "status": status, "reason": reason, "message": message}


def _job_pod(document: Document, job: Job, index: int | None) -> dict[str, Any]:
    body = pods.from_template(job.spec.template, _reference(document), document.meta.namespace)
    metadata, spec = body["metadata"], body["spec"]
    metadata["finalizers"] = [*metadata.get("finalizers", []), FINALIZER]
    if index is None:
        return body
    name = f"{document.meta.name}-{index}"
    metadata["generateName"] = f"{name}-"
    metadata["annotations"] = {**metadata.get("annotations", {}), INDEX: str(index)}
    metadata["labels"] = {**metadata.get("labels", {}), INDEX: str(index)}
    spec["hostname"] = name
    field = {"fieldRef": {"fieldPath": f"metadata.labels['{INDEX}']"}}
    for container in (*(spec.get("initContainers") or ()), *(spec.get("containers") or ())):
        env = [item for item in container.get("env") or [] if item.get("name") != "JOB_COMPLETION_INDEX"]
        container["env"] = [*env, {"name": "JOB_COMPLETION_INDEX", "valueFrom": field}]
    return body


def _reference(document: Document) -> dict[str, Any]:
    return pods.owner_reference(document, "batch/v1", "Job")
