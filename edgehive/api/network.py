"""Services: lenses over what the controllers read.

Data only. Go: k8s.io/api/core/v1/types.go
"""

import msgspec

from edgehive.api.core import IntOrString, Lens
from edgehive.api.meta import ObjectMeta


class ServicePort(Lens, frozen=True):
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str | None = None
    port: int = 0
    target_port: IntOrString | None = None
    node_port: int = 0


class ServiceSpec(Lens, frozen=True):
    ports: list[ServicePort] | None = None
    selector: dict[str, str] | None = None
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")
    type: str = "ClusterIP"
    external_ips: list[str] | None = msgspec.field(default=None, name="externalIPs")
    external_name: str = ""
    session_affinity: str = ""
    publish_not_ready_addresses: bool = False
    ip_families: list[str] | None = None
    ip_family_policy: str | None = None


class Service(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    spec: ServiceSpec = ServiceSpec()
