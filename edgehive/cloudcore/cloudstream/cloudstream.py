"""Module `cloudstream`: logs, exec, attach, port-forward and metrics of edge nodes for the API server.

It opens the tunnel port for nodes and the stream port for the API server, and writes on each Node how to come to the
latter. It knows pods by name and node only, and keeps nothing.

Go: cloud/pkg/cloudstream/cloudstream.go
"""

import asyncio
import contextlib
import logging
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from edgehive.api.config.cloudcore import CloudStream as CloudStreamConfig
from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, NODES, PODS
from edgehive.beehive.module import Ready
from edgehive.cloudcore.cloudstream.advertise import Advertiser, addresses_of, numeric
from edgehive.cloudcore.cloudstream.callers import Callers
from edgehive.cloudcore.cloudstream.cluster_metrics import ClusterMetrics
from edgehive.cloudcore.cloudstream.forwarding import Forwarder, forwarding
from edgehive.cloudcore.cloudstream.front_proxy import FrontProxy
from edgehive.cloudcore.cloudstream.kubelet_face import KubeletFace
from edgehive.cloudcore.cloudstream.metrics_door import AUTHENTICATION, Issue, MetricsDoor
from edgehive.cloudcore.cloudstream.metrics_face import MetricsFace
from edgehive.cloudcore.cloudstream.metrics_objects import SERVER_NAME
from edgehive.cloudcore.cloudstream.metrics_registration import Registration
from edgehive.cloudcore.cloudstream.peers import Introduce, peer_door
from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.endpoints import endpoint_of
from edgehive.cloudcore.placement import node_of
from edgehive.cloudcore.tunnelport import negotiate
from edgehive.kit.fatal import Fatal
from edgehive.kit.http import serve
from edgehive.kit.ssl_contexts import ECDSA_CIPHERS, server_context
from edgehive.kube.errors import ApiError, Conflict
from edgehive.wire.names import CloudModule

log = logging.getLogger("edgehive.cloudstream")

LOCATE_SECONDS = 10.0
STOP_SECONDS = 3.0


class TlsFilesUnusable(Fatal):
    """A configured file cannot be used; the text says which and what to do."""


class TlsFiles(Protocol):
    """PEM files of a server and the CA of its clients."""

    @property
    def certificate(self) -> Path: ...
    @property
    def key(self) -> Path: ...
    @property
    def ca(self) -> Path: ...


class Identity(Protocol):
    """This cloud's own certificate and CA; cloudhub's authority is one."""

    def files(self) -> contextlib.AbstractContextManager[TlsFiles]: ...


