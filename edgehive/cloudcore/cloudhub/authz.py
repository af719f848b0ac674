"""May this node send this message? Pure rules on who a message speaks for.

cloudhub asks for every upstream message. Here its path is judged, in `content_rules` what it claims; what needs the
pods' references is refused by the flow that reads it. A node speaks for itself, its lease and the pods bound to it.

Go: cloud/pkg/cloudhub/authorization
"""

import re

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.content_rules import NodeOf, content_violation
from edgehive.wire import payloads
from edgehive.wire.names import CLOUD_ONLY_SOURCES, Operation, Path, ResourceType, Source
from edgehive.wire.resource import Resource

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
_OBJECT_TYPES = (
    _NODE_TYPES
    | _POD_TYPES
    | _QUERY_TYPES
    | {ResourceType.LEASE, ResourceType.EVENT, ResourceType.CERTIFICATE_SIGNING_REQUEST}
)
_OPEN_OPERATIONS = frozenset({Operation.RESPONSE, Operation.ERROR, Operation.UPLOAD, Operation.KEEPALIVE})
_OBJECT_OPERATIONS = frozenset({Operation.INSERT, Operation.UPDATE, Operation.PATCH, Operation.DELETE, Operation.QUERY})
_JOB_OPERATIONS = frozenset({Operation.UPDATE_NODE_ACTION_STATUS, "upgrade", "prepull"})
#: Their modules judge what they are asked.
_OPEN_SOURCES = frozenset({Source.META_SERVER, Source.TWIN})
#: What Kubernetes allows as a name; a path is built from these two.
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")


def _gone(namespace: str, name: str) -> None:
    """No such object."""


def violation(node: str, message: Message, node_of_pod: NodeOf, node_of_device: NodeOf = _gone) -> str:
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
    return _resource_violation(node, resource, route.operation, node_of_pod) or content_violation(
        node, resource, message, node_of_pod, node_of_device
    )


def malformed(message: Message) -> str:
    """Why no path of the API may be built from a message that asks for an object, whoever sent it; "" when it may."""
    if message.route.source in _OPEN_SOURCES:
        return ""
    try:
        resource = Resource.parse(message.route.resource)
    except ValueError:
        return ""
    if resource.type not in _OBJECT_TYPES:
        return ""
    if not resource.name and resource.type != ResourceType.POD_STATUS:
        return f"resource {message.route.resource[:300]!r} names no {resource.type}; without a name all are meant"
    for part in (resource.namespace, resource.name):
        if part and (_NAME.fullmatch(part) is None or ".." in part):
            return f"{part[:80]!r} in resource {message.route.resource[:300]!r} is not a name that Kubernetes allows"
    return ""


def _resource_violation(node: str, resource: Resource, operation: str, node_of_pod: NodeOf) -> str:
    if operation not in _OBJECT_OPERATIONS:
        return f"operation {operation[:80]!r} is not one that is served"
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


def _pod_violation(node: str, resource: Resource, operation: str, node_of_pod: NodeOf) -> str:
    """Reports without a name and new pods carry their node inside and are judged by their flow."""
    if not resource.name or (resource.type == ResourceType.POD and operation == Operation.INSERT):
        return ""
    bound = node_of_pod(resource.namespace, resource.name)
    if bound is None or bound == node:
        return ""
    return f"pod {resource.namespace}/{resource.name} is not bound to it"
