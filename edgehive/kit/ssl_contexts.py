"""SSL contexts: TLS 1.2 or later, the peer always verified.

For every door and every dialler; keys and certificates themselves are made in `kit.tls`.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgehive.kit.keypair import KeyPair

#: TLS 1.2 suites of the hub; all need an ECDSA key. TLS 1.3 is not affected.
ECDSA_CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305"


def server_context(
    certificate: Path, key: Path, *, client_ca: Path | None = None, client_certificate: str = "required"
) -> ssl.SSLContext:
    """A server's context. With `client_ca` the client's certificate is verified: "required" or "optional"."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Neither half resumes sessions: tickets, with the peer's certificate in each, would be work for nothing.
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if client_certificate == "required" else ssl.CERT_OPTIONAL
    return context


def server_context_in_memory(pair: KeyPair, *, client_ca: str) -> ssl.SSLContext:
    """A server's context whose clients may show a certificate of `client_ca` (PEM); nothing comes onto a disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    load_pair(context, pair)
    context.load_verify_locations(cadata=client_ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    """Show this certificate from now on, in connections that begin later. The key does not come onto a disk."""
    load_pem(context, pair.certificate_pem + pair.key_pem)


def load_pem(context: ssl.SSLContext, pem: bytes) -> None:
    """As `load_pair`, for a certificate (with its chain) and its key as PEM; raises ssl.SSLError."""
    # OpenSSL reads keys from a path only; there is memory behind this one.
    with open(os.memfd_create("certificate"), "wb") as file:
        file.write(pem)
        file.flush()
        path = f"/proc/self/fd/{file.fileno()}"
        # A pair that does not fit would leave the context with half of it.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
        context.load_cert_chain(path)


def client_context(
    ca: Path | str | bytes, *, certificate: Path | None = None, key: Path | None = None
) -> ssl.SSLContext:
    """A client's context that trusts `ca` alone (a path, or PEM/DER content); host names are checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if isinstance(ca, Path):
        context.load_verify_locations(cafile=ca)
    else:
        context.load_verify_locations(cadata=ca)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def subject_in(certificate: Mapping[str, Any] | None) -> tuple[str, tuple[str, ...]]:
    """CN and O of a peer's certificate that TLS has verified ("peercert"); ("", ()) without one."""
    pairs = [pair for part in (certificate or {}).get("subject", ()) for pair in part]
    common_name = next((value for name, value in pairs if name == "commonName"), "")
    return common_name, tuple(value for name, value in pairs if name == "organizationName")
