"""The hub's certificate authority: its CA, its server certificate and the join tokens, shared through Secrets.

Local PEM files come first, then the Secrets in namespace kubeedge, then new material. The server certificate is
replaced while it is served, as soon as it does not fit the advertised addresses any more. Keys are computed with in
a process apart (`signer`); nothing here listens: `join` serves what is signed here.

Go: cloud/pkg/cloudhub/servers/httpserver/{ca,secret}.go, pkg/security
"""

import logging
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub import questions, shared_secrets
from edgehive.cloudcore.cloudhub.shared_secrets import AuthorityChanged, AuthorityError, PairSecret
from edgehive.cloudcore.cloudhub.signer import Signer
from edgehive.kit.clock import Clock
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.kit.ssl_contexts import load_pair, server_context
from edgehive.kube.client import Client
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

log = logging.getLogger("edgehive.cloudhub")

CA_NAME = "KubeEdge"
CA_SERIAL = 1024
#: A hundred years, as the Go cloud has it.
LIFETIME = timedelta(days=364 * 100)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one process: OpenSSL loads keys from files only."""

    certificate: Path
    key: Path
    ca: Path


class Authority:
    """CA and server certificate of this cloud. `load` builds it."""

    def __init__(
        self, client: Client, clock: Clock, config: HubConfig, signer: Signer, ca: KeyPair, server: KeyPair
    ) -> None:
        self.ca = ca
        self.server = server
        self.clock = clock
        self.signer = signer
        self._client = client
        self._config = config
        self._contexts: list[ssl.SSLContext] = []
        #: What `server` was last found good for: the names, and the state of the local files.
        self._judged: object = None

    @classmethod
    async def load(cls, client: Client, clock: Clock, config: HubConfig, signer: Signer) -> "Authority":
        """Find or make everything; raises AuthorityError, or ApiError while the API is away."""
        ca = await _local_pair(signer, config.tls_ca_file, config.tls_ca_key_file, "CA")
        if ca is None:
            ca = await _shared_ca(client, clock, signer)
        else:
            await shared_secrets.write(client, shared_secrets.CA.name, shared_secrets.CA.data(ca))
        authority = cls(client, clock, config, signer, ca, KeyPair(b"", b""))
        await authority.refresh_server(config)
        return authority

    async def check_shared(self) -> None:
        """Raise AuthorityChanged when the stored CA is not the one this process signs with; restore a lost one."""
        stored = await shared_secrets.read_pair(self._client, shared_secrets.CA)
        if stored is None:
            await shared_secrets.create_pair(self._client, shared_secrets.CA, self.ca)
        elif stored.pair.certificate != self.ca.certificate:
            where = f"{shared_secrets.NAMESPACE}/{shared_secrets.CA.name}"
            raise AuthorityChanged(f"Secret {where} holds another CA than this cloudcore runs with")

    # Tokens

    async def keep_token(self) -> None:
        """Renew the stored join token, unless it is good until the next time: another cloudcore may have renewed it."""
        next_time = self.clock.now() + timedelta(hours=self._config.token_refresh_duration)
        try:
            token = join.parse_token(await shared_secrets.read_token(self._client))
            join.verify_ca(self.ca.certificate, token)
            join.verify_bearer(token.bearer, self.ca.key, next_time)
        except JoinRefused:
            await self.renew_token()

    async def renew_token(self) -> join.Token:
        """Mint a join token and store it; older ones stay good until they expire."""
        expires = self.clock.now() + timedelta(hours=2 * self._config.token_refresh_duration)
        token = join.make_token(self.ca.certificate, self.ca.key, expires)
        await shared_secrets.write(
            self._client, shared_secrets.TOKEN_SECRET, {shared_secrets.TOKEN_KEY: str(token).encode()}
        )
        return token

    def verify_token(self, authorization: str | None) -> None:
        """Raise JoinRefused unless the Authorization header holds a join token of ours."""
        join.verify_bearer(join.bearer_of(authorization), self.ca.key, self.clock.now())

    # Certificates of nodes

    async def sign(self, request: bytes, node: str, usages: Sequence[int]) -> bytes:
        """A node's certificate, DER; raises ValueError for a request that is none, JoinRefused for another's."""
        answer = await self.signer.ask(
            questions.SignRequest(
                authority=self.ca,
                request=request,
                node=node,
                usages=list(usages),
                now=self.clock.now(),
                lifetime=timedelta(days=self._config.edge_cert_signing_duration),
            )
        )
        return answer.certificate

    # The server's certificate

    async def refresh_server(self, config: HubConfig) -> bool:
        """Serve what fits the configuration as it is now; True when that is another certificate than before.

        The own one is kept while it fits, whatever others have stored: replicas may advertise different addresses.
        """
        server = await self._fitting_server(config)
        if server == self.server:
            return False
        self.server = server
        for context in self._contexts:
            load_pair(context, server)
        return True

    async def _fitting_server(self, config: HubConfig) -> KeyPair:
        names = [name for name in (*config.dns_names, *config.advertise_address) if name]
        files = (config.tls_cert_file, config.tls_private_key_file)
        state = (names, [_stamp(file) for file in files])
        if state == self._judged:
            return self.server
        local = await _local_pair(self.signer, *files, "server")
        server = local or self.server
        flaw = await self._flaw(server, names) if server.certificate else "is missing"
        if local and flaw:
            log.warning("nodes may refuse this cloud: the certificate in %s %s", config.tls_cert_file, flaw)
        elif flaw:
            server = await self._shared_server(names)
        self._judged = state
        return server

    async def _shared_server(self, names: list[str]) -> KeyPair:
        """The stored one while it is good for every name, else a new one."""
        secret = shared_secrets.SERVER
        fresh: KeyPair | None = None
        while True:
            stored = await shared_secrets.read_pair(self._client, secret)
            flaw = await self._flaw(stored.pair, names) if stored else "is missing"
            if stored and not flaw:
                return stored.pair
            fresh = fresh or await self._new_server(names)
            if stored is None:
                written = await shared_secrets.create_pair(self._client, secret, fresh)
            else:
                log.warning("making a new server certificate: the stored one %s", flaw)
                written = await shared_secrets.replace_pair(self._client, secret, fresh, stored.resource_version)
            if written:
                return fresh

    async def _new_server(self, names: list[str]) -> KeyPair:
        question = questions.NewServer(self.ca, CA_NAME, names, self.clock.now(), LIFETIME)
        return (await self.signer.ask(question)).pair

    async def _flaw(self, pair: KeyPair, names: list[str]) -> str:
        try:
            await self.signer.ask(questions.JudgeServer(self.ca, pair, names, self.clock.now()))
        except ValueError as flaw:
            return str(flaw)
        return ""

    # For TLS

    def context(self, *, client_certificate: str) -> ssl.SSLContext:
        """A server's context that always shows the present certificate; a client's is "required" or "optional"."""
        with self.files() as files:
            context = server_context(
                files.certificate, files.key, client_ca=files.ca, client_certificate=client_certificate
            )
        self._contexts.append(context)
        return context

    @contextmanager
    def files(self) -> Iterator[TlsFiles]:
        """The server's certificate and key and the CA as PEM files in a private folder, while entered."""
        with tempfile.TemporaryDirectory(prefix="edgehive-tls-") as folder:
            files = TlsFiles(Path(folder, "server.crt"), Path(folder, "server.key"), Path(folder, "ca.crt"))
            files.key.touch(mode=0o600)
            files.key.write_bytes(self.server.key_pem)
            files.certificate.write_bytes(self.server.certificate_pem)
            files.ca.write_bytes(certificate_pem(self.ca.certificate))
            yield files


