"""Service-account tokens and certificate signing requests of nodes.

Go: cloud/pkg/edgecontroller/controller (serviceaccounttoken, certificatesigningrequest)
"""

from typing import Any

from edgehive.api.core import TokenRequest
from edgehive.api.document import Document
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS, SERVICE_ACCOUNTS
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import Answer, Envelope, Request, bare, object_reply, upstream
from edgehive.kube.errors import Forbidden
from edgehive.wire.names import Operation, ResourceType

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
    if context.enforce:
        _demand_own_pod(request, content, context)
    resource = request.resource
    document = await context.client.create(
        SERVICE_ACCOUNTS, content, resource.api_namespace, name=resource.name, subresource="token"
    )
    return bare(document)


def _demand_own_pod(request: Request, content: bytes, context: EdgeContext) -> None:
    bound = Document(content).read(TokenRequest).spec.bound_object_ref
    if bound is None or bound.kind != "Pod":
        return
    namespace = request.resource.api_namespace
    own = any(pod.meta.name == bound.name and pod.meta.namespace == namespace for pod in context.pods_on(request.node))
    if not own:
        raise Forbidden(f"pod {namespace}/{bound.name}, which the token is to be bound to, is not on {request.node!r}")


@upstream(
    ResourceType.CERTIFICATE_SIGNING_REQUEST,
    Operation.INSERT,
    envelope=Envelope.OBJECT,
    empty=EMPTY_SIGNING_REQUEST,
)
async def signing_request_insert(request: Request, context: EdgeContext) -> Answer:
    return object_reply(await context.client.create(CERTIFICATE_SIGNING_REQUESTS, request.json()), versioned=False)


@upstream(ResourceType.CERTIFICATE_SIGNING_REQUEST, Operation.QUERY)
async def signing_request_query(request: Request, context: EdgeContext) -> Answer:
    return bare(await context.client.get(CERTIFICATE_SIGNING_REQUESTS, request.resource.name))
