"""Where nodes, pods and services are reached from the API server.

A function given from outside may know the way to a node's kubelet (a site dials its own edge node, a cluster
its tunnel); without one a node's own word counts: its address and the port of its kubelet.

Go: pkg/kubelet/client/kubelet_client.go, pkg/registry/core/{node,pod,service} (ResourceLocation)
"""

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from edgehive.api.document import Document
from edgehive.kube.errors import BadRequest, ServiceUnavailable, not_found
from edgehive.kube.server.backends import Backend
from edgehive.kube.store import Key, Store

Json = Mapping[str, Any]
#: The base URL of a node's kubelet, None where there is no way.
KubeletAddress = Callable[[Document], str | None]

_ADDRESS_TYPES: Final = ("InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS")
_KUBELET_PORT: Final = 10250
_WEB_PORTS: Final = {"http": 80, "https": 443}


def reported_address(node: Document) -> str | None:
    """The kubelet's URL by the node's own status."""
    status = node.to_dict().get("status") or {}
    addresses = {item.get("type"): item.get("address") for item in reversed(status.get("addresses") or ())}
    host = next((addresses[kind] for kind in _ADDRESS_TYPES if addresses.get(kind)), None)
    if host is None:
        return None
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port") or _KUBELET_PORT
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


class Kubelets:
    """Finds backends in the store's objects."""

    def __init__(self, store: Store, address: KubeletAddress = reported_address) -> None:
        self._store = store
        self._address = address

    def of_node(self, name: str) -> Backend:
        """Raises NotFound, ServiceUnavailable."""
        stored = self._store.get(Key("nodes", "", name))
        if stored is None:
            raise not_found("nodes", "", name)
        base = self._address(stored.document)
        if base is None:
            raise ServiceUnavailable(f'there is no way to the kubelet of node "{name}" from here')
        url = urlsplit(base)
        return Backend(f'the kubelet of node "{name}"', url.scheme, url.hostname or "", url.port or _KUBELET_PORT)

    def of_pod(self, pod: Json) -> Backend:
        """The kubelet that runs a pod; raises BadRequest, ServiceUnavailable."""
        node, name = pod["spec"].get("nodeName"), pod["metadata"]["name"]
        if not node:
            raise BadRequest(f"pod {name} does not have a host assigned")
        if self._store.get(Key("nodes", "", node)) is None:
            raise ServiceUnavailable(f'node "{node}", which pod {name} is assigned to, does not exist')
        return self.of_node(node)

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        """Raises NotFound."""
        stored = self._store.get(Key("pods", namespace, name))
        if stored is None:
            raise not_found("pods", "", name)
        return stored.to_dict()

    # ------------------------------------------------------------------ NAME, NAME:PORT or SCHEME:NAME:PORT

    def proxied_node(self, asked: str) -> Backend:
        """The kubelet alone: other ports of a node are no affair of its kubelet."""
        _, name, port = split_name(asked, "node")
        backend = self.of_node(name)
        if port not in ("", str(backend.port)):
            raise BadRequest(f'port {port} of node "{name}" is not its kubelet\'s, which is {backend.port}')
        return backend

    def proxied_pod(self, namespace: str, asked: str) -> Backend:
        """A pod's own server, at its first port unless another is named."""
        scheme, name, port = split_name(asked, "pod")
        pod = self.pod(namespace, name)
        if not port:
            ports = [item for one in pod["spec"].get("containers") or () for item in one.get("ports") or ()]
            port = str(ports[0]["containerPort"]) if ports else str(_WEB_PORTS[scheme])
        host = (pod.get("status") or {}).get("podIP") or ""
        if not _is_allowed(host):
            raise BadRequest("address not allowed")
        return Backend(f"pod {name}", scheme, host, _number(port, "pod", asked))

    def proxied_service(self, namespace: str, asked: str) -> Backend:
        """Whoever stands behind a service."""
        scheme, name, port = split_name(asked, "service")
        stored = self._store.get(Key("services", namespace, name))
        if stored is None:
            raise not_found("services", "", name)
        if port.isdecimal():
            named = [item for item in stored.to_dict()["spec"].get("ports") or () if item["port"] == int(port)]
            if not named:
                raise ServiceUnavailable(f'no service port {port} found for service "{name}"')
            port = named[0].get("name") or ""
        for host, number in self._endpoints(namespace, name, port):
            if _is_allowed(host):
                return Backend(f"service {name}", scheme, host, number)
        raise ServiceUnavailable(f'no endpoints available for service "{asked}"')

    def _endpoints(self, namespace: str, name: str, port: str) -> Iterator[tuple[str, int]]:
        stored = self._store.get(Key("endpoints", namespace, name))
        for subset in (stored.to_dict().get("subsets") or ()) if stored is not None else ():
            for item in subset.get("ports") or ():
                if (item.get("name") or "") == port:
                    yield from ((address["ip"], item["port"]) for address in subset.get("addresses") or ())


def split_name(asked: str, what: str) -> tuple[str, str, str]:
    """Scheme, name and port; raises BadRequest."""
    parts = asked.split(":")
    scheme = parts.pop(0) if len(parts) == 3 else ""
    name, port = [*parts, ""][:2]
    if len(parts) > 2 or not name or scheme not in ("", *_WEB_PORTS):
        raise BadRequest(f'invalid {what} request "{asked}"')
    return scheme or "http", name, port


def _number(port: str, what: str, asked: str) -> int:
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise BadRequest(f'invalid {what} request "{asked}"')
    return int(port)


def _is_allowed(host: str) -> bool:
    """Nothing of this machine itself is reached through a pod's or service's name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)
