"""What cloudcores are to one another: a certificate they all can make, and the door for streams to nodes they hold.

Every replica has the cloud's CA, so each issues itself a certificate for one name that no node ever gets. The door
serves what the stream port serves, for nodes whose tunnel is here and no others: nothing is passed on twice.
"""

import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace, Locate
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit.http import serve
from edgehive.kit.keypair import KeyPair
from edgehive.kit.ssl_contexts import client_context, server_context

#: In the certificate of each cloudcore, and what it is called by.
PEER_NAME: Final = "cloudcore.edgehive.internal"
TUNNEL_PATH: Final = "/tunnels"


class PeerCertificate(NamedTuple):
    """A certificate for PEER_NAME, good for both ends of a connection, and the CA (PEM) that issued it."""

    pair: KeyPair
    ca_pem: bytes

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For the door, and for dialling others; each end verifies the other."""
        with tempfile.TemporaryDirectory(prefix="edgehive-peer-") as folder:
            certificate, key, ca = (Path(folder, name) for name in ("peer.crt", "peer.key", "ca.crt"))
            key.touch(mode=0o600)
            key.write_bytes(self.pair.key_pem)
            certificate.write_bytes(self.pair.certificate_pem)
            ca.write_bytes(self.ca_pem)
            door = server_context(certificate, key, client_ca=ca, client_certificate="required")
            return door, client_context(ca, certificate=certificate, key=key)


#: Makes this cloudcore's.
Introduce = Callable[[], Awaitable[PeerCertificate]]


@asynccontextmanager
async def peer_door(
    tunnels: Tunnels,
    locate: Locate,
    context: ssl.SSLContext,
    *,
    host: str,
    port: int,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[int]:
    """Serve the other cloudcores until left; gives the port."""

    @web.middleware
    async def peers_only(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        subject = (request.get_extra_info("peercert") or {}).get("subject", ())
        if not any(("commonName", PEER_NAME) in part for part in subject):
            raise web.HTTPForbidden(text="this port is for cloudcores alone\n")
        return await handler(request)

    async def tunnel(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["node"] in tunnels else 404)

    # Whoever asked has been judged by the cloudcore that he asked.
    app = KubeletFace(tunnels, locate, None, registry).app()
    app.middlewares.insert(0, peers_only)
    app.router.add_get(TUNNEL_PATH + "/{node}", tunnel)
    async with serve(app, host=host, port=port, ssl_context=context) as (_, bound):
        yield bound
