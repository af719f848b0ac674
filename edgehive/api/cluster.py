"""Lenses of cluster housekeeping kinds: Lease, CertificateSigningRequest, EndpointSlice. Data only."""

import msgspec

from edgehive.api.core import Lens
from edgehive.api.meta import Condition, ObjectMeta


class LeaseSpec(Lens, frozen=True):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)


class CertificateSigningRequestSpec(Lens, frozen=True):
    """`request` is the PEM text, base64 in JSON."""

    request: bytes = b""
    signer_name: str = ""
    expiration_seconds: int | None = None
    usages: list[str] | None = None
    username: str = ""
    groups: list[str] | None = None


class CertificateSigningRequestStatus(Lens, frozen=True):
    conditions: list[Condition] | None = None
    certificate: bytes | None = None


class CertificateSigningRequest(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: CertificateSigningRequestSpec = msgspec.field(default_factory=CertificateSigningRequestSpec)
    status: CertificateSigningRequestStatus = msgspec.field(default_factory=CertificateSigningRequestStatus)

    def has_condition(self, type: str) -> bool:
        return any(item.type == type and item.status == "True" for item in self.status.conditions or ())


class EndpointConditions(Lens, frozen=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Lens, frozen=True):
    addresses: list[str] = msgspec.field(default_factory=list)
    conditions: EndpointConditions = msgspec.field(default_factory=EndpointConditions)
    hostname: str | None = None
    node_name: str | None = None


class EndpointPort(Lens, frozen=True):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class EndpointSlice(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    address_type: str = "IPv4"
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None
