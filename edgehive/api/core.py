"""Read-only lenses on the core/v1 kinds: Pod, Node, ConfigMap, Secret, Event and what they hold.

Everyone reads objects through them; nobody encodes one back (a lens names only the fields we read). Where a
field is optional, null and absent mean the same: write `spec.volumes or ()`.

Go: staging/src/k8s.io/api/core/v1/types.go
"""

from typing import Any

import msgspec

from edgehive.api.meta import Condition, ObjectMeta

#: A port or a percentage: `80`, `"http"`, `"25%"`.
IntOrString = int | str
#: `"100m"`, `"1Gi"`; bare numbers are legal JSON for a quantity too.
Quantity = str | int | float


class Lens(msgspec.Struct, rename="camel", frozen=True):
    """Base of every lens: camelCase keys, unknown fields skipped."""


class LocalObjectReference(Lens, frozen=True):
    name: str = ""


class ObjectReference(Lens, frozen=True):
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    resource_version: str = ""
    field_path: str = ""


# --- containers -------------------------------------------------------------------------------------------


class ContainerPort(Lens, frozen=True):
    container_port: int = 0
    name: str = ""
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"


class ObjectFieldSelector(Lens, frozen=True):
    field_path: str = ""
    api_version: str = "v1"


class ResourceFieldSelector(Lens, frozen=True):
    resource: str = ""
    container_name: str = ""
    divisor: Quantity | None = None


class KeySelector(Lens, frozen=True):
    """configMapKeyRef and secretKeyRef."""

    key: str = ""
    name: str = ""
    optional: bool | None = None


class EnvVarSource(Lens, frozen=True):
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Lens, frozen=True):
    name: str = ""
    value: str | None = None
    value_from: EnvVarSource | None = None


class OptionalReference(Lens, frozen=True):
    name: str = ""
    optional: bool | None = None


class EnvFromSource(Lens, frozen=True):
    prefix: str = ""
    config_map_ref: OptionalReference | None = None
    secret_ref: OptionalReference | None = None


class ResourceRequirements(Lens, frozen=True):
    limits: dict[str, Quantity] | None = None
    requests: dict[str, Quantity] | None = None


class VolumeMount(Lens, frozen=True):
    name: str = ""
    mount_path: str = ""
    read_only: bool | None = None
    recursive_read_only: str | None = None
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str | None = None


class VolumeDevice(Lens, frozen=True):
    name: str = ""
    device_path: str = ""


class ExecAction(Lens, frozen=True):
    command: list[str] | None = None


class HTTPHeader(Lens, frozen=True):
    name: str = ""
    value: str = ""


class HTTPGetAction(Lens, frozen=True):
    port: IntOrString = 0
    path: str = ""
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HTTPHeader] | None = None


class TCPSocketAction(Lens, frozen=True):
    port: IntOrString = 0
    host: str = ""


class GRPCAction(Lens, frozen=True):
    port: int = 0
    service: str | None = None


class SleepAction(Lens, frozen=True):
    seconds: int = 0


class Probe(Lens, frozen=True):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(Lens, frozen=True):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Lens, frozen=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None


class Capabilities(Lens, frozen=True):
    add: list[str] | None = None
    drop: list[str] | None = None


class SeccompProfile(Lens, frozen=True):
    type: str = ""
    localhost_profile: str | None = None


class AppArmorProfile(Lens, frozen=True):
    type: str = ""
    localhost_profile: str | None = None


class SELinuxOptions(Lens, frozen=True):
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class SecurityContext(Lens, frozen=True):
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    se_linux_options: SELinuxOptions | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None


class Container(Lens, frozen=True):
    name: str = ""
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    working_dir: str = ""
    ports: list[ContainerPort] | None = None
    env_from: list[EnvFromSource] | None = None
    env: list[EnvVar] | None = None
    resources: ResourceRequirements = ResourceRequirements()
    restart_policy: str | None = None
    volume_mounts: list[VolumeMount] | None = None
    volume_devices: list[VolumeDevice] | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool | None = None
    stdin_once: bool | None = None
    tty: bool | None = None


class EphemeralContainer(Container, frozen=True):
    """Put into a running pod to look at it, never restarted."""

    target_container_name: str = ""


# --- volumes ----------------------------------------------------------------------------------------------


class KeyToPath(Lens, frozen=True):
    key: str = ""
    path: str = ""
    mode: int | None = None


class EmptyDirVolumeSource(Lens, frozen=True):
    medium: str = ""
    size_limit: Quantity | None = None


class HostPathVolumeSource(Lens, frozen=True):
    path: str = ""
    type: str | None = None


