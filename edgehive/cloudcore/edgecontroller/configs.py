"""ConfigMaps and Secrets: changes go down to the nodes whose pods need them; queries come up.

Go: cloud/pkg/edgecontroller/controller (configmaps, secrets)
"""

from collections.abc import Iterator

from edgehive.api.core import Pod
from edgehive.api.registry import CONFIG_MAPS, SECRETS, ApiResource
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.edgecontroller.location import Reference, references
from edgehive.cloudcore.flows import Answer, Down, Request, Unchanged, bare, downstream, upstream
from edgehive.kube.errors import NotFound
from edgehive.kube.informer import Change
from edgehive.wire.names import Operation, ResourceType

_KINDS = {str(resource.edge_type): resource for resource in (CONFIG_MAPS, SECRETS)}


@downstream(CONFIG_MAPS)
def config_maps_down(change: Change, context: EdgeContext) -> Iterator[Down | Unchanged]:
    created = Operation.INSERT if change.old is None else Operation.UPDATE
    return _to_users(CONFIG_MAPS, change, created, context)


@downstream(SECRETS)
def secrets_down(change: Change, context: EdgeContext) -> Iterator[Down | Unchanged]:
    # wire: a new Secret is an update too
    return _to_users(SECRETS, change, Operation.UPDATE, context)


def _to_users(resource: ApiResource, change: Change, operation: Operation, context: EdgeContext) -> Iterator[Down]:
    namespace, name = change.key
    if change.new is None:
        operation = Operation.DELETE
    reference = Reference(resource.edge_type, namespace, name)
    nodes = context.location.nodes_of(reference)
    if change.new is None:
        # Also where no pod needs it any more: the next one would find a row of the life that has ended.
        nodes = list(dict.fromkeys([*nodes, *context.holders(change.document)]))
    for node in nodes:
        context.missed.forget(node, reference)
        yield Down(node, operation, resource, change.document)


def found_since(pod: Pod, context: EdgeContext) -> Iterator[Down]:
    """What the pod needs and its node has an older version of, or was told is not there, if it is by now.

    It goes before the pod: a node that loses its link right after the pod came would start it with the old one.
    """
    node, needed = pod.spec.node_name, references(pod)
    missed = context.missed.among(node, needed)
    for reference in sorted(reference for reference in needed if reference.type in _KINDS):
        resource = _KINDS[reference.type]
        document = context.caches[resource].get(reference.name, reference.namespace)
        if document is not None and (reference in missed or context.lags(node, document)):
            context.missed.forget(node, reference)
            yield Down(node, Operation.UPDATE, resource, document)


@upstream(ResourceType.CONFIG_MAP, Operation.QUERY)
async def config_map_query(request: Request, context: EdgeContext) -> Answer:
    return await _query(CONFIG_MAPS, request, context)


@upstream(ResourceType.SECRET, Operation.QUERY)
async def secret_query(request: Request, context: EdgeContext) -> Answer:
    return await _query(SECRETS, request, context)


async def _query(resource: ApiResource, request: Request, context: EdgeContext) -> Answer:
    """From the copy at hand; the API is asked only when that has nothing, since it may be a moment behind."""
    name, namespace = request.resource.name, request.resource.api_namespace
    reference = Reference(resource.edge_type, namespace, name)
    if not context.location.needs(request.node, reference):
        # Asked in the place of a node that has an old version of it: the next pod that needs it brings the new one.
        context.missed.note(request.node, reference)
    context.demand_need(request)
    held = context.caches[resource].get(name, namespace)
    try:
        return bare(held or await context.client.get(resource, name, namespace))
    except NotFound:
        context.missed.note(request.node, reference)
        raise
