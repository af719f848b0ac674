"""Kubernetes Events of nodes: written to the API, answered never.

Go: cloud/pkg/edgecontroller/controller (events)
"""

import msgspec

from edgehive.api.core import Event
from edgehive.api.registry import EVENTS
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import Answer, Envelope, Request, upstream
from edgehive.kube.client import PatchType
from edgehive.kube.errors import BadRequest
from edgehive.wire.names import Operation, ResourceType
from edgehive.wire.payloads import EventPatch


@upstream(ResourceType.EVENT, Operation.INSERT, envelope=Envelope.NONE)
async def event_insert(request: Request, context: EdgeContext) -> Answer:
    await context.client.create(EVENTS, request.json(), request.resource.api_namespace)
    return None


@upstream(ResourceType.EVENT, Operation.UPDATE, envelope=Envelope.NONE)
async def event_update(request: Request, context: EdgeContext) -> Answer:
    resource = request.resource
    await _demand_own(request, context)
    await context.client.update(EVENTS, request.json(), resource.api_namespace, name=resource.name)
    return None


@upstream(ResourceType.EVENT, Operation.PATCH, envelope=Envelope.NONE)
async def event_patch(request: Request, context: EdgeContext) -> Answer:
    """A repetition: the patch raises the count of an event the edge wrote before."""
    try:
        content = msgspec.json.decode(request.json(), type=EventPatch)
    except msgspec.MsgspecError as error:
        raise BadRequest(f"content of patch {request.resource}: {error}") from error
    resource = request.resource
    await _demand_own(request, context)
    await context.client.patch(
        EVENTS, resource.name, content.patch_data.encode(), resource.api_namespace, type=PatchType.STRATEGIC
    )
    return None


async def _demand_own(request: Request, context: EdgeContext) -> None:
    """The content says whose event it is, the API knows whose event it changes."""
    document = await context.client.get(EVENTS, request.resource.name, request.resource.api_namespace)
    event = document.read(Event)
    if request.node not in (event.source.host, event.reporting_instance):
        context.forbid(request.node, f"event {request.resource.namespace}/{request.resource.name} is not one it wrote")