class ConfigMapVolumeSource(Lens, frozen=True):
    name: str = ""
    items: list[KeyToPath] | None = None
    default_mode: int | None = None
    optional: bool | None = None


class SecretVolumeSource(Lens, frozen=True):
    secret_name: str = ""
    items: list[KeyToPath] | None = None
    default_mode: int | None = None
    optional: bool | None = None


class DownwardAPIVolumeFile(Lens, frozen=True):
    path: str = ""
    field_ref: ObjectFieldSelector | None = None
    resource_field_ref: ResourceFieldSelector | None = None
    mode: int | None = None


class DownwardAPIVolumeSource(Lens, frozen=True):
    items: list[DownwardAPIVolumeFile] | None = None
    default_mode: int | None = None


class ConfigMapProjection(Lens, frozen=True):
    name: str = ""
    items: list[KeyToPath] | None = None
    optional: bool | None = None


class SecretProjection(Lens, frozen=True):
    name: str = ""
    items: list[KeyToPath] | None = None
    optional: bool | None = None


class DownwardAPIProjection(Lens, frozen=True):
    items: list[DownwardAPIVolumeFile] | None = None


class ServiceAccountTokenProjection(Lens, frozen=True):
    path: str = ""
    audience: str = ""
    expiration_seconds: int | None = None


class VolumeProjection(Lens, frozen=True):
    config_map: ConfigMapProjection | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardAPIProjection | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: ServiceAccountTokenProjection | None = None


class ProjectedVolumeSource(Lens, frozen=True):
    sources: list[VolumeProjection] | None = None
    default_mode: int | None = None


class PersistentVolumeClaimVolumeSource(Lens, frozen=True):
    claim_name: str = ""
    read_only: bool | None = None


class CSIVolumeSource(Lens, frozen=True):
    node_publish_secret_ref: LocalObjectReference | None = None


class EphemeralVolumeSource(Lens, frozen=True):
    """Its claim is named after the pod and the volume."""


class Volume(Lens, frozen=True):
    name: str = ""
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    downward_api: DownwardAPIVolumeSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolumeSource | None = None
    persistent_volume_claim: PersistentVolumeClaimVolumeSource | None = None
    csi: CSIVolumeSource | None = None
    ephemeral: EphemeralVolumeSource | None = None


# --- pods -------------------------------------------------------------------------------------------------


class Sysctl(Lens, frozen=True):
    name: str = ""
    value: str = ""


class PodSecurityContext(Lens, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] | None = None
    supplemental_groups_policy: str | None = None
    fs_group: int | None = None
    fs_group_change_policy: str | None = None
    sysctls: list[Sysctl] | None = None
    se_linux_options: SELinuxOptions | None = None
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None


class PodDNSConfigOption(Lens, frozen=True):
    name: str = ""
    value: str | None = None


class PodDNSConfig(Lens, frozen=True):
    nameservers: list[str] | None = None
    searches: list[str] | None = None
    options: list[PodDNSConfigOption] | None = None


class HostAlias(Lens, frozen=True):
    ip: str = ""
    hostnames: list[str] | None = None


