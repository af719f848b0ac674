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
from edgehive.kube.errors import Invalid, ServerError, invalid
from edgehive.kube.server.options import Call
from edgehive.kube.store import Store

NODE_PORTS = range(30000, 32768)
WITH_NODE_PORTS = ("NodePort", "LoadBalancer")
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
            _carry_over(old["spec"], spec)
        if spec.get("type") == "ExternalName":
            return
        others = self._others(obj)
        if not spec.get("clusterIP"):
            spec["clusterIP"] = self._free_address(others)
            spec["clusterIPs"] = [spec["clusterIP"]]
        elif spec["clusterIP"] != "None" and (old is None or old["spec"].get("clusterIP") != spec["clusterIP"]):
            self._check(obj, others)
        for field, value in (("clusterIPs", [spec["clusterIP"]]), ("ipFamilies", ["IPv4"])):
            spec.setdefault(field, value)
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")
        if spec.get("type") in WITH_NODE_PORTS:
            _node_ports(obj, others)

    def _others(self, obj: dict[str, Any]) -> list[Service]:
        """Every Service but the one that is written: that one again is the store's to refuse."""
        own = obj["metadata"].get("namespace"), obj["metadata"].get("name")
        stored = (msgspec.json.decode(item.raw, type=Service) for item in self._store.items("services"))
        return [item for item in stored if (item.metadata.namespace, item.metadata.name) != own]

    def _check(self, obj: dict[str, Any], others: list[Service]) -> None:
        address = obj["spec"]["clusterIP"]
        if ipaddress.ip_address(address) not in self._subnet:
            why = f"the provided IP ({address}) is not in the valid range. The range of valid IPs is {self._subnet}"
        elif any(item.spec.cluster_ip == address for item in others):
            why = "provided IP is already allocated"
        else:
            return
        raise _refused(obj, "spec.clusterIPs", f'"{address}"', f"failed to allocate IP {address}: {why}")

    def _free_address(self, others: list[Service]) -> str:
        taken = {item.spec.cluster_ip for item in others}
        for _ in range(ATTEMPTS):
            # Neither the network's own address, nor the first (the API server's), nor the broadcast address.
            number = random.randrange(2, self._subnet.num_addresses - 1)  # noqa: S311
            address = str(self._subnet[number])
            if address not in taken:
                return address
        raise ServerError(f"no address is left in {self._subnet} for another Service")


def _carry_over(old: dict[str, Any], new: dict[str, Any]) -> None:
    """A client that sends the whole object without what was given means to keep it; another type has no use for it."""
    if new.get("type") == "ExternalName":
        if new.get("clusterIP") in (None, "", old.get("clusterIP")):
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                new.pop(field, None)
    else:
        for field in ("clusterIP", "clusterIPs"):
            if not new.get(field) and old.get(field):
                new[field] = old[field]
    if old.get("type") not in WITH_NODE_PORTS:
        return
    given = {port.get("name"): port.get("nodePort") for port in old.get("ports") or ()}
    for port in new.get("ports") or ():
        if new.get("type") in WITH_NODE_PORTS:
            if not port.get("nodePort") and given.get(port.get("name")):
                port["nodePort"] = given[port.get("name")]
        elif port.get("nodePort") in given.values():
            port.pop("nodePort", None)


def _node_ports(obj: dict[str, Any], others: list[Service]) -> None:
    """Check the node ports that were asked for, then give one to each port without."""
    elsewhere = {port.node_port for item in others for port in item.spec.ports or () if port.node_port}
    ports = obj["spec"].get("ports") or ()
    for index, port in enumerate(ports):
        number = port.get("nodePort")
        if number and number not in NODE_PORTS:
            valid = f"{NODE_PORTS[0]}-{NODE_PORTS[-1]}"
            why = f"provided port is not in the valid range. The range of valid ports is {valid}"
        elif number in elsewhere:
            why = "provided port is already allocated"
        else:
            continue
        raise _refused(obj, f"spec.ports[{index}].nodePort", str(number), why)
    taken = elsewhere | {port.get("nodePort") for port in ports}
    for port in ports:
        if not port.get("nodePort"):
            free = [number for number in NODE_PORTS if number not in taken]
            if not free:
                raise ServerError("no node port is left for another Service")
            port["nodePort"] = random.choice(free)  # noqa: S311
            taken.add(port["nodePort"])


def _refused(obj: dict[str, Any], field: str, value: str, why: str) -> Invalid:
    cause = StatusCause("FieldValueInvalid", f"Invalid value: {value}: {why}", field)
    return invalid("Service", "", str(obj["metadata"].get("name", "")), [cause])
