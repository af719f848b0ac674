"""ComponentConfig of edgecore: `/etc/kubeedge/config/edgecore.yaml`, keys and defaults as the Go project writes them.

Read once by `edgecore.app` (through `kit.config`) and by edgesite, which builds it in memory; modules get their
section in the constructor. An empty host name or address means "this machine's" and is filled in by
`edgecore.app`, which may look; data files may not.

Go: staging/src/github.com/kubeedge/api/apis/componentconfig/edgecore/v1alpha2/types.go
"""

from typing import Annotated, Any, Literal

import msgspec

from edgehive.api.config.broker_address import Address
from edgehive.api.config.durations import seconds

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class _Section(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """What all sections share: camelCase keys, frozen."""


class Database(_Section, frozen=True):
    driver_name: Literal["sqlite3"] = "sqlite3"
    alias_name: str = "default"
    #: The SQLite file; its folder is made when it is absent.
    data_source: str = "/var/lib/kubeedge/edgecore.db"


_DURATIONS = (
    "sync_frequency", "file_check_frequency", "streaming_connection_idle_timeout", "node_status_report_frequency",
    "node_status_update_frequency", "image_minimum_gc_age", "volume_stats_agg_period", "cpu_manager_reconcile_period",
    "runtime_request_timeout", "cpu_cfs_quota_period", "eviction_pressure_transition_period",
    "container_log_monitor_interval",
)  # fmt: skip


class TailoredKubeletConfig(_Section, frozen=True):
    """The part of KubeletConfiguration edged knows; durations are texts such as `10s`."""

    address: str = "127.0.0.1"
    read_only_port: Port = 10350
    static_pod_path: str = "/etc/kubeedge/manifests"
    sync_frequency: str = "1m0s"
    file_check_frequency: str = "20s"
    cluster_domain: str = "cluster.local"
    cluster_dns: list[str] = msgspec.field(default_factory=list, name="clusterDNS")
    registry_pull_qps: int = msgspec.field(default=5, name="registryPullQPS")
    registry_burst: int = 10
    event_record_qps: int = msgspec.field(default=50, name="eventRecordQPS")
    event_burst: int = 100
    enable_debugging_handlers: bool = True
    streaming_connection_idle_timeout: str = "4h0m0s"
    node_status_report_frequency: str = "5m0s"
    node_status_update_frequency: str = "10s"
    node_lease_duration_seconds: Positive = 40
    image_minimum_gc_age: str = msgspec.field(default="2m0s", name="imageMinimumGCAge")
    image_gc_high_threshold_percent: Percent = msgspec.field(default=85, name="imageGCHighThresholdPercent")
    image_gc_low_threshold_percent: Percent = msgspec.field(default=80, name="imageGCLowThresholdPercent")
    volume_stats_agg_period: str = "1m0s"
    cpu_manager_policy: str = "none"
    cpu_manager_reconcile_period: str = "10s"
    memory_manager_policy: str = "None"
    topology_manager_policy: str = "none"
    topology_manager_scope: str = "container"
    runtime_request_timeout: str = "2m0s"
    hairpin_mode: str = "promiscuous-bridge"
    max_pods: Positive = 110
    pod_pids_limit: int = -1
    cpu_cfs_quota: bool = msgspec.field(default=True, name="cpuCFSQuota")
    cpu_cfs_quota_period: str = msgspec.field(default="100ms", name="cpuCFSQuotaPeriod")
    #: Images listed in the node's status; 0 leaves them out, -1 lists all.
    node_status_max_images: int = 0
    max_open_files: Positive = 1_000_000
    content_type: str = "application/json"
    serialize_image_pulls: bool = True
    max_parallel_image_pulls: int | None = None
    eviction_hard: dict[str, str] = msgspec.field(
        default_factory=lambda: {
            "imagefs.available": "15%",
            "imagefs.inodesFree": "5%",
            "memory.available": "100Mi",
            "nodefs.available": "10%",
            "nodefs.inodesFree": "5%",
        }
    )
    eviction_soft: dict[str, str] = msgspec.field(default_factory=dict)
    eviction_soft_grace_period: dict[str, str] = msgspec.field(default_factory=dict)
    eviction_minimum_reclaim: dict[str, str] = msgspec.field(default_factory=dict)
    eviction_max_pod_grace_period: int = 0
    eviction_pressure_transition_period: str = "5m0s"
    enable_controller_attach_detach: bool = True
    make_iptables_util_chains: bool = msgspec.field(default=True, name="makeIPTablesUtilChains")
    iptables_masquerade_bit: int = msgspec.field(default=14, name="iptablesMasqueradeBit")
    iptables_drop_bit: int = msgspec.field(default=15, name="iptablesDropBit")
    fail_swap_on: bool = False
    container_log_max_size: str = "10Mi"
    container_log_max_files: Annotated[int, msgspec.Meta(ge=2)] = 5
    container_log_max_workers: Positive = 1
    container_log_monitor_interval: str = "10s"
    config_map_and_secret_change_detection_strategy: str = "Get"  # noqa: S105
    enforce_node_allocatable: list[str] = msgspec.field(default_factory=lambda: ["pods"])
    volume_plugin_dir: str = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/"
    enable_system_log_handler: bool = True
    enable_profiling_handler: bool = True
    enable_debug_flags_handler: bool = True
    seccomp_default: bool = False
    memory_throttling_factor: float | None = 0.9
    register_node: bool = True
    register_with_taints: list[dict[str, Any]] = msgspec.field(default_factory=list)
    cgroup_driver: Literal["cgroupfs", "systemd"] = "cgroupfs"
    cgroup_root: str = ""
    cgroups_per_qos: bool = msgspec.field(default=True, name="cgroupsPerQOS")
    resolv_conf: str = "/etc/resolv.conf"
    local_storage_capacity_isolation: bool = True
    container_runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    image_service_endpoint: str = "unix:///run/containerd/containerd.sock"
    fail_cgroup_v1: bool = msgspec.field(default=False, name="failCgroupV1")
    kube_reserved: dict[str, str] = msgspec.field(default_factory=dict)
    system_reserved: dict[str, str] = msgspec.field(default_factory=dict)
    allowed_unsafe_sysctls: list[str] = msgspec.field(default_factory=list)
    feature_gates: dict[str, bool] = msgspec.field(default_factory=dict)
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    provider_id: str = msgspec.field(default="", name="providerID")
    oom_score_adj: int | None = None
    protect_kernel_defaults: bool = False

    def __post_init__(self) -> None:
        _check_durations(self, *_DURATIONS)
        if self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent:
            raise ValueError("imageGCLowThresholdPercent must be lower than imageGCHighThresholdPercent")


class Edged(_Section, frozen=True):
    """The kubelet of the edge."""

    enable: bool = True
    #: Send pod and node events to the cloud.
    report_event: bool = False
    #: The node's name; "" takes this machine's host name.
    hostname_override: str = ""
    node_ip: str = msgspec.field(default="", name="nodeIP")
    custom_interface_name: str = ""
    register_node_namespace: str = "default"
    pod_sandbox_image: str = "kubeedge/pause:3.6"
    root_directory: str = "/var/lib/kubelet"
    max_container_count: int = -1
    max_per_pod_container_count: int = 1
    minimum_gc_age: str = msgspec.field(default="0s", name="minimumGCAge")
    node_labels: dict[str, str] = msgspec.field(default_factory=dict)
    register_schedulable: bool = True
    windows_service: bool = False
    windows_priority_class: str = ""
    tailored_kubelet_config: TailoredKubeletConfig = msgspec.field(default_factory=TailoredKubeletConfig)

    def __post_init__(self) -> None:
        _check_durations(self, "minimum_gc_age")


class EdgeHubTransport(_Section, frozen=True):
    """One way to reach the cloud; times in seconds. `server` is `host:port`."""

    enable: bool = True
    handshake_timeout: Positive = 30
    read_deadline: Positive = 15
    write_deadline: Positive = 15
    server: str = ""


class EdgeHub(_Section, frozen=True):
    """The link to the cloud."""

    enable: bool = True
    #: Seconds between keepalives.
    heartbeat: Positive = 15
    message_qps: Positive = msgspec.field(default=30, name="messageQPS")
    message_burst: Positive = 60
    project_id: str = msgspec.field(default="e632aba927ea4ac2b575ec1603d56f10", name="projectID")
    tls_ca_file: str = "/etc/kubeedge/ca/rootCA.crt"
    tls_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_private_key_file: str = "/etc/kubeedge/certs/server.key"
    #: Join token, `<ca hash>.<jwt>`; blanked in the file once the node has its certificate.
    token: str = ""
    #: Where `/ca.crt` and `/edge.crt` are served, such as `https://cloud:10002`.
    http_server: str = ""
    rotate_certificates: bool = True
    quic: EdgeHubTransport = msgspec.field(default_factory=lambda: EdgeHubTransport(enable=False))
    websocket: EdgeHubTransport = msgspec.field(default_factory=EdgeHubTransport)


class EventBusTls(_Section, frozen=True):
    enable: bool = False
    tls_mqtt_ca_file: str = msgspec.field(default="/etc/kubeedge/ca/rootCA.crt", name="tlsMqttCAFile")
    tls_mqtt_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_mqtt_private_key_file: str = "/etc/kubeedge/certs/server.key"


class EventBus(_Section, frozen=True):
    """MQTT."""

    enable: bool = True
    mqtt_qos: Annotated[int, msgspec.Meta(ge=0, le=2)] = msgspec.field(default=0, name="mqttQOS")
    mqtt_retain: bool = False
    mqtt_session_queue_size: Positive = 100
    mqtt_server_external: str = "tcp://127.0.0.1:1883"
    mqtt_server_internal: str = "tcp://127.0.0.1:1884"
    mqtt_sub_client_id: str = msgspec.field(default="", name="mqttSubClientID")
    mqtt_pub_client_id: str = msgspec.field(default="", name="mqttPubClientID")
    mqtt_username: str = ""
    mqtt_password: str = ""
    #: 0 the internal broker, 1 both, 2 the external one.
    mqtt_mode: Annotated[int, msgspec.Meta(ge=0, le=2)] = 2
    event_bus_tls: EventBusTls = msgspec.field(default_factory=EventBusTls, name="eventBusTLS")

    def __post_init__(self) -> None:
        if not self.enable:
            return
        if self.mqtt_mode <= 1:
            internal = Address.parse(self.mqtt_server_internal, "mqttServerInternal")
            if internal.secure and not self.event_bus_tls.enable:
                raise ValueError(
                    f"mqttServerInternal is {internal}, and the broker inside this node has no certificate; set "
                    "eventBusTLS.enable and its files, or write tcp://"
                )
        if self.mqtt_mode >= 1:
            Address.parse(self.mqtt_server_external, "mqttServerExternal")


class MetaServer(_Section, frozen=True):
    enable: bool = False
    server: str = "127.0.0.1:10550"
    tls_ca_file: str = "/etc/kubeedge/ca/rootCA.crt"
    tls_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_private_key_file: str = "/etc/kubeedge/certs/server.key"
    service_account_issuers: list[str] = msgspec.field(
        default_factory=lambda: ["https://kubernetes.default.svc.cluster.local"]
    )
    api_audiences: list[str] = msgspec.field(default_factory=list, name="apiAudiences")
    service_account_key_files: list[str] = msgspec.field(default_factory=list)
    dummy_server: str = "169.254.30.10:10550"


class MetaManager(_Section, frozen=True):
    """Metadata store and its road to the cloud."""

    enable: bool = True
    context_send_group: str = "hub"
    context_send_module: str = "websocket"
    #: Seconds a question to the cloud may take.
    remote_query_timeout: Positive = 60
    meta_server: MetaServer = msgspec.field(default_factory=MetaServer)


class ServiceBus(_Section, frozen=True):
    enable: bool = False
    server: str = "127.0.0.1"
    port: Port = 9060
    timeout: Positive = 60
    tls_cert_file: str = ""
    tls_private_key_file: str = ""


class DeviceTwin(_Section, frozen=True):
    enable: bool = True
    dmi_sock_path: str = "/etc/kubeedge/"


class Switch(_Section, frozen=True):
    """A module with nothing but an on/off switch."""

    enable: bool = False


class EdgeStream(_Section, frozen=True):
    """Tunnel for logs, exec, attach, port-forward and metrics. On unless the file says otherwise (Go: off)."""

    enable: bool = True
    tls_tunnel_ca_file: str = msgspec.field(default="/etc/kubeedge/ca/rootCA.crt", name="tlsTunnelCAFile")
    tls_tunnel_cert_file: str = "/etc/kubeedge/certs/server.crt"
    tls_tunnel_private_key_file: str = "/etc/kubeedge/certs/server.key"
    handshake_timeout: Positive = 30
    #: Kept so that Go's files load: pings tell whether the cloud is there.
    read_deadline: Positive = 15
    write_deadline: Positive = 15
    #: The cloud's tunnel port; "" is port 10004 of the host in edgeHub.websocket.server.
    server: str = ""


class Modules(_Section, frozen=True):
    edged: Edged = msgspec.field(default_factory=Edged)
    edge_hub: EdgeHub = msgspec.field(default_factory=EdgeHub)
    event_bus: EventBus = msgspec.field(default_factory=EventBus)
    meta_manager: MetaManager = msgspec.field(default_factory=MetaManager)
    service_bus: ServiceBus = msgspec.field(default_factory=ServiceBus)
    device_twin: DeviceTwin = msgspec.field(default_factory=DeviceTwin)
    db_test: Switch = msgspec.field(default_factory=Switch)
    task_manager: Switch = msgspec.field(default_factory=Switch)
    edge_stream: EdgeStream = msgspec.field(default_factory=EdgeStream)


class MonitorServer(_Section, frozen=True):
    """Where `/healthz`, `/readyz` and `/metrics` are served (ours; the Go project has it for cloudcore only)."""

    bind_address: str = "127.0.0.1:9092"
    enable_profiling: bool = False


class CommonConfig(_Section, frozen=True):
    monitor_server: MonitorServer = msgspec.field(default_factory=MonitorServer)


class EdgeCore(_Section, frozen=True):
    """The whole file."""

    api_version: Literal["edgecore.config.kubeedge.io/v1alpha2"] = "edgecore.config.kubeedge.io/v1alpha2"
    kind: Literal["EdgeCore"] = "EdgeCore"
    edgecore_version: str = ""
    common_config: CommonConfig = msgspec.field(default_factory=CommonConfig)
    database: Database = msgspec.field(default_factory=Database, name="database")
    feature_gates: dict[str, bool] = msgspec.field(
        default_factory=lambda: {
            "requireAuthorization": False,
            "moduleRestart": False,
            "disableNodeTaskV1alpha2": False,
        }
    )
    modules: Modules = msgspec.field(default_factory=Modules)


def _check_durations(section: msgspec.Struct, *names: str) -> None:
    keys = dict(zip(section.__struct_fields__, section.__struct_encode_fields__, strict=True))
    for name in names:
        try:
            seconds(getattr(section, name))
        except ValueError as error:
            raise ValueError(f"{keys[name]}: {error}") from error
