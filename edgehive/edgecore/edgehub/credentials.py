"""The node's files: CA certificate, own certificate and key, and the token in the configuration file.

Every file is written whole beside its place, synced and renamed, readable by its owner alone. A new key is on
disk before the certificate that belongs to it takes the old one's place, so a crash at any point leaves a pair.
Nothing here opens a connection.

Go: pkg/security/certs, edge/pkg/edgehub/certificate
"""

import os
import re
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edgehive.kit.ssl_contexts import client_context


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the agent must know of its own certificate."""

    common_name: str
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the files are."""

    ca: Path
    certificate: Path
    key: Path

    @property
    def _next_key(self) -> Path:
        return self.key.with_name(self.key.name + ".new")

    def read(self) -> Certificate | None:
        """The certificate, when it and its key are there and belong together; None otherwise."""
        if not (self.ca.exists() and self.certificate.exists()):
            return None
        if not self._pair(self.key):
            if not self._pair(self._next_key):
                return None
            self._next_key.replace(self.key)  # a crash came between certificate and key
        return _read_certificate(self.certificate)

    def context(self) -> ssl.SSLContext:
        """For links to the cloud: our CA alone is trusted, host names are checked, our certificate is shown."""
        return client_context(self.ca, certificate=self.certificate, key=self.key)

    def store_ca(self, der: bytes) -> None:
        write_private(self.ca, ssl.DER_cert_to_PEM_cert(der).encode())

    def store(self, certificate: bytes, key: str) -> None:
        """Take a new certificate (DER) and its key (PEM) into use."""
        write_private(self._next_key, key.encode())
        write_private(self.certificate, ssl.DER_cert_to_PEM_cert(certificate).encode())
        self._next_key.replace(self.key)
        _sync_folder(self.key.parent)

    def _pair(self, key: Path) -> bool:
        if not key.exists():
            return False
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate, key)
        except (ssl.SSLError, OSError):
            return False
        return True


def _read_certificate(path: Path) -> Certificate:
    decode = getattr(ssl, "_ssl", None) and getattr(ssl._ssl, "_test_decode_cert", None)  # type: ignore[attr-defined]
    if decode is None:
        return _read_with_cryptography(path)
    # The interpreter's own reader: cryptography costs an idle agent 9 MiB for one name and two dates.
    fields = decode(str(path))
    name = next((value for part in fields["subject"] for key, value in part if key == "commonName"), "")
    return Certificate(name, _date(fields["notBefore"]), _date(fields["notAfter"]))


def _date(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _read_with_cryptography(path: Path) -> Certificate:
    from cryptography import x509

    from edgehive.kit.tls import subject_of

    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    name, _ = subject_of(certificate)
    return Certificate(name, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file in one step; only its owner may read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def blank_token(config: Path, token: str) -> bool:
    """Take the used token out of the configuration file, leaving all else as it is; False when it is not there."""
    text = config.read_text(encoding="utf-8")
    line = re.compile(r"^(\s*token:\s*)([\"']?)" + re.escape(token) + r"\2[ \t]*$", re.MULTILINE)
    blanked, count = line.subn(r'\1""', text)
    if count:
        write_private(config, blanked.encode())
    return bool(count)
