"""The module as a whole: who may come in at its two doors, and what stands on the Node afterwards."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.config.edgecore import EdgeCore
from edgehive.api.registry import CONFIG_MAPS, NODES, PODS
from edgehive.beehive.bus import Bus
from edgehive.cloudcore import endpoints
from edgehive.cloudcore.cloudstream.cloudstream import CloudStream, TlsFilesUnusable
from edgehive.cloudcore.deps import CloudDeps
from edgehive.cloudcore.modules import enabled as cloud_modules
from edgehive.edgecore.edgestream.edgestream import EdgeStream, TunnelFiles
from edgehive.edgecore.modules import enabled as edge_modules
from edgehive.kit import tls
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import SystemClock
from edgehive.kit.ssl_contexts import client_context
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import PatchType
from edgehive.kube.informer import Informers
from edgehive.testing.cluster import Cluster
from edgehive.testing.ports import free_ports
from edgehive.testing.streams import FakeKubelet
from edgehive.wire.link import JoinRefused, LinkClosed

LOG = "/containerLogs/default/web/c"
DAY = timedelta(days=1)


class Files(NamedTuple):
    certificate: Path
    key: Path
    ca: Path


class Certificates:
    """The hub's CA with a server and nodes, the cluster's CA with the API server's client, and a stranger's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authorities = {
            name: tls.self_signed_ca(name, SystemClock().now(), DAY) for name in ("hub", "cluster", "other")
        }
        for name, authority in self.authorities.items():
            (folder / f"{name}.ca").write_bytes(authority.certificate_pem)

    def make(self, authority: str, common_name: str, organization: str = "", names: tuple[str, ...] = ()) -> Files:
        usages = (tls.SERVER_AUTH,) if names else (tls.CLIENT_AUTH,)
        organizations = (organization,) if organization else ()
        pair = tls.issue(
            self.authorities[authority], common_name=common_name, organizations=organizations, names=names,
            usages=usages, now=SystemClock().now(), lifetime=DAY,
        )  # fmt: skip
        stem = self.folder / f"{authority}-{common_name.replace(':', '-')}"
        files = Files(stem.with_suffix(".crt"), stem.with_suffix(".key"), self.folder / "hub.ca")
        files.certificate.write_bytes(pair.certificate_pem)
        files.key.write_bytes(pair.key_pem)
        return files


class Identity:
    def __init__(self, files: Files) -> None:
        self._files = files

    @contextmanager
    def files(self) -> Iterator[Files]:
        yield self._files


class Rig:
    def __init__(self, cluster: Cluster, certificates: Certificates, kubelet: FakeKubelet, ports: list[int]) -> None:
        self.cluster, self.certificates, self.kubelet, self.ports = cluster, certificates, kubelet, ports
        self.client = cluster.client()

    def edge(self, files: Files, node: str = "n1") -> EdgeStream:
        return EdgeStream(
            server=f"127.0.0.1:{self.ports[0]}",
            node_name=node,
            node_ip="192.0.2.7",
            files=(TunnelFiles(files.ca, files.certificate, files.key),),
            kubelet=("127.0.0.1", self.kubelet.port),
            retry=Backoff(first=0.05, factor=1.0, limit=0.05, jitter=0.0),
        )

    @asynccontextmanager
    async def tunnel(self) -> AsyncIterator[None]:
        files = self.certificates.make("hub", "system:node:n1", "system:nodes")
        running = spawn(self.edge(files).run(lambda: None), name="edgestream")
        try:
            yield
        finally:
            await cancel_and_join(running)

    async def get(self, target: str, files: Files | None) -> tuple[int, str]:
        context = client_context(self.certificates.folder / "hub.ca")
        if files is not None:
            context.load_cert_chain(files.certificate, files.key)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[1], ssl=context)
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        try:
            async with asyncio.timeout(10):
                head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        return int(head.split(" ")[1]), body

    async def node(self) -> dict[str, Any]:
        return (await self.client.get(NODES, "n1")).to_dict()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(20):
            while not await condition():
                await asyncio.sleep(0.02)

    async def advertised(self) -> bool:
        addresses = (await self.node())["status"].get("addresses") or [{}]
        return addresses[0].get("address") == "127.0.0.1"


