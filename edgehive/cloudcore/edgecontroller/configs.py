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
    for node in context.location.nodes_of(reference):
        context.missed.forget(node, reference)
        yield Down(node, operation, resource, change.document)


def found_since(pod: Pod, context: EdgeContext) -> Iterator[Down]:
    """What the pod needs and its node was told is not there, if it is by now."""
    node = pod.spec.node_name
    for reference in context.missed.among(node, references(pod)):
        resource = CONFIG_MAPS if reference.type == ResourceType.CONFIG_MAP else SECRETS
        if (document := context.caches[resource].get(reference.name, reference.namespace)) is not None:
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
    context.demand_need(request)
    name, namespace = request.resource.name, request.resource.api_namespace
    held = context.caches[resource].get(name, namespace)
    try:
        return bare(held or await context.client.get(resource, name, namespace))
    except NotFound:
        context.missed.note(request.node, Reference(resource.edge_type, namespace, name))
        raise