class Toleration(Lens, frozen=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodReadinessGate(Lens, frozen=True):
    condition_type: str = ""


class PodSchedulingGate(Lens, frozen=True):
    name: str = ""


class TopologySpreadConstraint(Lens, frozen=True):
    max_skew: int = 1
    topology_key: str = ""
    when_unsatisfiable: str = ""
    label_selector: dict[str, Any] | None = None


class PodSpec(Lens, frozen=True):
    containers: list[Container] = msgspec.field(default_factory=list)
    init_containers: list[Container] | None = None
    ephemeral_containers: list[EphemeralContainer] | None = None
    volumes: list[Volume] | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: PodDNSConfig | None = None
    node_selector: dict[str, str] | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    host_users: bool | None = None
    share_process_namespace: bool | None = None
    security_context: PodSecurityContext | None = None
    image_pull_secrets: list[LocalObjectReference] | None = None
    hostname: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool | None = msgspec.field(default=None, name="setHostnameAsFQDN")
    affinity: dict[str, Any] | None = None
    scheduler_name: str = ""
    tolerations: list[Toleration] | None = None
    host_aliases: list[HostAlias] | None = None
    priority_class_name: str = ""
    priority: int | None = None
    readiness_gates: list[PodReadinessGate] | None = None
    scheduling_gates: list[PodSchedulingGate] | None = None
    runtime_class_name: str | None = None
    enable_service_links: bool | None = None
    overhead: dict[str, Quantity] | None = None
    topology_spread_constraints: list[TopologySpreadConstraint] | None = None


class ContainerStateWaiting(Lens, frozen=True):
    reason: str = ""
    message: str = ""


class ContainerStateRunning(Lens, frozen=True):
    started_at: str | None = None


class ContainerStateTerminated(Lens, frozen=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Lens, frozen=True):
    waiting: ContainerStateWaiting | None = None
    running: ContainerStateRunning | None = None
    terminated: ContainerStateTerminated | None = None


class ContainerStatus(Lens, frozen=True):
    name: str = ""
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")
    started: bool | None = None


class PodIP(Lens, frozen=True):
    ip: str = ""


class HostIP(Lens, frozen=True):
    ip: str = ""


class PodStatus(Lens, frozen=True):
    phase: str = ""
    conditions: list[Condition] | None = None
    message: str = ""
    reason: str = ""
    nominated_node_name: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_ips: list[HostIP] | None = msgspec.field(default=None, name="hostIPs")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[PodIP] | None = msgspec.field(default=None, name="podIPs")
    start_time: str | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None
    qos_class: str = msgspec.field(default="", name="qosClass")

    def condition(self, type: str) -> Condition | None:
        """The condition of this type, if reported."""
        return next((item for item in self.conditions or () if item.type == type), None)


class Pod(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


# --- nodes ------------------------------------------------------------------------------------------------


class Taint(Lens, frozen=True):
    key: str = ""
    value: str = ""
    effect: str = ""
    time_added: str | None = None


class NodeSpec(Lens, frozen=True):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] | None = msgspec.field(default=None, name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")
    unschedulable: bool = False
    taints: list[Taint] | None = None


class NodeAddress(Lens, frozen=True):
    type: str = ""
    address: str = ""


class DaemonEndpoint(Lens, frozen=True):
    port: int = msgspec.field(default=0, name="Port")


class NodeDaemonEndpoints(Lens, frozen=True):
    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeSystemInfo(Lens, frozen=True):
    machine_id: str = msgspec.field(default="", name="machineID")
    system_uuid: str = msgspec.field(default="", name="systemUUID")
    boot_id: str = msgspec.field(default="", name="bootID")
    kernel_version: str = ""
    os_image: str = ""
    container_runtime_version: str = ""
    kubelet_version: str = ""
    kube_proxy_version: str = ""
    operating_system: str = ""
    architecture: str = ""


class ContainerImage(Lens, frozen=True):
    names: list[str] | None = None
    size_bytes: int = 0


class NodeStatus(Lens, frozen=True):
    capacity: dict[str, Quantity] | None = None
    allocatable: dict[str, Quantity] | None = None
    phase: str = ""
    conditions: list[Condition] | None = None
    addresses: list[NodeAddress] | None = None
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: NodeSystemInfo = NodeSystemInfo()
    images: list[ContainerImage] | None = None

    def condition(self, type: str) -> Condition | None:
        """The condition of this type, if reported."""
        return next((item for item in self.conditions or () if item.type == type), None)


class Node(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


# --- configuration, accounts, events --------------------------------------------------------------------


class ConfigMap(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    data: dict[str, str] | None = None
    binary_data: dict[str, bytes] | None = None
    immutable: bool | None = None


class Secret(Lens, frozen=True):
    """`data` is decoded from base64 by the lens."""

    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    type: str = ""
    data: dict[str, bytes] | None = None
    immutable: bool | None = None


class TokenRequestStatus(Lens, frozen=True):
    token: str = ""
    expiration_timestamp: str | None = None


class BoundObjectReference(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


class TokenRequestSpec(Lens, frozen=True):
    audiences: list[str] | None = None
    expiration_seconds: int | None = None
    bound_object_ref: BoundObjectReference | None = None


class TokenRequest(Lens, frozen=True):
    """authentication.k8s.io/v1 TokenRequest, answered by serviceaccounts/token."""

    spec: TokenRequestSpec = TokenRequestSpec()
    status: TokenRequestStatus = TokenRequestStatus()


class EventSource(Lens, frozen=True):
    component: str = ""
    host: str = ""


class EventSeries(Lens, frozen=True):
    count: int = 0
    last_observed_time: str | None = None


class Event(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: str | None = None
    last_timestamp: str | None = None
    event_time: str | None = None
    count: int = 0
    type: str = ""
    action: str = ""
    series: EventSeries | None = None
    reporting_component: str = ""
    reporting_instance: str = ""


class NamespaceStatus(Lens, frozen=True):
    phase: str = ""


class Namespace(Lens, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = ObjectMeta()
    status: NamespaceStatus = NamespaceStatus()
