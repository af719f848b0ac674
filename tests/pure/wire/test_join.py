"""The join token, subjects and header rules."""

from datetime import UTC, datetime, timedelta

import jwt
import pytest

from edgehive.wire import join
from edgehive.wire.link import JoinRefused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CA, KEY = b"certificate in DER" * 9, b"key in SEC1 DER, long enough to sign with" * 3


def test_a_token_is_four_parts_and_verifies():
    token = join.make_token(CA, KEY, NOW + timedelta(hours=24))
    assert str(token).count(".") == 3
    assert join.parse_token(f" {token}\n") == token
    join.verify_ca(CA, token)
    join.verify_bearer(token.bearer, KEY, NOW)


def test_a_token_is_the_one_a_jwt_library_makes_and_reads():
    expires = int(NOW.timestamp())
    token = join.make_token(CA, KEY, NOW)
    assert jwt.decode(token.bearer, KEY, algorithms=["HS256"], options={"verify_exp": False}) == {"exp": expires}
    made = jwt.encode({"exp": expires}, KEY, algorithm="HS256", headers={"typ": "JWT"})
    assert token.bearer == made


def test_a_token_is_the_text_go_makes():
    token = join.make_token(CA, KEY, datetime.fromtimestamp(1750000000, UTC))
    assert token.bearer.startswith("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3NTAwMDAwMDB9.")


@pytest.mark.parametrize("text", ["", "a.b.c", "a.b.c.d.e", "a..c.d", "whole nonsense"])
def test_a_mutilated_token_says_where_to_get_another(text: str):
    with pytest.raises(JoinRefused, match="tokensecret"):
        join.parse_token(text)


def test_another_ca_is_refused():
    with pytest.raises(JoinRefused, match="another cloud"):
        join.verify_ca(b"other", join.make_token(CA, KEY, NOW))


@pytest.mark.parametrize(
    ("bearer", "complaint"),
    [
        (jwt.encode({"exp": int(NOW.timestamp())}, KEY, algorithm="HS256"), "expired"),
        (jwt.encode({}, KEY, algorithm="HS256"), "exp"),
        (jwt.encode({"exp": "soon"}, KEY, algorithm="HS256"), "."),
        (jwt.encode({"exp": 4e9}, KEY, algorithm="HS256"), "."),
        (jwt.encode({"exp": 4000000000}, KEY + b"x", algorithm="HS256"), "[Ss]ignature"),
        (jwt.encode({"exp": 4000000000}, None, algorithm="none"), "."),
        (jwt.encode({"exp": 4000000000}, KEY, algorithm="HS512"), "."),
        ("rubbish", "."),
    ],
)
def test_bad_bearers_are_refused(bearer: str, complaint: str):
    with pytest.raises(JoinRefused, match=complaint):
        join.verify_bearer(bearer, KEY, NOW)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Bearer a b", " a"])
def test_an_authorization_header_has_two_words(header: str | None):
    with pytest.raises(JoinRefused, match="token validation failure"):
        join.bearer_of(header)
    assert join.bearer_of("Bearer x.y.z") == "x.y.z"


def test_subjects_belong_to_one_node():
    join.verify_subject("system:node:edge-1", ["system:nodes"], "edge-1")
    assert join.node_of("system:node:edge.1", ("system:nodes",)) == "edge.1"


@pytest.mark.parametrize(
    ("common_name", "organizations"),
    [
        ("system:node:edge-2", ["system:nodes"]),
        ("system:node:edge-1", ["system:masters"]),
        ("system:node:edge-1", ["system:nodes", "system:masters"]),
        ("system:node:", ["system:nodes"]),
        ("kubeedge.io", ["KubeEdge"]),
        ("", []),
    ],
)
def test_other_subjects_are_refused(common_name: str, organizations: list[str]):
    with pytest.raises(JoinRefused, match="certificate subject"):
        join.verify_subject(common_name, organizations, "edge-1")


def test_extended_key_usages():
    assert join.parse_extended_key_usages(None) == [join.CLIENT_AUTH]
    assert join.parse_extended_key_usages("[1,2]") == [1, 2]
    for bad in ("{}", "[]", "nonsense", "[3]", "[true]", '["2"]', "[[2]]"):
        with pytest.raises(JoinRefused):
            join.parse_extended_key_usages(bad)


def test_a_certificate_renews_at_half_its_life_and_not_all_nodes_at_once():
    end = NOW + timedelta(days=100)
    assert join.rotation_time(NOW, end, 0.0) == NOW + timedelta(days=50)
    assert join.rotation_time(NOW, end, 1.0) == NOW + timedelta(days=60)


def test_a_challenge_is_for_one_node_and_five_minutes():
    challenge = join.make_challenge("edge-1", "nonce", KEY, NOW)
    join.verify_challenge(challenge, "edge-1", KEY, NOW + timedelta(minutes=4))
    for text, node, key, now in (
        (challenge, "edge-2", KEY, NOW),
        (challenge, "edge-1", KEY + b"x", NOW),
        (challenge, "edge-1", KEY, NOW + timedelta(minutes=5)),
        (challenge.replace("nonce", "other"), "edge-1", KEY, NOW),
        ("", "edge-1", KEY, NOW),
        ("\udcff.1.x", "edge-1", KEY, NOW),
    ):
        with pytest.raises(JoinRefused, match="challenge"):
            join.verify_challenge(text, node, key, now)


def test_a_proof_speaks_for_one_node_one_challenge_and_one_key():
    said = {join.proof_text(*it) for it in (("a", "c", b"r"), ("b", "c", b"r"), ("a", "d", b"r"), ("a", "c", b"s"))}
    assert len(said) == 4
