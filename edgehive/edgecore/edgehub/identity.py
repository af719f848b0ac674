"""Who this node is to the cloud: it joins by token, keeps a certificate, renews it and dials with it.

`Identity.dial` gives the hub its links; `prepare` joins at the first start, `renewed` watches the certificate's
age. The cloud's CA is trusted because its hash is in the token, never because of who served it. An expired
certificate stops the link, not the node. Where this node's date and the cloud's differ the cloud's counts for its
certificate, since it was made by it.

Go: edge/pkg/edgehub/certificate/certmanager.go
"""

import asyncio
import base64
import json
import logging
import random
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from edgehive.api.config.edgecore import EdgeHub
from edgehive.edgecore.edgehub.credentials import Certificate, Credentials, blank_token
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock
from edgehive.kit.ssl_contexts import client_context
from edgehive.wire import join
from edgehive.wire.dialing import date_mend
from edgehive.wire.link import EndedUnanswered, JoinRefused, Link, LinkClosed
from edgehive.wire.link_metrics import LinkMetrics
from edgehive.wire.ws import connect

log = logging.getLogger("edgehive.edgehub")

#: A certificate or a refusal is small; more is not read.
MAX_ANSWER = 1024 * 1024
REQUEST_SECONDS = 30.0
#: Go's waits after a failed renewal.
RENEW_RETRY = Backoff(first=2.0, factor=2.0, limit=32.0, jitter=0.2)
_JOIN_ANEW = (
    "Put a new token of this cloud into modules.edgeHub.token (keadm gettoken, or secret tokensecret in namespace "
    "kubeedge) and start again."
)
#: Longest sleep before the date is read again: clocks are set, machines sleep.
LONGEST_SLEEP = 3600.0


