"""Configuration of an edge site: a whole cluster on one machine. Kept as `DATA/edgesite.yaml` between starts.

`edgesite up` writes what its options said, later starts read it, so that `up`, `status` and `down` without
options mean the same site. There is no counterpart in the Go project.
"""

import ipaddress
import re
from typing import Annotated

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")

#: The longest prefix of a subnet that still has addresses to give.
SMALLEST_SUBNET = 29


class EdgeSite(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Where the API server listens, what the node is called, which containerd runs its pods."""

    api_version: str = "edgesite.config.edgehive.io/v1alpha1"
    kind: str = "EdgeSite"
    #: The node's name.
    node_name: str = "edge"
    #: Whether this machine is a node too; without, the site is a control plane for nodes elsewhere.
    node: bool = True
    #: The API server's port; it listens on all addresses, TLS only.
    port: Port = 6443
    #: Socket of a containerd that is already there; "" runs a private one.
    containerd: str = ""
    #: Bridge and addresses of the pods of the private containerd.
    bridge: Annotated[str, msgspec.Meta(min_length=1, max_length=15)] = "edgehive0"
    pod_subnet: str = "10.89.0.0/24"
    #: Addresses of Services.
    service_subnet: str = "10.96.0.0/16"
    #: The node's own log and status door (the kubelet API), on 127.0.0.1.
    kubelet_port: Port = 10350
    #: Mappers that run beside the node, by protocol: a driver's file, or the name of one that is installed.
    mappers: dict[str, str] = {}

    def __post_init__(self) -> None:
        if not _NODE_NAME.fullmatch(self.node_name):
            raise ValueError(
                f"nodeName is {self.node_name!r}; write lower case letters, digits, '-' and '.', such as edge-1"
            )
        for key, value in (("podSubnet", self.pod_subnet), ("serviceSubnet", self.service_subnet)):
            _check_subnet(key, value)


def _check_subnet(key: str, value: str) -> None:
    """Raise ValueError for what is no IPv4 network with room for a gateway and some addresses."""
    try:
        large_enough = ipaddress.IPv4Network(value).prefixlen <= SMALLEST_SUBNET
    except ValueError:
        large_enough = False
    if not large_enough:
        raise ValueError(
            f"{key} is {value!r}; write an IPv4 network of at least /{SMALLEST_SUBNET} without host bits, "
            "such as 10.89.0.0/24"
        )
