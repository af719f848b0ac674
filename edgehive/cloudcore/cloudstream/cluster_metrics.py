"""NodeMetrics and PodMetrics of the whole cluster, from what kubelets count.

Nodes with a tunnel here are asked through it; all others, ordinary cloud nodes and those of another cloudcore, through
the API server's proxy, which knows how to reach and verify them. A node that cannot be asked is left out.

Go: sigs.k8s.io/metrics-server/pkg/api
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from edgehive.api.core import Lens
from edgehive.api.document import Document
from edgehive.api.meta import ObjectMeta
from edgehive.api.registry import NODES, ApiResource
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit.clock import Clock
from edgehive.kube import selectors, usage
from edgehive.kube.client import Client
from edgehive.kube.errors import BadRequest, NotFound, ServiceUnavailable
from edgehive.kube.informer import Informer
from edgehive.kube.node_usage import DEADLINE, LIMIT, NodeUsage
from edgehive.kube.selectors import FieldSelector, LabelSelector, SelectorError
from edgehive.wire import tunnel
from edgehive.wire.streams import PIECE, Stream, StreamBroken
from edgehive.wire.tunnel import Connect, FrameType

#: As often as metrics-server asks.
FRESH_SECONDS: Final = 15.0
AT_ONCE: Final = 64
SUMMARY: Final = "/stats/summary"
#: The opposite of `EDGE_NODE_SELECTOR`.
_CLOUD_NODES: Final = "node-role.kubernetes.io/edge!="

Json = dict[str, Any]


class _Spec(Lens, frozen=True):
    node_name: str = ""


class _Status(Lens, frozen=True):
    phase: str = ""


class _Pod(Lens, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: _Spec = _Spec()
    status: _Status = _Status()


class Wanted(NamedTuple):
    """NodeMetrics or PodMetrics: one by name, or those of a namespace ("" for all) that the selectors choose."""

    resource: ApiResource
    namespace: str = ""
    name: str = ""
    labels: str = ""
    fields: str = ""


class ClusterMetrics:
    """`nodes` are the edge nodes. `is_away` says of one without a tunnel here that nobody can reach it now."""

    def __init__(
        self,
        client: Client,
        clock: Clock,
        tunnels: Tunnels,
        nodes: Informer,
        pods: Informer,
        is_away: Callable[[Document], bool],
    ) -> None:
        self._client = client
        self._tunnels = tunnels
        self._nodes = nodes
        self._pods = pods
        self._is_away = is_away
        self._usage = NodeUsage(self._read, clock, fresh=FRESH_SECONDS, at_once=AT_ONCE)

    async def select(self, wanted: Wanted) -> list[Json]:
        """Those that have metrics; raises BadRequest, or ApiError when the API cannot be asked."""
        try:
            labels, fields = selectors.parse_labels(wanted.labels), selectors.parse_fields(wanted.fields)
        except SelectorError as error:
            raise BadRequest(str(error)) from error
        if wanted.resource == usage.POD_METRICS:
            return await self._of_pods(_matching(self._pods_of(wanted), labels, fields))
        return await self._of_nodes(_matching(await self._nodes_of(wanted), labels, fields))

    async def _of_nodes(self, nodes: list[Document]) -> list[Json]:
        used = await self._usage.of([node.meta.name for node in nodes])
        told = (
            usage.node_metrics(node.meta.name, node.meta.labels or {}, used[node.meta.name])
            for node in nodes
            if node.meta.name in used
        )
        return [item for item in told if item is not None]

    async def _of_pods(self, pods: list[Document]) -> list[Json]:
        running = [pod for document in pods if (pod := document.read(_Pod)).status.phase == "Running"]
        used = await self._usage.of({pod.spec.node_name for pod in running if pod.spec.node_name})
        told = (
            usage.pod_metrics(
                pod.metadata.namespace, pod.metadata.name, pod.metadata.labels or {}, used[pod.spec.node_name]
            )
            for pod in running
            if pod.spec.node_name in used
        )
        return [item for item in told if item is not None]

    def _pods_of(self, wanted: Wanted) -> list[Document]:
        if not wanted.name:
            return self._pods.items(wanted.namespace)
        found = self._pods.get(wanted.name, wanted.namespace)
        return [found] if found is not None else []

    async def _nodes_of(self, wanted: Wanted) -> list[Document]:
        if wanted.name:
            try:
                return [self._nodes.get(wanted.name) or await self._client.get(NODES, wanted.name)]
            except NotFound:
                return []
        chosen = f"{wanted.labels},{_CLOUD_NODES}" if wanted.labels else _CLOUD_NODES
        everyone = [*self._nodes.items(), *(await self._client.list(NODES, label_selector=chosen)).items]
        if not wanted.labels:
            names = {node.meta.name for node in everyone}
            self._usage.forget(lambda name: name not in names)
        return everyone

    # One node's statistics

    async def _read(self, name: str) -> bytes:
        try:
            async with asyncio.timeout(DEADLINE):
                if name in self._tunnels:
                    return await self._through_tunnel(name)
                node = self._nodes.get(name)
                if node is not None and self._is_away(node):
                    raise ServiceUnavailable(f"node {name} has no tunnel")
                return (await self._client.get(NODES, name, subresource=f"proxy{SUMMARY}")).raw
        except TimeoutError:
            raise ServiceUnavailable(f"node {name} did not answer within {DEADLINE:g} s") from None

    async def _through_tunnel(self, node: str) -> bytes:
        """Raises ServiceUnavailable."""
        try:
            stream = self._tunnels.open(node)
            try:
                connect = Connect(stream.id, tunnel.url_of(SUMMARY), {}, "")
                await stream.ask(FrameType.METRICS, tunnel.encode_connect(connect))
                return await _body(stream)
            finally:
                stream.close()
        except StreamBroken as error:
            raise ServiceUnavailable(str(error)) from error


async def _body(stream: Stream) -> bytes:
    """A stock node sends no status: its answer counts as 200."""
    head = await stream.answered()
    body = bytearray()
    while piece := await stream.read(PIECE):
        body += piece
        if len(body) > LIMIT:
            raise ServiceUnavailable(f"more than {LIMIT} bytes of statistics")
    if head is not None and head.status != 200:
        raise ServiceUnavailable(f"its kubelet answered {head.status}: {bytes(body[:200]).decode(errors='replace')}")
    return bytes(body)


def _matching(objects: Iterable[Document], labels: LabelSelector, fields: FieldSelector) -> list[Document]:
    return [item for item in objects if labels.matches(item.meta.labels) and _has_fields(item, fields)]


def _has_fields(item: Document, fields: FieldSelector) -> bool:
    if not fields:
        return True
    obj = item.to_dict()
    return fields.matches(lambda path: selectors.field_value(obj, path))
