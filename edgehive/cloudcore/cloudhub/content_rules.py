"""What the content of a node's message may claim. Pure rules; `authz` has judged the path before.

cloudcore acts for the node with its own rights, so what the API server's NodeRestriction would refuse a kubelet is
refused here: names other than the path's, labels that place workloads, owners and finalizers, events about others,
certificates for others.

Go: plugin/pkg/admission/noderestriction of Kubernetes, which a Go cloudcore bypasses
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from edgehive.beehive.message import Message
from edgehive.cloudcore.certificate_requests import is_request_of
from edgehive.wire.join import NODES_GROUP, node_user
from edgehive.wire.names import Operation, ResourceType
from edgehive.wire.resource import Resource

C = TypeVar("C")

#: The node a pod or a device is bound to: "" while it is not bound, None when there is no such object.
NodeOf = Callable[[str, str], str | None]

#: Labels that say where workloads may go are not the node's to set; of the roles these two are an edge's.
RESTRICTED_LABEL_PREFIX = "node-restriction.kubernetes.io"
ROLE_LABEL_PREFIX = "node-role.kubernetes.io"
EDGE_ROLES = frozenset({"edge", "agent"})
KUBELET_SIGNERS = frozenset({"kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"})


class _Meta(msgspec.Struct, rename="camel"):
    """As much of metadata as decides; patches may hold null anywhere."""

    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str | None] | None = None
    finalizers: Any = None
    owner_references: Any = None


class _Object(msgspec.Struct):
    metadata: _Meta | None = None


class _Patch(msgspec.Struct):
    metadata: dict[str, Any] | None = None

    def keys_beyond(self, allowed: frozenset[str]) -> str:
        """One key of metadata that is not allowed."""
        return min((f"metadata.{key}" for key in self.metadata or {} if key not in allowed), default="")


class _Reference(msgspec.Struct):
    kind: str = ""
    namespace: str = ""
    name: str = ""


class _Event(msgspec.Struct, rename="camel"):
    metadata: _Meta | None = None
    involved_object: _Reference = msgspec.field(default_factory=_Reference)

    def about_something(self) -> bool:
        return self.involved_object != _Reference()


class _EventPatch(msgspec.Struct, rename="camel"):
    event: _Event = msgspec.field(default_factory=_Event)
    patch_data: str = "{}"

    def claims(self) -> list[_Event]:
        """What the patch says of an event; saying nothing leaves what is stored, which the flow asks for its writer."""
        return [claim for claim in (self.event, _decode(self.patch_data.encode(), _Event)) if claim.about_something()]


class _SigningSpec(msgspec.Struct, rename="camel"):
    request: bytes = b""
    signer_name: str = ""


class _SigningRequest(msgspec.Struct):
    spec: _SigningSpec = msgspec.field(default_factory=_SigningSpec)


_POD_PATCH_METADATA = frozenset({"uid", "name", "namespace", "resourceVersion"})
_NODE_PATCH_METADATA = _POD_PATCH_METADATA | {"labels", "annotations", "creationTimestamp"}
_NODE_WRITES = frozenset({ResourceType.NODE, ResourceType.NODE_STATUS, ResourceType.NODE_PATCH})
_NAMED = frozenset({ResourceType.LEASE, ResourceType.POD})
_WRITES = frozenset({Operation.INSERT, Operation.UPDATE, Operation.PATCH})


def content_violation(
    node: str, resource: Resource, message: Message, node_of_pod: NodeOf, node_of_device: NodeOf
) -> str:
    """Why the node may not send this content; "" when it may. What is no object is the flow's to refuse."""
    if message.route.operation not in _WRITES:
        return ""
    try:
        content = message.content_bytes()
        return _violation(
            node, resource, message.route.operation, content, {"Pod": node_of_pod, "Device": node_of_device}
        )
    except msgspec.ValidationError as error:
        return f"the content has not the shape of a {resource.type}: {error}" if _is_object(message) else ""
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return ""


def _is_object(message: Message) -> bool:
    try:
        msgspec.json.decode(message.content_bytes(), type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return False
    return True


def _violation(node: str, resource: Resource, operation: str, content: bytes, nodes_of: Mapping[str, NodeOf]) -> str:
    if resource.type in (ResourceType.NODE_PATCH, ResourceType.POD_PATCH):
        allowed = _POD_PATCH_METADATA if resource.type == ResourceType.POD_PATCH else _NODE_PATCH_METADATA
        if extra := _decode(content, _Patch).keys_beyond(allowed):
            return f"a status report may not change {extra}"
    if resource.type in _NODE_WRITES:
        return _node_violation(_decode(content, _Object).metadata or _Meta())
    if resource.type in _NAMED:
        return _name_violation(resource, _decode(content, _Object).metadata or _Meta())
    if resource.type == ResourceType.EVENT:
        events = _decode(content, _EventPatch).claims() if operation == Operation.PATCH else [_decode(content, _Event)]
        return next((text for event in events if (text := _event_violation(node, event, nodes_of))), "")
    if resource.type == ResourceType.CERTIFICATE_SIGNING_REQUEST:
        return _signing_violation(node, _decode(content, _SigningRequest).spec)
    return ""


def _decode(content: bytes, type: type[C]) -> C:
    return msgspec.json.decode(content, type=type)


def _node_violation(meta: _Meta) -> str:
    if meta.finalizers or meta.owner_references:
        return "a node may not set finalizers or owners on itself"
    for label in meta.labels or {}:
        prefix, _, name = label.partition("/")
        if prefix == RESTRICTED_LABEL_PREFIX or prefix.endswith("." + RESTRICTED_LABEL_PREFIX):
            return f"label {label} is not a node's to set on itself"
        if prefix == ROLE_LABEL_PREFIX and name not in EDGE_ROLES:
            return f"role {name!r} is not a node's to give itself"
    return ""


def _name_violation(resource: Resource, meta: _Meta) -> str:
    """An object is created under the name inside it, so that has to be the one the path was judged by."""
    if meta.name and meta.name != resource.name:
        return f"the content is named {meta.name!r}, the path says {resource.name!r}"
    if meta.namespace and meta.namespace != resource.api_namespace:
        return f"the content is in namespace {meta.namespace!r}, the path says {resource.namespace!r}"
    return ""


def _event_violation(node: str, event: _Event, nodes_of: Mapping[str, NodeOf]) -> str:
    about = event.involved_object
    if about.kind == "Node":
        return "" if about.name == node else f"the event is about node {about.name!r}"
    if (node_of := nodes_of.get(about.kind)) is not None:
        # What is gone may still have its last events.
        bound = node_of(about.namespace, about.name)
        own = bound is None or bound == node
        named = f"{about.kind.lower()} {about.namespace}/{about.name}"
        return "" if own else f"the event is about {named}, which is not bound to it"
    return f"the event is about a {about.kind or 'nothing'}; a node tells of itself, its pods and its devices"


def _signing_violation(node: str, spec: _SigningSpec) -> str:
    if spec.signer_name not in KUBELET_SIGNERS:
        return f"signer {spec.signer_name!r} is not one that signs for nodes"
    if not is_request_of(spec.request, node):
        return f"the certificate request is not for O={NODES_GROUP}, CN={node_user(node)}"
    return ""
