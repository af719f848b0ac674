"""Service-account tokens and certificate signing requests of nodes.

Go: cloud/pkg/edgecontroller/controller (serviceaccounttoken, certificatesigningrequest)
"""

from typing import Any

from edgehive.api.core import Pod, TokenRequest
from edgehive.api.document import Document
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS, SERVICE_ACCOUNTS
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import Answer, Envelope, Request, bare, object_reply, upstream
from edgehive.kube.errors import BadRequest
from edgehive.wire.names import Operation, ResourceType

#: cloudcore asks with its own name; this says for which node.
NODE_ANNOTATION = "edgehive.io/node"
EMPTY_SIGNING_REQUEST: dict[str, Any] = {
    "metadata": {"creationTimestamp": None},
    "spec": {"request": None, "signerName": ""},
    "status": {},
}


@upstream(ResourceType.SERVICE_ACCOUNT_TOKEN, Operation.QUERY)
async def token_query(request: Request, context: EdgeContext) -> Answer:
    """A token for a service account that a pod on the node runs as, bound to that pod."""
    context.demand_need(request)
    content = request.json()
    _demand_own_pod(request, content, context)
    resource = request.resource
    document = await context.client.create(
        SERVICE_ACCOUNTS, content, resource.api_namespace, name=resource.name, subresource="token"
    )
    return bare(document)


def _demand_own_pod(request: Request, content: bytes, context: EdgeContext) -> None:
    """A token is bound to the one life of a pod that is on the node, and ends with it."""
    namespace, account = request.resource.api_namespace, request.resource.name
    bound = Document(content).read(TokenRequest).spec.bound_object_ref
    if bound is None or bound.kind != "Pod":
        context.forbid(request.node, f"the token of {namespace}/{account} it asks for is not bound to a pod")
        return
    pod = next(
        (
            pod
            for pod in context.pods_on(request.node)
            if (pod.meta.namespace, pod.meta.name) == (namespace, bound.name)
        ),
        None,
    )
    if pod is None:
        context.forbid(request.node, f"pod {namespace}/{bound.name}, which the token is to be bound to, is not on it")
    elif bound.uid and bound.uid != pod.meta.uid:
        context.forbid(request.node, f"pod {namespace}/{bound.name} has another uid than the token is to be bound to")
    elif (pod.read(Pod).spec.service_account_name or "default") != account:
        context.forbid(request.node, f"pod {namespace}/{bound.name} does not run as service account {account}")


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
    return object_reply(document, versioned=False)


@upstream(ResourceType.CERTIFICATE_SIGNING_REQUEST, Operation.QUERY)
async def signing_request_query(request: Request, context: EdgeContext) -> Answer:
    document = await context.client.get(CERTIFICATE_SIGNING_REQUESTS, request.resource.name)
    if (document.meta.annotations or {}).get(NODE_ANNOTATION) != request.node:
        context.forbid(request.node, f"CertificateSigningRequest {request.resource.name} is not one it made")
    return bare(document)
