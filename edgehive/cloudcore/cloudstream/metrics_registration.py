"""Tells the API server that cloudcore serves metrics.k8s.io, while nobody else in the cluster does.

A Service without selector names this cloudcore's address and port, an APIService names the Service. Only what bears our
label is ever changed or removed: where metrics-server or another adapter is, ours goes. Where the API server cannot
reach the Service's own address, for want of kube-proxy, the Service becomes another name for cloudcore's. Where that
does not help either it all goes, because an API that does not answer holds up the deletion of namespaces; and so it
does when the last cloudcore stops. An address that several share stays until the last of them goes.

Go: k8s.io/kube-aggregator/pkg/apis/apiregistration/v1
"""

import logging
from typing import Final, Protocol

from edgehive.api.document import Document
from edgehive.api.registry import API_SERVICES, CLUSTER_ROLES, ENDPOINTS, SERVICES, ApiResource
from edgehive.cloudcore.cloudstream.metrics_objects import (
    API_SERVICE,
    LABEL,
    NAMESPACE,
    ROLE,
    SERVICE,
    Json,
    availability,
    holds,
    is_ours,
    joined,
    objects_of,
    reaches,
    without,
)
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Forbidden, NotFound

log = logging.getLogger("edgehive.cloudstream")

#: How metrics-server's manifests and chart mark its Service. An APIService of ours would be in their way.
_RIVALS: Final = ("k8s-app=metrics-server", "app.kubernetes.io/name=metrics-server")
#: Rounds in a row in which the API server does not reach us: where it never has, and where it has.
MISSED, MISSED_LATER = 4, 24
#: When nothing helped, rounds until the next try.
REST = 40


class NotAggregating(Exception):
    """The API server has no APIServices."""


class Holders(Protocol):
    """Keeps who serves metrics at which address: workers of one machine and balanced replicas share theirs."""

    async def hold(self, address: str) -> None: ...
    async def let_go(self, address: str) -> bool: ...


class Registration:
    """One round after another: `check` makes it true, `withdraw` ends it. Without `holders` there is no other."""

    def __init__(self, client: Client, address: str, port: int, ca_pem: bytes, holders: Holders | None = None) -> None:
        self._client = client
        self._address, self._port = address, port
        self._ca_pem = ca_pem
        self._holders = holders
        #: Whether the Service is another name for our address, dialled as it is.
        self._by_name = False
        self._missed = 0
        self._reached = False
        self._resting = 0
        self._aside = False
        self.stands = False
        #: Whether the API server still has to find its way here.
        self.unsettled = False
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
            await self._try_otherwise(availability(present).get("message") or "no reason given")
        else:
            await self._stand()
        self.unsettled = self.stands and availability(present).get("status") != "True"

    async def withdraw(self) -> None:
        """Take this cloudcore off, and everything when it was the last; raises ApiError."""
        self.stands = self.begun = False
        if self._holders is not None and await self._holders.let_go(self._address):
            return
        if await self._alias() not in ("", self._address) or await self._leave():
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
        available = availability(present).get("status") if self.stands else None
        self._missed = self._missed + 1 if available == "False" else 0
        self._reached = self._reached or available == "True"
        return self._missed >= (MISSED_LATER if self._reached else MISSED)

    async def _try_otherwise(self, why: str) -> None:
        self._missed, self._reached = 0, False
        if await self._alias() != self._address and ":" not in self._address:
            log.info("kube-apiserver does not reach the address of Service %s/%s (%s); cloudcore's own is tried",
                     NAMESPACE, SERVICE, why)  # fmt: skip
            self._by_name = True
            await self._remove_service()
            await self._stand()
            return
        log.warning(
            "kube-apiserver does not reach cloudcore at port %d of %s (%s), so metrics.k8s.io is not served; "
            "cloudStream.metricsAPI.enable: false turns this off",
            self._port, self._address, why,
        )  # fmt: skip
        self._by_name, self._resting = False, REST
        await self.withdraw()

    async def _stand(self) -> None:
        self._aside, self.begun = False, True
        if self._holders is not None:
            await self._holders.hold(self._address)
        alias = await self._alias()
        self._by_name = self._by_name or bool(alias)
        if alias not in ("", self._address):
            self.stands = True  # another cloudcore answers for all
            return
        for resource, wanted in objects_of(self._port, self._ca_pem, self._address if self._by_name else ""):
            await self._have(resource, wanted)
            if resource is SERVICES and not self._by_name:
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

    async def _alias(self) -> str:
        """The address that the Service is another name for; "" where it has one of its own, or is not there."""
        try:
            spec = (await self._client.get(SERVICES, SERVICE, NAMESPACE)).to_dict().get("spec") or {}
        except NotFound:
            return ""
        return str(spec.get("externalName") or "") if spec.get("type") == "ExternalName" else ""

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
        await _delete(self._client, CLUSTER_ROLES, ROLE)


async def _delete(client: Client, resource: ApiResource, name: str, namespace: str = "", *, uid: str = "") -> None:
    try:
        await client.delete(resource, name, namespace, uid=uid)
    except NotFound:
        pass
    except ApiError as error:
        log.warning("%s %s is left behind: %s", resource.kind, name, error)
