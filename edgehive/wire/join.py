"""How an edge node joins: token text, CA hash, certificate subjects, header names and paths. Pure.

cloudhub mints and verifies with it, edgehub and keadm read and build; it opens no connection, reads no file
and is told what time it is.

Go: cloud/pkg/cloudhub/servers/httpserver, edge/pkg/edgehub/certificate, pkg/security/token
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from edgehive.wire.link import JoinRefused

#: Paths of the HTTPS join server.
CA_PATH = "/ca.crt"
CERTIFICATE_PATH = "/edge.crt"
#: Ours alone: where a node whose certificate has expired asks for the challenge its old key is to sign.
CHALLENGE_PATH = "/edge.crt/challenge"
#: Request headers of the join server.
NODE_NAME_HEADER = "NodeName"
EXTENDED_KEY_USAGES_HEADER = "ExtKeyUsages"
#: Ours alone: the challenge, the expired certificate (DER) and the signature, the latter two in base64.
CHALLENGE_HEADER = "Edgehive-Challenge"
EXPIRED_CERTIFICATE_HEADER = "Edgehive-Expired-Certificate"
PROOF_HEADER = "Edgehive-Proof"
AUTHORIZATION_HEADER = "Authorization"
#: A request for one key and some names is below 4 KiB.
MAX_CERTIFICATE_REQUEST = 64 * 1024

#: Request headers of the hub link, in the letters the edge writes (they are read whatever their case).
NODE_ID_HEADER = "node_id"
PROJECT_ID_HEADER = "project_id"
CONNECTION_USE_HEADER = "ConnectionUse"
CONNECTION_USE_MESSAGES = "msg"
DEFAULT_PROJECT_ID = "e632aba927ea4ac2b575ec1603d56f10"

NODE_USER_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"

#: Go numbers extended key usages; a node may ask for these two.
SERVER_AUTH = 1
CLIENT_AUTH = 2
EXTENDED_KEY_USAGE_OIDS = {SERVER_AUTH: "1.3.6.1.5.5.7.3.1", CLIENT_AUTH: "1.3.6.1.5.5.7.3.2"}


def hub_path(project_id: str, node: str) -> str:
    """The path an edge dials; the cloud accepts any."""
    return f"/{project_id}/{node}/events"


# The token: <ca hash>.<JWT header>.<JWT payload>.<JWT signature>

#: `{"alg":"HS256","typ":"JWT"}`. Go and PyJWT write the same bytes; a JWT library would cost an agent 9 MiB.
_TOKEN_HEADER = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"  # noqa: S105 - no secret


class Token(NamedTuple):
    """A join token taken apart; `bearer` is the JWT that goes into the Authorization header."""

    ca_hash: str
    bearer: str

    def __str__(self) -> str:
        return f"{self.ca_hash}.{self.bearer}"


def ca_hash(ca_der: bytes) -> str:
    return hashlib.sha256(ca_der).hexdigest()


def make_token(ca_der: bytes, ca_key_der: bytes, expires: datetime) -> Token:
    """A token for any node until `expires`, signed with the CA key's SEC1 DER bytes."""
    claims = b'{"exp":%d}' % int(expires.timestamp())
    head = f"{_TOKEN_HEADER}.{_base64url(claims)}"
    return Token(ca_hash(ca_der), f"{head}.{_token_signature(head, ca_key_der)}")


def _token_signature(head: str, ca_key_der: bytes) -> str:
    return _base64url(hmac.new(ca_key_der, head.encode(errors="replace"), hashlib.sha256).digest())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parse_token(text: str) -> Token:
    """Take a token apart; raises JoinRefused when it has not the four parts."""
    parts = text.strip().split(".")
    if len(parts) != 4 or not all(parts):
        raise JoinRefused(
            "the join token does not have four parts joined by dots; copy it whole from the tokensecret "
            "in namespace kubeedge (keadm gettoken prints it)"
        )
    return Token(parts[0].lower(), ".".join(parts[1:]))


def verify_ca(ca_der: bytes, token: Token) -> None:
    """Refuse a CA certificate that is not the one the token was made for."""
    found = ca_hash(ca_der)
    if not hmac.compare_digest(found, token.ca_hash):
        raise JoinRefused(
            f"the cloud's CA certificate has the hash {found}, the token says {token.ca_hash}: "
            "the token belongs to another cloud or somebody answers in its place"
        )


def bearer_of(authorization: str | None) -> str:
    """The JWT out of an Authorization header of exactly two words; raises JoinRefused."""
    if not authorization:
        raise JoinRefused("token validation failure, token is empty")
    words = authorization.split(" ")
    if len(words) != 2 or not all(words):
        raise JoinRefused("token validation failure, token cannot be split: it is to read `Bearer <token>`")
    return words[1]


