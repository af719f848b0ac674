"""HTTPS door for joining nodes: the CA for anyone, a certificate for who shows a join token or its present one.

Serves what `authority` signs; a node gets a certificate for itself and no other. Who asks is judged before a body
is read; bodies are capped and every read has a deadline. What is refused is counted and said, and the door stays
open.

Go: cloud/pkg/cloudhub/servers/httpserver/server.go
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import unquote

from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.api.registry import NODES
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.cloudcore.cloudhub.recovery import Recovery
from edgehive.cloudcore.cloudhub.signer import SignerUnavailable
from edgehive.kit import metrics
from edgehive.kit.door import Strangers, Visitor, open_door
from edgehive.kit.exchange import Answer, Exchange, Request, TooLarge
from edgehive.kit.refusals import Refusals
from edgehive.kit.ssl_contexts import subject_in
from edgehive.kit.tasks import cancel_and_join
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.recorder import Recorder
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

log = logging.getLogger("edgehive.cloudhub")

READ_SECONDS = 30.0
DER = "application/octet-stream"
#: Nobody has business here for longer than one request takes; many edges may stand behind one address.
STRANGERS = Strangers(per_address=128, together=1024, count_until="end")
_NODES = "/node/"

FindNode = Callable[[str], Awaitable[bool]]


class JoinDoor:
    """What is asked of it and what it needs for that."""

    def __init__(
        self,
        authority: Authority,
        find_node: FindNode,
        *,
        grace: timedelta = timedelta(),
        recorder: Recorder | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._authority = authority
        self._find_node = find_node
        self._recovery = Recovery(authority.ca, authority.signer, authority.clock, find_node, grace=grace)
        self._recorder = recorder
        self.refusals = Refusals("join", log, registry)
        self._issued = metrics.counter(
            "edgehive_certificates_issued", "Certificates of nodes, by what was shown for them.", ["by"],
            registry=registry,
        )  # fmt: skip

    @asynccontextmanager
    async def serve(self, *, host: str, port: int, ssl_context: ssl.SSLContext) -> AsyncIterator[tuple[str, int]]:
        """Serve until left; gives the address bound."""
        tasks: set[asyncio.Task[None]] = set()

        def receive(where: str, lost: asyncio.Event | None) -> Visitor:
            return Exchange(where, lost, self.refusals, self.answer, tasks, self._authority.clock).visitor()

        async with open_door(
            receive, host=host, port=port, ssl_context=ssl_context, strangers=STRANGERS, refusals=self.refusals
        ) as bound:
            yield bound
        await cancel_and_join(*tasks)

    async def answer(self, request: Request) -> Answer:
        """Every refusal becomes its answer: status, one sentence, a count and a line in the log."""
        try:
            return await self._route(request)
        except JoinRefused as refused:
            return self._refuse(request, "not entitled", 401, str(refused))
        except SignerUnavailable as error:
            return self._refuse(request, "overloaded", 503, str(error))
        except ApiError as error:
            return self._refuse(request, "no API", 503, f"the Kubernetes API does not answer: {error}; try again later")
        except ValueError as error:
            # wire: a request that cannot be signed is a 500; golden 32
            node = request.headers.get(join.NODE_NAME_HEADER, "")
            text = f"the certificate request of node {node!r} cannot be signed: {error}; "
            return self._refuse(request, "bad request", 500, text + "send one PKCS#10 request in DER")

    async def _route(self, request: Request) -> Answer:
        path = request.head.path
        if request.head.method != "GET":
            return Answer(405, b"405: Method Not Allowed")
        if path == join.CERTIFICATE_PATH:
            return await self._certificate(request)
        if path == join.CA_PATH:
            return Answer(200, self._authority.ca.certificate, DER)
        if path == join.CHALLENGE_PATH:
            return Answer(200, self._recovery.challenge(request.headers.get(join.NODE_NAME_HEADER, "")).encode())
        name = path.removeprefix(_NODES)
        if name == path or not name or "/" in name:
            return Answer(404, b"404: Page Not Found")
        return Answer(200, b"Node found") if await self._find_node(unquote(name)) else Answer(404, b"Node not found")

    def _refuse(self, request: Request, reason: str, status: int, text: str) -> Answer:
        node = request.headers.get(join.NODE_NAME_HEADER, "")[:253]
        self.refusals.refuse(reason, f"nothing for node {node!r} at {request.where}: {text}", about=request.where)
        return Answer(status, text.encode(errors="replace"))

    async def _certificate(self, request: Request) -> Answer:
        node = request.headers.get(join.NODE_NAME_HEADER, "")
        by = self._authenticate(request, node)
        usages = _usages(request)
        body = await _body(request)
        if by == "proof":
            await self._recovery.verify(request.headers, node, body)
        certificate = await self._authority.sign(body, node, usages)
        self._issued.labels(by).inc()
        log.info("node %s at %s has a new certificate, by %s", node, request.where, by)
        if by == "proof" and self._recorder is not None:
            await self._recorder.event(
                {"kind": "Node", "name": node, "uid": node},
                "Warning",
                "ExpiredCertificateReplaced",
                f"A node at {request.where} proved that it holds the key of {node}'s expired certificate and has a "
                "new one.",
            )
        return Answer(200, certificate, DER)

    def _authenticate(self, request: Request, node: str) -> str:
        """What was shown: a certificate (TLS has verified it), a proof (yet to be judged), else a join token."""
        if request.certificate:
            _demand_own_certificate(request, node)
            return "certificate"
        if join.CHALLENGE_HEADER in request.headers:
            self._recovery.demand_challenge(request.headers, node)
            return "proof"
        self._authority.verify_token(request.headers.get(join.AUTHORIZATION_HEADER))
        if not node:
            raise JoinRefused(f"header {join.NODE_NAME_HEADER} is missing: it names the node that joins")
        return "token"


@asynccontextmanager
async def join_door(
    config: HubConfig,
    authority: Authority,
    find_node: FindNode,
    *,
    recorder: Recorder | None = None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[int]:
    """Serve until left; gives the port."""
    grace = timedelta(days=config.expired_certificate_grace_period)
    door = JoinDoor(authority, find_node, grace=grace, recorder=recorder, registry=registry)
    # wire: asked for, not required: a joining node has none yet
    context = authority.context(client_certificate="optional")
    async with door.serve(host=config.https.address, port=config.https.port, ssl_context=context) as (host, port):
        log.info("nodes join at https://%s:%d", host, port)
        yield port


async def node_exists(client: Client, name: str) -> bool:
    """Whether the cluster has a node of this name."""
    try:
        await client.get(NODES, name)
    except NotFound:
        return False
    return True


def _demand_own_certificate(request: Request, node: str) -> None:
    try:
        join.verify_subject(*subject_in(request.certificate), node)
    except JoinRefused as refused:
        raise JoinRefused(
            f"failed to verify the certificate for edgenode: {node}, "
            f"err: request node name is not match with the certificate: {refused}"
        ) from refused


def _usages(request: Request) -> list[int]:
    try:
        return join.parse_extended_key_usages(request.headers.get(join.EXTENDED_KEY_USAGES_HEADER))
    except JoinRefused as refused:
        raise ValueError(str(refused)) from refused


async def _body(request: Request) -> bytes:
    try:
        return await request.body(join.MAX_CERTIFICATE_REQUEST, READ_SECONDS)
    except TimeoutError:
        raise ValueError(f"its body did not arrive within {READ_SECONDS:g} s") from None
    except TooLarge:
        raise ValueError(f"it is larger than {join.MAX_CERTIFICATE_REQUEST} bytes") from None
