"""The objects by which the API server finds cloudcore's metrics.k8s.io, and what is read off them. Pure.

Go: k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
"""

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

from edgehive.api.document import Document
from edgehive.api.registry import API_SERVICES, CLUSTER_ROLES, NAMESPACES, SERVICES, ApiResource
from edgehive.kube.usage import GROUP, NODE_METRICS, POD_METRICS

Json = dict[str, Any]

NAMESPACE, SERVICE = "kubeedge", "edgehive-metrics"
#: What the API server calls the door by, and so what its certificate names.
SERVER_NAME: Final = f"{SERVICE}.{NAMESPACE}.svc"
API_SERVICE: Final = f"{NODE_METRICS.version}.{GROUP}"
LABEL: Final = {"app.kubernetes.io/managed-by": "edgehive"}
ROLE: Final = "edgehive:aggregated-metrics-reader"


def is_ours(api_service: Document) -> bool:
    """Whoever writes his own Service into it leaves our label where it is."""
    service = (api_service.to_dict().get("spec") or {}).get("service") or {}
    labels = api_service.meta.labels or {}
    return LABEL.items() <= labels.items() and (service.get("namespace"), service.get("name")) == (NAMESPACE, SERVICE)


def availability(api_service: Document | None) -> Mapping[str, Any]:
    status = api_service.to_dict().get("status") or {} if api_service is not None else {}
    conditions: list[Json] = status.get("conditions") or []
    return next((item for item in conditions if item.get("type") == "Available"), {})


def objects_of(port: int, ca_pem: bytes, name: str) -> list[tuple[ApiResource, Json]]:
    """In the order in which they are made; with a `name` the Service is an alias of it."""
    readers = {f"rbac.authorization.k8s.io/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")}
    rule = {"apiGroups": [GROUP], "resources": [POD_METRICS.plural, NODE_METRICS.plural],
            "verbs": list(POD_METRICS.verbs)}  # fmt: skip
    service = {"namespace": NAMESPACE, "name": SERVICE, "port": port}
    registered = {
        "group": GROUP,
        "version": NODE_METRICS.version,
        "groupPriorityMinimum": 100,
        "versionPriority": 100,
        "service": service,
        "caBundle": base64.b64encode(ca_pem).decode(),
    }
    kind = {"type": "ExternalName", "externalName": name} if name else {"type": "ClusterIP"}
    ports = kind | {"ports": [{"name": "https", "port": port, "targetPort": port, "protocol": "TCP"}]}
    return [
        (NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        (SERVICES, _object(SERVICES, SERVICE, NAMESPACE) | {"spec": ports}),
        (CLUSTER_ROLES, _object(CLUSTER_ROLES, ROLE, **readers) | {"rules": [rule]}),
        (API_SERVICES, _object(API_SERVICES, API_SERVICE) | {"spec": registered}),
    ]


def _object(resource: ApiResource, name: str, namespace: str = "", **labels: str) -> Json:
    metadata: Json = {"name": name, "labels": LABEL | labels}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata}


def holds(present: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; what else is there is its owner's affair."""
    if isinstance(wanted, Mapping):
        return isinstance(present, Mapping) and all(holds(present.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(present, list)
            and len(present) == len(wanted)
            and all(holds(one, other) for one, other in zip(present, wanted, strict=True))
        )
    return bool(present == wanted)


def reaches(subsets: Iterable[Json], address: str, port: int) -> bool:
    return any(
        any(item.get("ip") == address for item in subset.get("addresses") or ())
        and [item.get("port") for item in subset.get("ports") or ()] == [port]
        for subset in subsets
    )


def joined(subsets: Iterable[Json], address: str, port: int) -> list[Json]:
    own = {"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}
    return [*without(subsets, address), own]


def without(subsets: Iterable[Json], address: str) -> list[Json]:
    """The subsets that others stand in."""
    rest = []
    for subset in subsets:
        others = [item for item in subset.get("addresses") or () if item.get("ip") != address]
        if others:
            rest.append(subset | {"addresses": others})
    return rest
