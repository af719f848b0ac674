"""The hub's certificate authority: its CA, its server certificate and the join tokens, shared through Secrets.

Local PEM files come first, then the Secrets in namespace kubeedge, then new material. Secrets are written
create-only: of several cloudcores that start at once one makes the CA and the others read it. Nothing here
listens; `join` serves what is signed here.

Go: cloud/pkg/cloudhub/servers/httpserver/{ca,secret}.go, pkg/security
"""

import base64
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.api.core import Secret
from edgehive.api.registry import NAMESPACES, SECRETS
from edgehive.kit import tls
from edgehive.kit.clock import Clock
from edgehive.kit.tls import KeyPair
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import AlreadyExists, NotFound
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

log = logging.getLogger("edgehive.cloudhub")

NAMESPACE = "kubeedge"
CA_SECRET, CA_KEYS = "casecret", ("cadata", "cakeydata")
SERVER_SECRET, SERVER_KEYS = "cloudcoresecret", ("cloudcoredata", "cloudcorekeydata")
TOKEN_SECRET, TOKEN_KEY = "tokensecret", "tokendata"

CA_NAME = "KubeEdge"
CA_SERIAL = 1024
#: A hundred years, as the Go cloud has it.
LIFETIME = timedelta(days=364 * 100)


class AuthorityError(Exception):
    """The certificates at hand cannot be used; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one process: OpenSSL loads keys from files only."""

    certificate: Path
    key: Path
    ca: Path


class Authority:
    """CA and server certificate of this cloud. `load` builds it."""

    def __init__(self, client: Client, clock: Clock, config: HubConfig, ca: KeyPair, server: KeyPair) -> None:
        self.ca = ca
        self.server = server
        self._client = client
        self._clock = clock
        self._config = config

    @classmethod
    async def load(cls, client: Client, clock: Clock, config: HubConfig) -> "Authority":
        """Find or make everything; raises AuthorityError, or ApiError while the API is away."""
        ca = _local_pair(config.tls_ca_file, config.tls_ca_key_file, "CA")
        if ca is None:
            ca = await _shared_pair(client, CA_SECRET, CA_KEYS, _new_ca(clock))
        else:
            await _write_secret(client, CA_SECRET, dict(zip(CA_KEYS, (ca.certificate, ca.key), strict=True)))
        _demand_key_fits(ca, "CA")
        server = _local_pair(config.tls_cert_file, config.tls_private_key_file, "server")
        server = server or await _server_pair(client, clock, config, ca)
        return cls(client, clock, config, ca, server)

    async def check_shared(self) -> None:
        """Raise AuthorityError when the stored CA is no longer the one this process signs with."""
        stored = await _read_pair(self._client, CA_SECRET, CA_KEYS)
        if stored is not None and stored.certificate != self.ca.certificate:
            raise AuthorityError(f"Secret {NAMESPACE}/{CA_SECRET} holds another CA than this cloudcore runs with")

    async def renew_token(self) -> join.Token:
        """Mint a join token and store it; older ones stay good until they expire."""
        expires = self._clock.now() + timedelta(hours=2 * self._config.token_refresh_duration)
        token = join.make_token(self.ca.certificate, self.ca.key, expires)
        await _write_secret(self._client, TOKEN_SECRET, {TOKEN_KEY: str(token).encode()})
        return token

    def sign(self, request_der: bytes, node: str, usages: Sequence[int]) -> bytes:
        """A node's certificate, DER; raises ValueError for a request that is none, JoinRefused for another's."""
        request = x509.load_der_x509_csr(request_der)
        if not request.is_signature_valid:
            raise ValueError("the certificate request is not signed by the key it asks for")
        common_name, organizations = tls.subject_of(request)
        join.verify_subject(common_name, organizations, node)
        public_key = request.public_key()
        if not isinstance(public_key, EllipticCurvePublicKey):
            raise ValueError("the certificate request is not for an elliptic-curve key; make a P-256 key")
        return tls.issue(
            self.ca,
            public_key=public_key,
            common_name=common_name,
            organizations=organizations,
            names=_alternative_names(request),
            usages=[x509.ObjectIdentifier(join.EXTENDED_KEY_USAGE_OIDS[usage]) for usage in usages],
            now=self._clock.now(),
            lifetime=timedelta(days=self._config.edge_cert_signing_duration),
        ).certificate

    def verify_token(self, authorization: str | None) -> None:
        """Raise JoinRefused unless the Authorization header holds a join token of ours."""
        join.verify_bearer(join.bearer_of(authorization), self.ca.key, self._clock.now())

    @contextmanager
    def files(self) -> Iterator[TlsFiles]:
        """The server's certificate and key and the CA as PEM files in a private folder, while entered."""
        with tempfile.TemporaryDirectory(prefix="edgehive-tls-") as folder:
            files = TlsFiles(Path(folder, "server.crt"), Path(folder, "server.key"), Path(folder, "ca.crt"))
            files.key.touch(mode=0o600)
            files.key.write_bytes(self.server.key_pem)
            files.certificate.write_bytes(self.server.certificate_pem)
            files.ca.write_bytes(tls.certificate_pem(self.ca.certificate))
            yield files


