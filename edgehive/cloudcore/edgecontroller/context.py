"""What the flows of edgecontroller work with: the API, the shared copies of it, and the location index."""

import asyncio
import logging
from dataclasses import dataclass, field

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, NODES, PODS, SECRETS, ApiResource
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.edgecontroller.location import Location, Missed, Reference
from edgehive.cloudcore.flows import Request
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.placement import BY_NODE, by_node, node_of
from edgehive.cloudcore.replicas.claims import ADDRESS_ANNOTATION
from edgehive.kit.refusals import Refusals
from edgehive.kube.client import Client
from edgehive.kube.errors import Forbidden, NotFound
from edgehive.kube.informer import Informer

log = logging.getLogger("edgehive.edgecontroller")

EDGE_LABEL = EDGE_NODE_SELECTOR.removesuffix("=")
#: How long the watch may take to show what was created here, and how many nodes are waited for.
CREATED_SECONDS, CREATED_AT_MOST = 10.0, 1000


@dataclass(frozen=True, slots=True)
class EdgeContext:
    """Given to every flow. `enforce`: a node gets only what its pods need; otherwise what it gets is said.

    `approve`: serving certificates of nodes are approved.
    """

    client: Client
    nodes: Informer
    pods: Informer
    caches: dict[ApiResource, Informer]
    records: DeliveryRecords
    address: str = ""
    replica: str = ""
    enforce: bool = True
    approve: bool = False
    #: Edge nodes created here that the watch has not shown yet, and how long each is taken for one.
    created: dict[str, float] = field(default_factory=dict)
    location: Location = field(default_factory=Location)
    missed: Missed = field(default_factory=Missed)
    refusals: Refusals = field(default_factory=lambda: Refusals("edgecontroller", log))

    @classmethod
    def of(cls, deps: CloudDeps, records: DeliveryRecords) -> "EdgeContext":
        informers = deps.informers
        return cls(
            client=deps.client,
            nodes=informers.of(NODES, label_selector=EDGE_NODE_SELECTOR),
            pods=informers.of(PODS, indexers={BY_NODE: by_node}),
            caches={resource: informers.of(resource) for resource in (CONFIG_MAPS, SECRETS)},
            records=records,
            address=deps.address,
            replica=deps.standing.name,
            enforce=deps.config.modules.cloud_hub.authorization.enforced,
            approve=deps.config.feature_gates.require_authorization,
            refusals=Refusals("edgecontroller", log, deps.registry),
        )

    def is_edge(self, node: str) -> bool:
        return self.nodes.get(node) is not None or self.created.get(node, 0.0) > asyncio.get_running_loop().time()

    def remember_created(self, node: Document) -> None:
        """Until the watch shows it, but not for long: its node goes on, and the API need not be asked what it is."""
        now = asyncio.get_running_loop().time()
        for name in [name for name, until in self.created.items() if until < now]:
            del self.created[name]
        if (node.meta.labels or {}).get(EDGE_LABEL) == "" and len(self.created) < CREATED_AT_MOST:
            self.created[node.meta.name] = now + CREATED_SECONDS

    def lags(self, node: str, document: Document) -> bool:
        """Whether the node has an older version of it."""
        meta = document.meta
        version = self.records.version(node, meta.namespace, meta.uid)
        return bool(version) and meta.resource_version.isdecimal() and int(meta.resource_version) > (version or 0)

    def holders(self, document: Document) -> list[str]:
        """The nodes that have it, whether or not a pod needs it any more."""
        meta, records = document.meta, self.records
        return [node for node in records.nodes() if records.version(node, meta.namespace, meta.uid) is not None]

    def pods_on(self, node: str) -> list[Document]:
        return self.pods.by_index(BY_NODE, node)

    def forbid(self, node: str, why: str) -> None:
        """Refuse what a node may not do; where authorization only watches, count and say it."""
        said = f"node {node!r} may not do this: {why}"
        self.refusals.refuse("forbidden" if self.enforce else "forbidden, only audited", said, about=node)
        if self.enforce:
            raise Forbidden(said)

    def demand_need(self, request: Request) -> None:
        """Refuse what no pod of the node refers to."""
        resource = request.resource
        if not self.location.needs(request.node, Reference(resource.type, resource.namespace, resource.name)):
            self.forbid(request.node, f"no pod on it refers to {resource.type} {resource.namespace}/{resource.name}")

    async def demand_edge_node(self, request: Request) -> None:
        """Refuse to act for a node that is no edge node: a token can join under any name, also a control plane's."""
        name = request.resource.name
        if self.is_edge(name):
            return
        try:
            meta = (await self.client.get(NODES, name)).meta
        except NotFound:
            return
        edge = (meta.labels or {}).get(EDGE_LABEL) == ""
        if not edge and ADDRESS_ANNOTATION not in (meta.annotations or {}):
            self.forbid(
                name, f"the cluster has a node of this name that is no edge node; label it {EDGE_LABEL}= to make it one"
            )

    async def demand_own_pod(self, request: Request) -> None:
        """Refuse a pod that is bound to another node; the API is asked about one the copy does not know yet."""
        name, namespace = request.resource.name, request.resource.api_namespace
        held = self.pods.get(name, namespace)
        try:
            bound = node_of(held or await self.client.get(PODS, name, namespace))
        except NotFound:
            return
        if bound != request.node:
            self.forbid(request.node, f"pod {namespace}/{name} is not bound to it")


def same_apart_from_status(old: Document, new: Document, *, keep: tuple[str, ...] = ()) -> bool:
    """Whether two versions differ only in bookkeeping and in status, `keep` naming the parts of it that count."""
    return _essence(old, keep) == _essence(new, keep)


_BOOKKEEPING = ("resourceVersion", "managedFields", "generation")


def _essence(document: Document, keep: tuple[str, ...]) -> dict[str, object]:
    decoded = document.to_dict()
    status = decoded.pop("status", None) or {}
    metadata = {key: value for key, value in decoded.get("metadata", {}).items() if key not in _BOOKKEEPING}
    return decoded | {"metadata": metadata, "status": {key: status.get(key) for key in keep}}


def patch_uid(patch: bytes) -> str:
    """The uid a status patch is meant for; "" when it names none."""

    class Meta(msgspec.Struct):
        uid: str = ""

    class Patch(msgspec.Struct):
        metadata: Meta = msgspec.field(default_factory=Meta)

    try:
        return msgspec.json.decode(patch, type=Patch).metadata.uid
    except msgspec.MsgspecError:
        return ""
