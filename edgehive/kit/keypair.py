"""`KeyPair`: a certificate and its private key as bytes, and their PEM form.

For processes that hold and hand on key material without ever computing with it: `kit.tls` does that, and costs
a process 14 MiB.
"""

import base64
import ssl
import textwrap
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate (DER) and its private key (SEC1 DER)."""

    certificate: bytes
    key: bytes

    @property
    def certificate_pem(self) -> bytes:
        return certificate_pem(self.certificate)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)


def certificate_pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def key_pem(der: bytes) -> bytes:
    """A SEC1 key as the Go halves write it."""
    lines = "\n".join(textwrap.wrap(base64.b64encode(der).decode(), 64))
    return f"-----BEGIN EC PRIVATE KEY-----\n{lines}\n-----END EC PRIVATE KEY-----\n".encode()
