"""HTTPS door for joining nodes: the CA for anyone, a certificate for who shows a join token or its present one.

Serves what `authority` signs; a node gets a certificate for itself and no other. Who asks is judged before a body
is read; bodies are capped and every read has a deadline. What is refused is counted and said, and the door stays
open.

Go: cloud/pkg/cloudhub/servers/httpserver/server.go
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.api.registry import NODES
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.cloudcore.cloudhub.recovery import Recovery
from edgehive.cloudcore.cloudhub.signer import SignerUnavailable
from edgehive.kit import metrics
from edgehive.kit.http import Strangers, read_body, serve
from edgehive.kit.refusals import Refusals
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound
from edgehive.kube.recorder import Recorder
from edgehive.wire import join
from edgehive.wire.link import JoinRefused
from edgehive.wire.ws import subject_of

log = logging.getLogger("edgehive.cloudhub")

READ_SECONDS = 30.0
DER = "application/octet-stream"
#: Nobody has business here for longer than one request takes; many edges may stand behind one address.
STRANGERS = Strangers(per_address=128, together=1024, count_until="end")
KEEPALIVE_SECONDS = 5.0
#: How long the unread body of a refused request is still taken in, so that the refusal arrives.
LINGER_SECONDS = 1.0

FindNode = Callable[[str], Awaitable[bool]]


class JoinDoor:
    """The routes and what they need."""

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

    def application(self) -> web.Application:
        app = web.Application(client_max_size=join.MAX_CERTIFICATE_REQUEST, middlewares=[self._answer])
        app.router.add_get(join.CA_PATH, self._ca, allow_head=False)
        app.router.add_get(join.CERTIFICATE_PATH, self._certificate, allow_head=False)
        app.router.add_get(join.CHALLENGE_PATH, self._challenge, allow_head=False)
        app.router.add_get("/node/{name}", self._node, allow_head=False)
        return app

    @web.middleware
    async def _answer(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every refusal becomes its answer: status, one sentence, a count and a line in the log."""
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return web.Response(text="404: Page Not Found", status=404)
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

    def _refuse(self, request: web.Request, reason: str, status: int, text: str) -> web.Response:
        node = request.headers.get(join.NODE_NAME_HEADER, "")[:253]
        self.refusals.refuse(
            reason, f"nothing for node {node!r} at {request.remote}: {text}", about=str(request.remote)
        )
        # What was not read of the body would be taken for the next request.
        return web.Response(text=text, status=status, headers={"Connection": "close"})

    async def _ca(self, _: web.Request) -> web.Response:
        return web.Response(body=self._authority.ca.certificate, content_type=DER)

    async def _node(self, request: web.Request) -> web.Response:
        found = await self._find_node(request.match_info["name"])
        return web.Response(text="Node found") if found else web.Response(text="Node not found", status=404)

    async def _challenge(self, request: web.Request) -> web.Response:
        return web.Response(text=self._recovery.challenge(request.headers.get(join.NODE_NAME_HEADER, "")))

    async def _certificate(self, request: web.Request) -> web.Response:
        node = request.headers.get(join.NODE_NAME_HEADER, "")
        by = self._authenticate(request, node)
        usages = _usages(request)
        body = await _body(request)
        if by == "proof":
            await self._recovery.verify(request.headers, node, body)
        certificate = await self._authority.sign(body, node, usages)
        self._issued.labels(by).inc()
        log.info("node %s at %s has a new certificate, by %s", node, request.remote, by)
        if by == "proof" and self._recorder is not None:
            await self._recorder.event(
                {"kind": "Node", "name": node, "uid": node},
                "Warning",
                "ExpiredCertificateReplaced",
                f"A node at {request.remote} proved that it holds the key of {node}'s expired certificate and has a "
                "new one.",
            )
        return web.Response(body=certificate, content_type=DER)

    def _authenticate(self, request: web.Request, node: str) -> str:
        """What was shown: a certificate (TLS has verified it), a proof (yet to be judged), else a join token."""
        if request.get_extra_info("peercert"):
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
    async with serve(
        door.application(),
        host=config.https.address,
        port=config.https.port,
        # wire: asked for, not required: a joining node has none yet
        ssl_context=authority.context(client_certificate="optional"),
        strangers=STRANGERS,
        refusals=door.refusals,
        keepalive_timeout=KEEPALIVE_SECONDS,
        lingering_time=LINGER_SECONDS,
    ) as (host, port):
        log.info("nodes join at https://%s:%d", host, port)
        yield port


async def node_exists(client: Client, name: str) -> bool:
    """Whether the cluster has a node of this name."""
    try:
        await client.get(NODES, name)
    except NotFound:
        return False
    return True


def _demand_own_certificate(request: web.Request, node: str) -> None:
    try:
        join.verify_subject(*subject_of(request), node)
    except JoinRefused as refused:
        raise JoinRefused(
            f"failed to verify the certificate for edgenode: {node}, "
            f"err: request node name is not match with the certificate: {refused}"
        ) from refused


def _usages(request: web.Request) -> list[int]:
    try:
        return join.parse_extended_key_usages(request.headers.get(join.EXTENDED_KEY_USAGES_HEADER))
    except JoinRefused as refused:
        raise ValueError(str(refused)) from refused


async def _body(request: web.Request) -> bytes:
    try:
        return await read_body(request, READ_SECONDS)
    except TimeoutError:
        raise ValueError(f"its body did not arrive within {READ_SECONDS:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise ValueError(f"it is larger than {join.MAX_CERTIFICATE_REQUEST} bytes") from None
