"""The site's keys and certificates, made once and renewed when half their life is over; and its kubeconfig.

Everything lies under DATA/pki. The certificate authority and the service-account key are never replaced: every
client and every token rests on them.
"""

import base64
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509

from edgehive.kit import tls
from edgehive.kit.keypair import KeyPair, key_pem

AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Pki:
    """The site's identity, loaded."""

    folder: Path
    authority: KeyPair
    service_account_key: bytes

    @property
    def authority_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"


def prepare(folder: Path, now: datetime, names: list[str]) -> Pki:
    """Load what is there, make what is missing or half spent; `names` are the server's."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority = _pair(folder, "ca", lambda: tls.self_signed_ca("edgehive-ca", now, AUTHORITY_LIFETIME))
    _renew(folder, "server", now, names, lambda: _server(authority, now, names))
    _renew(folder, "admin", now, [], lambda: _admin(authority, now))
    account = folder / "sa.key"
    if not account.exists():
        write_private(account, key_pem(tls.new_key()))
    return Pki(folder, authority, tls.key_from_pem(account.read_bytes()))


def server_names(address: str) -> list[str]:
    """What clients call the API server: this machine, the names pods use, and its Service address."""
    host = socket.gethostname()
    service = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    return sorted({"localhost", "127.0.0.1", "::1", host, address, *service})


def _server(authority: KeyPair, now: datetime, names: list[str]) -> KeyPair:
    return tls.issue(
        authority, common_name="edgehive", names=names, usages=(tls.SERVER_AUTH,), now=now, lifetime=LIFETIME
    )


def _admin(authority: KeyPair, now: datetime) -> KeyPair:
    return tls.issue(authority, common_name="admin", organizations=("system:masters",), now=now, lifetime=LIFETIME)


def _renew(folder: Path, name: str, now: datetime, names: list[str], make: Callable[[], KeyPair]) -> None:
    """Keep the certificate while it is in the first half of its life and carries all names."""
    try:
        pair = load(folder, name)
        certificate = x509.load_der_x509_certificate(pair.certificate)
    except (OSError, ValueError):
        _save(folder, name, make())
        return
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    fresh = start <= now < start + (end - start) / 2
    if not fresh or not set(names) <= _names_of(certificate):
        _save(folder, name, make())


def _names_of(certificate: x509.Certificate) -> set[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {str(item.value) for item in names}


def _pair(folder: Path, name: str, make: Callable[[], KeyPair]) -> KeyPair:
    if not (folder / f"{name}.crt").exists():
        _save(folder, name, make())
    return load(folder, name)


def load(folder: Path, name: str) -> KeyPair:
    """The pair kept as NAME.crt and NAME.key; raises OSError or ValueError."""
    certificate = tls.certificate_from_pem((folder / f"{name}.crt").read_bytes())
    return KeyPair(certificate, tls.key_from_pem((folder / f"{name}.key").read_bytes()))


def _save(folder: Path, name: str, pair: KeyPair) -> None:
    # The key first: a certificate without its key would be taken for complete after a crash.
    write_private(folder / f"{name}.key", pair.key_pem)
    write_private(folder / f"{name}.crt", pair.certificate_pem)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file as a whole, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def kubeconfig(pki: Pki, server: str) -> str:
    """A kubeconfig for the administrator."""
    admin = load(pki.folder, "admin")

    def encoded(content: bytes) -> str:
        return base64.b64encode(content).decode()

    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "edgehive",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": encoded(pki.authority.certificate_pem),
                },
            }
        ],
        "users": [
            {
                "name": "admin",
                "user": {
                    "client-certificate-data": encoded(admin.certificate_pem),
                    "client-key-data": encoded(admin.key_pem),
                },
            }
        ],
        "contexts": [{"name": "edgehive", "context": {"cluster": "edgehive", "user": "admin"}}],
        "current-context": "edgehive",
    }
    text: str = yaml.safe_dump(config, sort_keys=False)
    return text
