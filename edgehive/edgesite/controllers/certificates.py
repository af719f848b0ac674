"""Signs approved CertificateSigningRequests of the kubelet and API client signers; it approves nothing.

Each signer has its own rules for subject and usages; a request that breaks them gets the condition Failed with
the reason, and no certificate.

Go: pkg/controller/certificates/signer/signer.go
"""

import base64
from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtensionOID

from edgehive.api.cluster import CertificateSigningRequest
from edgehive.api.document import Document
from edgehive.api.registry import CERTIFICATE_SIGNING_REQUESTS
from edgehive.edgesite.controllers.engine import ControllerDeps, Key, Source, own_key
from edgehive.edgesite.controllers.ownership import set_condition
from edgehive.kit import tls
from edgehive.kit.clock import rfc3339
from edgehive.kit.keypair import KeyPair

CLIENT = "kubernetes.io/kube-apiserver-client"
KUBELET_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
KUBELET_SERVING = "kubernetes.io/kubelet-serving"
LIFETIME = timedelta(days=365)
SHORTEST = 600

_KEY_USAGES = {"digital signature", "key encipherment"}
_ALLOWED = {
    CLIENT: _KEY_USAGES | {"client auth"},
    KUBELET_CLIENT: _KEY_USAGES | {"client auth"},
    KUBELET_SERVING: _KEY_USAGES | {"server auth"},
}


class Certificates:
    name = "certificates"

    def __init__(self, deps: ControllerDeps, ca: KeyPair) -> None:
        self._deps = deps
        self._ca = ca
        self._requests = deps.informers.of(CERTIFICATE_SIGNING_REQUESTS)

    def sources(self) -> Sequence[Source]:
        return (Source(self._requests, own_key),)

    async def reconcile(self, key: Key) -> float | None:
        document = self._requests.get(key[1])
        if document is None:
            return None
        request = document.read(CertificateSigningRequest)
        waiting = request.has_condition("Approved") and not request.has_condition("Failed")
        if request.spec.signer_name not in _ALLOWED or request.status.certificate or not waiting:
            return None
        try:
            certificate = self._sign(request)
        except ValueError as error:
            await self._fail(document, str(error))
            return None
        body = document.to_dict()
        body["status"] = {**(body.get("status") or {}), "certificate": base64.b64encode(certificate).decode()}
        await self._write(document, body)
        return None

    def _sign(self, request: CertificateSigningRequest) -> bytes:
        """The certificate as PEM; raises ValueError with what the signer does not allow."""
        csr = x509.load_pem_x509_csr(request.spec.request)
        public_key = csr.public_key()
        if not csr.is_signature_valid:
            raise ValueError("the request is not signed by its own key")
        if not isinstance(public_key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise ValueError("the key is neither an elliptic-curve nor an RSA key; P-256 is best")
        common_name, organizations = tls.subject_of(csr)
        names = _alternative_names(csr)
        check(request.spec.signer_name, set(request.spec.usages or ()), common_name, organizations, names)
        seconds = max(SHORTEST, request.spec.expiration_seconds or int(LIFETIME.total_seconds()))
        serving = request.spec.signer_name == KUBELET_SERVING
        pair = tls.issue(
            self._ca,
            public_key=public_key,
            common_name=common_name,
            organizations=organizations,
            names=names,
            usages=(tls.SERVER_AUTH,) if serving else (tls.CLIENT_AUTH,),
            now=self._deps.clock.now(),
            lifetime=min(LIFETIME, timedelta(seconds=seconds)),
        )
        return pair.certificate_pem

    async def _fail(self, document: Document, message: str) -> None:
        body = document.to_dict()
        status = body.get("status") or {}
        now = rfc3339(self._deps.clock.now())
        new = {"type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": message}
        conditions = set_condition(status.get("conditions") or [], {**new, "lastUpdateTime": now}, now)
        body["status"] = {**status, "conditions": conditions}
        await self._write(document, body)

    async def _write(self, document: Document, body: dict[str, object]) -> None:
        await self._deps.client.update(
            CERTIFICATE_SIGNING_REQUESTS, body, name=document.meta.name, subresource="status"
        )


def check(signer: str, usages: set[str], common_name: str, organizations: Sequence[str], names: Sequence[str]) -> None:
    """The signer's rules; raises ValueError naming the one that is broken."""
    surplus = usages - _ALLOWED[signer]
    if surplus:
        raise ValueError(f"signer {signer} does not allow the usage {', '.join(sorted(surplus))}")
    needed = "server auth" if signer == KUBELET_SERVING else "client auth"
    if needed not in usages:
        raise ValueError(f"signer {signer} needs the usage {needed}")
    if signer == CLIENT:
        if "system:masters" in organizations:
            raise ValueError("the organization system:masters cannot be requested")
        return
    if list(organizations) != ["system:nodes"]:
        raise ValueError(f"signer {signer} needs exactly the organization system:nodes")
    if not common_name.startswith("system:node:"):
        raise ValueError(f"signer {signer} needs a common name that begins with system:node:")
    if signer == KUBELET_CLIENT and names:
        raise ValueError("a client certificate of a node carries no DNS names and no IP addresses")
    if signer == KUBELET_SERVING and not names:
        raise ValueError("a serving certificate needs at least one DNS name or IP address")


def _alternative_names(csr: x509.CertificateSigningRequest) -> list[str]:
    try:
        extension = csr.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    except x509.ExtensionNotFound:
        return []
    names = extension.value
    assert isinstance(names, x509.SubjectAlternativeName)
    if any(not isinstance(item, x509.DNSName | x509.IPAddress) for item in names):
        raise ValueError("only DNS names and IP addresses are signed")
    return [str(item.value) for item in names]
