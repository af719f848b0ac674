"""Gives every new Service its cluster IP (and node ports), and keeps them unique.

An admission step of the site's API server: what exists is read from the store, so nothing has to be remembered.

Go: pkg/registry/core/service/{ipallocator,portallocator}
"""

import ipaddress
import random
from typing import Any

import msgspec

from edgehive.api.meta import StatusCause
from edgehive.api.network import Service
from edgehive.kube.errors import ServerError, invalid
from edgehive.kube.server.options import Call
from edgehive.kube.store import Store

NODE_PORTS = range(30000, 32768)
ATTEMPTS = 1000


class ServiceAddresses:
    """`subnet` is the Services' own; its first address belongs to the API server."""

    def __init__(self, store: Store, subnet: str) -> None:
        self._store = store
        self._subnet = ipaddress.IPv4Network(subnet)

    def admit(self, call: Call, obj: dict[str, Any], old: dict[str, Any] | None) -> None:
        if call.served.storage != "services" or call.subresource:
            return
        spec = obj["spec"]
        if old is not None:
            # A client that sends the whole object without them means to keep them.
            for field in ("clusterIP", "clusterIPs"):
                if not spec.get(field) and old["spec"].get(field):
                    spec[field] = old["spec"][field]
        if spec.get("type") == "ExternalName":
            return
        if not spec.get("clusterIP"):
            spec["clusterIP"] = self._free_address()
            spec["clusterIPs"] = [spec["clusterIP"]]
        elif old is None and spec["clusterIP"] != "None":
            self._check(obj, spec["clusterIP"])
        for field, value in (("clusterIPs", [spec["clusterIP"]]), ("ipFamilies", ["IPv4"])):
            spec.setdefault(field, value)
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec.get("type") in ("NodePort", "LoadBalancer"):
            self._node_ports(spec)

    def _services(self) -> list[Service]:
        return [msgspec.json.decode(item.raw, type=Service) for item in self._store.items("services")]

    def _check(self, obj: dict[str, Any], address: str) -> None:
        holder = next((item.metadata for item in self._services() if item.spec.cluster_ip == address), None)
        metadata = obj["metadata"]
        if holder is None or (holder.namespace, holder.name) == (metadata.get("namespace"), metadata.get("name")):
            # The same Service again is the store's to refuse.
            return
        message = f'Invalid value: "{address}": failed to allocate IP {address}: provided IP is already allocated'
        cause = StatusCause("FieldValueInvalid", message, "spec.clusterIPs")
        raise invalid("Service", "", str(obj["metadata"].get("name", "")), [cause])

    def _free_address(self) -> str:
        taken = {item.spec.cluster_ip for item in self._services()}
        for _ in range(ATTEMPTS):
            # Neither the network's own address, nor the first (the API server's), nor the broadcast address.
            number = random.randrange(2, self._subnet.num_addresses - 1)  # noqa: S311
            address = str(self._subnet[number])
            if address not in taken:
                return address
        raise ServerError(f"no address is left in {self._subnet} for another Service")

    def _node_ports(self, spec: dict[str, Any]) -> None:
        taken = {port.node_port for item in self._services() for port in item.spec.ports or () if port.node_port}
        for port in spec.get("ports") or ():
            if not port.get("nodePort"):
                free = [number for number in NODE_PORTS if number not in taken]
                if not free:
                    raise ServerError("no node port is left for another Service")
                port["nodePort"] = random.choice(free)  # noqa: S311
            taken.add(port["nodePort"])
