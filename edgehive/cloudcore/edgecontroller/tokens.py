"""Service-account tokens for the pods of nodes.

Go: cloud/pkg/edgecontroller/controller (serviceaccounttoken)
"""

from edgehive.api.core import Pod, TokenRequest
from edgehive.api.document import Document
from edgehive.api.registry import SERVICE_ACCOUNTS
from edgehive.cloudcore.edgecontroller.context import EdgeContext
from edgehive.cloudcore.flows import Answer, Request, bare, upstream
from edgehive.wire.names import Operation, ResourceType


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
