"""May this node send this message? Pure rules on who a message speaks for.

cloudhub asks for every upstream message; what needs the content or the pods' references to be judged is
refused by the flow that reads it. A node speaks for itself, its lease and the pods bound to it.

Go: cloud/pkg/cloudhub/authorization
"""

from collections.abc import Callable

from edgehive.beehive.message import Message
from edgehive.wire import payloads
from edgehive.wire.names import CLOUD_ONLY_SOURCES, Operation, Path, ResourceType, Source
from edgehive.wire.resource import Resource

#: The node a pod is bound to: "" while it is not bound, None when there is no such pod.
NodeOfPod = Callable[[str, str], str | None]

LEASE_NAMESPACE = "kube-node-lease"
_NODE_TYPES = frozenset({ResourceType.NODE, ResourceType.NODE_STATUS, ResourceType.NODE_PATCH})
_POD_TYPES = frozenset({ResourceType.POD, ResourceType.POD_PATCH, ResourceType.POD_STATUS})
_QUERY_TYPES = frozenset(
    {
        ResourceType.CONFIG_MAP,
        ResourceType.SECRET,
        ResourceType.PERSISTENT_VOLUME,
        ResourceType.PERSISTENT_VOLUME_CLAIM,
        ResourceType.VOLUME_ATTACHMENT,
        ResourceType.SERVICE_ACCOUNT_TOKEN,
    }
)
_OPEN_TYPES = frozenset(
    {ResourceType.EVENT, ResourceType.CERTIFICATE_SIGNING_REQUEST, ResourceType.RULE_STATUS, "podlist"}
)
_OPEN_OPERATIONS = frozenset({Operation.RESPONSE, Operation.ERROR, Operation.UPLOAD, Operation.KEEPALIVE})
_JOB_OPERATIONS = frozenset({Operation.UPDATE_NODE_ACTION_STATUS, "upgrade", "prepull"})
#: Their modules judge what they are asked.
_OPEN_SOURCES = frozenset({Source.META_SERVER, Source.TWIN})


def violation(node: str, message: Message, node_of_pod: NodeOfPod) -> str:
    """Why the node may not send this; "" when it may."""
    route = message.route
    if route.operation in _OPEN_OPERATIONS:
        return ""
    if route.source in CLOUD_ONLY_SOURCES:
        return f"source {route.source!r} is the cloud's own"
    if route.source in _OPEN_SOURCES or route.resource == Path.KUBERNETES_CA:
        return ""
    if payloads.is_volume_resource(route.resource):
        return ""
    if route.operation in _JOB_OPERATIONS:
        return "" if route.resource.endswith(f"/node/{node}") else "the report is about another node's job"
    try:
        resource = Resource.parse(route.resource)
    except ValueError as error:
        return str(error)
    return _resource_violation(node, resource, route.operation, node_of_pod)


def _resource_violation(node: str, resource: Resource, operation: str, node_of_pod: NodeOfPod) -> str:
    if resource.type in _NODE_TYPES:
        return "" if resource.name == node else f"it may only speak for node {node!r}, not for {resource.name!r}"
    if resource.type == ResourceType.LEASE:
        own = resource.name == node and resource.namespace == LEASE_NAMESPACE
        return "" if own else f"lease {resource.namespace}/{resource.name} is not its own"
    if resource.type in _POD_TYPES:
        return _pod_violation(node, resource, operation, node_of_pod)
    if resource.type in _QUERY_TYPES:
        return "" if operation == Operation.QUERY else f"a node may query a {resource.type}, not {operation} it"
    return "" if resource.type in _OPEN_TYPES else f"type {resource.type!r} is not one a node speaks of"


def _pod_violation(node: str, resource: Resource, operation: str, node_of_pod: NodeOfPod) -> str:
    """Reports without a name and new pods carry their node inside and are judged by their flow."""
    if not resource.name or (resource.type == ResourceType.POD and operation == Operation.INSERT):
        return ""
    bound = node_of_pod(resource.namespace, resource.name)
    if bound is None or bound == node:
        return ""
    return f"pod {resource.namespace}/{resource.name} is not bound to it"
