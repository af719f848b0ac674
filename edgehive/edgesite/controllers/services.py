"""Services: which pods stand behind each, as one EndpointSlice (and the older Endpoints) per set of ports.

Go: pkg/controller/endpointslice, pkg/controller/endpoint
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.api.network import Service, ServicePort
from edgehive.api.registry import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES
from edgehive.edgesite.controllers import pods
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.kube.errors import AlreadyExists, NotFound
from edgehive.kube.informer import Change

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
#: Endpoints per slice, as Kubernetes limits it.
SLICE_SIZE = 100

Ports = tuple[tuple[str, int, str, str | None], ...]


class Services:
    name = "services"

    def __init__(self, deps: ControllerDeps) -> None:
        self._client = deps.client
        self._services = deps.informers.of(SERVICES)
        self._pods = deps.informers.of(PODS)
        self._slices = deps.informers.of(ENDPOINT_SLICES, indexers={"service": _service_of})
        self._endpoints = deps.informers.of(ENDPOINTS)

    def sources(self) -> Sequence[Source]:
        return (
            Source(self._services, own_key),
            Source(self._pods, self._services_of_pod),
            Source(self._slices, _slice_keys),
            Source(self._endpoints, own_key),
        )

    def _services_of_pod(self, change: Change) -> Iterable[Key]:
        for document in (change.old, change.new):
            labels = (document.meta.labels or {}).items() if document is not None else {}.items()
            for service in self._services.items(change.key[0]) if document is not None else ():
                selector = service.read(_Selecting).spec.selector
                if selector and selector.items() <= labels:
                    yield (service.meta.namespace, service.meta.name)

    async def reconcile(self, key: Key) -> float | None:
        document = self._services.get(key[1], key[0])
        if document is None:
            await self._remove_slices(key, keep=set())
            return None
        service = document.read(Service)
        if not service.spec.selector or service.spec.type == "ExternalName":
            # Without a selector the endpoints are the user's own.
            return None
        backends = self._backends(service)
        wanted = [_slice(document, service, ports, part) for ports, part in _split(service, backends)]
        for body in wanted:
            await self._put_slice(key, body)
        await self._remove_slices(key, keep={body["metadata"]["name"] for body in wanted})
        await self._put_endpoints(key, document, service, backends)
        return None

    def _backends(self, service: Service) -> list[Pod]:
        """Pods with an address that the selector names, in a stable order."""
        selector = (service.spec.selector or {}).items()
        found = []
        for document in self._pods.items(service.metadata.namespace):
            if selector <= (document.meta.labels or {}).items():
                pod = document.read(Pod)
                if pod.status.pod_ip and not pods.is_finished(pod):
                    found.append(pod)
        return sorted(found, key=lambda pod: pod.metadata.name)

    async def _put_slice(self, key: Key, body: dict[str, Any]) -> None:
        current = self._slices.get(body["metadata"]["name"], key[0])
        if current is None:
            try:
                await self._client.create(ENDPOINT_SLICES, body, key[0])
            except AlreadyExists:
                # The cache is behind; the slice's own event brings the key back.
                return
            return
        present = current.to_dict()
        fields = ("addressType", "endpoints", "ports")
        if all((present.get(name) or []) == body[name] for name in fields):
            return
        await self._client.update(ENDPOINT_SLICES, {**present, **{name: body[name] for name in fields}})

    async def _remove_slices(self, key: Key, keep: set[str]) -> None:
        for item in self._slices.by_index("service", f"{key[0]}/{key[1]}"):
            if item.meta.name in keep or (item.meta.labels or {}).get(MANAGED_BY) != MANAGER:
                continue
            try:
                await self._client.delete(ENDPOINT_SLICES, item.meta.name, key[0], uid=item.meta.uid)
            except NotFound:
                continue

    async def _put_endpoints(self, key: Key, document: Document, service: Service, backends: list[Pod]) -> None:
        subsets = _subsets(service, backends)
        current = self._endpoints.get(key[1], key[0])
        if current is not None:
            present = current.to_dict()
            if (present.get("subsets") or []) != subsets:
                await self._client.update(ENDPOINTS, {**present, "subsets": subsets})
            return
        metadata: dict[str, Any] = {"name": key[1], "namespace": key[0], "labels": dict(document.meta.labels or {})}
        # Kubernetes gives Endpoints no owner; here the collector then tidies them up like the slices.
        metadata["ownerReferences"] = [_reference(document)]
        body = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
        try:
            await self._client.create(ENDPOINTS, body, key[0])
        except AlreadyExists:
            return


class _SelectorSpec(msgspec.Struct, frozen=True):
    selector: dict[str, str] | None = None


class _Selecting(msgspec.Struct, frozen=True):
    spec: _SelectorSpec = _SelectorSpec()


def _service_of(document: Document) -> Iterable[str]:
    name = (document.meta.labels or {}).get(SERVICE_NAME)
    if name:
        yield f"{document.meta.namespace}/{name}"


def _slice_keys(change: Change) -> Iterable[Key]:
    name = (change.document.meta.labels or {}).get(SERVICE_NAME)
    return [(change.key[0], name)] if name else []


def _reference(document: Document) -> dict[str, Any]:
    return pods.owner_reference(document, "v1", "Service")


def _split(service: Service, backends: list[Pod]) -> Iterable[tuple[Ports, list[Pod]]]:
    """Pods by their resolved ports, a hundred at a time; one empty part where there is no pod."""
    groups: dict[Ports, list[Pod]] = defaultdict(list)
    for pod in backends:
        groups[_ports(service, pod)].append(pod)
    if not groups:
        yield (), []
    for ports, members in groups.items():
        for start in range(0, len(members), SLICE_SIZE):
            yield ports, members[start : start + SLICE_SIZE]


def _ports(service: Service, pod: Pod) -> Ports:
    resolved = ((port, _target(port, pod)) for port in service.spec.ports or ())
    return tuple(
        (port.name, target, port.protocol or "TCP", port.app_protocol)
        for port, target in resolved
        if target is not None
    )


def _target(port: ServicePort, pod: Pod) -> int | None:
    """The pod's port behind a service port; None when the pod has no port of that name."""
    target = port.target_port
    if target is None or target == "" or target == 0:
        return port.port
    if isinstance(target, int) or target.isdigit():
        return int(target)
    for container in pod.spec.containers:
        for candidate in container.ports or ():
            if candidate.name == target and candidate.protocol == (port.protocol or "TCP"):
                return candidate.container_port
    return None


