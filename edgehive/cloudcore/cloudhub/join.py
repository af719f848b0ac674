"""HTTPS door for joining nodes: the CA for anyone, a certificate for who shows a join token or its present one.

Serves what `authority` signs; a node gets a certificate for itself and no other. Bodies are capped and
every read has a deadline.

Go: cloud/pkg/cloudhub/servers/httpserver/server.go
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.cloudcore.cloudhub.signer import SignerUnavailable
from edgehive.kit.http import serve
from edgehive.wire import join
from edgehive.wire.link import JoinRefused
from edgehive.wire.ws import subject_of

log = logging.getLogger("edgehive.cloudhub")

READ_SECONDS = 30.0
DER = "application/octet-stream"

FindNode = Callable[[str], Awaitable[bool]]


@asynccontextmanager
async def join_door(config: HubConfig, authority: Authority, find_node: FindNode) -> AsyncIterator[int]:
    """Serve until left; gives the port."""
    # wire: asked for, not required: a joining node has none yet
    context = authority.context(client_certificate="optional")
    app = application(authority, find_node)
    async with serve(app, host=config.https.address, port=config.https.port, ssl_context=context) as (host, port):
        log.info("nodes join at https://%s:%d", host, port)
        yield port


def application(authority: Authority, find_node: FindNode) -> web.Application:
    """The routes."""

    async def ca_certificate(_: web.Request) -> web.Response:
        return web.Response(body=authority.ca.certificate, content_type=DER)

    async def edge_certificate(request: web.Request) -> web.Response:
        return await _issue(request, authority)

    async def node(request: web.Request) -> web.Response:
        found = await find_node(request.match_info["name"])
        return web.Response(text="Node found") if found else web.Response(text="Node not found", status=404)

    app = web.Application(client_max_size=join.MAX_CERTIFICATE_REQUEST, middlewares=[_not_found])
    app.router.add_get(join.CA_PATH, ca_certificate, allow_head=False)
    app.router.add_get(join.CERTIFICATE_PATH, edge_certificate, allow_head=False)
    app.router.add_get("/node/{name}", node, allow_head=False)
    return app


@web.middleware
async def _not_found(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.Response(text="404: Page Not Found", status=404)


async def _issue(request: web.Request, authority: Authority) -> web.Response:
    node = request.headers.get(join.NODE_NAME_HEADER, "")
    try:
        _authenticate(request, node, authority)
        usages = _usages(request)
        body = await _body(request)
        certificate = await authority.sign(body, node, usages)
    except JoinRefused as refused:
        log.warning("no certificate for node %r at %s: %s", node, request.remote, refused)
        return web.Response(text=str(refused), status=401)
    except SignerUnavailable as error:
        log.error("no certificate for node %r at %s: %s", node, request.remote, error)
        return web.Response(text=str(error), status=503)
    except ValueError as error:
        # wire: a request that cannot be signed is a 500; golden 32
        text = f"the certificate request of node {node!r} cannot be signed: {error}; send one PKCS#10 request in DER"
        log.warning("%s", text)
        return web.Response(text=text, status=500)
    log.info("node %s at %s has a new certificate", node, request.remote)
    return web.Response(body=certificate, content_type=DER)


def _authenticate(request: web.Request, node: str, authority: Authority) -> None:
    """By the certificate when one was shown (TLS has verified it), else by the join token."""
    if not request.get_extra_info("peercert"):
        authority.verify_token(request.headers.get(join.AUTHORIZATION_HEADER))
        if not node:
            raise JoinRefused(f"header {join.NODE_NAME_HEADER} is missing: it names the node that joins")
        return
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
        async with asyncio.timeout(READ_SECONDS):
            return await request.read()
    except TimeoutError:
        raise ValueError(f"its body did not arrive within {READ_SECONDS:g} s") from None
    except web.HTTPRequestEntityTooLarge:
        raise ValueError(f"it is larger than {join.MAX_CERTIFICATE_REQUEST} bytes") from None
