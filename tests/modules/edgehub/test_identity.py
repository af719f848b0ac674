"""Joining over real TLS: against cloudhub's own join server, and against impostors."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from edgehive.api.config.cloudcore import CloudHub
from edgehive.api.config.edgecore import EdgeHub, EdgeHubTransport
from edgehive.cloudcore.cloudhub.authority import Authority
from edgehive.cloudcore.cloudhub.join import JoinDoor
from edgehive.cloudcore.cloudhub.signer import Signer
from edgehive.edgecore.edgehub import identity as identities
from edgehive.edgecore.edgehub.identity import Identity
from edgehive.kit import tls
from edgehive.kit.clock import FixedClock, SystemClock
from edgehive.kit.http import serve
from edgehive.kit.refusals import Refusals
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.wire import join
from edgehive.wire.acceptor import Acceptor
from edgehive.wire.hub_door import HubDoor
from edgehive.wire.link import JoinRefused, LinkClosed

DAY = timedelta(days=1)

log = logging.getLogger(__name__)


@dataclass
class Cloud:
    authority: Authority
    server: str
    hub: str
    acceptor: Acceptor

    def token(self, expires: datetime | None = None) -> str:
        ca = self.authority.ca
        return str(join.make_token(ca.certificate, ca.key, expires or SystemClock().now() + DAY))


@asynccontextmanager
async def cloud_at(
    *names: str, app: web.Application | None = None, grace: timedelta = 30 * DAY, ca=None, ahead=timedelta(), days=365
) -> AsyncIterator[Cloud]:
    """`ahead`: how wrong the date was when its server certificate was made; `days`: how long nodes' are good."""
    ca = ca or tls.self_signed_ca("KubeEdge", SystemClock().now(), 3650 * DAY)
    now = SystemClock().now() + ahead
    server = tls.issue(
        ca, common_name="KubeEdge", organizations=["KubeEdge"], names=names, usages=[tls.SERVER_AUTH], now=now,
        lifetime=365 * DAY,
    )  # fmt: skip
    signer = Signer()
    authority = Authority(
        None,
        SystemClock(),
        CloudHub(advertise_address=["127.0.0.1"], edge_cert_signing_duration=days),
        signer,
        ca,
        server,
    )

    async def find(_: str) -> bool:
        return True

    acceptor = Acceptor("the hub")
    hub = HubDoor(acceptor, Refusals("hub", log))
    joining = authority.context(client_certificate="optional")
    linking = authority.context(client_certificate="required")
    there = {"host": "127.0.0.1", "port": 0}
    ours = JoinDoor(authority, find, grace=grace).serve(ssl_context=joining, **there)
    async with (
        signer,
        ours if app is None else serve(app, ssl_context=joining, **there) as (_, port),
        hub.serve(ssl_context=linking, **there) as (_, hub_port),
        acceptor,
    ):
        yield Cloud(authority, f"https://127.0.0.1:{port}", f"127.0.0.1:{hub_port}", acceptor)


@pytest.fixture
async def cloud() -> AsyncIterator[Cloud]:
    async with cloud_at("127.0.0.1", "localhost") as running:
        yield running


def make(cloud: Cloud, folder: Path, *, token: str = "", clock=None, config_file=None, node="edge-1", **given):
    config = EdgeHub(
        tls_ca_file=str(folder / "ca" / "rootCA.crt"),
        tls_cert_file=str(folder / "certs" / "server.crt"),
        tls_private_key_file=str(folder / "certs" / "server.key"),
        token=token,
        http_server=given.get("http_server", cloud.server),
        websocket=EdgeHubTransport(server=cloud.hub),
    )
    return Identity(config, node, clock or SystemClock(), config_file=config_file)


async def test_a_node_joins_by_token_and_opens_its_link(cloud, tmp_path):
    config_file = tmp_path / "edgecore.yaml"
    token = cloud.token()
    config_file.write_text(f"modules:\n  edgeHub:\n    # keep me\n    token: {token}\n    heartbeat: 15\n")
    node = make(cloud, tmp_path, token=token, config_file=config_file)
    await node.prepare()
    assert config_file.read_text() == 'modules:\n  edgeHub:\n    # keep me\n    token: ""\n    heartbeat: 15\n'
    for file in (node.credentials.ca, node.credentials.certificate, node.credentials.key):
        assert file.stat().st_mode & 0o777 == 0o600
    assert node.credentials.key.read_text().startswith("-----BEGIN EC PRIVATE KEY-----")
    assert node.credentials.read().common_name == "system:node:edge-1"
    link = await node.dial()
    accepted = await anext(aiter(cloud.acceptor))
    assert (accepted.peer.node, accepted.peer.common_name) == ("edge-1", "system:node:edge-1")
    await link.close()


