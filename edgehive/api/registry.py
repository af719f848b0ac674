"""The one table that ties a kind to its plural, its URL and KubeEdge's resource type.

Clients, informers, the API server and both controllers name resources by these rows; nothing else in the
code spells a plural. Custom resources get rows of their own at run time (`ApiResource` built from the CRD).
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ApiResource:
    """One served resource: enough to build its URL, its list kind and its discovery entry."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = field(
        default=("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
    )
    list_kind: str = ""

    @property
    def api_version(self) -> str:
        """`v1` or `apps/v1`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def edge_type(self) -> str:
        """The type segment on the cloud-edge wire: the kind in lower case."""
        return self.kind.lower()

    @property
    def list_kind_name(self) -> str:
        return self.list_kind or f"{self.kind}List"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path under the server's root."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        tail = f"/{name}" if name else ""
        tail += f"/{subresource}" if subresource else ""
        return f"{root}{scope}/{self.plural}{tail}"


def _core(kind: str, plural: str, namespaced: bool, *short: str, **extra: tuple[str, ...]) -> ApiResource:
    return ApiResource("", "v1", kind, plural, namespaced, kind.lower(), short, **extra)  # type: ignore[arg-type]


def _row(
    group: str, version: str, kind: str, plural: str, namespaced: bool, *short: str, **extra: tuple[str, ...]
) -> ApiResource:
    return ApiResource(group, version, kind, plural, namespaced, kind.lower(), short, **extra)  # type: ignore[arg-type]


PODS = _core(
    "Pod", "pods", True, "po", categories=("all",),
    subresources=("status", "binding", "eviction", "log", "exec", "attach", "portforward", "proxy",
                  "ephemeralcontainers"),
)  # fmt: skip
NODES = _core("Node", "nodes", False, "no", subresources=("status", "proxy"))
NAMESPACES = _core("Namespace", "namespaces", False, "ns", subresources=("status", "finalize"))
CONFIG_MAPS = _core("ConfigMap", "configmaps", True, "cm")
SECRETS = _core("Secret", "secrets", True)
SERVICES = _core("Service", "services", True, "svc", categories=("all",), subresources=("status", "proxy"))
ENDPOINTS = _core("Endpoints", "endpoints", True, "ep")
EVENTS = _core("Event", "events", True, "ev")
EVENTS_V1 = _row("events.k8s.io", "v1", "Event", "events", True, "ev")
SERVICE_ACCOUNTS = _core("ServiceAccount", "serviceaccounts", True, "sa", subresources=("token",))
PERSISTENT_VOLUMES = _core("PersistentVolume", "persistentvolumes", False, "pv", subresources=("status",))
PERSISTENT_VOLUME_CLAIMS = _core(
    "PersistentVolumeClaim", "persistentvolumeclaims", True, "pvc", subresources=("status",)
)
REPLICATION_CONTROLLERS = _core(
    "ReplicationController",
    "replicationcontrollers",
    True,
    "rc",
    categories=("all",),
    subresources=("status", "scale"),
)
LIMIT_RANGES = _core("LimitRange", "limitranges", True, "limits")
RESOURCE_QUOTAS = _core("ResourceQuota", "resourcequotas", True, "quota", subresources=("status",))
POD_TEMPLATES = _core("PodTemplate", "podtemplates", True)

DEPLOYMENTS = _row(
    "apps",
    "v1",
    "Deployment",
    "deployments",
    True,
    "deploy",
    categories=("all",),
    subresources=("status", "scale"),
)
REPLICA_SETS = _row(
    "apps",
    "v1",
    "ReplicaSet",
    "replicasets",
    True,
    "rs",
    categories=("all",),
    subresources=("status", "scale"),
)
STATEFUL_SETS = _row(
    "apps",
    "v1",
    "StatefulSet",
    "statefulsets",
    True,
    "sts",
    categories=("all",),
    subresources=("status", "scale"),
)
DAEMON_SETS = _row("apps", "v1", "DaemonSet", "daemonsets", True, "ds", categories=("all",), subresources=("status",))
CONTROLLER_REVISIONS = _row("apps", "v1", "ControllerRevision", "controllerrevisions", True)
JOBS = _row("batch", "v1", "Job", "jobs", True, categories=("all",), subresources=("status",))
CRON_JOBS = _row("batch", "v1", "CronJob", "cronjobs", True, "cj", categories=("all",), subresources=("status",))
HORIZONTAL_POD_AUTOSCALERS_V1 = _row(
    "autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", True, "hpa",
    categories=("all",), subresources=("status",),
)  # fmt: skip
HORIZONTAL_POD_AUTOSCALERS = _row(
    "autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", True, "hpa",
    categories=("all",), subresources=("status",),
)  # fmt: skip
LEASES = _row("coordination.k8s.io", "v1", "Lease", "leases", True)
ENDPOINT_SLICES = _row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True)
CERTIFICATE_SIGNING_REQUESTS = _row(
    "certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests", False, "csr",
    subresources=("status", "approval"),
)  # fmt: skip
ROLES = _row("rbac.authorization.k8s.io", "v1", "Role", "roles", True)
ROLE_BINDINGS = _row("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", True)
CLUSTER_ROLES = _row("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", False)
CLUSTER_ROLE_BINDINGS = _row("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", False)
STORAGE_CLASSES = _row("storage.k8s.io", "v1", "StorageClass", "storageclasses", False, "sc")
VOLUME_ATTACHMENTS = _row(
    "storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", False, subresources=("status",)
)
CSI_DRIVERS = _row("storage.k8s.io", "v1", "CSIDriver", "csidrivers", False)
CSI_NODES = _row("storage.k8s.io", "v1", "CSINode", "csinodes", False)
PRIORITY_CLASSES = _row("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", False, "pc")
RUNTIME_CLASSES = _row("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", False)
INGRESSES = _row("networking.k8s.io", "v1", "Ingress", "ingresses", True, "ing", subresources=("status",))
INGRESS_CLASSES = _row("networking.k8s.io", "v1", "IngressClass", "ingressclasses", False)
NETWORK_POLICIES = _row("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", True, "netpol")
POD_DISRUPTION_BUDGETS = _row(
    "policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", True, "pdb", subresources=("status",)
)
CUSTOM_RESOURCE_DEFINITIONS = _row(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions", False, "crd", "crds",
    categories=("api-extensions",), subresources=("status",),
)  # fmt: skip
#: Who serves which group behind the API server; only one that aggregates has it.
API_SERVICES = _row(
    "apiregistration.k8s.io", "v1", "APIService", "apiservices", False, categories=("api-extensions",),
    subresources=("status",),
)  # fmt: skip

#: KubeEdge's own kinds, served as CRDs.
OBJECT_SYNCS = _row(
    "reliablesyncs.kubeedge.io", "v1alpha1", "ObjectSync", "objectsyncs", True, subresources=("status",)
)
CLUSTER_OBJECT_SYNCS = _row(
    "reliablesyncs.kubeedge.io",
    "v1alpha1",
    "ClusterObjectSync",
    "clusterobjectsyncs",
    False,
    subresources=("status",),
)
DEVICES = _row("devices.kubeedge.io", "v1beta1", "Device", "devices", True)
DEVICE_MODELS = _row("devices.kubeedge.io", "v1beta1", "DeviceModel", "devicemodels", True)
DEVICE_STATUSES = _row("devices.kubeedge.io", "v1beta1", "DeviceStatus", "devicestatuses", True)
RULES = _row("rules.kubeedge.io", "v1", "Rule", "rules", True)
RULE_ENDPOINTS = _row("rules.kubeedge.io", "v1", "RuleEndpoint", "ruleendpoints", True, "re")
SERVICE_ACCOUNT_ACCESSES = _row(
    "policy.kubeedge.io", "v1alpha1", "ServiceAccountAccess", "serviceaccountaccesses", True, "saaccess",
    subresources=("status",),
)  # fmt: skip

#: Kinds a Kubernetes API server has built in, in discovery order.
BUILTIN: tuple[ApiResource, ...] = (
    CONFIG_MAPS, ENDPOINTS, EVENTS, LIMIT_RANGES, NAMESPACES, NODES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES,
    PODS, POD_TEMPLATES, REPLICATION_CONTROLLERS, RESOURCE_QUOTAS, SECRETS, SERVICE_ACCOUNTS, SERVICES,
    CUSTOM_RESOURCE_DEFINITIONS, CONTROLLER_REVISIONS, DAEMON_SETS, DEPLOYMENTS, REPLICA_SETS, STATEFUL_SETS,
    HORIZONTAL_POD_AUTOSCALERS, CRON_JOBS, JOBS, CERTIFICATE_SIGNING_REQUESTS, LEASES, ENDPOINT_SLICES,
    INGRESS_CLASSES, INGRESSES, NETWORK_POLICIES, RUNTIME_CLASSES, POD_DISRUPTION_BUDGETS, CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES, ROLE_BINDINGS, ROLES, PRIORITY_CLASSES, CSI_DRIVERS, CSI_NODES, STORAGE_CLASSES,
    VOLUME_ATTACHMENTS,
)  # fmt: skip

#: Further versions of built-in kinds; whoever follows every kind follows the one in BUILTIN.
OTHER_VERSIONS: tuple[ApiResource, ...] = (HORIZONTAL_POD_AUTOSCALERS_V1, EVENTS_V1)

#: KubeEdge's kinds this code reads or writes.
KUBEEDGE: tuple[ApiResource, ...] = (
    OBJECT_SYNCS, CLUSTER_OBJECT_SYNCS, DEVICES, DEVICE_MODELS, DEVICE_STATUSES, RULES, RULE_ENDPOINTS,
)  # fmt: skip

#: Kinds that a stock cloudcore sends to its nodes and that nobody here defines.
_SENT = (SERVICE_ACCOUNT_ACCESSES,)

_BY_KIND = {(row.group, row.version, row.kind): row for row in BUILTIN + KUBEEDGE + _SENT}
_BY_EDGE_TYPE = {row.edge_type: row for row in BUILTIN + KUBEEDGE + _SENT}


def by_kind(api_version: str, kind: str) -> ApiResource | None:
    """The row for `apps/v1`, `Deployment`; None for a kind this table does not hold."""
    group, _, version = api_version.rpartition("/")
    return _BY_KIND.get((group, version, kind))


def by_edge_type(edge_type: str) -> ApiResource | None:
    """The row for a wire type such as `configmap`; None for types that are no kind (`podstatus`)."""
    return _BY_EDGE_TYPE.get(edge_type)
