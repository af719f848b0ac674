"""Tells the API server that cloudcore serves metrics.k8s.io, while nobody else in the cluster does.

A Service without selector names this cloudcore's address and port, an APIService names the Service. Only what bears our
label is ever changed or removed: where metrics-server or another adapter is, ours goes. It goes too where the API
server cannot reach it, because an API that does not answer holds up the deletion of namespaces; and when the last
cloudcore stops.

Go: k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
"""

import base64
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from edgehive.api.document import Document
from edgehive.api.registry import API_SERVICES, CLUSTER_ROLES, ENDPOINTS, NAMESPACES, SERVICES, ApiResource
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Forbidden, NotFound
from edgehive.kube.usage import GROUP, NODE_METRICS, POD_METRICS

log = logging.getLogger("edgehive.cloudstream")

Json = dict[str, Any]

NAMESPACE, SERVICE = "kubeedge", "edgehive-metrics"
#: What the API server calls the door by, and so what its certificate names.
SERVER_NAME: Final = f"{SERVICE}.{NAMESPACE}.svc"
API_SERVICE: Final = f"{NODE_METRICS.version}.{GROUP}"
LABEL: Final = {"app.kubernetes.io/managed-by": "edgehive"}
_ROLE: Final = "edgehive:aggregated-metrics-reader"
#: How metrics-server's manifests and chart mark its Service. An APIService of ours would be in their way.
_RIVALS: Final = ("k8s-app=metrics-server", "app.kubernetes.io/name=metrics-server")
#: Rounds in a row in which the API server does not reach us, and then rounds until the next try.
MISSED, REST = 4, 240


class NotAggregating(Exception):
    """The API server has no APIServices."""