async def test_later_starts_need_neither_token_nor_join_server(cloud, tmp_path):
    await make(cloud, tmp_path, token=cloud.token()).prepare()
    again = make(cloud, tmp_path, http_server="https://127.0.0.1:1")
    await again.prepare()
    link = await again.dial()
    await link.close()


async def test_a_ca_that_is_not_the_token_s_is_refused_and_not_written(cloud, tmp_path):
    async with cloud_at("127.0.0.1") as other:
        node = make(cloud, tmp_path, token=other.token())
        with pytest.raises(JoinRefused, match="belongs to another cloud"):
            await node.prepare()
    assert not node.credentials.ca.exists()


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("", "no token to ask for one"),
        ("abc", "four parts"),
        ("expired", "expired"),
        ("forged", "token validation failure"),
    ],
)
async def test_a_bad_token_is_one_sentence(cloud, tmp_path, token, sentence):
    if token == "expired":
        token = cloud.token(SystemClock().now() - DAY)
    elif token == "forged":
        ca = cloud.authority.ca
        token = str(join.make_token(ca.certificate, tls.new_key(), SystemClock().now() + DAY))
    node = make(cloud, tmp_path, token=token)
    with pytest.raises(JoinRefused, match=sentence) as refusal:
        await node.prepare()
    assert "\n" not in str(refusal.value)
    assert not node.credentials.certificate.exists()


async def test_a_server_whose_certificate_names_another_host_is_refused(tmp_path):
    async with cloud_at("cloud.example") as other:
        with pytest.raises(JoinRefused, match=r"does not verify.*advertiseAddress"):
            await make(other, tmp_path, token=other.token()).prepare()


async def test_an_unreachable_or_wrong_server_is_named(cloud, tmp_path):
    with pytest.raises(LinkClosed, match="cannot be reached"):
        await make(cloud, tmp_path, token=cloud.token(), http_server="https://127.0.0.1:1").prepare()
    with pytest.raises(JoinRefused, match="must be the cloud's join server"):
        await make(cloud, tmp_path, token=cloud.token(), http_server="cloud:10002").prepare()
    async with serve(web.Application(), host="127.0.0.1", port=0) as (_, port):
        with pytest.raises(JoinRefused, match="does not speak TLS"):
            await make(cloud, tmp_path, token=cloud.token(), http_server=f"https://127.0.0.1:{port}").prepare()


async def test_an_endless_answer_is_not_read(tmp_path):
    async def endless(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * (identities.MAX_ANSWER + 1))

    app = web.Application()
    app.router.add_get("/ca.crt", endless)
    async with cloud_at("127.0.0.1", app=app) as other:
        with pytest.raises(JoinRefused, match="no join server"):
            await make(other, tmp_path, token=other.token()).prepare()


async def test_a_certificate_for_another_key_is_refused(tmp_path):
    clouds: list[Cloud] = []

    async def foreign(_: web.Request) -> web.Response:
        ca = clouds[0].authority.ca
        pair = tls.issue(ca, common_name="system:node:edge-1", now=SystemClock().now(), lifetime=DAY)
        return web.Response(body=pair.certificate)

    async def authority(_: web.Request) -> web.Response:
        return web.Response(body=clouds[0].authority.ca.certificate)

    app = web.Application()
    app.router.add_get("/ca.crt", authority)
    app.router.add_get("/edge.crt", foreign)
    async with cloud_at("127.0.0.1", app=app) as other:
        clouds.append(other)
        node = make(other, tmp_path, token=other.token())
        with pytest.raises(JoinRefused, match="not the one node 'edge-1' asked for"):
            await node.prepare()
    assert not node.credentials.certificate.exists()


async def test_a_node_whose_certificate_expired_comes_back_with_proof_of_its_key(cloud, tmp_path):
    await make(cloud, tmp_path, token=cloud.token()).prepare()
    before = (tmp_path / "certs" / "server.crt").read_bytes()
    later = FixedClock(SystemClock().now() + 380 * DAY)
    link = await make(cloud, tmp_path, clock=later).dial()
    await link.close()
    assert (tmp_path / "certs" / "server.crt").read_bytes() != before


