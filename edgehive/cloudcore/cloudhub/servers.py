"""The hub's WebSocket door: TLS with a required client certificate, whose name is the node's.

cloudhub opens it when it is not given acceptors. It only accepts; `wire.ws` speaks and `sessions` listens.

Go: cloud/pkg/cloudhub/servers/server.go
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.kit.clock import Clock
from edgehive.kit.http import Strangers, serve
from edgehive.kit.refusals import Refusals
from edgehive.kit.ssl_contexts import ECDSA_CIPHERS
from edgehive.wire import join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.dialing import REFUSAL_HEADER
from edgehive.wire.link import JoinRefused
from edgehive.wire.ws import LinkMetrics, handler, peer_of

log = logging.getLogger("edgehive.cloudhub")

#: A fleet may stand behind one address and come back all at once; who has shaken hands has shown a certificate.
STRANGERS = Strangers(per_address=512, together=4096)


@asynccontextmanager
async def websocket_acceptor(
    config: HubConfig,
    authority: Authority,
    clock: Clock,
    metrics: LinkMetrics | None = None,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[tuple[Acceptor, int]]:
    """Listen for nodes; gives the acceptor (not yet entered) and the port."""
    acceptor = Acceptor("the hub")
    refusals = Refusals("hub", log, registry)
    accept = handler(acceptor, clock=clock, metrics=metrics, refusals=refusals)
    enforced = config.authorization.enforced

    async def handle(request: web.Request) -> web.StreamResponse:
        where = str(request.remote)
        try:
            if wrong := _identity_violation(request):
                if enforced:
                    raise web.HTTPForbidden(text=wrong, headers={REFUSAL_HEADER: wrong})
                refusals.refuse("identity, only audited", f"let in all the same from {where}: {wrong}", about=where)
            return await accept(request)
        except web.HTTPError as refused:
            reason = "identity" if refused.status == 403 else "no edge"
            refusals.refuse(reason, f"connection from {where}: {refused.text}", about=where)
            raise

    app = web.Application()
    # wire: any path upgrades; identity comes from the header and the certificate
    app.router.add_get("/{path:.*}", handle)
    context = authority.context(client_certificate="required")
    context.set_ciphers(ECDSA_CIPHERS)
    listen = config.websocket
    async with serve(
        app, host=listen.address, port=listen.port, ssl_context=context, strangers=STRANGERS, refusals=refusals
    ) as (host, port):
        log.info("nodes connect to %s:%d", host, port)
        yield acceptor, port


def _identity_violation(request: web.Request) -> str:
    """Why the connection is not the node's it says it is; "" when it is."""
    peer = peer_of(request)
    try:
        node = join.node_of(peer.common_name, peer.organizations)
    except JoinRefused as refused:
        return str(refused)
    return "" if node == peer.node else f"the certificate is node {node!r}'s, the connection says node {peer.node!r}"
