"""Joining and connecting over real TLS on loopback: who gets in, who does not, and what they are told."""

import asyncio
import base64
import ssl
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from edgehive.api.core import Secret
from edgehive.api.registry import SECRETS
from edgehive.cloudcore.cloudhub.authority import Authority, AuthorityChanged, AuthorityError
from edgehive.cloudcore.cloudhub.signer import Signer
from edgehive.kit import tls
from edgehive.kit.clock import FixedClock
from edgehive.kit.keypair import KeyPair
from edgehive.kube.client import PatchType
from edgehive.testing.cluster import Cluster
from edgehive.testing.doors import CLOCK, doors, hub_config
from edgehive.wire import join, payloads
from edgehive.wire.link import JoinRefused, LinkClosed
from edgehive.wire.ws import connect


async def test_a_node_joins_with_the_token_renews_with_its_certificate_and_connects(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        status, ca = await it.get("/ca.crt")
        assert status == 200
        join.verify_ca(ca, it.token)
        status, der, key = await it.certificate("n1", Authorization=it.bearer)
        assert status == 200
        certificate = x509.load_der_x509_certificate(der)
        assert tls.subject_of(certificate) == ("system:node:n1", ("system:nodes",))
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [tls.CLIENT_AUTH]
        lifetime = certificate.not_valid_after_utc - CLOCK.now()
        assert timedelta(days=364) < lifetime <= timedelta(days=365)

        pair = KeyPair(der, key)
        status, _, _ = await it.certificate("n1", pair=pair)
        assert status == 200
        link = await connect(f"wss://127.0.0.1:{it.hub_port}", node="n1", ssl_context=it.client(pair))
        accepted = await asyncio.wait_for(anext(it.acceptor), 5)
        assert accepted.peer.node == "n1"
        big = "x" * (5 * 1024 * 1024)
        message = payloads.keepalive(timestamp=1)
        await link.send(type(message)(message.header, message.route, msgspec.Raw(msgspec.json.encode(big))))
        assert len((await asyncio.wait_for(accepted.receive(), 10)).content) > 5_000_000
        await link.close()
        await accepted.close()


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("", "token is empty"),
        ("Bearer", "cannot be split"),
        ("Bearer a b", "cannot be split"),
        ("Bearer abc", "token validation failure"),
    ],
)
async def test_no_token_and_no_token_at_all(tmp_path: Path, authorization: str, text: str) -> None:
    async with doors(tmp_path) as it:
        headers = {"Authorization": authorization} if authorization else {}
        status, answer, _ = await it.certificate("n1", **headers)
        assert status == 401
        assert text in answer.decode()
        assert "\n" not in answer.decode()