class Identity:
    """One node's identity. `config_file` is where the token is blanked after use."""

    def __init__(
        self,
        config: EdgeHub,
        node: str,
        clock: Clock,
        *,
        config_file: Path | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._config = config
        self._node = node
        self._clock = clock
        self._config_file = config_file
        self._metrics = LinkMetrics(registry)
        self._token = config.token
        self._joining = asyncio.Lock()
        #: How far the cloud's date was ahead of ours when it last told it.
        self._behind = timedelta()
        self.credentials = Credentials(
            Path(config.tls_ca_file), Path(config.tls_cert_file), Path(config.tls_private_key_file)
        )

    async def prepare(self) -> None:
        """Join if this node never did. Raises JoinRefused (start again when mended) or LinkClosed (try later)."""
        if await asyncio.to_thread(self.credentials.read) is None:
            await self._join()

    async def dial(self) -> Link:
        """A link to the cloud, joining first where that is needed and possible."""
        async with self._joining:
            await self._ensure_valid()
        try:
            return await self._connect()
        except EndedUnanswered:
            if not await self._mend():
                raise
        return await self._connect()

    async def _connect(self) -> Link:
        context = await asyncio.to_thread(self.credentials.context)
        websocket = self._config.websocket
        return await connect(
            f"wss://{websocket.server}",
            node=self._node,
            ssl_context=context,
            project_id=self._config.project_id,
            clock=self._clock,
            metrics=self._metrics,
            handshake_timeout=websocket.handshake_timeout,
            write_timeout=websocket.write_deadline,
        )

    async def renewed(self) -> None:
        """Return when a new certificate has taken the old one's place; without rotation never."""
        if not self._config.rotate_certificates:
            await asyncio.Event().wait()
        certificate = await asyncio.to_thread(self.credentials.read)
        if certificate is None:
            await asyncio.Event().wait()
            return
        due = join.rotation_time(certificate.not_before, certificate.not_after, random.random())  # noqa: S311
        while (remaining := (due - self._now()).total_seconds()) > 0:  # noqa: ASYNC110 - a date has no event
            await asyncio.sleep(min(remaining, LONGEST_SLEEP))
        for delay in RENEW_RETRY.delays():
            try:
                await self._request_certificate(bearer="")
            except (LinkClosed, JoinRefused, OSError) as error:
                log.error("the node's certificate could not be renewed: %s", error)
                await asyncio.sleep(delay)
            else:
                log.info("the node's certificate has been renewed")
                return

    def _now(self) -> datetime:
        """The cloud's date, as far as it is known."""
        return self._clock.now() + self._behind

    def _learn_date(self, date: datetime | None) -> None:
        if date is not None:
            self._behind = date - self._clock.now()

    async def _ensure_valid(self) -> None:
        certificate = await asyncio.to_thread(self.credentials.read)
        fault = self._fault(certificate)
        if not fault:
            return
        if not self._token and certificate is not None and certificate.common_name == join.node_user(self._node):
            await self._come_back_unless_valid(fault, certificate)
            return
        if not self._token:
            raise JoinRefused(f"{fault} {_JOIN_ANEW}")
        if certificate is not None:
            log.warning("%s The node joins again with its token.", fault)
        await self._join()

    def _fault(self, certificate: Certificate | None) -> str:
        config = self._config
        if certificate is None:
            return f"This node has no certificate ({config.tls_cert_file} with its key and {config.tls_ca_file})."
        if certificate.not_after <= self._now():
            return f"The certificate {config.tls_cert_file} expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC."
        if certificate.common_name != join.node_user(self._node):
            return f"The certificate {config.tls_cert_file} is for {certificate.common_name}, not for {self._node}."
        return ""

    async def _mend(self) -> bool:
        """Find out why the cloud ended the connection; True when that is mended, JoinRefused when it cannot be."""
        context = await asyncio.to_thread(client_context, self.credentials.ca)
        try:
            answer = await _get(self._config.http_server, join.CA_PATH, context)
        except LinkClosed:
            return False
        certificate = await asyncio.to_thread(self.credentials.read)
        if certificate is None or answer.date is None or answer.date <= certificate.not_after:
            return False
        await self._come_back(
            f"The certificate {self._config.tls_cert_file} expired on {certificate.not_after:%Y-%m-%d %H:%M} UTC by "
            f"the cloud's clock, which is {answer.date - self._clock.now()} ahead of this node's."
        )
        return True

    # Joining

    async def _join(self) -> None:
        """Fetch and pin the CA, ask for a certificate with the token, forget the token."""
        if not self._token:
            raise JoinRefused(
                f"this node has no certificate in {self._config.tls_cert_file} and no token to ask for one: "
                "put the cloud's join token into modules.edgeHub.token"
            )
        token = join.parse_token(self._token)
        authority = await fetch_authority(self._config.http_server)
        join.verify_ca(authority, token)
        await asyncio.to_thread(self.credentials.store_ca, authority)
        await self._request_certificate(bearer=token.bearer)
        await asyncio.to_thread(self._forget_token)
        log.info("node %s has joined the cloud at %s", self._node, self._config.http_server)

    def _forget_token(self) -> None:
        used, self._token = self._token, ""
        if self._config_file is None:
            return
        try:
            blank_token(self._config_file, used)
        except (OSError, UnicodeDecodeError) as error:
            log.warning("the used token stays in %s: %s", self._config_file, error)

    async def _request_certificate(self, *, bearer: str) -> None:
        """A new key and its certificate: by token, or by the certificate the node has."""
        from edgehive.edgecore.edgehub import keysmith

        key, request = await asyncio.to_thread(keysmith.new_request, self._node)
        if bearer:
            headers = {join.AUTHORIZATION_HEADER: f"Bearer {bearer}"}
            context = await asyncio.to_thread(client_context, self.credentials.ca)
        else:
            headers = {}
            context = await asyncio.to_thread(self.credentials.context)
        await self._store_certificate(key, request, context, headers)

    async def _come_back_unless_valid(self, fault: str, certificate: Certificate) -> None:
        try:
            await self._come_back(fault)
        except JoinRefused:
            if self._fault(certificate):
                raise
            log.warning("by the cloud's date the certificate is still valid; set the date of this node")

    async def _come_back(self, fault: str) -> None:
        """A new certificate against proof that this node holds the key of its expired one; raises JoinRefused."""
        from edgehive.edgecore.edgehub import keysmith

        context = await asyncio.to_thread(client_context, self.credentials.ca)
        server, headers = self._config.http_server, {join.NODE_NAME_HEADER: self._node}
        answer = await _get(server, join.CHALLENGE_PATH, context, headers)
        self._learn_date(answer.date)
        if answer.status != 200:
            # A Go cloud has no such path, ours may have a policy against it.
            why = f" The cloud says: {_text(answer.body)}." if answer.status == 401 else ""
            raise JoinRefused(f"{fault}{why} {_JOIN_ANEW}")
        challenge = answer.body.decode(errors="replace")
        key, request = await asyncio.to_thread(keysmith.new_request, self._node)
        old_key = await asyncio.to_thread(self.credentials.key.read_text)
        proof = await asyncio.to_thread(keysmith.sign, join.proof_text(self._node, challenge, request), old_key)
        certificate = ssl.PEM_cert_to_DER_cert(await asyncio.to_thread(self.credentials.certificate.read_text))
        headers = {
            join.CHALLENGE_HEADER: challenge,
            join.EXPIRED_CERTIFICATE_HEADER: base64.b64encode(certificate).decode(),
            join.PROOF_HEADER: base64.b64encode(proof).decode(),
        }
        log.warning("%s The node asks for a new one with proof of its old key.", fault)
        await self._store_certificate(key, request, context, headers)
        log.warning("node %s has a new certificate against proof of its old key", self._node)

    async def _store_certificate(
        self, key: str, request: bytes, context: ssl.SSLContext, headers: dict[str, str]
    ) -> None:
        from edgehive.edgecore.edgehub import keysmith

        usages = json.dumps([join.CLIENT_AUTH])
        headers = {join.NODE_NAME_HEADER: self._node, join.EXTENDED_KEY_USAGES_HEADER: usages, **headers}
        answer = await _get(self._config.http_server, join.CERTIFICATE_PATH, context, headers, request)
        if answer.status != 200:
            raise _refusal(answer)
        self._learn_date(answer.date)
        await asyncio.to_thread(keysmith.check_certificate, answer.body, key, self._node)
        await asyncio.to_thread(self.credentials.store, answer.body, key)


class _Answer(NamedTuple):
    """Of the join server; `date` is what its clock says."""

    status: int
    body: bytes
    date: datetime | None


async def fetch_authority(server: str) -> bytes:
    """The CA certificate (DER) the cloud serves; worth nothing until its hash is compared with the token's."""
    leaf = await _server_certificate(server)
    # Trusting just the certificate the server showed proves nothing about who it is, and need not: the CA in
    # the answer is only believed when its hash equals the one in the token. No secret is sent before that.
    context = client_context(leaf)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    answer = await _get(server, join.CA_PATH, context)
    if answer.status != 200:
        raise _refusal(answer)
    return answer.body


async def _server_certificate(server: str) -> str:
    """The certificate (PEM) a TLS server shows."""
    host, port = _address(server)
    try:
        return await asyncio.to_thread(ssl.get_server_certificate, (host, port), timeout=REQUEST_SECONDS)
    except ssl.SSLError as error:
        raise JoinRefused(f"{server} does not speak TLS: {error.reason}; check modules.edgeHub.httpServer") from error
    except OSError as error:
        raise LinkClosed(f"the cloud's join server {server} cannot be reached: {error.strerror or error}") from error


def _address(server: str) -> tuple[str, int]:
    from yarl import URL

    url = URL(server)
    if url.scheme != "https" or not url.host:
        raise JoinRefused(
            f"modules.edgeHub.httpServer is {server!r}; it must be the cloud's join server, such as https://cloud:10002"
        )
    return url.host, url.port or 443


async def _get(
    server: str, path: str, context: ssl.SSLContext, headers: dict[str, str] | None = None, body: bytes = b""
) -> _Answer:
    """GET (with a body, as the join protocol has it); raises JoinRefused or LinkClosed."""
    import aiohttp

    _address(server)
    timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(server.rstrip("/") + path, ssl=context, headers=headers, data=body or None) as response,
        ):
            content = bytearray()
            async for chunk in response.content.iter_chunked(64 * 1024):
                content += chunk
                if len(content) > MAX_ANSWER:
                    raise JoinRefused(
                        f"{server}{path} answers with more than {MAX_ANSWER} bytes; this is no join server"
                    )
            return _Answer(response.status, bytes(content), _date(response.headers.get("Date", "")))
    except aiohttp.ClientConnectorCertificateError as error:
        fault = error.certificate_error
        text, mend = str(fault), ""
        if isinstance(fault, ssl.SSLCertVerificationError):
            text, mend = fault.verify_message, date_mend(fault)
        mend = mend or (
            "use an address its certificate names (cloudHub.advertiseAddress, dnsNames) and the token of this cloud"
        )
        raise JoinRefused(f"the certificate of {server} does not verify: {text}; {mend}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise LinkClosed(
            f"the cloud's join server {server} cannot be reached: {error or 'no answer in time'}"
        ) from error


def _date(header: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _text(body: bytes) -> str:
    return " ".join(body[:300].decode(errors="replace").split()) or "no reason given"


def _refusal(answer: _Answer) -> JoinRefused | LinkClosed:
    status, text = answer.status, _text(answer.body)
    if status == 401:
        return JoinRefused(
            f"the cloud refuses to sign this node's certificate: {text}. Put a current token into "
            "modules.edgeHub.token (keadm gettoken, or secret tokensecret in namespace kubeedge)"
        )
    if status >= 500:
        return LinkClosed(f"the cloud could not sign this node's certificate (status {status}): {text}")
    return JoinRefused(f"the join server answers with status {status}: {text}")