class CloudStream:
    """See the file's head. `identity` finds or makes the cloud's certificates; without `issue` there are no metrics,
    and without `introduce`, which makes the certificate for other replicas, there are none.
    """

    name: str = CloudModule.CLOUD_STREAM
    group: str = CloudModule.CLOUD_STREAM
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        deps: CloudDeps,
        identity: Callable[[], Awaitable[Identity]],
        issue: Issue | None = None,
        introduce: Introduce | None = None,
    ) -> None:
        self._deps = deps
        self._issue = issue
        self._introduce = introduce
        self._config: CloudStreamConfig = deps.config.modules.cloud_stream
        self._identity = identity
        self._pods = deps.informers.of(PODS)
        self._nodes = deps.informers.of(NODES, label_selector=EDGE_NODE_SELECTOR)

    async def run(self, ready: Ready) -> None:
        async with AsyncExitStack() as doors:
            files = doors.enter_context((await self._identity()).files())
            advertiser = await self._advertiser()
            tunnels = Tunnels(
                enforced=self._deps.config.modules.cloud_hub.authorization.enforced,
                limit=self._deps.config.modules.cloud_hub.node_limit,
                announce=advertiser.hold,
                registry=self._deps.registry,
            )
            metrics = await self._metrics_door(tunnels, advertiser)
            await doors.enter_async_context(self._tunnel_door(tunnels, files))
            forwarder = await self._among_others(tunnels, doors)
            await doors.enter_async_context(await self._stream_door(tunnels, files, doors, metrics, forwarder))
            # Pushed last, so it runs first: doors close quickly when nobody stands in them.
            doors.push_async_callback(_end_tunnels, tunnels)
            ready()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_advertised(tunnels, advertiser, forwarder), name="kubelet endpoints")
                if metrics is not None:
                    tasks.create_task(metrics.keep(), name="metrics.k8s.io")

    # Doors

    def _tunnel_door(self, tunnels: Tunnels, hub: TlsFiles) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
        config = self._config
        own = _pair(config.tls_tunnel_cert_file, config.tls_tunnel_private_key_file)
        certificate, key = own or (hub.certificate, hub.key)
        ca = Path(config.tls_tunnel_ca_file)
        context = _context("tunnel", certificate, key, ca if ca.is_file() else hub.ca, client_certificate="required")
        context.set_ciphers(ECDSA_CIPHERS)
        return serve(tunnels.app(), host=config.address, port=config.tunnel_port, ssl_context=context)

    async def _stream_door(
        self,
        tunnels: Tunnels,
        hub: TlsFiles,
        doors: AsyncExitStack,
        metrics: MetricsDoor | None,
        forwarder: Forwarder | None,
    ) -> contextlib.AbstractAsyncContextManager[tuple[str, int]]:
        config = self._config
        own = _pair(config.tls_stream_cert_file, config.tls_stream_private_key_file)
        certificate, key = own or (hub.certificate, hub.key)
        authorities = await self._client_authorities()
        if not authorities:
            log.warning(
                "no client certificate will do at the stream port: put the cluster's CA into %s",
                config.tls_stream_ca_file,
            )
        bundle = doors.enter_context(_bundle(authorities)) if authorities else None
        context = _context("stream", certificate, key, bundle, client_certificate="optional")
        callers = Callers(self._deps.client, enforce=config.authentication == "required")
        elsewhere = forwarder.serve if forwarder is not None else None
        face = KubeletFace(tunnels, self._locate, callers, self._deps.registry, elsewhere)
        before = [metrics.middleware] if metrics is not None else []
        if metrics is not None:
            metrics.stand_at(context)
        return serve(face.app(*before), host=config.address, port=config.stream_port, ssl_context=context)

    async def _metrics_door(self, tunnels: Tunnels, advertiser: Advertiser) -> MetricsDoor | None:
        if self._issue is None or not self._config.metrics_api.enable:
            return None
        front = FrontProxy(SERVER_NAME, (issued := await self._issue(SERVER_NAME)).certificate)
        client, registry = self._deps.client, self._deps.registry

        def is_away(node: Document) -> bool:
            # Where there may be others, the API server's way leads to whoever has the tunnel.
            return self._deps.presence is None and advertiser.leads_here(node)

        cluster = ClusterMetrics(client, self._deps.clock, tunnels, self._nodes, self._pods, is_away=is_away)
        address = await numeric(self._config.advertise_address or self._deps.address)
        registration = Registration(
            client, address, self._config.stream_port, issued.ca_pem, holders=self._deps.presence
        )
        return MetricsDoor(
            client, MetricsFace(front, Callers(client, allowed=10.0, refused=10.0), cluster, registry), registration
        )

    async def _among_others(self, tunnels: Tunnels, doors: AsyncExitStack) -> Forwarder | None:
        """Take streams from other replicas, and be able to bring them some; None where there are none."""
        presence, replica = self._deps.presence, self._deps.config.common_config.replica
        if presence is None or self._introduce is None:
            return None
        here, dialling = (await self._introduce()).contexts()
        door = peer_door(
            tunnels, self._locate, here, host=self._config.address, port=replica.port, registry=self._deps.registry
        )
        port = await doors.enter_async_context(door)
        address = replica.address or self._deps.address
        presence.serves_at(f"[{address}]:{port}" if ":" in address else f"{address}:{port}")
        doors.callback(presence.serves_at, "")
        return await doors.enter_async_context(forwarding(presence, dialling))

    async def _client_authorities(self) -> str:
        """The CAs (PEM) of those who may ask: the configured file, else the cluster's own."""
        if configured := _text_of(self._config.tls_stream_ca_file):
            return configured
        published = ""
        try:
            config_map = await self._deps.client.get(CONFIG_MAPS, *AUTHENTICATION)
            published = str((config_map.to_dict().get("data") or {}).get("client-ca-file") or "")
        except ApiError as error:
            log.info("the cluster publishes no CA for clients: %s", error)
        return "\n".join(text for text in dict.fromkeys((self._deps.api_ca.strip(), published.strip())) if text)

    async def _locate(self, namespace: str, pod: str) -> str:
        known = self._pods.get(pod, namespace)
        if known is None:
            async with asyncio.timeout(LOCATE_SECONDS):
                known = await self._deps.client.get(PODS, pod, namespace)
        return node_of(known)

    # How the API server comes here

    async def _advertiser(self) -> Advertiser:
        config, address = self._config, self._config.advertise_address or self._deps.address
        if config.kubelet_endpoint == "iptables":
            port = await negotiate(self._deps.client, address)
            log.info("iptables are to lead port %d of edge nodes to %s:%d", port, address, config.stream_port)
            return Advertiser(self._deps.client, port, None)
        addresses = await addresses_of(address, config.advertise_as)
        return Advertiser(self._deps.client, config.stream_port, addresses)

    async def _keep_advertised(self, tunnels: Tunnels, advertiser: Advertiser, forwarder: Forwarder | None) -> None:
        """A Node that was written meanwhile, by whomever but a cloudcore that has its tunnel too, says it again."""
        async for change in self._nodes.changes():
            if change.new is None or change.new.meta.name not in tunnels:
                continue
            leads_elsewhere = endpoint_of(change.new) is not None and not advertiser.leads_here(change.new)
            if leads_elsewhere and forwarder is not None and await forwarder.holder(change.new.meta.name) is not None:
                continue
            try:
                await advertiser.write(change.new)
            except Conflict:
                continue  # a newer change is under way
            except ApiError as error:
                log.warning("the kubelet endpoint of node %s is not written: %s", change.new.meta.name, error)