async def _shared_ca(client: Client, clock: Clock, signer: Signer) -> KeyPair:
    """The stored CA; a new one becomes it when there is none and nobody else is quicker."""
    while (stored := await shared_secrets.read_pair(client, shared_secrets.CA)) is None:
        question = questions.NewAuthority(CA_NAME, CA_SERIAL, clock.now(), LIFETIME)
        fresh = (await signer.ask(question)).pair
        if await shared_secrets.create_pair(client, shared_secrets.CA, fresh):
            return fresh
    return await _readable(signer, stored.pair, shared_secrets.CA)


async def _readable(signer: Signer, pair: KeyPair, secret: PairSecret) -> KeyPair:
    try:
        return (await signer.ask(questions.ReadPair(pair))).pair
    except ValueError as error:
        where = f"Secret {shared_secrets.NAMESPACE}/{secret.name}"
        raise AuthorityError(f"the CA in {where} cannot be used: {error}; restore it, or delete it to renew") from error


def _stamp(file: str) -> tuple[int, int, int] | None:
    """What tells one version of a file from another."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


async def _local_pair(signer: Signer, certificate: str, key: str, what: str) -> KeyPair | None:
    """The pair in the configured files, None when both are absent."""
    paths = (Path(certificate), Path(key))
    present = [path for path in paths if str(path) not in ("", ".") and path.is_file()]
    if not present:
        return None
    if len(present) == 1:
        missing = next(path for path in paths if path not in present)
        raise AuthorityError(f"{present[0]} is there but {missing} is not: the {what} needs both or neither")
    try:
        question = questions.ReadPem(paths[0].read_bytes(), paths[1].read_bytes())
        return (await signer.ask(question)).pair
    except (OSError, ValueError) as error:
        raise AuthorityError(f"the {what} in {paths[0]} and {paths[1]} cannot be read: {error}") from error


__all__ = ["Authority", "AuthorityChanged", "AuthorityError", "TlsFiles"]
