"""What every cluster has from its first moment: the system namespaces, the `kubernetes` Service, kinds of its own.

Written on every start; what exists is left as it is.

Go: pkg/controlplane/controller/{systemnamespaces,kubernetesservice}
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from edgehive.api.registry import (
    CUSTOM_RESOURCE_DEFINITIONS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    NAMESPACES,
    SERVICES,
    ApiResource,
)
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists

NAMESPACES_AT_START = ("default", "kube-system", "kube-public", "kube-node-lease")


async def create_namespaces(client: Client) -> None:
    """The four namespaces Kubernetes itself makes."""
    for name in NAMESPACES_AT_START:
        await _ensure(client, NAMESPACES, {"metadata": {"name": name}})


async def create_definitions(client: Client, definitions: Sequence[Mapping[str, Any]]) -> None:
    """The kinds this cluster brings along; at once, so that one commit of the store holds them all."""
    async with asyncio.TaskGroup() as group:
        for definition in definitions:
            group.create_task(_ensure(client, CUSTOM_RESOURCE_DEFINITIONS, dict(definition)))


async def publish_service(client: Client, addresses: Sequence[str], port: int, cluster_ip: str) -> None:
    """The `kubernetes` Service and where it leads, for programs that look the API server up."""
    ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}]
    service = {
        "metadata": {"name": "kubernetes", "labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {"type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": ports},
    }
    await _ensure(client, SERVICES, service, "default")
    endpoint_ports = [{"name": "https", "port": port, "protocol": "TCP"}]
    subsets = [{"addresses": [{"ip": ip} for ip in addresses], "ports": endpoint_ports}]
    labels = {"endpointslice.kubernetes.io/skip-mirror": "true"}
    endpoints = {"metadata": {"name": "kubernetes", "labels": labels}, "subsets": subsets}
    await _ensure(client, ENDPOINTS, endpoints, "default", refresh=("subsets",))
    slice_ = {
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": list(addresses), "conditions": {"ready": True}}],
        "ports": endpoint_ports,
    }
    await _ensure(client, ENDPOINT_SLICES, slice_, "default", refresh=("endpoints", "ports"))


async def _ensure(
    client: Client, resource: ApiResource, body: dict[str, Any], namespace: str = "", refresh: tuple[str, ...] = ()
) -> None:
    """Create, or bring the named fields of what exists up to date."""
    try:
        await client.create(resource, body, namespace)
    except AlreadyExists:
        if refresh:
            patch = {field: body[field] for field in refresh}
            await client.patch(resource, body["metadata"]["name"], patch, namespace)
