"""Module `edgestream`: holds the tunnel through which the cloud reaches this node's kubelet.

It dials with the node's certificate, verifies the cloud's, pings, and dials again when the tunnel ends. It knows
nothing of pods; `streams` serves what comes.

Go: edge/pkg/edgestream/{edgestream,tunnel}.go
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from edgehive.beehive.module import Ready
from edgehive.edgecore.edgestream.streams import LocalKubelet
from edgehive.kit import metrics
from edgehive.kit.backoff import Backoff
from edgehive.kit.ssl_contexts import client_context
from edgehive.wire.link import JoinRefused, LinkClosed
from edgehive.wire.names import EdgeModule, Group
from edgehive.wire.streams import Stream
from edgehive.wire.tunnel import Frame
from edgehive.wire.tunnel_ws import connect

log = logging.getLogger("edgehive.edgestream")

RETRY = Backoff(first=2.0, factor=1.5, limit=10.0, jitter=0.25)
#: A tunnel that held this long was a good one: the next try comes soon.
GOOD_SECONDS = 30.0
FILES_SECONDS = 2.0


class TunnelFiles(NamedTuple):
    """PEM files of the node's identity, which edgehub writes."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, ca: str, certificate: str, key: str) -> "TunnelFiles":
        return cls(Path(ca), Path(certificate), Path(key))

    def present(self) -> bool:
        return all(path.is_file() for path in self)


class EdgeStream:
    """See the file's head. `server` is the cloud's tunnel door, `kubelet` the node's own.

    The first of `files` that is there is used; with none given there is no TLS, for tests. Without `node_ip` the
    address from which this node reaches the cloud is told.
    """

    name: str = EdgeModule.EDGE_STREAM
    group: str = Group.EDGE_STREAM
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        server: str,
        node_name: str,
        node_ip: str,
        files: Sequence[TunnelFiles],
        kubelet: tuple[str, int],
        handshake_timeout: float = 30.0,
        registry: CollectorRegistry | None = None,
        retry: Backoff = RETRY,
    ) -> None:
        self._server = server
        self._node_name, self._node_ip = node_name, node_ip
        self._files = files
        self._kubelet = kubelet
        self._handshake_timeout = handshake_timeout
        self._retry = retry
        self._connected = metrics.gauge("edgehive_tunnel_connected", "Whether the tunnel stands.", registry=registry)
        self._asked = metrics.counter("edgehive_tunnel_streams", "Streams the cloud asked for.", registry=registry)

    async def run(self, ready: Ready) -> None:
        ready()
        await self._wait_for_files()
        loop, failures, told = asyncio.get_running_loop(), 0, ""
        while True:
            # Before the first try too: a stock cloud lets a node that is not registered yet wait for 20 s.
            await asyncio.sleep(self._retry.delay(max(failures - 1, 0)))
            began = loop.time()
            try:
                reason = await self._hold()
            except (LinkClosed, JoinRefused) as error:
                reason = str(error)
            failures = 0 if loop.time() - began > GOOD_SECONDS else failures + 1
            log.log(logging.DEBUG if reason == told else logging.WARNING, "no tunnel to the cloud: %s", reason)
            told = reason

    async def _wait_for_files(self) -> None:
        if not self._files or self._present() is not None:
            return
        log.info("the tunnel waits for the node's certificate in %s", self._files[-1].certificate)
        while self._present() is None:  # noqa: ASYNC110 - another module's files have no event
            await asyncio.sleep(FILES_SECONDS)

    def _present(self) -> TunnelFiles | None:
        return next((files for files in self._files if files.present()), None)

    async def _hold(self) -> str:
        """Dial and serve until the tunnel ends; why it did. Raises LinkClosed or JoinRefused."""
        async with LocalKubelet(*self._kubelet) as kubelet:

            def serve(frame: Frame, stream: Stream) -> None:
                self._asked.inc()
                kubelet.serve(frame, stream)

            context = await asyncio.to_thread(self._context)
            dialled = connect(
                self._server,
                node=self._node_name,
                address=self._node_ip or _own_address(self._server),
                ssl_context=context,
                on_connect=serve,
                handshake_timeout=self._handshake_timeout,
            )
            async with dialled as tunnel:
                with self._standing():
                    return await tunnel.run()

    @contextmanager
    def _standing(self) -> Iterator[None]:
        log.info("the tunnel to %s stands", self._server)
        self._connected.set(1)
        try:
            yield
        finally:
            self._connected.set(0)

    def _context(self) -> ssl.SSLContext | None:
        files = self._present()
        if files is None:
            if self._files:
                raise LinkClosed(f"the node's certificate {self._files[-1].certificate} is gone")
            return None
        try:
            return client_context(files.ca, certificate=files.certificate, key=files.key)
        except (OSError, ssl.SSLError) as error:
            raise LinkClosed(
                f"the certificate {files.certificate}, its key or {files.ca} cannot be used: {error}"
            ) from error


def _own_address(server: str) -> str:
    """The address from which this node reaches the cloud, as routing has it; no packet is sent."""
    host = server.rpartition(":")[0].strip("[]")
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        family, host = socket.AF_INET, "192.0.2.1"  # a name: any address far away will do
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])
