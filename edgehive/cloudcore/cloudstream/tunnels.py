"""The tunnel door: one tunnel per node, found by the node's name or address.

A node is who its certificate says. A node's newer tunnel ends its older one. What travels through a tunnel is
`kubelet_face`'s affair.

Go: cloud/pkg/cloudstream/tunnelserver.go
"""

import itertools
import logging
from collections.abc import Callable, Coroutine

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.kit import metrics
from edgehive.kit.http import subject_of
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import join, tunnel
from edgehive.wire.dialing import REFUSAL_HEADER
from edgehive.wire.link import JoinRefused
from edgehive.wire.streams import Stream, StreamBroken, Tunnel
from edgehive.wire.tunnel_ws import accept

log = logging.getLogger("edgehive.cloudstream")


#: Tells the world how to come to a node; runs while its tunnel stands.
Announce = Callable[[str], Coroutine[None, None, None]]


async def _unannounced(_: str) -> None:
    """For callers who need nobody told."""


class Tunnels:
    """All tunnels of this cloudcore. `enforced` False: a foreign certificate is logged and let in."""

    def __init__(
        self,
        *,
        enforced: bool = True,
        limit: int = 1000,
        announce: Announce | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._enforced = enforced
        self._limit = limit
        self._announce = announce or _unannounced
        self._by_node: dict[str, Tunnel] = {}
        self._by_address: dict[str, str] = {}
        self._ids = itertools.count(1)
        self._open = metrics.gauge("edgehive_tunnels", "Nodes whose tunnel stands.", registry=registry)
        self._refused = metrics.counter("edgehive_tunnels_refused", "Tunnels refused.", registry=registry)
        self._bad_frames = metrics.counter("edgehive_tunnel_refused_frames", "Frames that are none of the protocol.",
                                           registry=registry)  # fmt: skip

    def app(self) -> web.Application:
        """What edges connect to."""
        app = web.Application()
        app.router.add_get(tunnel.CONNECT_PATH, self._connect, allow_head=False)
        app.router.add_get(tunnel.CONNECT_PATH + "/", self._connect, allow_head=False)
        return app

    def __contains__(self, node: str) -> bool:
        return node in self._by_node

    def node_at(self, address: str) -> str | None:
        """The node that says this is its address, or has it as its name."""
        return address if address in self._by_node else self._by_address.get(address)

    def open(self, node: str) -> Stream:
        """A new stream to the node. Raises StreamBroken."""
        found = self._by_node.get(node)
        if found is None:
            raise StreamBroken(
                f"node {node} has no tunnel to this cloudcore: it is offline, or its modules.edgeStream is off"
            )
        return found.open(next(self._ids))

    async def end_all(self, reason: str) -> None:
        for carrier in list(self._by_node.values()):
            await carrier.end(reason)

    # The door

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        node = request.headers.get(tunnel.NODE_HEADER, "")
        if wrong := self._violation(request, node):
            self._refused.inc()
            log.warning("tunnel from %s: %s", request.remote, wrong)
            if self._enforced or not node:
                raise web.HTTPForbidden(text=wrong, headers={REFUSAL_HEADER: wrong})
        if node not in self._by_node and len(self._by_node) >= self._limit:
            self._refused.inc()
            why = f"{self._limit} nodes have a tunnel, which is the limit (cloudHub.nodeLimit)"
            raise web.HTTPServiceUnavailable(text=why, headers={REFUSAL_HEADER: why})
        carrier, response = await accept(request)
        await self._hold(node, request.headers.get(tunnel.ADDRESS_HEADER) or request.remote or "", carrier)
        return response

    async def _hold(self, node: str, address: str, carrier: Tunnel) -> None:
        older = self._by_node.get(node)
        self._by_node[node] = carrier
        if older is not None:
            self._by_address = {where: who for where, who in self._by_address.items() if who != node}
        if (holder := self._by_address.setdefault(address, node)) != node:
            # A node says its address itself: one that says another's must not be asked in its place.
            log.warning("node %s says it is at %s, where node %s is; who asks by address asks %s",
                        node, address, holder, holder)  # fmt: skip
        self._open.set(len(self._by_node))
        log.info("node %s at %s has opened its tunnel", node, address)
        announcing = spawn(self._announce(node), name=f"announce {node}")
        try:
            if older is not None:
                await older.end("the node has opened another tunnel")
            await carrier.run()
        finally:
            # Nothing is awaited before the table is right: the request's handler may be cancelled at any moment.
            self._forget(node, address, carrier)
            await cancel_and_join(announcing)

    def _forget(self, node: str, address: str, carrier: Tunnel) -> None:
        self._bad_frames.inc(carrier.refused_frames)
        if self._by_node.get(node) is carrier:
            del self._by_node[node]
            if self._by_address.get(address) == node:
                del self._by_address[address]
        self._open.set(len(self._by_node))
        log.info("the tunnel of node %s has ended: %s", node, carrier.reason)

    def _violation(self, request: web.Request, node: str) -> str:
        """Why the connection is not the node's it says it is; "" when it is."""
        if not node:
            return f"header {tunnel.NODE_HEADER} is missing: it names the node"
        try:
            certified = join.node_of(*subject_of(request))
        except JoinRefused as refused:
            return str(refused)
        if certified != node:
            return f"the certificate is node {certified!r}'s, the connection says node {node!r}"
        return ""
