"""The certificates of a fleet: keys and requests made beforehand, certificates got by token as edges get them.

The cloud's CA is believed because its hash is in the token; every certificate comes over a connection of its own.

Go: edge/pkg/edgehub/certificate/certmanager.go
"""

import json
import os
import ssl
from collections.abc import Sequence
from time import perf_counter

import aiohttp

from edgehive.edgecore.edgehub.identity import MAX_ANSWER, REQUEST_SECONDS, fetch_authority
from edgehive.kit import tls
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.kit.ssl_contexts import client_context
from edgehive.testing.fleet.journal import Journal
from edgehive.wire import join
from edgehive.wire.link import JoinRefused, LinkClosed


class JoinDoor:
    """The cloud's join server and a token for it; an async context manager."""

    def __init__(self, server: str, token: str, journal: Journal) -> None:
        self._server = server.rstrip("/")
        self._token = join.parse_token(token)
        self._journal = journal
        self._authority = ""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "JoinDoor":
        """Fetch the CA and hold it against the token; raises JoinRefused or LinkClosed."""
        try:
            authority = await fetch_authority(self._server)
        except (JoinRefused, LinkClosed) as error:
            raise type(error)(str(error).replace("modules.edgeHub.httpServer", "--join")) from error
        join.verify_ca(authority, self._token)
        self._authority = certificate_pem(authority).decode()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def context(self, node: str, key: bytes, request: bytes, trust: ssl.SSLContext) -> ssl.SSLContext:
        """A TLS context with a fresh certificate for this node; raises JoinRefused or LinkClosed."""
        assert self._session is not None
        began = perf_counter()
        headers = {
            join.NODE_NAME_HEADER: node,
            join.EXTENDED_KEY_USAGES_HEADER: json.dumps([join.CLIENT_AUTH]),
            join.AUTHORIZATION_HEADER: f"Bearer {self._token.bearer}",
        }
        url = self._server + join.CERTIFICATE_PATH
        try:
            async with self._session.get(url, ssl=trust, headers=headers, data=request) as response:
                body = await response.content.read(MAX_ANSWER)
                status = response.status
        except (aiohttp.ClientError, OSError) as error:
            raise LinkClosed(f"the join server {self._server} cannot be reached: {error or 'no answer'}") from error
        if status != 200:
            said = " ".join(body[:300].decode(errors="replace").split())
            raise JoinRefused(f"the join server refuses a certificate for {node} with status {status}: {said}")
        self._journal.took("certificate", perf_counter() - began)
        return _with_certificate(client_context(self._authority), KeyPair(body, key))

    def trust(self) -> ssl.SSLContext:
        """For requests that show no certificate."""
        return client_context(self._authority)


def requests(names: Sequence[str], *, shared_key: bool) -> list[tuple[bytes, bytes]]:
    """A key and a certificate request per node, as Go words them. Blocking."""
    key = tls.new_key()
    made = []
    for name in names:
        key = key if shared_key else tls.new_key()
        words = {"country": "CN", "state": "Zhejiang", "city": "Hangzhou"}
        made.append((key, tls.request(key, join.node_user(name), [join.NODES_GROUP], **words)))
    return made


def _with_certificate(context: ssl.SSLContext, pair: KeyPair) -> ssl.SSLContext:
    # OpenSSL wants a path; memory behind one keeps the private key off the disk.
    with open(os.memfd_create("node-certificate"), "wb") as file:
        file.write(pair.certificate_pem + pair.key_pem)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    return context
