"""All that happens to a pod on the cloud's side: pods down; status, deletion and mirror pods up.

Go: cloud/pkg/edgecontroller/controller (pods)
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import msgspec

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.registry import PODS
from edgehive.cloudcore.edgecontroller.configs import found_since
from edgehive.cloudcore.edgecontroller.context import EdgeContext, patch_uid, same_apart_from_status
from edgehive.cloudcore.edgecontroller.location import MIRROR_ANNOTATION, needs_of
from edgehive.cloudcore.flows import (
    Answer,
    Down,
    Envelope,
    Reply,
    Request,
    Unchanged,
    downstream,
    error_status,
    object_reply,
    ok,
    upstream,
)
from edgehive.cloudcore.placement import node_of
from edgehive.kube.client import PatchType
from edgehive.kube.errors import ApiError, BadRequest, Conflict, NotFound
from edgehive.kube.informer import Change
from edgehive.wire import payloads
from edgehive.wire.names import Operation, ResourceType

log = logging.getLogger("edgehive.edgecontroller")

EMPTY_POD: dict[str, Any] = {"metadata": {"creationTimestamp": None}, "spec": {"containers": None}, "status": {}}


@downstream(PODS)
def pods_down(change: Change, context: EdgeContext) -> Iterator[Down | Unchanged]:
    """A pod goes to its node when that is an edge node; a change of its status alone does not."""
    if change.new is None:
        context.location.remove(*change.key)
        node = node_of(change.document)
        if context.is_edge(node):
            yield Down(node, Operation.DELETE, PODS, change.document)
        return
    pod = change.new.read(Pod)
    node = pod.spec.node_name
    if not context.is_edge(node):
        return
    context.location.put(pod)
    if change.old is not None and same_apart_from_status(change.old, change.new):
        yield Unchanged(node, change.old, change.new)
        return
    yield from found_since(pod, context)
    # wire: `insert` only for a pod first seen with its node; golden 04, 30
    fresh = change.old is None and pod.metadata.deletion_timestamp is None
    yield Down(node, Operation.INSERT if fresh else Operation.UPDATE, PODS, change.new)


@upstream(ResourceType.POD_PATCH, Operation.PATCH, envelope=Envelope.OBJECT, empty=EMPTY_POD)
async def pod_patch(request: Request, context: EdgeContext) -> Answer:
    """Patch the status; an edge that reports a pod the API no longer has is told to delete it."""
    patch = request.json()
    namespace, name = request.resource.api_namespace, request.resource.name
    await context.demand_own_pod(request)
    try:
        document = await context.client.patch(
            PODS, name, patch, namespace, type=PatchType.STRATEGIC, subresource="status"
        )
    except ApiError as error:
        refusal = Reply(payloads.object_response(EMPTY_POD, error_status(error)))
        if (uid := patch_uid(patch)) and await _is_gone(context, namespace, name, uid, error):
            return [refusal, _deletion(request.node, namespace, name, uid)]
        return refusal
    return object_reply(document)


async def _is_gone(context: EdgeContext, namespace: str, name: str, uid: str, error: ApiError) -> bool:
    """Whether this life of the pod has ended; only the API's own word counts."""
    if isinstance(error, NotFound):
        return True
    if error.transient or not isinstance(error, Conflict | BadRequest):
        return False
    try:
        return (await context.client.get(PODS, name, namespace)).meta.uid != uid
    except NotFound:
        return True


def _deletion(node: str, namespace: str, name: str, uid: str) -> Down:
    metadata = {"namespace": namespace, "name": name, "uid": uid}
    return Down(node, Operation.DELETE, PODS, Document.of({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))


@upstream(ResourceType.POD, Operation.DELETE, envelope=Envelope.OK)
async def pod_delete(request: Request, context: EdgeContext) -> Answer:
    """The edge has stopped the pod: remove it, unless another life of that name has begun."""
    try:
        options = payloads.read_delete_options(request.message)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"content of delete {request.resource}: {error}") from error
    await context.demand_own_pod(request)
    # Gone already, or another life of that name: either way this one has ended.
    with contextlib.suppress(NotFound, Conflict):
        await context.client.delete(
            PODS,
            request.resource.name,
            request.resource.api_namespace,
            grace_period_seconds=options.grace_period_seconds or 0,
            uid=options.uid,
        )
    return ok()


@upstream(ResourceType.POD, Operation.INSERT, envelope=Envelope.OBJECT, empty=EMPTY_POD)
async def pod_insert(request: Request, context: EdgeContext) -> Answer:
    """Create the mirror of a static pod."""
    content = request.json()
    pod = Document(content)
    if (node := node_of(pod)) != request.node:
        context.forbid(request.node, f"the pod it creates is of node {node!r}")
    # As NodeRestriction: a node that could create any pod on itself could read any Secret.
    if MIRROR_ANNOTATION not in (pod.meta.annotations or {}):
        context.forbid(request.node, f"it may only create mirrors of static pods (annotation {MIRROR_ANNOTATION})")
    elif needed := needs_of(pod.read(Pod)):
        context.forbid(request.node, f"the mirror it creates refers to {min(needed)}")
    return object_reply(await context.client.create(PODS, content, request.resource.api_namespace))


@upstream(ResourceType.POD_STATUS, Operation.UPDATE, envelope=Envelope.OK)
async def pod_status(request: Request, context: EdgeContext) -> Answer:
    """The older form of status reports: one or many, each answered."""
    try:
        reports = payloads.read_pod_status_requests(request.message)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"content of update {request.resource}: {error}") from error
    answers: list[Reply | Down] = []
    for report in reports:
        try:
            answers += await _apply_report(request, report, context)
        except ApiError as error:
            # One that is refused takes none of the others in the message with it.
            log.info("node %s: the status of pod %s is not taken: %s", request.node, report.name, error)
            answers.append(Reply(payloads.error_content(error_status(error))))
    return answers


async def _apply_report(
    request: Request, report: payloads.PodStatusRequest, context: EdgeContext
) -> list[Reply | Down]:
    namespace = request.resource.api_namespace
    try:
        document = await context.client.get(PODS, report.name, namespace)
    except NotFound:
        return [ok(), _deletion(request.node, namespace, report.name, report.uid)]
    if document.meta.uid != report.uid:
        return [ok(), _deletion(request.node, namespace, report.name, report.uid)]
    if node_of(document) != request.node:
        context.forbid(request.node, f"pod {namespace}/{report.name} is not bound to it")
    patch = msgspec.json.encode({"status": report.status})
    document = await context.client.patch(
        PODS, report.name, patch, namespace, type=PatchType.MERGE, subresource="status"
    )
    if _is_over(document.read(Pod)):
        await context.client.delete(PODS, report.name, namespace, grace_period_seconds=0, uid=report.uid)
    return [ok()]


def _is_over(pod: Pod) -> bool:
    """A terminating pod that has ended and runs nothing any more."""
    running = any(status.state.running is not None for status in pod.status.container_statuses or ())
    return bool(pod.metadata.deletion_timestamp) and pod.status.phase in ("Succeeded", "Failed") and not running
