"""The hub's two doors over real TLS on loopback, and what a node (or somebody worse) needs to knock at them.

async with doors(folder) as it:
    status, certificate, key = await it.certificate("n1", Authorization=it.bearer)
"""

import asyncio
import contextlib
import io
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudHub as HubConfig
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.cloudcore.cloudhub.join import join_door
from edgehive.cloudcore.cloudhub.servers import websocket_acceptor
from edgehive.cloudcore.cloudhub.signer import Signer
from edgehive.kit import ssl_contexts, tls
from edgehive.kit.clock import SystemClock
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.kube.recorder import Recorder
from edgehive.testing.cluster import Cluster
from edgehive.wire import join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.link import Link
from edgehive.wire.ws import connect

CLOCK = SystemClock()


def hub_config(folder: Path, **more: object) -> HubConfig:
    """Of a hub on loopback whose certificate files, if any, are in `folder`."""
    files = {key: str(folder / key) for key in ("tlsCAFile", "tlsCAKeyFile", "tlsCertFile", "tlsPrivateKeyFile")}
    door = {"address": "127.0.0.1", "port": 0}
    return msgspec.convert(
        files | {"advertiseAddress": ["127.0.0.1"], "https": door, "websocket": door} | more, HubConfig
    )


@dataclass
class Doors:
    """Open doors and the ways to them."""

    authority: Authority
    token: join.Token
    join_port: int
    hub_port: int
    acceptor: Acceptor
    folder: Path
    cluster: Cluster
    registry: CollectorRegistry

    def client(self, pair: KeyPair | None = None) -> ssl.SSLContext:
        """TLS as a node speaks it, with a certificate or without."""
        ca = certificate_pem(self.authority.ca.certificate).decode()
        if pair is None:
            return ssl_contexts.client_context(ca)
        certificate, key = self.folder / "c.crt", self.folder / "c.key"
        certificate.write_bytes(pair.certificate_pem)
        key.write_bytes(pair.key_pem)
        return ssl_contexts.client_context(ca, certificate=certificate, key=key)

    async def get(
        self, path: str, *, pair: KeyPair | None = None, body: bytes = b"", **headers: str
    ) -> tuple[int, bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                f"https://127.0.0.1:{self.join_port}{path}",
                ssl=self.client(pair),
                data=io.BytesIO(body) if body else None,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
            ) as response,
        ):
            return response.status, await response.read()

    async def certificate(
        self, node: str, *, csr: bytes = b"", pair: KeyPair | None = None, **headers: str
    ) -> tuple[int, bytes, bytes]:
        """Ask for a certificate: status, answer, and the key that was made for it."""
        key = tls.new_key()
        csr = csr or tls.request(key, f"system:node:{node}", ["system:nodes"])
        status, answer = await self.get("/edge.crt", pair=pair, body=csr, NodeName=node, **headers)
        return status, answer, key

    async def dial(self, node: str, pair: KeyPair | None, **headers: str) -> Link:
        return await connect(
            f"wss://127.0.0.1:{self.hub_port}", node=node, ssl_context=self.client(pair), headers=headers
        )

    async def accepted(self) -> Link:
        async with asyncio.timeout(5):
            return await anext(self.acceptor)

    @property
    def bearer(self) -> str:
        return f"Bearer {self.token.bearer}"

    def pair_of(self, node: str) -> KeyPair:
        """A certificate of the node that is good for a day."""
        return tls.issue(
            self.authority.ca,
            common_name=f"system:node:{node}",
            organizations=["system:nodes"],
            now=CLOCK.now(),
            lifetime=timedelta(days=1),
        )

    def refused(self, door: str, reason: str) -> float:
        """How often a door refused for a reason."""
        labels = {"door": door, "reason": reason}
        return self.registry.get_sample_value("edgehive_refusals_total", labels) or 0.0


@contextlib.asynccontextmanager
async def doors(folder: Path, **more: object) -> AsyncIterator[Doors]:
    """Open both doors; the cluster has one node, n1."""

    async def found(name: str) -> bool:
        return name == "n1"

    config = hub_config(folder, **more)
    registry = CollectorRegistry()
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        client = cluster.client()
        authority = await Authority.load(client, CLOCK, config, signer)
        token = await authority.renew_token()
        recorder = Recorder(client, "cloudhub", "cloud", CLOCK)
        async with (
            join_door(config, authority, found, recorder=recorder, registry=registry) as join_port,
            websocket_acceptor(config, authority, CLOCK, registry=registry) as (acceptor, hub_port),
            acceptor,
        ):
            yield Doors(authority, token, join_port, hub_port, acceptor, folder, cluster, registry)