REPORTED = [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": "n1"}]


@asynccontextmanager
async def rig(
    folder: Path, stream: dict[str, Any] | None = None, hub: dict[str, Any] | None = None
) -> AsyncIterator[Rig]:
    ports = free_ports(2)
    files = {f"tls{name}": str(folder / "none") for name in
             ("TunnelCAFile", "TunnelCertFile", "TunnelPrivateKeyFile", "StreamCAFile", "StreamCertFile",
              "StreamPrivateKeyFile")}  # fmt: skip
    section = {"address": "127.0.0.1", "tunnelPort": ports[0], "streamPort": ports[1]} | files | (stream or {})
    config = msgspec.convert({"modules": {"cloudStream": section, "cloudHub": hub or {}}}, CloudCore)
    certificates = Certificates(folder)
    server = certificates.make("hub", "cloud", names=("127.0.0.1",))
    async with Cluster() as cluster, FakeKubelet(logs={LOG: b"hello"}).serving() as kubelet:
        it = Rig(cluster, certificates, kubelet, ports)
        await it.client.create(NODES, {
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "n1", "labels": {"node-role.kubernetes.io/edge": ""}},
        })  # fmt: skip
        status = {"addresses": REPORTED, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}}
        await it.client.patch(NODES, "n1", {"status": status}, type=PatchType.MERGE, subresource="status")
        await it.client.create(PODS, {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
        }, "default")  # fmt: skip
        async with Informers(it.client) as informers:
            deps = CloudDeps(
                config=config, bus=Bus(), client=it.client, informers=informers, clock=SystemClock(),
                registry=CollectorRegistry(), address="127.0.0.1",
                api_ca=(folder / "cluster.ca").read_text(),
            )  # fmt: skip

            async def identity() -> Identity:
                return Identity(server)

            ready = asyncio.Event()
            running = spawn(CloudStream(deps, identity).run(ready.set), name="cloudstream")
            try:
                await asyncio.wait(
                    {running, waiting := spawn(ready.wait(), name="ready")}, return_when="FIRST_COMPLETED"
                )
                if running.done():
                    waiting.cancel()
                    running.result()
                yield it
            finally:
                await cancel_and_join(running)


# The stream door


async def test_an_api_server_with_its_client_certificate_is_served(tmp_path: Path) -> None:
    async with rig(tmp_path) as it, it.tunnel():
        await it.until(it.advertised)
        api_server = it.certificates.make("cluster", "kube-apiserver-kubelet-client", "system:masters")
        assert (await it.get(LOG, api_server))[0] == 200


async def test_whoever_shows_nothing_is_told_what_to_show(tmp_path: Path) -> None:
    async with rig(tmp_path) as it, it.tunnel():
        await it.until(it.advertised)
        status, text = await it.get(LOG, None)
        assert status == 401 and "--kubelet-client-certificate" in text
        # Nor does he learn which pods there are.
        assert await it.get("/containerLogs/default/absent/c", None) == (status, text)


async def test_a_certificate_of_another_ca_does_not_get_in(tmp_path: Path) -> None:
    async with rig(tmp_path) as it, it.tunnel():
        await it.until(it.advertised)
        for stranger in (it.certificates.make("other", "x", "system:masters"), it.certificates.make("hub", "y")):
            with pytest.raises((ssl.SSLError, OSError, ValueError, IndexError)):
                await it.get(LOG, stranger)


async def test_in_audit_mode_whoever_shows_nothing_is_served(tmp_path: Path) -> None:
    async with rig(tmp_path, {"authentication": "audit"}) as it, it.tunnel():
        await it.until(it.advertised)
        assert (await it.get(LOG, None))[0] == 200


# The tunnel door


@pytest.mark.parametrize(
    ("authority", "name", "organization", "reason"),
    [
        ("hub", "system:node:n2", "system:nodes", "the certificate is node 'n2''s, the connection says node 'n1'"),
        ("hub", "somebody", "", "is not that of a node"),
        ("other", "system:node:n1", "system:nodes", "certificate"),
    ],
)
async def test_a_foreign_certificate_opens_no_tunnel(
    tmp_path: Path, authority: str, name: str, organization: str, reason: str
) -> None:
    async with rig(tmp_path) as it:
        files = it.certificates.make(authority, name, organization)
        with pytest.raises((JoinRefused, LinkClosed), match=reason):
            await it.edge(files)._hold()


async def test_a_foreign_certificate_is_let_in_where_the_hub_only_audits(tmp_path: Path) -> None:
    async with rig(tmp_path, hub={"authorization": {"enable": True, "debug": True}}) as it:
        files = it.certificates.make("hub", "system:node:n2", "system:nodes")
        running = spawn(it.edge(files)._hold(), name="edge")
        await it.until(it.advertised)
        await cancel_and_join(running)


async def test_an_edge_does_not_talk_to_a_cloud_of_another_ca(tmp_path: Path) -> None:
    async with rig(tmp_path) as it:
        files = it.certificates.make("hub", "system:node:n1", "system:nodes")._replace(ca=tmp_path / "other.ca")
        with pytest.raises(JoinRefused, match="does not verify"):
            await it.edge(files)._hold()


# The Node


