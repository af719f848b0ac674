"""Addresses and node ports of Services: given on creation, kept on updates.

Go: pkg/registry/core/service/storage/alloc.go
"""

import ipaddress
from typing import Any

from edgehive.api.meta import StatusCause
from edgehive.kube.errors import ApiError, ServerError, invalid
from edgehive.kube.server.options import Call
from edgehive.kube.store import Store

Json = dict[str, Any]

_NODE_PORTS = range(30000, 32768)
_WITH_NODE_PORTS = ("NodePort", "LoadBalancer")


class ServiceAddresses:
    """An admission step. The next free number is given, so that two requests at once never get the same."""

    def __init__(self, store: Store, cidr: str) -> None:
        self._store = store
        self._network = ipaddress.ip_network(cidr)
        self._offset = 9
        self._port = -1

    def admit(self, call: Call, obj: Json, old: Json | None) -> None:
        if call.served.storage != "services" or call.subresource:
            return
        spec = obj["spec"]
        if old is not None:
            _keep_allocated(spec, old["spec"])
        if spec.get("type") == "ExternalName":
            return
        spec["clusterIP"] = spec.get("clusterIP") or self._next_address()
        self._check(obj)
        spec["clusterIPs"] = [spec["clusterIP"]]
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        if spec.get("type") in _WITH_NODE_PORTS:
            for port in spec.get("ports") or ():
                port["nodePort"] = port.get("nodePort") or self._next_port()

    def _next_address(self) -> str:
        used = {spec.get("clusterIP") for spec in self._specs()}
        for _ in range(self._network.num_addresses):
            self._offset = (self._offset + 1) % (self._network.num_addresses - 1)
            address = str(self._network[max(self._offset, 1)])
            if address not in used:
                return address
        raise ServerError(f"no Service address is free in {self._network}")

    def _next_port(self) -> int:
        used = {port.get("nodePort") for spec in self._specs() for port in spec.get("ports") or ()}
        for _ in _NODE_PORTS:
            self._port = (self._port + 1) % len(_NODE_PORTS)
            if _NODE_PORTS[self._port] not in used:
                return _NODE_PORTS[self._port]
        raise ServerError("no node port is free in 30000-32767")

    def _specs(self) -> list[Json]:
        return [item.to_dict().get("spec") or {} for item in self._store.items("services")]

    def _check(self, obj: Json) -> None:
        """An address the caller chose must be one, and nobody else's; raises Invalid."""
        address, metadata = obj["spec"]["clusterIP"], obj["metadata"]
        if address == "None":
            return
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise _refused(metadata, address, "must be a valid IP address") from error
        for item in self._store.items("services"):
            if (item.key.namespace, item.key.name) == (metadata.get("namespace"), metadata.get("name")):
                continue
            if (item.to_dict().get("spec") or {}).get("clusterIP") == address:
                raise _refused(metadata, address, "failed to allocate IP: provided IP is already allocated")


def _keep_allocated(spec: Json, before: Json) -> None:
    """A PUT without addresses keeps those the Service has."""
    if spec.get("type") != "ExternalName" and before.get("type") != "ExternalName" and not spec.get("clusterIP"):
        spec["clusterIP"] = before.get("clusterIP")
    if spec.get("type") in _WITH_NODE_PORTS and before.get("type") in _WITH_NODE_PORTS:
        known = {(p.get("port"), p.get("protocol")): p.get("nodePort") for p in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            port["nodePort"] = port.get("nodePort") or known.get((port.get("port"), port.get("protocol")))


def _refused(metadata: Json, address: str, why: str) -> ApiError:
    text = f'Invalid value: "{address}": {why}'
    return invalid("Service", "", metadata.get("name", ""), [StatusCause("FieldValueInvalid", text, "spec.clusterIPs")])