async def _end_tunnels(tunnels: Tunnels) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await tunnels.end_all("cloudcore is stopping")


def _text_of(file: str) -> str:
    """ "" where there is no such file."""
    path = Path(file)
    return path.read_text(errors="replace") if path.is_file() else ""


def _pair(certificate: str, key: str) -> tuple[Path, Path] | None:
    """The files, None when both are absent; raises TlsFilesUnusable."""
    paths = (Path(certificate), Path(key))
    present = [path for path in paths if path.is_file()]
    if len(present) == 1:
        missing = next(path for path in paths if path not in present)
        raise TlsFilesUnusable(f"{present[0]} is there but {missing} is not: cloudStream needs both or neither")
    return paths if present else None


def _context(
    port: str, certificate: Path, key: Path, clients: Path | None, *, client_certificate: str
) -> ssl.SSLContext:
    """Raises TlsFilesUnusable."""
    try:
        return server_context(certificate, key, client_ca=clients, client_certificate=client_certificate)
    except (OSError, ssl.SSLError) as error:
        raise TlsFilesUnusable(
            f"the {port} port cannot be opened with {certificate}, {key} and the CA of its clients: "
            f"{getattr(error, 'reason', None) or error}; put PEM files that belong together there, or none"
        ) from error


@contextmanager
def _bundle(authorities: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgehive-stream-") as folder:
        path = Path(folder, "clients.crt")
        path.write_text(authorities)
        yield path