async def test_a_node_whose_clock_is_behind_learns_of_the_expiry_from_the_cloud_and_comes_back(cloud, tmp_path):
    node = make(cloud, tmp_path, token=cloud.token())
    await node.prepare()
    then = SystemClock().now() - 10 * DAY
    expired = tls.issue(
        cloud.authority.ca, common_name="system:node:edge-1", organizations=["system:nodes"], now=then, lifetime=DAY
    )
    node.credentials.store(expired.certificate, expired.key_pem.decode())
    link = await make(cloud, tmp_path, clock=FixedClock(then)).dial()
    await link.close()
    assert node.credentials.certificate.read_bytes() != expired.certificate_pem


async def test_without_a_way_back_an_expired_certificate_is_one_clear_sentence(tmp_path):
    """Where the policy forbids it, and where the cloud is a Go one that knows no such thing."""
    go = web.Application()
    for app, said in ((None, "expiredCertificateGracePeriod is 0"), (go, "")):
        async with cloud_at("127.0.0.1", app=app, grace=timedelta()) as other:
            node = make(other, tmp_path)
            then = SystemClock().now() - 2 * DAY
            pair = tls.issue(
                other.authority.ca, common_name="system:node:edge-1", organizations=["system:nodes"], now=then,
                lifetime=DAY,
            )  # fmt: skip
            node.credentials.store_ca(other.authority.ca.certificate)
            node.credentials.store(pair.certificate, pair.key_pem.decode())
            with pytest.raises(JoinRefused, match=rf"expired on .*{said}.* Put a new token of this cloud") as refusal:
                await make(other, tmp_path).dial()
            assert "\n" not in str(refusal.value)


async def test_an_expired_certificate_is_replaced_when_there_is_a_token(cloud, tmp_path):
    await make(cloud, tmp_path, token=cloud.token()).prepare()
    before = (tmp_path / "certs" / "server.crt").read_bytes()
    later = FixedClock(SystemClock().now() + 400 * DAY)
    link = await make(cloud, tmp_path, clock=later, token=cloud.token()).dial()
    await link.close()
    assert (tmp_path / "certs" / "server.crt").read_bytes() != before


async def test_a_certificate_is_renewed_at_half_its_life_with_itself(cloud, tmp_path):
    await make(cloud, tmp_path, token=cloud.token()).prepare()
    before = (tmp_path / "certs" / "server.crt").read_bytes()
    early = make(cloud, tmp_path, clock=FixedClock(SystemClock().now() + 180 * DAY))
    waiting = spawn(early.renewed(), name="renewal")
    await asyncio.wait([waiting], timeout=0.05)
    assert not waiting.done()
    await cancel_and_join(waiting)
    late = make(cloud, tmp_path, clock=FixedClock(SystemClock().now() + 220 * DAY))
    await asyncio.wait_for(late.renewed(), 5)
    assert (tmp_path / "certs" / "server.crt").read_bytes() != before
    link = await make(cloud, tmp_path).dial()
    await link.close()


async def test_a_crash_between_certificate_and_key_leaves_a_pair(cloud, tmp_path):
    await make(cloud, tmp_path, token=cloud.token()).prepare()
    node = make(cloud, tmp_path)
    old_key = node.credentials.key.read_bytes()
    late = make(cloud, tmp_path, clock=FixedClock(SystemClock().now() + 340 * DAY))
    await late.renewed()
    node.credentials.key.rename(node.credentials.key.with_name("server.key.new"))
    node.credentials.key.write_bytes(old_key)
    assert node.credentials.read() is not None
    link = await node.dial()
    await link.close()


async def test_nothing_is_sent_to_a_server_before_its_ca_is_pinned(tmp_path):
    """An impostor that serves the right CA but has no certificate of it never sees the token."""
    seen: list[str] = []

    async def spy(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization", ""))
        return web.Response(body=b"")

    async with cloud_at("127.0.0.1") as real:

        async def stolen(_: web.Request) -> web.Response:
            return web.Response(body=real.authority.ca.certificate)

        app = web.Application()
        app.router.add_get("/ca.crt", stolen)
        app.router.add_get("/edge.crt", spy)
        async with cloud_at("127.0.0.1", app=app) as impostor:
            with pytest.raises(JoinRefused, match="does not verify"):
                await make(impostor, tmp_path, token=real.token()).prepare()
    assert seen == []
