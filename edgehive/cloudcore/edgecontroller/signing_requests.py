"""Certificate signing requests of nodes: made in the API, approved where that can do no harm, read back.

With the feature gate `requireAuthorization` edges want a serving certificate of the cluster's CA for their
MetaServer, which listens on addresses of the node's own. Such a request is approved; one that names any other
address could pass for somebody else and is left to a human.

Go: cloud/pkg/edgecontroller/controller (certificatesigningrequest), cloud/pkg/csrapprovercontroller
"""

import logging
from typing import Any

from edgehive.api.cluster import CertificateSigningRequest
from edgehive.api.document import Document
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS
from edgehive.cloudcore.certificate_requests import addresses, is_request_of
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import Answer, Envelope, Request, bare, object_reply, upstream
from edgehive.kube.errors import ApiError, BadRequest
from edgehive.wire.names import Operation, ResourceType

log = logging.getLogger("edgehive.edgecontroller")

#: cloudcore asks with its own name; this says for which node.
NODE_ANNOTATION = "edgehive.io/node"
EMPTY_SIGNING_REQUEST: dict[str, Any] = {
    "metadata": {"creationTimestamp": None},
    "spec": {"request": None, "signerName": ""},
    "status": {},
}
SERVING = "kubernetes.io/kubelet-serving"
_USAGES = frozenset({"digital signature", "key encipherment", "server auth"})
_APPROVED = {
    "type": "Approved",
    "status": "True",
    "reason": "AutoApproved",
    "message": "The serving certificate of an edge node for addresses that only the node itself reaches.",
}


@upstream(
    ResourceType.CERTIFICATE_SIGNING_REQUEST,
    Operation.INSERT,
    envelope=Envelope.OBJECT,
    empty=EMPTY_SIGNING_REQUEST,
)
async def signing_request_insert(request: Request, context: EdgeContext) -> Answer:
    signing_request = request.read(dict[str, Any])
    metadata = signing_request.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise BadRequest("a CertificateSigningRequest's metadata is to be an object")
    metadata["annotations"] = {NODE_ANNOTATION: request.node}
    document = await context.client.create(CERTIFICATE_SIGNING_REQUESTS, signing_request)
    return object_reply(await _decide(request.node, document, context), versioned=False)


@upstream(ResourceType.CERTIFICATE_SIGNING_REQUEST, Operation.QUERY)
async def signing_request_query(request: Request, context: EdgeContext) -> Answer:
    document = await context.client.get(CERTIFICATE_SIGNING_REQUESTS, request.resource.name)
    if (document.meta.annotations or {}).get(NODE_ANNOTATION) != request.node:
        context.forbid(request.node, f"CertificateSigningRequest {request.resource.name} is not one it made")
        return bare(document)
    # Approved here too: cloudcore may have stopped between making the request and approving it.
    return bare(await _decide(request.node, document, context))


async def _decide(node: str, document: Document, context: EdgeContext) -> Document:
    """Approve the request if nobody has decided yet; the node is answered whatever comes of it."""
    wanted = document.read(CertificateSigningRequest)
    if not context.approve or wanted.status.conditions or wanted.status.certificate:
        return document
    name = document.meta.name
    if why := objection(node, wanted):
        log.warning(
            "node %s: CertificateSigningRequest %s is not approved by itself: %s; if it is meant to be: "
            "kubectl certificate approve %s", node, name, why, name
        )  # fmt: skip
        return document
    body = document.to_dict() | {"status": {"conditions": [_APPROVED]}}
    try:
        approved = await context.client.update(CERTIFICATE_SIGNING_REQUESTS, body, name=name, subresource="approval")
    except ApiError as error:
        log.warning("node %s: CertificateSigningRequest %s could not be approved: %s", node, name, error)
        return document
    log.info("node %s: CertificateSigningRequest %s is approved", node, name)
    return approved


def objection(node: str, wanted: CertificateSigningRequest) -> str:
    """Why the request is not approved without a human; "" when it is."""
    spec = wanted.spec
    if spec.signer_name != SERVING:
        return f"signer {spec.signer_name} is not {SERVING}"
    if not {"server auth"} <= set(spec.usages or ()) <= _USAGES:
        return f"usages {', '.join(spec.usages or ()) or '(none)'} are not those of a server"
    if not is_request_of(spec.request, node):
        return f"its subject is not node {node}"
    try:
        wanted_addresses = addresses(spec.request)
    except ValueError as error:
        return str(error)
    if not wanted_addresses:
        return "it names no address"
    foreign = [str(address) for address in wanted_addresses if not (address.is_loopback or address.is_link_local)]
    return f"others than the node itself could be meant by {foreign[0]}" if foreign else ""
