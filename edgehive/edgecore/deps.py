"""`EdgeDeps`: everything the modules of one edgecore share, made once by `app.py` and passed to their constructors."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from edgehive.api.config.edgecore import EdgeCore
from edgehive.beehive.bus import Bus
from edgehive.kit.clock import Clock
from edgehive.kit.sqlite import Database
from edgehive.kube.client import Client
from edgehive.wire.link import Link

#: Makes a link to the cloud; raises LinkClosed or JoinRefused.
Dial = Callable[[], Awaitable[Link]]
#: Returns when the node has a new certificate.
Renewed = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class EdgeDeps:
    """What `run_edgecore` gives to `modules.factories`."""

    config: EdgeCore
    bus: Bus
    database: Database
    clock: Clock
    node_name: str
    dial: Dial
    client: Client
    registry: CollectorRegistry
    renewed: Renewed | None = None
