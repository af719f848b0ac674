"""metrics.k8s.io: what nodes and pods use right now, asked of their kubelets when somebody wants to know.

Go: sigs.k8s.io/metrics-server/pkg/api
"""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from edgehive.api.document import Document
from edgehive.kit.clock import Clock
from edgehive.kube import selectors, usage
from edgehive.kube.errors import BadRequest, not_found
from edgehive.kube.node_usage import DEADLINE, LIMIT, NodeUsage
from edgehive.kube.selectors import FieldSelector, SelectorError
from edgehive.kube.server.backends import Backends
from edgehive.kube.server.kubelets import Kubelets
from edgehive.kube.server.options import Call, ListOptions, Page
from edgehive.kube.store import Key, Store, Stored

#: A reading this young is given again.
_FRESH: Final = 5.0
_AT_ONCE: Final = 16


class MetricsApi:
    """get and list of NodeMetrics and PodMetrics."""

    def __init__(self, store: Store, kubelets: Kubelets, backends: Backends, clock: Clock) -> None:
        self._store = store
        self._kubelets = kubelets
        self._backends = backends
        self._usage = NodeUsage(self._read, clock, fresh=_FRESH, at_once=_AT_ONCE)

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
        used = await self._usage.of({node for node in places.values() if node})
        self._usage.forget(lambda name: self._store.get(Key("nodes", "", name)) is None)
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

    async def _read(self, name: str) -> bytes:
        backend = self._kubelets.of_node(name)
        asked = f"/api/v1/nodes/{name}/proxy/stats/summary"
        return await self._backends.read(backend, "/stats/summary", asked=asked, limit=LIMIT, seconds=DEADLINE)


def _matches(fields: FieldSelector, stored: Stored) -> bool:
    if not fields:
        return True
    obj = stored.to_dict()
    return fields.matches(lambda path: selectors.field_value(obj, path))


def _node_of(pod: Stored) -> str:
    obj: dict[str, Any] = pod.to_dict()
    running = (obj.get("status") or {}).get("phase") == "Running"
    return str(obj["spec"].get("nodeName") or "") if running else ""
