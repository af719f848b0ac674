"""ComponentConfig of cloudcore: `/etc/kubeedge/config/cloudcore.yaml`, keys as the Go project writes them.

Read once by `cloudcore.app` (through `kit.config`) and built in memory by edgesite; modules get their section
in the constructor. Defaults are Go's, with one exception: `authorization` is enforced unless the file says
otherwise. An empty `advertiseAddress` means this machine's addresses, filled in by `cloudcore.app`.

Go: staging/src/github.com/kubeedge/api/apis/componentconfig/cloudcore/v1alpha1/types.go
"""

from typing import Annotated, Literal

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[int, msgspec.Meta(ge=0)]


class _Section(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What all sections share: camelCase keys, frozen."""


class MonitorServer(_Section, frozen=True):
    """Where `/healthz`, `/readyz` and `/metrics` are served."""

    bind_address: str = "127.0.0.1:9091"
    enable_profiling: bool = False

    def __post_init__(self) -> None:
        host, _, port = self.bind_address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(
                "commonConfig.monitorServer.bindAddress is to be <address>:<port>, such as 127.0.0.1:9091, "
                f"not {self.bind_address!r}"
            )

    @property
    def listen(self) -> tuple[str, int]:
        host, _, port = self.bind_address.rpartition(":")
        return host.strip("[]"), int(port)


class Replica(_Section, frozen=True):
    """This cloudcore among several on one API. Ours alone."""

    #: What it is called among them; "" is this machine's host name with the hub's port.
    name: str = ""
    #: Where the others bring it streams for its nodes; "" is this machine's address, 0 any free port.
    address: str = ""
    port: Port = 0


class CommonConfig(_Section, frozen=True):
    #: Node port of the log and exec tunnel; overridden by negotiation.
    tunnel_port: Port = 10350
    monitor_server: MonitorServer = msgspec.field(default_factory=MonitorServer)
    #: Processes that share the ports and the nodes; more than one for more than one core. Ours from here on.
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    replica: Replica = msgspec.field(default_factory=Replica)


class KubeAPIConfig(_Section, frozen=True):
    """How to reach the Kubernetes API: a kubeconfig, a plain URL, or neither inside a cluster."""

    master: str = ""
    #: Kept for compatibility: bodies are JSON.
    content_type: str = "application/vnd.kubernetes.protobuf"
    qps: Positive = 2500
    burst: Positive = 5000
    kube_config: str = ""


class FeatureGates(_Section, frozen=True):
    require_authorization: bool = False
    module_restart: bool = False
    disable_node_task_v1alpha2: bool = msgspec.field(default=False, name="disableNodeTaskV1alpha2")


class Quic(_Section, frozen=True):
    enable: bool = False
    address: str = "0.0.0.0"  # noqa: S104
    port: Port = 10001
    max_incoming_streams: Positive = 10000


class UnixSocket(_Section, frozen=True):
    enable: bool = True
    address: str = "unix:///var/lib/kubeedge/kubeedge.sock"


class WebSocket(_Section, frozen=True):
    """The hub's door for connected nodes."""

    enable: bool = True
    port: Port = 10000
    address: str = "0.0.0.0"  # noqa: S104


class Https(_Section, frozen=True):
    """The door for joining nodes: CA and certificates."""

    enable: bool = True
    port: Port = 10002
    address: str = "0.0.0.0"  # noqa: S104


class NodeMode(_Section, frozen=True):
    enable: bool = True


class AuthorizationMode(_Section, frozen=True):
    node: NodeMode = msgspec.field(default_factory=NodeMode)


class Authorization(_Section, frozen=True):
    """What a node may say for itself. Not enabled, or with `debug`, violations are logged and allowed."""

    enable: bool = True
    debug: bool = False
    modes: list[AuthorizationMode] = msgspec.field(default_factory=lambda: [AuthorizationMode()])

    @property
    def enforced(self) -> bool:
        return self.enable and not self.debug


class CloudHub(_Section, frozen=True):
    enable: bool = True
    #: Seconds without a keepalive after which a session ends.
    keepalive_interval: Positive = 30
    #: Sessions at most; a further node is refused.
    node_limit: Positive = 500
    #: Messages a second of one node beyond which it is read more slowly. A node whose devices report more often wants
    #: more, besides its own modules.edgeHub.messageQPS. Ours alone.
    node_message_qps: Positive = msgspec.field(default=100, name="nodeMessageQPS")
    tls_ca_file: str = msgspec.field(default="/etc/kubeedge/ca/rootCA.crt", name="tlsCAFile")
    tls_ca_key_file: str = msgspec.field(default="/etc/kubeedge/ca/rootCA.key", name="tlsCAKeyFile")
    tls_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_private_key_file: str = "/etc/kubeedge/certs/server.key"
    write_timeout: Positive = 30
    #: Addresses edges dial; they stand in the server certificate.
    advertise_address: list[str] = msgspec.field(default_factory=list)
    dns_names: list[str] = msgspec.field(default_factory=lambda: [""])
    #: Days an edge's certificate is good for.
    edge_cert_signing_duration: Positive = 365
    #: Days after its certificate expired in which a node may still have a new one by proving that it holds the old
    #: key; 0 demands a new token. A node that was deleted from the cluster always needs a token. Ours alone.
    expired_certificate_grace_period: NotNegative = 30
    #: Hours between two join tokens; each is good for twice that.
    token_refresh_duration: Positive = 12
    quic: Quic = msgspec.field(default_factory=Quic)
    unixsocket: UnixSocket = msgspec.field(default_factory=UnixSocket)
    websocket: WebSocket = msgspec.field(default_factory=WebSocket)
    https: Https = msgspec.field(default_factory=Https)
    authorization: Authorization = msgspec.field(default_factory=Authorization)

    def __post_init__(self) -> None:
        if self.quic.enable:
            raise ValueError("modules.cloudHub.quic: QUIC is not served; set quic.enable to false and use websocket")


class EdgeControllerBuffer(_Section, frozen=True):
    """Go's queue lengths; kept so that its files load. One mailbox serves all kinds here."""

    process_event: NotNegative = 1024
    update_pod_status: NotNegative = 1024
    update_node_status: NotNegative = 1024
    query_config_map: NotNegative = 1024
    query_secret: NotNegative = 1024
    pod_event: NotNegative = 1
    config_map_event: NotNegative = 1
    secret_event: NotNegative = 1
    rules_event: NotNegative = 1
    rule_endpoints_event: NotNegative = 1
    query_persistent_volume: NotNegative = 1024
    query_persistent_volume_claim: NotNegative = 1024
    query_volume_attachment: NotNegative = 1024
    create_node: NotNegative = 1024
    patch_node: NotNegative = 1274
    query_node: NotNegative = 1524
    update_node: NotNegative = 1024
    patch_pod: NotNegative = 1024
    delete_pod: NotNegative = 1024
    create_lease: NotNegative = 1524
    query_lease: NotNegative = 1024
    service_account_token: NotNegative = 1024
    create_pod: NotNegative = 1024
    certificate_signing_request: NotNegative = 1024


class EdgeControllerLoad(_Section, frozen=True):
    """Go's workers by kind; kept so that its files load. Requests run as many at a time as the sum allows."""

    process_event_workers: Positive = 4
    update_pod_status_workers: Positive = 1
    update_node_status_workers: Positive = 1
    query_config_map_workers: Positive = 100
    query_secret_workers: Positive = 100
    query_persistent_volume_workers: Positive = 4
    query_persistent_volume_claim_workers: Positive = 4
    query_volume_attachment_workers: Positive = 4
    create_node_workers: Positive = 100
    patch_node_workers: Positive = 110
    query_node_workers: Positive = 500
    update_node_workers: Positive = 4
    patch_pod_workers: Positive = 100
    delete_pod_workers: Positive = 100
    create_lease_workers: Positive = 500
    query_lease_workers: Positive = 100
    update_rule_status_workers: Positive = msgspec.field(default=4, name="UpdateRuleStatusWorkers")
    service_account_token_workers: Positive = msgspec.field(default=100, name="ServiceAccountTokenWorkers")
    create_pod_works: Positive = msgspec.field(default=4, name="CreatePodWorks")
    certificate_signing_request_workers: Positive = 4


class EdgeController(_Section, frozen=True):
    enable: bool = True
    node_update_frequency: Positive = 10
    buffer: EdgeControllerBuffer = msgspec.field(default_factory=EdgeControllerBuffer)
    load: EdgeControllerLoad = msgspec.field(default_factory=EdgeControllerLoad)


class DeviceControllerBuffer(_Section, frozen=True):
    update_device_twins: NotNegative = 1024
    update_device_status: NotNegative = 1024
    device_event: NotNegative = 1
    device_model_event: NotNegative = 1
    device_status_event: NotNegative = 0


class DeviceControllerLoad(_Section, frozen=True):
    update_device_status_workers: Positive = 1


class DeviceController(_Section, frozen=True):
    enable: bool = True
    buffer: DeviceControllerBuffer = msgspec.field(default_factory=DeviceControllerBuffer)
    load: DeviceControllerLoad = msgspec.field(default_factory=DeviceControllerLoad)


class TaskManagerBuffer(_Section, frozen=True):
    task_status: NotNegative = 1024
    task_event: NotNegative = 1


class TaskManagerLoad(_Section, frozen=True):
    task_workers: Positive = 1


class TaskManager(_Section, frozen=True):
    enable: bool = False
    buffer: TaskManagerBuffer = msgspec.field(default_factory=TaskManagerBuffer)
    load: TaskManagerLoad = msgspec.field(default_factory=TaskManagerLoad)


class SyncController(_Section, frozen=True):
    enable: bool = True


class DynamicController(_Section, frozen=True):
    enable: bool = False


class MetricsApi(_Section, frozen=True):
    """metrics.k8s.io, which `kubectl top` asks: served by cloudcore where the cluster has nobody else for it."""

    enable: bool = True


class CloudStream(_Section, frozen=True):
    """Tunnel for logs, exec, attach, port-forward and metrics. On unless the file says otherwise (Go: off)."""

    enable: bool = True
    tls_tunnel_ca_file: str = msgspec.field(default="/etc/kubeedge/ca/rootCA.crt", name="tlsTunnelCAFile")
    tls_tunnel_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_tunnel_private_key_file: str = "/etc/kubeedge/certs/server.key"
    tunnel_port: Port = 10004
    tls_stream_ca_file: str = msgspec.field(default="/etc/kubeedge/ca/streamCA.crt", name="tlsStreamCAFile")
    tls_stream_cert_file: str = "/etc/kubeedge/certs/stream.crt"
    tls_stream_private_key_file: str = "/etc/kubeedge/certs/stream.key"
    stream_port: Port = 10003
    #: Ours from here on. Where both ports listen.
    address: str = "0.0.0.0"  # noqa: S104
    #: How the API server comes to the stream port: the Node says where, or iptables on its machine lead there.
    kubelet_endpoint: Literal["advertise", "iptables"] = "advertise"
    #: This cloudcore's address as the API server dials it; "" takes the first of cloudHub.advertiseAddress.
    advertise_address: str = ""
    #: The address types under which a Node shows it; kube-apiserver takes the type it prefers.
    advertise_as: list[Literal["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"]] = msgspec.field(
        default_factory=lambda: ["InternalIP", "Hostname"]
    )
    #: Whether the API server must show who it is at the stream port; "audit" logs and serves.
    authentication: Literal["required", "audit"] = "required"
    metrics_api: MetricsApi = msgspec.field(default_factory=MetricsApi, name="metricsAPI")


class Router(_Section, frozen=True):
    enable: bool = False
    address: str = "0.0.0.0"  # noqa: S104
    port: Port = 9443
    rest_timeout: Positive = 60


class IptablesManager(_Section, frozen=True):
    """Rules for API servers on this machine, where cloudStream.kubeletEndpoint is iptables.

    "external": another program writes them.
    """

    enable: bool = True
    mode: Literal["internal", "external"] = "internal"


class Modules(_Section, frozen=True):
    cloud_hub: CloudHub = msgspec.field(default_factory=CloudHub)
    edge_controller: EdgeController = msgspec.field(default_factory=EdgeController)
    device_controller: DeviceController = msgspec.field(default_factory=DeviceController)
    task_manager: TaskManager = msgspec.field(default_factory=TaskManager)
    sync_controller: SyncController = msgspec.field(default_factory=SyncController)
    dynamic_controller: DynamicController = msgspec.field(default_factory=DynamicController)
    cloud_stream: CloudStream = msgspec.field(default_factory=CloudStream)
    router: Router = msgspec.field(default_factory=Router)
    iptables_manager: IptablesManager = msgspec.field(default_factory=IptablesManager)


class CloudCore(_Section, frozen=True):
    """The whole file."""

    api_version: Literal["cloudcore.config.kubeedge.io/v1alpha1", "cloudcore.config.kubeedge.io/v1alpha2"] = (
        "cloudcore.config.kubeedge.io/v1alpha1"
    )
    kind: Literal["CloudCore"] = "CloudCore"
    common_config: CommonConfig = msgspec.field(default_factory=CommonConfig)
    kube_api_config: KubeAPIConfig = msgspec.field(default_factory=KubeAPIConfig, name="kubeAPIConfig")
    feature_gates: FeatureGates = msgspec.field(default_factory=FeatureGates)
    modules: Modules = msgspec.field(default_factory=Modules)
