"""Where the API server reaches a node's kubelet: at cloudcore's stream port, for a node that advertises it.

An annotation on the Node says so. cloudstream writes it with the status that belongs to it; edgecontroller keeps both
while the node goes on reporting its own addresses and port, and tells the node only of these. Pure.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from edgehive.api.document import Document

ANNOTATION = "edgehive.io/kubelet-endpoint"

Json = dict[str, Any]
Addresses = list[dict[str, Any]]


class Endpoint(msgspec.Struct, frozen=True, rename="camel"):
    """`addresses` stand before the node's own; `own_port` is what the node says its kubelet's port is."""

    addresses: list[dict[str, str]]
    port: int
    own_port: int = 0

    @property
    def annotation(self) -> str:
        return msgspec.json.encode(self).decode()


def endpoint_of(node: Document | None) -> Endpoint | None:
    """What the annotation says; None without one that can be read."""
    if node is None:
        return None
    text = (node.meta.annotations or {}).get(ANNOTATION)
    try:
        return msgspec.json.decode(text, type=Endpoint) if text else None
    except msgspec.DecodeError:
        return None


def advertised(endpoint: Endpoint, status: Mapping[str, Any]) -> Json:
    """The part of a node's status that makes the API server come to the endpoint."""
    return {
        "addresses": [*endpoint.addresses, *own_addresses(endpoint, status.get("addresses"))],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": endpoint.port}},
    }


def withdrawn(endpoint: Endpoint, status: Mapping[str, Any]) -> Json:
    """The part of a node's status as the node itself reports it."""
    return {
        "addresses": own_addresses(endpoint, status.get("addresses")),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": endpoint.own_port or kubelet_port(status)}},
    }


def own_addresses(endpoint: Endpoint, addresses: Any) -> Addresses:
    """Those of the node itself."""
    listed = addresses if isinstance(addresses, list) else []
    return [item for item in listed if isinstance(item, dict) and "type" in item and item not in endpoint.addresses]


def kubelet_port(status: Mapping[str, Any]) -> int:
    """The kubelet's port in a status, 0 for none."""
    daemons = status.get("daemonEndpoints")
    kubelet = daemons.get("kubeletEndpoint") if isinstance(daemons, dict) else None
    port = kubelet.get("Port") if isinstance(kubelet, dict) else None
    return port if isinstance(port, int) else 0


def kept_in(patch: bytes, endpoint: Endpoint | None) -> bytes:
    """A node's strategic-merge patch of its status, which leaves the endpoint where it is."""
    if endpoint is None:
        return patch
    decoded = msgspec.json.decode(patch)
    status = decoded.get("status") if isinstance(decoded, dict) else None
    if not isinstance(status, dict):
        return patch
    if "addresses" in status:
        status.pop("$setElementOrder/addresses", None)
        # Addresses are merged by type, and there are two of a type here: all of them, or none.
        own = own_addresses(endpoint, status["addresses"])
        status["addresses"] = [{"$patch": "replace"}, *endpoint.addresses, *own]
    if "daemonEndpoints" in status:
        status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": endpoint.port}}
    return msgspec.json.encode(decoded)


def as_reported(node: Document) -> Document:
    """The Node as the node itself knows it: it would correct anything else again and again."""
    endpoint = endpoint_of(node)
    if endpoint is None:
        return node
    whole = node.to_dict()
    status = whole.get("status")
    if isinstance(status, dict):
        whole["status"] = status | withdrawn(endpoint, status)
    return Document.of(whole)
