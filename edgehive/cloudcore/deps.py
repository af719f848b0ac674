"""`CloudDeps`: what every cloud module is given, and nothing else. Built once by `cloudcore.app`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudCore
from edgehive.beehive.bus import Bus
from edgehive.cloudcore.replicas.presence import Presence
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock
from edgehive.kube.client import Client
from edgehive.kube.informer import Informers
from edgehive.wire.acceptor import Acceptor

#: Label that makes a node an edge node; the value is exactly empty.
EDGE_NODE_SELECTOR = "node-role.kubernetes.io/edge="


@dataclass(frozen=True, slots=True)
class CloudDeps:
    """`acceptors` None: cloudhub opens its own ports. `address` is what this cloudcore writes on its nodes."""

    config: CloudCore
    bus: Bus
    client: Client
    informers: Informers
    clock: Clock
    registry: CollectorRegistry
    acceptors: Sequence[Acceptor] | None = None
    address: str = ""
    #: The API server's CA as PEM text, for edges that ask for it; "" when the kubeconfig gives none.
    api_ca: str = ""
    #: Where the configuration came from, for what follows its changes; None when it was made in memory.
    config_file: Path | None = None
    #: What this cloudcore is among those of its cluster; alone where nothing else is said.
    standing: Standing = field(default_factory=Standing)
    #: The register of the others; None when there can be none.
    presence: Presence | None = None