def _new_ca(clock: Clock) -> KeyPair:
    return tls.self_signed_ca(CA_NAME, clock.now(), LIFETIME, serial=CA_SERIAL)


def _alternative_names(request: x509.CertificateSigningRequest) -> list[str]:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    ]


# The server's certificate


async def _server_pair(client: Client, clock: Clock, config: HubConfig, ca: KeyPair) -> KeyPair:
    """The stored one while it is good for every advertised address, else a new one."""
    names = [name for name in (*config.dns_names, *config.advertise_address) if name]
    fresh = tls.issue(
        ca,
        common_name=CA_NAME,
        organizations=(CA_NAME,),
        names=names,
        usages=(tls.SERVER_AUTH,),
        now=clock.now(),
        lifetime=LIFETIME,
    )
    stored = await _shared_pair(client, SERVER_SECRET, SERVER_KEYS, fresh)
    if flaw := _server_flaw(stored, ca, names, clock):
        log.warning("making a new server certificate: the stored one %s", flaw)
        await _write_secret(client, SERVER_SECRET, dict(zip(SERVER_KEYS, (fresh.certificate, fresh.key), strict=True)))
        return fresh
    return stored


def _server_flaw(pair: KeyPair, ca: KeyPair, names: Sequence[str], clock: Clock) -> str:
    certificate = x509.load_der_x509_certificate(pair.certificate)
    try:
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(ca.certificate))
    except (ValueError, TypeError, InvalidSignature):
        return "is not signed by the CA"
    if certificate.not_valid_after_utc <= clock.now():
        return "has expired"
    try:
        present = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        present = set()
    missing = [name for name in names if tls.alternative_name(name) not in present]
    return f"is not for {', '.join(missing)}" if missing else ""


# Local files


def _local_pair(certificate: str, key: str, what: str) -> KeyPair | None:
    """The pair in the configured files, None when both are absent."""
    paths = (Path(certificate), Path(key))
    present = [path for path in paths if str(path) not in ("", ".") and path.is_file()]
    if not present:
        return None
    if len(present) == 1:
        missing = next(path for path in paths if path not in present)
        raise AuthorityError(f"{present[0]} is there but {missing} is not: the {what} needs both or neither")
    try:
        pair = KeyPair(tls.certificate_from_pem(paths[0].read_bytes()), tls.key_from_pem(paths[1].read_bytes()))
    except (OSError, ValueError) as error:
        raise AuthorityError(f"the {what} in {paths[0]} and {paths[1]} cannot be read: {error}") from error
    _demand_key_fits(pair, what)
    return pair


def _demand_key_fits(pair: KeyPair, what: str) -> None:
    try:
        fits = x509.load_der_x509_certificate(pair.certificate).public_key() == tls.load_key(pair.key).public_key()
    except ValueError as error:
        raise AuthorityError(f"the {what} certificate or key cannot be read: {error}") from error
    if not fits:
        raise AuthorityError(f"the {what} certificate and its private key do not belong together")


# Secrets


async def _shared_pair(client: Client, name: str, keys: tuple[str, str], fresh: KeyPair) -> KeyPair:
    """The stored pair; `fresh` becomes it when there is none and nobody else was quicker."""
    stored = await _read_pair(client, name, keys)
    if stored is not None:
        return stored
    try:
        await _create_secret(client, name, dict(zip(keys, (fresh.certificate, fresh.key), strict=True)))
    except AlreadyExists:
        stored = await _read_pair(client, name, keys)
        if stored is None:
            raise AuthorityError(f"Secret {NAMESPACE}/{name} comes and goes: two programs write it") from None
        return stored
    return fresh


async def _read_pair(client: Client, name: str, keys: tuple[str, str]) -> KeyPair | None:
    try:
        data = (await client.get(SECRETS, name, NAMESPACE)).read(Secret).data or {}
    except NotFound:
        return None
    if any(not data.get(key) for key in keys):
        raise AuthorityError(f"Secret {NAMESPACE}/{name} lacks {' or '.join(keys)}: restore it, or delete it to renew")
    return KeyPair(data[keys[0]], data[keys[1]])


def _secret(name: str, data: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


async def _create_secret(client: Client, name: str, data: Mapping[str, bytes]) -> None:
    try:
        await client.create(SECRETS, _secret(name, data), NAMESPACE)
    except NotFound:
        await _ensure_namespace(client)
        await client.create(SECRETS, _secret(name, data), NAMESPACE)


async def _write_secret(client: Client, name: str, data: Mapping[str, bytes]) -> None:
    patch = {"data": _secret(name, data)["data"]}
    try:
        await client.patch(SECRETS, name, patch, NAMESPACE, type=PatchType.MERGE)
    except NotFound:
        try:
            await _create_secret(client, name, data)
        except AlreadyExists:
            await client.patch(SECRETS, name, patch, NAMESPACE, type=PatchType.MERGE)


async def _ensure_namespace(client: Client) -> None:
    try:
        await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    except AlreadyExists:
        return


__all__ = ["Authority", "AuthorityError", "JoinRefused", "TlsFiles"]
