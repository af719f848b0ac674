"""Every way not to get a certificate and not to connect: what is answered and counted, and that all goes on."""

import asyncio
import base64
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from edgehive.api.registry import EVENTS
from edgehive.kit import ssl_contexts, tls
from edgehive.kit.keypair import KeyPair, certificate_pem
from edgehive.testing.doors import CLOCK, Doors, doors
from edgehive.wire import join
from edgehive.wire.link import JoinRefused, LinkClosed
from edgehive.wire.ws import connect

DAY = timedelta(days=1)


async def still_open(it: Doors) -> None:
    """A rightful node gets its certificate and its link."""
    status, certificate, key = await it.certificate("n1", Authorization=it.bearer)
    assert status == 200
    link = await it.dial("n1", KeyPair(certificate, key))
    assert (await it.accepted()).peer.node == "n1"
    await link.close()


async def test_wrong_token(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        ca = it.authority.ca
        late, soon = CLOCK.now() - DAY, CLOCK.now() + DAY
        wrong = {
            "of another cloud": join.make_token(ca.certificate, tls.new_key(), soon).bearer,
            "expired": join.make_token(ca.certificate, ca.key, late).bearer,
            "not signed": it.token.bearer.rpartition(".")[0] + ".",
            "with a bit turned": it.token.bearer[:-2]
            + ("A" if it.token.bearer[-2] != "A" else "B")
            + it.token.bearer[-1],
            "all four parts": str(it.token),
            "no token": "x",
            "not ASCII": "é.é.é",
        }
        for what, bearer in wrong.items():
            status, answer, _ = await it.certificate("n1", Authorization=f"Bearer {bearer}")
            assert (status, answer.startswith(b"token validation failure")) == (401, True), what
            assert answer.count(b"\n") == 0
        assert it.refused("join", "not entitled") == len(wrong)
        await still_open(it)


async def test_a_token_gives_a_certificate_for_the_node_it_names_and_no_other(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        subjects = [
            ("system:node:n2", ["system:nodes"]),
            ("kubeedge.io", ["KubeEdge"]),
            ("system:node:n1", ["system:masters"]),
            ("system:node:n1", ["system:nodes", "system:masters"]),
            ("system:node:n1", []),
            ("admin", ["system:masters"]),
        ]
        for name, organizations in subjects:
            csr = tls.request(tls.new_key(), name, organizations)
            status, answer, _ = await it.certificate("n1", csr=csr, Authorization=it.bearer)
            assert (status, b"does not belong to node 'n1'" in answer) == (401, True), name
        csr = tls.request(tls.new_key(), "system:node:n1", ["system:nodes"])
        assert (await it.get("/edge.crt", body=csr, Authorization=it.bearer))[0] == 401
        assert it.refused("join", "not entitled") == len(subjects) + 1
        await still_open(it)


async def test_a_certificate_gives_a_certificate_for_its_own_node_and_no_other(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        status, answer, _ = await it.certificate("n2", pair=it.pair_of("n1"), Authorization=it.bearer)
        assert (status, answer.startswith(b"failed to verify the certificate for edgenode: n2")) == (401, True)
        legacy = tls.issue(it.authority.ca, common_name="kubeedge.io", organizations=["KubeEdge"], now=CLOCK.now(),
                           lifetime=DAY)  # fmt: skip
        assert (await it.certificate("n1", pair=legacy))[0] == 401
        assert (await it.certificate("n1", pair=it.pair_of("n1")))[0] == 200


async def test_a_request_signed_by_another_key_than_it_asks_for(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        csr = bytearray(tls.request(tls.new_key(), "system:node:n1", ["system:nodes"]))
        csr[-1] ^= 1
        for body in (bytes(csr), b"", b"garbage", b"-----BEGIN CERTIFICATE REQUEST-----", b"\x30\x84\xff\xff\xff\xff"):
            status, answer = await it.get("/edge.crt", body=body, NodeName="n1", Authorization=it.bearer)
            assert (status, b"send one PKCS#10 request in DER" in answer) == (500, True), body
        assert it.refused("join", "bad request") == 5
        await still_open(it)


async def test_wrong_ca(tmp_path: Path) -> None:
    """A node that trusts another CA does not talk to this cloud, at either door."""
    async with doors(tmp_path) as it:
        other = tls.self_signed_ca("KubeEdge", CLOCK.now(), DAY)
        trust = ssl_contexts.client_context(certificate_pem(other.certificate).decode())
        with pytest.raises(JoinRefused, match=r"does not verify.*check that the CA file is this cloud's"):
            await connect(f"wss://127.0.0.1:{it.hub_port}", node="n1", ssl_context=trust)
        with pytest.raises(JoinRefused, match="belongs to another cloud"):
            join.verify_ca(other.certificate, it.token)
        await still_open(it)


async def test_foreign_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of another CA with the same name, an expired one, one for servers, none at all: no session, and counted."""
    async with doors(tmp_path) as it:
        ca, now = it.authority.ca, CLOCK.now()
        subject = {"common_name": "system:node:n1", "organizations": ["system:nodes"]}
        wrong = [
            tls.issue(tls.self_signed_ca("KubeEdge", now, DAY), now=now, lifetime=DAY, **subject),
            tls.issue(ca, now=now - 3 * DAY, lifetime=DAY, **subject),
            tls.issue(ca, now=now, lifetime=DAY, usages=[tls.SERVER_AUTH], **subject),
            None,
        ]
        for pair in wrong:
            with pytest.raises((LinkClosed, JoinRefused), match="certificate"):
                await it.dial("n1", pair)
        async with asyncio.timeout(5):
            while it.refused("hub", "client certificate") < len(wrong):
                await asyncio.sleep(0.01)
        for why in (
            "unable to get local issuer",
            "has expired",
            "unsuitable certificate purpose",
            "shows no certificate",
        ):
            assert len([record for record in caplog.records if why in record.getMessage()]) == 1, why
        await still_open(it)


async def test_node_impersonation(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        with pytest.raises(JoinRefused, match="the certificate is node 'n1''s, the connection says node 'n2'"):
            await it.dial("n2", it.pair_of("n1"))
        ca, now = it.authority.ca, CLOCK.now()
        for name, organizations in (("kubeedge.io", ["KubeEdge"]), ("system:node:n1", ["other"]), ("n1", [])):
            pair = tls.issue(ca, common_name=name, organizations=organizations, now=now, lifetime=DAY)
            with pytest.raises(JoinRefused, match="is not that of a node"):
                await it.dial("n1", pair)
        assert it.refused("hub", "identity") == 4
        await still_open(it)


async def test_node_impersonation_is_only_counted_where_authorization_watches(tmp_path: Path) -> None:
    async with doors(tmp_path, authorization={"enable": True, "debug": True}) as it:
        link = await it.dial("n2", it.pair_of("n1"))
        assert (await it.accepted()).peer.node == "n2"
        assert it.refused("hub", "identity, only audited") == 1
        await link.close()


# The way back with an expired certificate


class Returning:
    """A node with an expired certificate, and the headers it would send."""

    def __init__(self, it: Doors, *, days_ago: int = 3, node: str = "n1", ca: KeyPair | None = None) -> None:
        self.it, self.node = it, node
        self.pair = tls.issue(
            ca or it.authority.ca, common_name=f"system:node:{node}", organizations=["system:nodes"],
            now=CLOCK.now() - timedelta(days=days_ago + 1), lifetime=DAY,
        )  # fmt: skip

    async def challenge(self) -> str:
        status, text = await self.it.get(join.CHALLENGE_PATH, NodeName=self.node)
        assert status == 200
        return text.decode()

    async def ask(
        self, challenge: str, *, key: bytes = b"", csr: bytes = b"", signed: bytes = b"", node: str = ""
    ) -> tuple[int, bytes]:
        node = node or self.node
        csr = csr or tls.request(tls.new_key(), f"system:node:{node}", ["system:nodes"])
        proof = tls.sign(key or self.pair.key, signed or join.proof_text(node, challenge, csr))
        headers = {
            join.CHALLENGE_HEADER: challenge,
            join.EXPIRED_CERTIFICATE_HEADER: base64.b64encode(self.pair.certificate).decode(),
            join.PROOF_HEADER: base64.b64encode(proof).decode(),
        }
        return await self.it.get("/edge.crt", body=csr, NodeName=node, **headers)


async def test_proof_of_the_old_key_brings_a_certificate_once_and_an_event(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        node = Returning(it)
        challenge = await node.challenge()
        csr = tls.request(tls.new_key(), "system:node:n1", ["system:nodes"])
        status, certificate = await node.ask(challenge, csr=csr)
        assert status == 200
        assert tls.subject_of(x509.load_der_x509_certificate(certificate))[0] == "system:node:n1"
        status, answer = await node.ask(challenge, csr=csr)
        assert (status, b"has been answered already" in answer) == (401, True)
        events = (await it.cluster.client().list(EVENTS, "default")).items
        assert [event.to_dict()["reason"] for event in events] == ["ExpiredCertificateReplaced"]
        assert it.registry.get_sample_value("edgehive_certificates_issued_total", {"by": "proof"}) == 1


async def test_a_replayed_or_borrowed_proof(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        node = Returning(it)
        first, second = await node.challenge(), await node.challenge()
        csr, other = (tls.request(tls.new_key(), "system:node:n1", ["system:nodes"]) for _ in range(2))
        for signed in (join.proof_text("n1", first, csr), join.proof_text("n1", second, other)):
            status, answer = await node.ask(second, csr=csr, signed=signed)
            assert (status, b"not signed by the key of the expired certificate" in answer) == (401, True)
        assert (await node.ask(second, key=tls.new_key()))[0] == 401


async def test_a_proof_for_another_node(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        node = Returning(it, node="n2")
        assert b"the cluster has no node 'n2'" in (await node.ask(await node.challenge()))[1]
        challenge = await Returning(it).challenge()
        status, answer = await node.ask(challenge, node="n1")
        assert (status, b"does not belong to node 'n1'" in answer) == (401, True)
        assert b"not made by this cloud for node 'n2'" in (await node.ask(challenge))[1]


async def test_a_proof_with_a_certificate_that_is_too_old_or_foreign(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        old = Returning(it, days_ago=31)
        assert b"more than 30 days ago" in (await old.ask(await old.challenge()))[1]
        foreign = Returning(it, ca=tls.self_signed_ca("KubeEdge", CLOCK.now(), DAY))
        assert b"was not issued by this cloud" in (await foreign.ask(await foreign.challenge()))[1]


async def test_a_challenge_that_is_none_and_a_policy_that_forbids(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        for challenge in ("x", "a.1.b", "..", "é"):
            status, answer = await Returning(it).ask(challenge)
            assert (status, b"not made by this cloud" in answer) == (401, True)
    async with doors(tmp_path / "again", expiredCertificateGracePeriod=0) as it:
        it.folder.mkdir()
        for path in (join.CHALLENGE_PATH, "/edge.crt"):
            headers = {"NodeName": "n1", join.CHALLENGE_HEADER: "x"}
            status, answer = await it.get(path, **headers)
            assert (status, b"join with a new token" in answer) == (401, True)


async def test_an_expired_certificate_alone_does_not_open_the_join_door(tmp_path: Path) -> None:
    async with doors(tmp_path) as it:
        with pytest.raises((OSError, ssl.SSLError)):
            await it.certificate("n1", pair=Returning(it).pair)
        await still_open(it)