async def test_a_node_with_a_tunnel_shows_the_cloud_first_and_itself_second(tmp_path: Path) -> None:
    async with rig(tmp_path) as it, it.tunnel():
        await it.until(it.advertised)
        status = (await it.node())["status"]
        cloud = [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": "127.0.0.1"}]
        assert status["addresses"] == [*cloud, *REPORTED]
        assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == it.ports[1]
        told = endpoints.as_reported(await it.client.get(NODES, "n1")).to_dict()["status"]
        assert (told["addresses"], told["daemonEndpoints"]["kubeletEndpoint"]["Port"]) == (REPORTED, 10350)


async def test_what_somebody_else_writes_over_it_is_mended(tmp_path: Path) -> None:
    async with rig(tmp_path) as it, it.tunnel():
        await it.until(it.advertised)
        status = {"addresses": REPORTED, "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}}}
        await it.client.patch(NODES, "n1", {"status": status}, type=PatchType.MERGE, subresource="status")
        await it.until(it.advertised)
        assert (await it.node())["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == it.ports[1]


async def test_only_the_types_asked_for_are_shown(tmp_path: Path) -> None:
    async with rig(tmp_path, {"advertiseAs": ["Hostname"]}) as it, it.tunnel():
        await it.until(it.advertised)
        assert (await it.node())["status"]["addresses"] == [{"type": "Hostname", "address": "127.0.0.1"}, *REPORTED]


async def test_with_iptables_the_node_keeps_its_addresses_and_gets_the_agreed_port(tmp_path: Path) -> None:
    async with rig(tmp_path, {"kubeletEndpoint": "iptables"}) as it, it.tunnel():

        async def ported() -> bool:
            return (await it.node())["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10351

        await it.until(ported)
        assert (await it.node())["status"]["addresses"] == REPORTED
        record = (await it.client.get(CONFIG_MAPS, "tunnelport", "kubeedge")).meta.annotations or {}
        assert record["tunnelportrecord.kubeedge.io"] == '{"ipTunnelPort":{"127.0.0.1":10351},"port":{"10351":true}}'


# Files


@pytest.mark.parametrize("port", ["Tunnel", "Stream"])
async def test_half_a_pair_of_files_is_one_sentence(tmp_path: Path, port: str) -> None:
    half = tmp_path / "half.crt"
    half.write_text("x")
    with pytest.raises(TlsFilesUnusable, match=r"half\.crt is there but .*none is not: cloudStream needs both"):
        async with rig(tmp_path, {f"tls{port}CertFile": str(half)}):
            """It does not come to this."""


@pytest.mark.parametrize(("key", "port"), [("tlsStreamCAFile", "stream"), ("tlsTunnelCAFile", "tunnel")])
async def test_a_ca_file_that_is_none_is_one_sentence(tmp_path: Path, key: str, port: str) -> None:
    garbage = tmp_path / "garbage.crt"
    garbage.write_text("no certificate")
    with pytest.raises(TlsFilesUnusable, match=f"the {port} port cannot be opened with .*put PEM files"):
        async with rig(tmp_path, {key: str(garbage)}):
            """It does not come to this."""


async def test_certificates_of_ones_own_are_shown(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    own = certificates.make("cluster", "stream", names=("127.0.0.1",))
    files = {"tlsStreamCertFile": str(own.certificate), "tlsStreamPrivateKeyFile": str(own.key)}
    async with rig(tmp_path, files) as it, it.tunnel():
        await it.until(it.advertised)
        with pytest.raises(ssl.SSLCertVerificationError):
            await it.get(LOG, None)  # which trusts the hub's CA


async def test_an_edge_waits_for_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgehive.edgecore.edgestream.edgestream.FILES_SECONDS", 0.02)
    async with rig(tmp_path) as it:
        absent = Files(tmp_path / "hub-system-node-n1.crt", tmp_path / "hub-system-node-n1.key", tmp_path / "hub.ca")
        running = spawn(it.edge(absent).run(lambda: None), name="edgestream")
        await asyncio.sleep(0)
        it.certificates.make("hub", "system:node:n1", "system:nodes")
        await it.until(it.advertised)
        await cancel_and_join(running)


# Which modules run


def test_streams_are_on_unless_the_file_says_otherwise_or_there_are_no_doors() -> None:
    assert "cloudStream" in cloud_modules(CloudCore())
    assert "cloudStream" not in cloud_modules(CloudCore(), doors=False)
    assert "cloudStream" not in cloud_modules(
        msgspec.convert({"modules": {"cloudStream": {"enable": False}}}, CloudCore)
    )
    assert "edgestream" in edge_modules(EdgeCore())
    assert "edgestream" not in edge_modules(EdgeCore(), doors=False)
    assert "edgestream" not in edge_modules(msgspec.convert({"modules": {"edgeStream": {"enable": False}}}, EdgeCore))
