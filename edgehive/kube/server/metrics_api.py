"""metrics.k8s.io: what nodes and pods use right now, asked of their kubelets when somebody wants to know.

A node is asked at most every few seconds, by all askers together; nobody asks while nobody wants to know. A
node that does not answer in time is left out.

Go: sigs.k8s.io/metrics-server/pkg/{api,scraper}
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from edgehive.api.document import Document
from edgehive.kit.clock import Clock
from edgehive.kube import selectors
from edgehive.kube.errors import ApiError, BadRequest, not_found
from edgehive.kube.selectors import FieldSelector, SelectorError
from edgehive.kube.server import usage
from edgehive.kube.server.backends import Backends
from edgehive.kube.server.kubelets import Kubelets
from edgehive.kube.server.options import Call, ListOptions, Page
from edgehive.kube.server.usage import Reading, Usage
from edgehive.kube.store import Key, Store, Stored

log = logging.getLogger("edgehive.kube.server")

#: A reading this young is given again.
_FRESH: Final = 5.0
#: One older than this says little about now; the node is read twice, a moment apart.
_STALE: Final = 60.0
_MOMENT: Final = 1.0
_DEADLINE: Final = 5.0
_LIMIT: Final = 16 * 1024 * 1024
_AT_ONCE: Final = 16


class _Node:
    """What is known of one node."""

    def __init__(self) -> None:
        self.asking = asyncio.Lock()
        self.read_at = float("-inf")
        self.reading: Reading | None = None
        self.usage: Usage | None = None


class MetricsApi:
    """get and list of NodeMetrics and PodMetrics."""

    def __init__(self, store: Store, kubelets: Kubelets, backends: Backends, clock: Clock) -> None:
        self._store = store
        self._kubelets = kubelets
        self._backends = backends
        self._clock = clock
        self._nodes: dict[str, _Node] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def get(self, call: Call) -> Document:
        """Raises NotFound, also for what has no metrics yet."""
        stored = self._store.get(Key(call.served.resource.plural, call.namespace, call.name))
        found = await self._metrics(call, [stored] if stored is not None else [])
        if not found:
            raise not_found(call.served.resource.plural, usage.GROUP, call.name)
        return found[0].document

    async def select(self, call: Call, options: ListOptions) -> Page:
        """Those that have metrics; raises BadRequest."""
        try:
            labels, fields = (
                selectors.parse_labels(options.label_selector),
                selectors.parse_fields(options.field_selector),
            )
        except SelectorError as error:
            raise BadRequest(str(error)) from error
        wanted = [
            stored
            for stored in self._store.items(call.served.resource.plural, call.namespace)
            if labels.matches(stored.document.meta.labels or {}) and _matches(fields, stored)
        ]
        return Page(await self._metrics(call, wanted), self._store.revision)

    async def _metrics(self, call: Call, objects: Iterable[Stored]) -> list[Stored]:
        is_node = call.served.resource == usage.NODE_METRICS
        places = {item.key: item.key.name if is_node else _node_of(item) for item in objects}
        used = await self._ask({node for node in places.values() if node})
        found = []
        for key, node in places.items():
            current, stored = used.get(node), self._store.get(key)
            if current is None or stored is None:
                continue
            labels = stored.document.meta.labels or {}
            if is_node:
                told = usage.node_metrics(key.name, labels, current)
            else:
                told = usage.pod_metrics(key.namespace, key.name, labels, current)
            if told is not None:
                found.append(Stored(key, 0, msgspec.json.encode(told)))
        return found

    async def _ask(self, nodes: Iterable[str]) -> Mapping[str, Usage]:
        """The usage of those nodes that answer."""
        names = list(nodes)
        answers = await asyncio.gather(*(self._ask_one(name) for name in names))
        self._forget_gone()
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    def _forget_gone(self) -> None:
        for name in list(self._nodes):
            if self._store.get(Key("nodes", "", name)) is None:
                del self._nodes[name]

    async def _ask_one(self, name: str) -> Usage | None:
        node = self._nodes.setdefault(name, _Node())
        async with node.asking, self._places:
            try:
                await self._refresh(name, node)
            except (ApiError, ValueError) as error:
                log.info("no metrics of node %s: %s", name, error)
                node.reading = node.usage = None
                node.read_at = asyncio.get_running_loop().time()
            return node.usage

    async def _refresh(self, name: str, node: _Node) -> None:
        """Bring a node's usage up to date; raises ApiError, ValueError."""
        loop = asyncio.get_running_loop()
        if loop.time() - node.read_at < _FRESH:
            return
        before = node.reading if loop.time() - node.read_at < _STALE else None
        if before is None:
            node.usage = None
            before = await self._read(name)
            await asyncio.sleep(_MOMENT)
        node.reading = await self._read(name)
        node.read_at = loop.time()
        node.usage = usage.between(before, node.reading)

    async def _read(self, name: str) -> Reading:
        backend = self._kubelets.of_node(name)
        asked = f"/api/v1/nodes/{name}/proxy/stats/summary"
        body = await self._backends.read(backend, "/stats/summary", asked=asked, limit=_LIMIT, seconds=_DEADLINE)
        return usage.read(body, self._clock.now())


def _matches(fields: FieldSelector, stored: Stored) -> bool:
    if not fields:
        return True
    obj = stored.to_dict()
    return fields.matches(lambda path: selectors.field_value(obj, path))


def _node_of(pod: Stored) -> str:
    obj: dict[str, Any] = pod.to_dict()
    running = (obj.get("status") or {}).get("phase") == "Running"
    return str(obj["spec"].get("nodeName") or "") if running else ""
