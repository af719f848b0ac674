"""All that happens to a node on the cloud's side: nodes down; registration, status and leases up.

Go: cloud/pkg/edgecontroller/controller (nodes, leases)
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.registry import LEASES, NODES, PODS
from edgehive.cloudcore import endpoints
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR
from edgehive.cloudcore.edgecontroller.context import EdgeContext, same_apart_from_status
from edgehive.cloudcore.edgecontroller.location import Reference, references
from edgehive.cloudcore.flows import (
    Answer,
    Down,
    Envelope,
    Reply,
    Request,
    Unchanged,
    bare,
    downstream,
    error_status,
    object_reply,
    ok,
    upstream,
)
from edgehive.cloudcore.replicas.claims import UNCLAIMED, annotations
from edgehive.kube.client import PatchType
from edgehive.kube.errors import AlreadyExists, BadRequest, NotFound
from edgehive.kube.informer import Change
from edgehive.wire import payloads
from edgehive.wire import resource as paths
from edgehive.wire.names import Operation, ResourceType

EMPTY_NODE: dict[str, Any] = {
    "metadata": {"creationTimestamp": None},
    "spec": {},
    "status": {
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 0}},
        "nodeInfo": dict.fromkeys(
            (
                "machineID", "systemUUID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion",
                "kubeletVersion", "kubeProxyVersion", "operatingSystem", "architecture",
            ),
            "",
        ),
    },
}  # fmt: skip
EMPTY_LEASE: dict[str, Any] = {"metadata": {"creationTimestamp": None}, "spec": {}}


@downstream(NODES, label_selector=EDGE_NODE_SELECTOR)
def nodes_down(change: Change, context: EdgeContext) -> Iterator[Down | Unchanged]:
    """A node is told of itself; one that has just become an edge node also of its pods and what they refer to."""
    name = change.document.meta.name
    context.created.pop(name, None)
    if change.new is None:
        yield Down(name, Operation.DELETE, NODES, change.document)
        return
    if change.old is not None and same_apart_from_status(change.old, change.new, keep=("volumesAttached",)):
        yield Unchanged(name, change.old, change.new)
        return
    yield Down(name, Operation.UPDATE, NODES, endpoints.as_reported(change.new))
    if change.old is None:
        yield from _belongings(name, context)


def _belongings(node: str, context: EdgeContext) -> Iterator[Down]:
    """What changed while there was no such node was told to nobody."""
    needed: set[Reference] = set()
    for document in context.pods_on(node):
        pod = document.read(Pod)
        context.location.put(pod)
        needed |= references(pod)
        yield Down(node, Operation.UPDATE, PODS, document)
    for resource, cache in context.caches.items():
        for type, namespace, name in sorted(needed):
            if type == resource.edge_type and (held := cache.get(name, namespace)) is not None:
                yield Down(node, Operation.UPDATE, resource, held)


class _Labelled(msgspec.Struct):
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _NodeUpdate(msgspec.Struct):
    metadata: _Labelled = msgspec.field(default_factory=_Labelled)


def is_reserved(label: str) -> bool:
    """Labels of Kubernetes' own: prefix kubernetes.io or below it."""
    prefix, slash, _ = label.partition("/")
    return bool(slash) and (prefix == "kubernetes.io" or prefix.endswith(".kubernetes.io"))


@upstream(ResourceType.NODE, Operation.INSERT, envelope=Envelope.OBJECT, empty=EMPTY_NODE)
async def node_insert(request: Request, context: EdgeContext) -> Answer:
    """Register the node, with the labels that make it an edge node."""
    node = request.read(dict[str, Any])
    labels = _reserved_labels(node)
    try:
        created = await _register(request.resource.name, node, context)
    except AlreadyExists as error:
        await context.demand_edge_node(request)
        await _complete_labels(request.resource.name, labels, context)
        empty = EMPTY_NODE | {"metadata": {"creationTimestamp": None, "labels": labels}}
        return Reply(payloads.object_response(empty, error_status(error)))
    return created


def _reserved_labels(node: dict[str, Any]) -> dict[str, str]:
    metadata = node.setdefault("metadata", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get("labels") or {}, dict):
        raise BadRequest("a Node's metadata and metadata.labels are to be objects")
    labels: dict[str, str] = metadata.get("labels") or {}
    return {key: value for key, value in labels.items() if is_reserved(key)}


