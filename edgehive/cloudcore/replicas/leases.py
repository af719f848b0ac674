"""Leases as cloudcores keep them: read, written in the version that was read, judged by this machine's own time.

Whether a Lease is still kept is seen from its changes: a holder who has not changed it for the duration it names, as
measured here since the last change was seen, is gone. The dates inside are for people; clocks that differ are harmless.

Go: k8s.io/client-go/tools/leaderelection
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgehive.api.core import Lens
from edgehive.api.document import Document
from edgehive.api.registry import LEASES, NAMESPACES
from edgehive.kit.clock import Clock, rfc3339_micro
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, NotFound

NAMESPACE = "kubeedge"


class _LeaseSpec(Lens, frozen=True):
    holder_identity: str = ""
    lease_duration_seconds: int = 0
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int = 0


class _Lease(Lens, frozen=True):
    spec: _LeaseSpec = _LeaseSpec()


@dataclass(frozen=True, slots=True)
class Held:
    """A Lease as it was read."""

    document: Document
    holder: str
    seconds: int
    acquired: str
    transitions: int
    #: By the holder's clock, which may differ from ours.
    renewed: str = ""

    @classmethod
    def of(cls, document: Document) -> "Held":
        spec = document.read(_Lease).spec
        return cls(
            document,
            spec.holder_identity,
            spec.lease_duration_seconds,
            spec.acquire_time,
            spec.lease_transitions,
            spec.renew_time,
        )

    @property
    def version(self) -> str:
        return self.document.meta.resource_version


@dataclass(frozen=True, slots=True)
class LeaseFile:
    """One Lease by its name. `labels` and `annotations` are what it carries when this process writes it."""

    client: Client
    clock: Clock
    name: str
    seconds: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    async def read(self) -> Held | None:
        try:
            return Held.of(await self.client.get(LEASES, self.name, NAMESPACE))
        except NotFound:
            return None

    async def write(self, holder: str, after: Held | None, *, seconds: int = 0) -> Held:
        """Hold it (or, with "", let it go). Raises Conflict or AlreadyExists when somebody else was quicker."""
        body = self._body(holder, after, seconds or self.seconds)
        if after is not None:
            return Held.of(await self.client.update(LEASES, body, NAMESPACE))
        try:
            return Held.of(await self.client.create(LEASES, body, NAMESPACE))
        except NotFound:
            await self._ensure_namespace()
            return Held.of(await self.client.create(LEASES, body, NAMESPACE))

    def _body(self, holder: str, after: Held | None, seconds: int) -> dict[str, Any]:
        now = rfc3339_micro(self.clock.now())
        metadata: dict[str, Any] = {"name": self.name, "namespace": NAMESPACE}
        same = after is not None and after.holder == holder
        if after is not None:
            metadata["resourceVersion"] = after.version
        metadata |= {"labels": dict(self.labels), "annotations": dict(self.annotations)}
        spec = ({"holderIdentity": holder} if holder else {}) | {
            "leaseDurationSeconds": seconds,
            "acquireTime": after.acquired if after is not None and same and after.acquired else now,
            "renewTime": now,
            "leaseTransitions": (after.transitions + (not same)) if after is not None else 0,
        }
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}

    async def _ensure_namespace(self) -> None:
        try:
            await self.client.create(
                NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            )
        except AlreadyExists:
            return