class Registration:
    """One round after another: `check` makes it true, `withdraw` ends it."""

    def __init__(self, client: Client, address: str, port: int, ca_pem: bytes) -> None:
        self._client = client
        self._address, self._port = address, port
        self._objects = _objects(port, ca_pem)
        self._missed = 0
        self._resting = 0
        self._aside = False
        self.stands = False
        #: Whether something of it may be there that this process made.
        self.begun = False

    async def check(self) -> None:
        """One round; raises NotAggregating, or ApiError when the API cannot be asked or refuses."""
        present = await self._present()
        if self._resting:
            self._resting -= 1
        elif rival := await self._rival(present):
            await self._step_aside(present, rival)
        elif self._is_unreachable(present):
            assert present is not None
            log.warning(
                "kube-apiserver does not reach cloudcore at Service %s/%s (%s), so metrics.k8s.io is not served: run "
                "kube-proxy on its machine or start it with --enable-aggregator-routing=true; "
                "cloudStream.metricsAPI.enable: false turns this off",
                NAMESPACE, SERVICE, _availability(present).get("message", "no reason given"),
            )  # fmt: skip
            self._resting, self._missed = REST, 0
            await self.withdraw()
        else:
            await self._stand()

    async def withdraw(self) -> None:
        """Take this cloudcore off, and everything when it was the last; raises ApiError."""
        self.stands = self.begun = False
        rest = await self._leave()
        if rest:
            return
        present = await self._present()
        if present is not None and is_ours(present):
            await _delete(self._client, API_SERVICES, API_SERVICE, uid=present.meta.uid)
        await self._remove_service()

    # Rounds

    async def _present(self) -> Document | None:
        try:
            return await self._client.get(API_SERVICES, API_SERVICE)
        except NotFound as error:
            # A server that knows the kind names the object it does not have.
            if error.status.details is None or error.status.details.name != API_SERVICE:
                raise NotAggregating("this API server aggregates no other") from None
            return None

    async def _rival(self, present: Document | None) -> str:
        """Who else serves metrics, or wants to; "" for nobody."""
        if present is not None and not is_ours(present):
            service = (present.to_dict().get("spec") or {}).get("service") or {}
            return f"{service.get('namespace', '')}/{service.get('name', '')}"
        for selector in _RIVALS:
            for found in (await self._client.list(SERVICES, label_selector=selector)).items:
                return f"{found.meta.namespace}/{found.meta.name}"
        return ""

    async def _step_aside(self, present: Document | None, rival: str) -> None:
        if self._aside:
            return
        log.info("Service %s serves metrics.k8s.io, so cloudcore does not", rival)
        self._aside, self.stands, self.begun = True, False, False
        if present is not None and is_ours(present):
            await _delete(self._client, API_SERVICES, API_SERVICE, uid=present.meta.uid)
        await self._remove_service()

    def _is_unreachable(self, present: Document | None) -> bool:
        known = self.stands and present is not None
        self._missed = self._missed + 1 if known and _availability(present).get("status") == "False" else 0
        return self._missed >= MISSED

    async def _stand(self) -> None:
        self._aside, self.begun = False, True
        for resource, wanted in self._objects:
            await self._have(resource, wanted)
            if resource is SERVICES:
                await self._join()
        if not self.stands:
            log.info("cloudcore serves metrics.k8s.io (kubectl top) at %s:%d", self._address, self._port)
        self.stands = True

    async def _have(self, resource: ApiResource, wanted: Json) -> None:
        name, namespace = wanted["metadata"]["name"], wanted["metadata"].get("namespace", "")
        try:
            present = await self._client.get(resource, name, namespace)
        except NotFound:
            await self._create(resource, wanted, namespace)
            return
        if not holds(present.to_dict(), wanted):
            await self._client.patch(resource, name, wanted, namespace, type=PatchType.MERGE)

    async def _create(self, resource: ApiResource, wanted: Json, namespace: str) -> None:
        try:
            await self._client.create(resource, wanted, namespace)
        except Forbidden as error:
            # Nobody may grant what he may not do himself; without the role administrators see metrics all the same.
            if resource is not CLUSTER_ROLES:
                raise
            log.debug("%s", error)

    # The Service's endpoints, which all cloudcores share

    async def _join(self) -> None:
        try:
            present = (await self._client.get(ENDPOINTS, SERVICE, NAMESPACE)).to_dict()
        except NotFound:
            metadata = {"name": SERVICE, "namespace": NAMESPACE, "labels": LABEL}
            subsets = joined((), self._address, self._port)
            fresh = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}
            await self._client.create(ENDPOINTS, fresh, NAMESPACE)
            return
        if not reaches(present.get("subsets") or (), self._address, self._port):
            present["subsets"] = joined(present.get("subsets") or (), self._address, self._port)
            await self._client.update(ENDPOINTS, present, NAMESPACE)

    async def _leave(self) -> list[Json]:
        """The endpoints of the other cloudcores."""
        try:
            present = (await self._client.get(ENDPOINTS, SERVICE, NAMESPACE)).to_dict()
        except NotFound:
            return []
        rest = without(present.get("subsets") or (), self._address)
        if rest and rest != present.get("subsets"):
            await self._client.update(ENDPOINTS, present | {"subsets": rest}, NAMESPACE)
        return rest

    async def _remove_service(self) -> None:
        for resource in (ENDPOINTS, SERVICES):
            await _delete(self._client, resource, SERVICE, NAMESPACE)
        await _delete(self._client, CLUSTER_ROLES, _ROLE)


async def _delete(client: Client, resource: ApiResource, name: str, namespace: str = "", *, uid: str = "") -> None:
    try:
        await client.delete(resource, name, namespace, uid=uid)
    except NotFound:
        pass
    except ApiError as error:
        log.warning("%s %s is left behind: %s", resource.kind, name, error)


def is_ours(api_service: Document) -> bool:
    """Whoever writes his own Service into it leaves our label where it is."""
    service = (api_service.to_dict().get("spec") or {}).get("service") or {}
    labels = api_service.meta.labels or {}
    return LABEL.items() <= labels.items() and (service.get("namespace"), service.get("name")) == (NAMESPACE, SERVICE)


def _availability(api_service: Document | None) -> Mapping[str, Any]:
    status = api_service.to_dict().get("status") or {} if api_service is not None else {}
    conditions: list[Json] = status.get("conditions") or []
    return next((item for item in conditions if item.get("type") == "Available"), {})


def _objects(port: int, ca_pem: bytes) -> list[tuple[ApiResource, Json]]:
    """In the order in which they are made."""
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
    ports = {"ports": [{"name": "https", "port": port, "targetPort": port, "protocol": "TCP"}]}
    return [
        (NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        (SERVICES, _object(SERVICES, SERVICE, NAMESPACE) | {"spec": ports}),
        (CLUSTER_ROLES, _object(CLUSTER_ROLES, _ROLE, **readers) | {"rules": [rule]}),
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
