"""The hub's WebSocket door: TLS with a required client certificate, whose name is the node's.

cloudhub opens it when it is not given acceptors. It only judges who connects; `wire.hub_door` upgrades, `wire.hub_link`
speaks and `sessions` listens.

Go: cloud/pkg/cloudhub/servers/server.go
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.kit.clock import Clock
from edgehive.kit.door import Strangers
from edgehive.kit.refusals import Refusals
from edgehive.kit.ssl_contexts import ECDSA_CIPHERS
from edgehive.wire import join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.hub_door import HubDoor
from edgehive.wire.link import JoinRefused, Peer
from edgehive.wire.link_metrics import UNREGISTERED, LinkMetrics

log = logging.getLogger("edgehive.cloudhub")

#: A fleet may stand behind one address and come back all at once; who has shaken hands has shown a certificate.
STRANGERS = Strangers(per_address=512, together=4096)


@asynccontextmanager
async def websocket_acceptor(
    config: HubConfig,
    authority: Authority,
    clock: Clock,
    metrics: LinkMetrics = UNREGISTERED,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[tuple[Acceptor, int]]:
    """Listen for nodes; gives the acceptor (not yet entered) and the port."""
    acceptor = Acceptor("the hub")
    refusals = Refusals("hub", log, registry)
    judge = _strict if config.authorization.enforced else _lenient(refusals)
    door = HubDoor(acceptor, refusals, judge, clock, metrics, config.node_message_qps)
    context = authority.context(client_certificate="required")
    context.set_ciphers(ECDSA_CIPHERS)
    listen = config.websocket
    async with door.serve(host=listen.address, port=listen.port, ssl_context=context, strangers=STRANGERS) as (
        host,
        port,
    ):
        log.info("nodes connect to %s:%d", host, port)
        yield acceptor, port


def _strict(peer: Peer) -> str:
    """Why the connection is not the node's it says it is; "" when it is."""
    try:
        node = join.node_of(peer.common_name, peer.organizations)
    except JoinRefused as refused:
        return str(refused)
    return "" if node == peer.node else f"the certificate is node {node!r}'s, the connection says node {peer.node!r}"


def _lenient(refusals: Refusals) -> Callable[[Peer], str]:
    """Says and counts what would be refused if authorization did not only watch."""

    def judge(peer: Peer) -> str:
        if wrong := _strict(peer):
            where = peer.address
            refusals.refuse("identity, only audited", f"let in all the same from {where}: {wrong}", about=where)
        return ""

    return judge