def verify_bearer(bearer: str, ca_key_der: bytes, now: datetime) -> None:
    """Refuse a JWT that is not HS256 by our CA key, has no expiry, or is past it."""
    head, _, signature = bearer.rpartition(".")
    # Compared as text, before anything is decoded: what else passes was written by a holder of the key.
    if not hmac.compare_digest(_token_signature(head, ca_key_der).encode(), signature.encode(errors="replace")):
        raise JoinRefused(
            "token validation failure, err: token signature is invalid; take the current token of this cloud"
        )
    header, claims = (_token_part(part) for part in head.partition(".")[::2])
    if header.get("alg") != "HS256":
        raise JoinRefused(f"token validation failure: its algorithm is {header.get('alg')!r} and not HS256")
    expires = claims.get("exp")
    if type(expires) is not int:
        raise JoinRefused("token validation failure: its expiry is not a whole number of seconds")
    if expires <= now.timestamp():
        raise JoinRefused("token validation failure: the token is expired; take the current token of this cloud")


def _token_part(text: str) -> dict[str, Any]:
    try:
        part = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError) as error:
        raise JoinRefused(f"token validation failure: a part of it is not JSON in base64: {error}") from error
    if not isinstance(part, dict):
        raise JoinRefused("token validation failure: a part of it is no JSON object")
    return part


# The way back for a node whose certificate has expired

#: How long a challenge may be answered.
CHALLENGE_LIFETIME = timedelta(minutes=5)


def make_challenge(node: str, nonce: str, ca_key_der: bytes, now: datetime) -> str:
    """A challenge for this node alone; any cloudcore of the cluster knows it again, none has to remember it."""
    body = f"{nonce}.{int((now + CHALLENGE_LIFETIME).timestamp())}"
    return f"{body}.{_challenge_mac(node, body, ca_key_der)}"


def verify_challenge(challenge: str, node: str, ca_key_der: bytes, now: datetime) -> None:
    """Refuse what is not a challenge of ours for this node, or is too old."""
    body, _, mac = challenge.rpartition(".")
    if not hmac.compare_digest(_challenge_mac(node, body, ca_key_der).encode(), mac.encode(errors="replace")):
        raise JoinRefused(
            f"the challenge was not made by this cloud for node {node!r}; ask for one at {CHALLENGE_PATH}"
        )
    left = int(body.rpartition(".")[2]) - now.timestamp()
    if not 0 < left <= 2 * CHALLENGE_LIFETIME.total_seconds():  # twice: cloudcores' clocks differ a little
        raise JoinRefused(f"the challenge is not of these minutes; ask for another at {CHALLENGE_PATH}")


def _challenge_mac(node: str, body: str, ca_key_der: bytes) -> str:
    text = f"edgehive challenge\n{node}\n{body}"
    return _base64url(hmac.new(ca_key_der, text.encode(errors="replace"), hashlib.sha256).digest())


def proof_text(node: str, challenge: str, request_der: bytes) -> bytes:
    """What the old key signs: it speaks for one node, one challenge and one new key."""
    return f"edgehive proof\n{node}\n{challenge}\n{hashlib.sha256(request_der).hexdigest()}".encode()


# Identities


def node_user(node: str) -> str:
    """The common name of a node's certificate."""
    return NODE_USER_PREFIX + node


def node_of(common_name: str, organizations: Sequence[str]) -> str:
    """The node a certificate subject stands for; raises JoinRefused when it is no node's."""
    node = common_name.removeprefix(NODE_USER_PREFIX)
    if node == common_name or not node or NODES_GROUP not in organizations:
        raise JoinRefused(
            f"the certificate subject CN={common_name!r} O={list(organizations)} is not that of a node "
            f"(CN={NODE_USER_PREFIX}<name>, O={NODES_GROUP})"
        )
    return node


def verify_subject(common_name: str, organizations: Sequence[str], node: str) -> None:
    """Refuse a certificate or signing request that is not for exactly this node."""
    if list(organizations) != [NODES_GROUP] or node_of(common_name, organizations) != node:
        raise JoinRefused(
            f"the certificate subject CN={common_name!r} O={list(organizations)} does not belong to node {node!r} "
            f"(CN={node_user(node)}, O={NODES_GROUP})"
        )


def parse_extended_key_usages(header: str | None) -> list[int]:
    """Go's usage numbers out of the ExtKeyUsages header; without one a node's certificate is for clients."""
    if not header:
        return [CLIENT_AUTH]
    try:
        usages = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise JoinRefused(f"header {EXTENDED_KEY_USAGES_HEADER} is not JSON: {error}") from error
    if not isinstance(usages, list) or not usages:
        raise JoinRefused(f"header {EXTENDED_KEY_USAGES_HEADER} is to be a list of numbers, such as [2]")
    for usage in usages:
        if type(usage) is not int or usage not in EXTENDED_KEY_USAGE_OIDS:
            raise JoinRefused(
                f"extended key usage {usage!r} is not given to nodes; {SERVER_AUTH} (server) and "
                f"{CLIENT_AUTH} (client) are"
            )
    return usages


def rotation_time(not_before: datetime, not_after: datetime, spread: float) -> datetime:
    """When to renew: 50 to 60 % into the certificate's life, `spread` (0 to 1) choosing where between."""
    lifetime: timedelta = not_after - not_before
    return not_before + lifetime * (0.5 + 0.1 * spread)