def _slice(document: Document, service: Service, ports: Ports, members: list[Pod]) -> dict[str, Any]:
    """Named after the service, its ports and its first member's page, so that it is the same object every time."""
    mark = msgspec.json.encode(
        [document.meta.uid, ports, members[0].metadata.name if len(members) == SLICE_SIZE else ""]
    )
    name = f"{service.metadata.name[:56]}-{hashlib.sha256(mark).hexdigest()[:5]}"
    labels = {**(document.meta.labels or {}), SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}
    if service.spec.cluster_ip == "None":
        labels["service.kubernetes.io/headless"] = ""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": service.metadata.namespace,
            "labels": labels,
            "ownerReferences": [_reference(document)],
        },
        "addressType": "IPv4",
        "endpoints": [_endpoint(service, pod) for pod in members],
        "ports": [_port(*port) for port in ports],
    }


def _port(name: str, number: int, protocol: str, app_protocol: str | None) -> dict[str, Any]:
    port: dict[str, Any] = {"name": name, "port": number, "protocol": protocol}
    return {**port, "appProtocol": app_protocol} if app_protocol else port


def _endpoint(service: Service, pod: Pod) -> dict[str, Any]:
    terminating = pod.metadata.deletion_timestamp is not None
    serving = pods.is_ready(pod)
    ready = (serving and not terminating) or service.spec.publish_not_ready_addresses
    endpoint: dict[str, Any] = {
        "addresses": [pod.status.pod_ip],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": pod.spec.node_name,
        "targetRef": _target_ref(pod),
    }
    if pod.spec.hostname and pod.spec.subdomain == service.metadata.name:
        endpoint["hostname"] = pod.spec.hostname
    return endpoint


def _target_ref(pod: Pod) -> dict[str, str]:
    meta = pod.metadata
    return {"kind": "Pod", "name": meta.name, "namespace": meta.namespace, "uid": meta.uid}


def _subsets(service: Service, backends: list[Pod]) -> list[dict[str, Any]]:
    """The same in the older form: ready and not ready addresses per set of ports."""
    groups: dict[Ports, list[Pod]] = defaultdict(list)
    for pod in backends:
        if pod.metadata.deletion_timestamp is None:
            groups[_ports(service, pod)].append(pod)
    subsets = []
    for ports, members in groups.items():
        subset: dict[str, Any] = {}
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            chosen = [pod for pod in members if _published(service, pod) == ready]
            if chosen:
                subset[field] = [_address(pod) for pod in chosen]
        subset["ports"] = [_old_port(*port) for port in ports]
        subsets.append(subset)
    return subsets


def _published(service: Service, pod: Pod) -> bool:
    return pods.is_ready(pod) or service.spec.publish_not_ready_addresses


def _address(pod: Pod) -> dict[str, Any]:
    return {"ip": pod.status.pod_ip, "nodeName": pod.spec.node_name, "targetRef": _target_ref(pod)}


def _old_port(name: str, number: int, protocol: str, app_protocol: str | None) -> dict[str, Any]:
    port: dict[str, Any] = {"name": name} if name else {}
    port |= {"port": number, "protocol": protocol}
    return {**port, "appProtocol": app_protocol} if app_protocol else port
