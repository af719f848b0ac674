"""Lens of CertificateSigningRequest, which the site's certificate controller reads. Data only."""

import msgspec

from edgehive.api.core import Lens
from edgehive.api.meta import Condition, ObjectMeta


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
