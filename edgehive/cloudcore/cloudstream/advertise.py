"""Writes on a Node where the API server reaches its kubelet: cloudcore's address and one port, for ever.

Kept true while the node's tunnel stands here; it stays when the tunnel goes, because the answer "no tunnel" is better
than a wait for an address nobody can reach. In iptables mode only the port is written, as Go does.

Go: cloud/pkg/cloudstream/tunnelserver.go (updateNodeKubeletEndpoint)
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from edgehive.api.document import Document
from edgehive.api.registry import NODES
from edgehive.cloudcore import endpoints
from edgehive.cloudcore.endpoints import Endpoint
from edgehive.kit.backoff import Backoff
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError

log = logging.getLogger("edgehive.cloudstream")

RETRY = Backoff(first=1.0, factor=2.0, limit=20.0, jitter=0.2)


@dataclass(frozen=True, slots=True)
class Advertiser:
    """`addresses` None: iptables lead the API server here, and the Node keeps its own."""

    client: Client
    port: int
    addresses: Sequence[dict[str, str]] | None

    async def hold(self, node: str) -> None:
        """Try until it stands; a node may connect before it is registered."""
        for delay in RETRY.delays():
            try:
                await self.write(await self.client.get(NODES, node))
            except ApiError as error:
                log.info("the kubelet endpoint of node %s is not written yet: %s", node, error)
                await asyncio.sleep(delay)
            else:
                return

    async def write(self, node: Document) -> None:
        """Make one Node say it, if it does not. Raises ApiError."""
        status = node.to_dict().get("status") or {}
        present = endpoints.endpoint_of(node)
        if present is not None:
            own = endpoints.own_addresses(present, status.get("addresses"))
        else:
            own = status.get("addresses") or []
        wanted = self._wanted(present, endpoints.kubelet_port(status))
        changes = endpoints.advertised(wanted, {"addresses": own})
        node = await self._annotate(node, wanted)
        if any(status.get(key) != value for key, value in changes.items()):
            patch = {"metadata": {"resourceVersion": node.meta.resource_version}, "status": changes}
            await self.client.patch(NODES, node.meta.name, patch, type=PatchType.MERGE, subresource="status")
            log.info("the API server reaches node %s at port %d of this cloudcore", node.meta.name, self.port)

    def leads_here(self, node: Document) -> bool:
        """Whether the API server comes to this cloudcore for the node."""
        endpoint = endpoints.endpoint_of(node)
        return endpoint is not None and (endpoint.addresses, endpoint.port) == (list(self.addresses or ()), self.port)

    async def _annotate(self, node: Document, wanted: Endpoint) -> Document:
        """Before the status: the node's own port is known nowhere else."""
        text = wanted.annotation if self.addresses is not None else None
        if (node.meta.annotations or {}).get(endpoints.ANNOTATION) == text:
            return node
        patch = {"metadata": {"annotations": {endpoints.ANNOTATION: text}}}
        return await self.client.patch(NODES, node.meta.name, patch, type=PatchType.MERGE)

    def _wanted(self, present: Endpoint | None, port: int) -> Endpoint:
        own = present.own_port if present is not None and port == present.port else port
        return Endpoint(list(self.addresses or ()), self.port, own)


async def addresses_of(address: str, types: Sequence[str]) -> list[dict[str, str]]:
    """One entry of each type; a name stands where a name may, its IP address elsewhere."""
    resolved = await numeric(address)
    return [{"type": type, "address": resolved if type.endswith("IP") else address} for type in types]


async def numeric(address: str) -> str:
    """The IP address of a name; what cannot be resolved stays what it is."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return await _resolve(address)
    return address


async def _resolve(name: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("the address %s to advertise cannot be resolved: %s", name, error)
        return name
    return str(found[0][4][0])
