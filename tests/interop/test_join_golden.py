"""The recorded joining of nodes with a Go cloud, judged by our rules: token text, headers, subjects."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from edgehive.kit.tls import subject_of
from edgehive.wire import join
from edgehive.wire.link import JoinRefused

CHECKOUT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("EDGEHIVE_SHARED") or CHECKOUT.parent / "shared")
FILE = SHARED / "golden" / "32-certificate-bootstrap.jsonl"

pytestmark = pytest.mark.skipif(
    not FILE.exists(), reason=f"no recorded traffic: {FILE} is absent (EDGEHIVE_SHARED names the folder above golden)"
)


def exchanges() -> dict[str, dict[str, Any]]:
    """The recorded request and response under the note that announces them."""
    found: dict[str, dict[str, Any]] = {}
    note = ""
    for line in FILE.read_text().splitlines():
        entry = json.loads(line)
        if entry["channel"] == "note":
            note = entry["message"]["note"]
        else:
            found.setdefault(note, entry["message"])
    return found


@pytest.fixture(scope="module")
def recorded() -> dict[str, dict[str, Any]]:
    return exchanges()


def header(exchange: dict[str, Any], name: str) -> str | None:
    return dict(exchange["request"]["headers"]).get(name)


def request(exchange: dict[str, Any]) -> x509.CertificateSigningRequest:
    return x509.load_der_x509_csr(bytes.fromhex(exchange["request"]["body"]["hex"]))


def certificate(exchange: dict[str, Any]) -> x509.Certificate:
    return x509.load_der_x509_certificate(bytes.fromhex(exchange["response"]["body"]["hex"]))


def test_our_token_reads_as_go_writes_it(recorded: dict[str, dict[str, Any]]):
    authority = bytes.fromhex(recorded["GET /ca.crt"]["response"]["body"]["hex"])
    theirs = join.bearer_of(header(recorded["GET /edge.crt good token"], join.AUTHORIZATION_HEADER))
    ours = join.make_token(authority, b"some key in SEC1 DER " * 4, datetime.fromtimestamp(1795498700, UTC))
    assert ours.bearer.rsplit(".", 1)[0] == theirs.rsplit(".", 1)[0]
    join.verify_ca(authority, ours)


@pytest.mark.parametrize("note", ["GET /edge.crt good token", "ExtKeyUsages header [2,1]"])
def test_what_go_granted_a_node_we_grant(recorded: dict[str, dict[str, Any]], note: str):
    exchange = recorded[note]
    node = header(exchange, join.NODE_NAME_HEADER) or ""
    join.verify_subject(*subject_of(request(exchange)), node)
    join.verify_subject(*subject_of(certificate(exchange)), node)
    usages = join.parse_extended_key_usages(header(exchange, join.EXTENDED_KEY_USAGES_HEADER))
    granted = certificate(exchange).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [join.EXTENDED_KEY_USAGE_OIDS[usage] for usage in usages] == [usage.dotted_string for usage in granted]


def test_a_request_for_another_node_is_refused(recorded: dict[str, dict[str, Any]]):
    exchange = recorded["CSR CN differs from NodeName, token mode"]
    with pytest.raises(JoinRefused, match="does not belong to node"):
        join.verify_subject(*subject_of(request(exchange)), header(exchange, join.NODE_NAME_HEADER) or "")


def test_bad_usages_are_refused(recorded: dict[str, dict[str, Any]]):
    with pytest.raises(JoinRefused, match="is not JSON"):
        join.parse_extended_key_usages(header(recorded["bad ExtKeyUsages"], join.EXTENDED_KEY_USAGES_HEADER))


@pytest.mark.parametrize("note", ["no Authorization", "one word", "three words"])
def test_authorization_headers_go_refused_are_refused(recorded: dict[str, dict[str, Any]], note: str):
    assert " 401 " in recorded[note]["response"]["status_line"]
    with pytest.raises(JoinRefused):
        join.bearer_of(header(recorded[note], join.AUTHORIZATION_HEADER))


@pytest.mark.parametrize("note", ["bad signature", "four-part token as bearer", "alg none", "token without exp"])
def test_tokens_that_prove_nothing_are_refused(recorded: dict[str, dict[str, Any]], note: str):
    bearer = join.bearer_of(header(recorded[note], join.AUTHORIZATION_HEADER))
    with pytest.raises(JoinRefused):
        join.verify_bearer(bearer, b"the key of no recorded cloud" * 4, datetime(2026, 11, 1, tzinfo=UTC))
