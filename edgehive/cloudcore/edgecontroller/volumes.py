"""Queries for PersistentVolumeClaims, PersistentVolumes and VolumeAttachments.

Go: cloud/pkg/edgecontroller/controller (volumes)
"""

from edgehive.api.core import Lens
from edgehive.api.registry import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, VOLUME_ATTACHMENTS
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.edgecontroller.location import Reference
from edgehive.cloudcore.flows import Answer, Request, bare, upstream
from edgehive.wire.names import Operation, ResourceType


class _ClaimRef(Lens, frozen=True):
    namespace: str = ""
    name: str = ""


class _VolumeSpec(Lens, frozen=True):
    claim_ref: _ClaimRef | None = None
    node_name: str = ""


class _Volume(Lens, frozen=True):
    """What decides whose a PersistentVolume or a VolumeAttachment is."""

    spec: _VolumeSpec = _VolumeSpec()


@upstream(ResourceType.PERSISTENT_VOLUME_CLAIM, Operation.QUERY)
async def claim_query(request: Request, context: EdgeContext) -> Answer:
    context.demand_need(request)
    resource = request.resource
    return bare(await context.client.get(PERSISTENT_VOLUME_CLAIMS, resource.name, resource.api_namespace))


@upstream(ResourceType.PERSISTENT_VOLUME, Operation.QUERY)
async def volume_query(request: Request, context: EdgeContext) -> Answer:
    """The volume is the node's when the claim it is bound to is."""
    # wire: the path holds a namespace although the kind has none; golden 30
    document = await context.client.get(PERSISTENT_VOLUMES, request.resource.name)
    claim = document.read(_Volume).spec.claim_ref or _ClaimRef()
    needed = Reference(ResourceType.PERSISTENT_VOLUME_CLAIM, claim.namespace, claim.name)
    if not context.location.needs(request.node, needed):
        context.forbid(request.node, f"no pod on it uses PersistentVolume {request.resource.name!r}")
    return bare(document)


@upstream(ResourceType.VOLUME_ATTACHMENT, Operation.QUERY)
async def attachment_query(request: Request, context: EdgeContext) -> Answer:
    document = await context.client.get(VOLUME_ATTACHMENTS, request.resource.name)
    if document.read(_Volume).spec.node_name != request.node:
        context.forbid(request.node, f"VolumeAttachment {request.resource.name!r} is another node's")
    return bare(document)