async def _register(name: str, node: dict[str, Any], context: EdgeContext) -> Reply:
    """In one request; a Go cloud takes the reserved labels off first and patches them back."""
    metadata = node["metadata"]
    metadata["name"] = name
    held_here = annotations(UNCLAIMED.taken_by(context.replica), context.address)
    metadata["annotations"] = (metadata.get("annotations") or {}) | held_here
    node = {"apiVersion": "v1", "kind": "Node"} | node
    document = await context.client.create(NODES, node)
    context.remember_created(document)
    return object_reply(document, versioned=False)


async def _complete_labels(name: str, labels: Mapping[str, str], context: EdgeContext) -> None:
    """A Go cloud whose registration broke off between its two steps left a node without its labels."""
    present = (await context.client.get(NODES, name)).meta.labels or {}
    missing = {key: value for key, value in labels.items() if key not in present}
    if missing:
        await context.client.patch(NODES, name, {"metadata": {"labels": missing}}, type=PatchType.MERGE)


@upstream(ResourceType.NODE, Operation.QUERY)
async def node_query(request: Request, context: EdgeContext) -> Answer:
    name = request.resource.name
    return bare(endpoints.as_reported(context.nodes.get(name) or await context.client.get(NODES, name)))


@upstream(ResourceType.NODE, Operation.UPDATE, envelope=Envelope.OK)
async def node_update(request: Request, context: EdgeContext) -> Answer:
    """Merge the labels and annotations an edge sets on itself."""
    await context.demand_edge_node(request)
    given = request.read(_NodeUpdate).metadata
    patch = {"metadata": {"labels": given.labels or {}, "annotations": given.annotations or {}}}
    document = await context.client.patch(NODES, request.resource.name, patch, type=PatchType.MERGE)
    return ok(resource_version=document.meta.resource_version)


@upstream(ResourceType.NODE_PATCH, Operation.PATCH, envelope=Envelope.OBJECT, empty=EMPTY_NODE)
async def node_patch(request: Request, context: EdgeContext) -> Answer:
    await context.demand_edge_node(request)
    return object_reply(endpoints.as_reported(await _patch_status(request.resource.name, request.json(), context)))


async def _patch_status(name: str, patch: bytes, context: EdgeContext) -> Document:
    """What the node reports, without the place where the API server finds its kubelet."""
    patch = endpoints.kept_in(patch, endpoints.endpoint_of(context.nodes.get(name)))
    return await context.client.patch(NODES, name, patch, type=PatchType.STRATEGIC, subresource="status")


@upstream(ResourceType.NODE_STATUS, Operation.INSERT, envelope=Envelope.OK)
async def node_status_insert(request: Request, context: EdgeContext) -> Answer:
    """The older form of registration."""
    node = request.read(dict[str, Any])
    labels = _reserved_labels(node)
    try:
        await _register(request.resource.name, node, context)
    except AlreadyExists:
        await context.demand_edge_node(request)
        await _complete_labels(request.resource.name, labels, context)
    # wire: answered under `node`, not `nodestatus`; golden 30
    return ok(path=_node_path(request))


@upstream(ResourceType.NODE_STATUS, Operation.UPDATE, envelope=Envelope.OK)
async def node_status_update(request: Request, context: EdgeContext) -> Answer:
    """The older form of status reports."""
    await context.demand_edge_node(request)
    report = request.read(payloads.NodeStatusRequest)
    patch = msgspec.json.encode({"status": report.status})
    document = await _patch_status(request.resource.name, patch, context)
    return ok(path=_node_path(request), resource_version=document.meta.resource_version)


def _node_path(request: Request) -> str:
    return str(paths.of(ResourceType.NODE, "", request.resource.name))


@upstream(ResourceType.LEASE, Operation.QUERY, envelope=Envelope.OBJECT)
async def lease_query(request: Request, context: EdgeContext) -> Answer:
    resource = request.resource
    try:
        return object_reply(await context.client.get(LEASES, resource.name, resource.api_namespace), versioned=False)
    except NotFound as error:
        return Reply(payloads.object_response(None, error_status(error)))


@upstream(ResourceType.LEASE, Operation.INSERT, envelope=Envelope.OBJECT, empty=EMPTY_LEASE)
async def lease_insert(request: Request, context: EdgeContext) -> Answer:
    await context.demand_edge_node(request)
    resource = request.resource
    return object_reply(await context.client.create(LEASES, request.json(), resource.api_namespace), versioned=False)


@upstream(ResourceType.LEASE, Operation.UPDATE, envelope=Envelope.OBJECT, empty=EMPTY_LEASE)
async def lease_update(request: Request, context: EdgeContext) -> Answer:
    await context.demand_edge_node(request)
    resource = request.resource
    return object_reply(
        await context.client.update(LEASES, request.json(), resource.api_namespace, name=resource.name),
        versioned=False,
    )