async def test_a_foreign_an_expired_and_the_four_part_token_are_refused(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        ca = it.authority.ca
        foreign = join.make_token(ca.certificate, tls.new_key(), CLOCK.now() + timedelta(hours=1))
        expired = join.make_token(ca.certificate, ca.key, CLOCK.now() - timedelta(minutes=1))
        for bearer in (foreign.bearer, expired.bearer, str(it.token)):
            status, answer, _ = await it.certificate("n1", Authorization=f"Bearer {bearer}")
            assert status == 401
            assert b"token validation failure" in answer
        status, answer, _ = await it.certificate("n1", Authorization=f"Bearer {expired.bearer}")
        assert b"expired" in answer


async def test_nobody_gets_a_certificate_for_another(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        csr = tls.request(tls.new_key(), "system:node:n2", ["system:nodes"])
        status, answer, _ = await it.certificate("n1", csr=csr, Authorization=it.bearer)
        assert (status, b"does not belong to node 'n1'" in answer) == (401, True)
        for subject, organizations in (("kubeedge.io", ["KubeEdge"]), ("system:node:n1", ["system:masters"])):
            csr = tls.request(tls.new_key(), subject, organizations)
            status, _, _ = await it.certificate("n1", csr=csr, Authorization=it.bearer)
            assert status == 401
        status, answer, _ = await it.certificate("n2", pair=it.pair_of("n1"), Authorization=it.bearer)
        assert status == 401
        assert answer.startswith(b"failed to verify the certificate for edgenode: n2")
        status, answer = await it.get("/edge.crt", body=csr, Authorization=it.bearer)
        assert (status, b"NodeName" in answer) == (401, True)


async def test_what_is_no_request_is_not_signed(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        for body in (b"garbage", b"x" * (1024 * 1024 + 1)):
            status, answer, _ = await it.certificate("n1", csr=body, Authorization=it.bearer)
            assert status == 500
            assert b"send one PKCS#10 request in DER" in answer
        status, _, _ = await it.certificate("n1", Authorization=it.bearer, ExtKeyUsages="[99]")
        assert status == 500
        status, _, _ = await it.certificate("n1", Authorization=it.bearer, ExtKeyUsages="[1,2]")
        assert status == 200


async def test_other_paths(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        assert await it.get("/node/n1") == (200, b"Node found")
        assert await it.get("/node/n2") == (404, b"Node not found")
        assert await it.get("/nowhere") == (404, b"404: Page Not Found")


async def test_a_foreign_certificate_and_none_at_all_do_not_connect(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        stranger = tls.self_signed_ca("Stranger", CLOCK.now(), timedelta(days=1))
        foreign = tls.issue(
            stranger,
            common_name="system:node:n1",
            organizations=["system:nodes"],
            now=CLOCK.now(),
            lifetime=timedelta(days=1),
        )
        for pair in (foreign, None):
            with pytest.raises((LinkClosed, JoinRefused)):
                await connect(f"wss://127.0.0.1:{it.hub_port}", node="n1", ssl_context=it.client(pair))


async def test_a_node_cannot_connect_as_another_unless_authorization_only_watches(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        with pytest.raises((LinkClosed, JoinRefused), match="n1"):
            await connect(f"wss://127.0.0.1:{it.hub_port}", node="n2", ssl_context=it.client(it.pair_of("n1")))
    async with doors(tmp_path, authorization={"enable": True, "debug": True}) as it:
        link = await connect(f"wss://127.0.0.1:{it.hub_port}", node="n2", ssl_context=it.client(it.pair_of("n1")))
        assert (await asyncio.wait_for(anext(it.acceptor), 5)).peer.node == "n2"
        await link.close()


async def test_cloudcores_that_start_together_make_one_ca(tmp_path: Path) -> None:
    """Three of them, each with a signing process of its own, so that each has made a CA before any is stored."""

    async def start(cluster: Cluster) -> Authority:
        async with Signer() as signer:
            return await Authority.load(cluster.client(), CLOCK, hub_config(tmp_path), signer)

    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        many = await asyncio.gather(*(start(cluster) for _ in range(3)))
        assert len({authority.ca for authority in many}) == 1
        assert len({authority.server for authority in many}) == 1
        later = await Authority.load(cluster.client(), CLOCK, hub_config(tmp_path), signer)
        assert (later.ca, later.server) == (many[0].ca, many[0].server)
        await later.check_shared()


async def test_a_stored_ca_that_is_half_or_not_a_pair_is_refused_and_left_alone(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        client = cluster.client()
        await Authority.load(client, CLOCK, hub_config(tmp_path), signer)
        other = base64.b64encode(tls.new_key()).decode()
        for data, sentence in (
            ({"cakeydata": other}, "do not belong together.*delete it to renew"),
            ({"cakeydata": None}, "lacks cadata or cakeydata.*delete it to have a new pair made"),
        ):
            await client.patch(SECRETS, "casecret", {"data": data}, "kubeedge", type=PatchType.MERGE)
            before = (await client.get(SECRETS, "casecret", "kubeedge")).raw
            with pytest.raises(AuthorityError, match=sentence):
                await Authority.load(client, CLOCK, hub_config(tmp_path), signer)
            assert (await client.get(SECRETS, "casecret", "kubeedge")).raw == before


async def test_a_ca_that_is_replaced_or_lost_under_a_running_cloudcore(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        client = cluster.client()
        running = await Authority.load(client, CLOCK, hub_config(tmp_path), signer)
        await client.delete(SECRETS, "casecret", "kubeedge")
        await running.check_shared()
        assert (await client.get(SECRETS, "casecret", "kubeedge")).read(Secret).data["cakeydata"] == running.ca.key
        await client.delete(SECRETS, "casecret", "kubeedge")
        await Authority.load(client, CLOCK, hub_config(tmp_path), signer)
        with pytest.raises(AuthorityChanged, match="another CA"):
            await running.check_shared()


async def test_the_secrets_are_those_the_go_tools_read(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        client = cluster.client()
        authority = await Authority.load(client, CLOCK, hub_config(tmp_path), signer)
        token = await authority.renew_token()

        async def data(name: str) -> dict[str, bytes]:
            secret = (await client.get(SECRETS, name, "kubeedge")).read(Secret)
            assert secret.type == "Opaque"
            return secret.data or {}

        assert await data("casecret") == {"cadata": authority.ca.certificate, "cakeydata": authority.ca.key}
        assert set(await data("cloudcoresecret")) == {"cloudcoredata", "cloudcorekeydata"}
        assert await data("tokensecret") == {"tokendata": str(token).encode()}
        ca = x509.load_der_x509_certificate(authority.ca.certificate)
        assert ca.serial_number == 1024
        assert ca.subject.rfc4514_string() == "CN=KubeEdge"


async def test_replicas_keep_one_join_token_and_one_of_them_renews_it(tmp_path: Path) -> None:
    clock = FixedClock(CLOCK.now())
    async with Cluster(clock=clock) as cluster, Signer() as signer:
        client = cluster.client()
        replicas = [await Authority.load(client, clock, hub_config(tmp_path), signer) for _ in range(3)]

        async def round_of_all() -> str:
            versions = set()
            for replica in replicas:
                await replica.keep_token()
                versions.add((await client.get(SECRETS, "tokensecret", "kubeedge")).meta.resource_version)
            assert len(versions) == 1
            return versions.pop()

        first = await round_of_all()
        clock.set(clock.now() + timedelta(hours=11))
        assert await round_of_all() == first
        clock.set(clock.now() + timedelta(hours=1))
        assert await round_of_all() != first


def names_of(pair: KeyPair) -> set[x509.GeneralName]:
    certificate = x509.load_der_x509_certificate(pair.certificate)
    return set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)


async def test_an_address_that_is_added_later_gets_into_the_server_certificate(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        first = await Authority.load(cluster.client(), CLOCK, hub_config(tmp_path), signer)
        config = hub_config(tmp_path, advertiseAddress=["127.0.0.1", "10.9.8.7"], dnsNames=["cloud.example"])
        second = await Authority.load(cluster.client(), CLOCK, config, signer)
        assert second.ca == first.ca
        assert tls.alternative_name("10.9.8.7") in names_of(second.server)
        stored = (await cluster.client().get(SECRETS, "cloudcoresecret", "kubeedge")).read(Secret).data
        assert stored["cloudcoredata"] == second.server.certificate


async def test_replicas_with_different_addresses_do_not_take_turns(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        client = cluster.client()
        one, other = hub_config(tmp_path), hub_config(tmp_path, advertiseAddress=["127.0.0.2"])
        first = await Authority.load(client, CLOCK, one, signer)
        second = await Authority.load(client, CLOCK, other, signer)
        before = (await client.get(SECRETS, "cloudcoresecret", "kubeedge")).meta.resource_version
        assert not await first.refresh_server(one)
        assert not await second.refresh_server(other)
        assert (await client.get(SECRETS, "cloudcoresecret", "kubeedge")).meta.resource_version == before


async def test_a_changed_address_is_served_without_a_new_start(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        old = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", it.join_port))
        config = hub_config(tmp_path, advertiseAddress=["127.0.0.1"], dnsNames=["cloud.example"])
        assert await it.authority.refresh_server(config)
        for port in (it.join_port, it.hub_port):
            shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
            assert shown != old
            assert ssl.PEM_cert_to_DER_cert(shown) == it.authority.server.certificate
        status, _, _ = await it.certificate("n1", Authorization=it.bearer)
        assert status == 200


async def test_replaced_server_files_are_served_without_a_new_start(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        pair = tls.issue(it.authority.ca, common_name="mine", names=["127.0.0.1"], usages=[tls.SERVER_AUTH],
                         now=CLOCK.now(), lifetime=timedelta(days=1))  # fmt: skip
        (tmp_path / "tlsCertFile").write_bytes(pair.certificate_pem)
        with pytest.raises(AuthorityError, match="needs both or neither"):
            await it.authority.refresh_server(hub_config(tmp_path))
        (tmp_path / "tlsPrivateKeyFile").write_bytes(pair.key_pem)
        assert await it.authority.refresh_server(hub_config(tmp_path))
        assert not await it.authority.refresh_server(hub_config(tmp_path))
        shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", it.hub_port))
        assert ssl.PEM_cert_to_DER_cert(shown) == pair.certificate


async def test_half_a_pair_of_files_is_refused(tmp_path: Path) -> None:
    async with Cluster(clock=CLOCK) as cluster, Signer() as signer:
        (tmp_path / "tlsCAFile").write_bytes(b"")
        with pytest.raises(AuthorityError, match="needs both or neither"):
            await Authority.load(cluster.client(), CLOCK, hub_config(tmp_path), signer)
