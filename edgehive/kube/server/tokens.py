"""Service-account tokens: issued for TokenRequest, judged for requests and TokenReview.

ES256 JSON Web Tokens under one stable key, so the edge can verify them with the exported public key.

Go: pkg/serviceaccount/{claims,jwt}.go, pkg/registry/core/serviceaccount/storage/token.go
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edgehive.api.meta import StatusCause
from edgehive.kit.clock import Clock, parse_rfc3339, rfc3339
from edgehive.kit.tls import load_key
from edgehive.kube.errors import BadRequest, Conflict, invalid, not_found
from edgehive.kube.server.identity import AUTHENTICATED, User
from edgehive.kube.store import Key, Store, Stored

Json = dict[str, Any]

ISSUER = "https://kubernetes.default.svc"
_DEFAULT_SECONDS = 3600
_SHORTEST, _LONGEST = 600, 1 << 32
_BOUND = {"Pod": "pods", "Secret": "secrets", "Node": "nodes"}


class TokenRefused(Exception):
    """The token is not one of ours, is over, or is bound to something that is gone."""


@dataclass(frozen=True, slots=True)
class Bearer:
    """A verified token: whom it stands for, and for whom it was made."""

    user: User
    audiences: tuple[str, ...]


class Tokens:
    """Signs and verifies under one P-256 key (SEC1 DER)."""

    def __init__(self, key: bytes, store: Store, clock: Clock, *, issuer: str = ISSUER) -> None:
        self._key = load_key(key)
        self._store = store
        self._clock = clock
        self.issuer = issuer

    @property
    def public_key_pem(self) -> bytes:
        """What a verifier elsewhere needs."""
        from cryptography.hazmat.primitives import serialization

        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def key_id(self) -> str:
        """The `kid` of the tokens and of the published key."""
        import base64
        import hashlib

        return base64.urlsafe_b64encode(hashlib.sha256(self.public_key_pem).digest()).decode().rstrip("=")

    def request(self, namespace: str, name: str, body: Mapping[str, Any]) -> Json:
        """Answer a TokenRequest; raises NotFound, Conflict, Invalid."""
        account = self._store.get(Key("serviceaccounts", namespace, name))
        if account is None:
            raise not_found("serviceaccounts", "", name)
        spec = dict(body.get("spec") or {})
        seconds = spec.get("expirationSeconds") or _DEFAULT_SECONDS
        _check_seconds(seconds)
        spec["expirationSeconds"] = seconds
        spec["audiences"] = spec.get("audiences") or [self.issuer]
        expires = self._clock.now() + timedelta(seconds=seconds)
        claims = self._claims(account, spec, expires)
        metadata = {"name": name, "namespace": namespace, "creationTimestamp": rfc3339(self._clock.now())}
        return {
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": metadata,
            "spec": spec,
            "status": {"token": self._sign(claims), "expirationTimestamp": rfc3339(expires)},
        }

    def _claims(self, account: Stored, spec: Mapping[str, Any], expires: datetime) -> Json:
        import uuid

        namespace, name = account.key.namespace, account.key.name
        issued = int(self._clock.now().timestamp())
        private: Json = {"namespace": namespace, "serviceaccount": {"name": name, "uid": account.document.meta.uid}}
        private |= self._bound(namespace, spec.get("boundObjectRef"))
        return {
            "aud": spec["audiences"],
            "exp": int(expires.timestamp()),
            "iat": issued,
            "nbf": issued,
            "iss": self.issuer,
            "jti": str(uuid.uuid4()),
            "kubernetes.io": private,
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }

    def _bound(self, namespace: str, reference: Mapping[str, Any] | None) -> Json:
        """The claims that tie a token to a pod, secret or node."""
        if not reference or not reference.get("kind"):
            return {}
        kind, name = reference["kind"], reference.get("name", "")
        if kind not in _BOUND:
            group, _, version = (reference.get("apiVersion") or "").rpartition("/")
            raise BadRequest(f"cannot bind token to object of type {group}/{version}, Kind={kind}")
        stored = self._store.get(Key(_BOUND[kind], "" if kind == "Node" else namespace, name))
        if stored is None:
            raise not_found(_BOUND[kind], "", name)
        meta = stored.document.meta
        if reference.get("uid") and reference["uid"] != meta.uid:
            raise Conflict(
                f'Operation cannot be fulfilled on {_BOUND[kind]} "{name}": the UID in the bound object reference '
                f"({reference['uid']}) does not match the UID in record. The object might have been deleted and then "
                "recreated"
            )
        claims: Json = {kind.lower(): {"name": name, "uid": meta.uid}}
        if kind == "Pod":
            claims |= self._node_claim(stored)
        return claims

    def _node_claim(self, pod: Stored) -> Json:
        node_name = (pod.to_dict().get("spec") or {}).get("nodeName")
        node = self._store.get(Key("nodes", "", node_name)) if node_name else None
        return {"node": {"name": node_name, "uid": node.document.meta.uid}} if node else {}

    def _sign(self, claims: Json) -> str:
        import jwt

        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.key_id()})

    def verify(self, token: str, audiences: tuple[str, ...] = ()) -> Bearer:
        """Judge a token for one of the audiences (none: ours); raises TokenRefused."""
        claims = self._decode(token, audiences or (self.issuer,))
        private = claims.get("kubernetes.io") or {}
        namespace, account = private.get("namespace", ""), private.get("serviceaccount") or {}
        self._must_exist("serviceaccounts", namespace, account)
        for kind, plural in _BOUND.items():
            bound = private.get(kind.lower())
            if bound and kind != "Node":
                self._must_exist(plural, namespace, bound)
        return Bearer(_user(namespace, account, private, claims), tuple(claims.get("aud") or ()))

    def _decode(self, token: str, audiences: tuple[str, ...]) -> Json:
        import jwt

        try:
            # The date is judged below, by our clock.
            claims: Json = jwt.decode(
                token, self._key.public_key(), algorithms=["ES256"], audience=list(audiences), issuer=self.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )  # fmt: skip
        except jwt.PyJWTError as error:
            raise TokenRefused(str(error)) from error
        now = self._clock.now()
        if now >= datetime.fromtimestamp(claims.get("exp", 0), UTC):
            raise TokenRefused("the service account token has expired")
        if now + timedelta(minutes=5) < datetime.fromtimestamp(claims.get("nbf", 0), UTC):
            raise TokenRefused("the service account token is not valid yet")
        return claims

    def _must_exist(self, plural: str, namespace: str, wanted: Mapping[str, Any]) -> None:
        stored = self._store.get(Key(plural, namespace, wanted.get("name", "")))
        if stored is None or stored.document.meta.uid != wanted.get("uid"):
            raise TokenRefused(f'the token is bound to {plural} "{wanted.get("name", "")}", which no longer exists')
        ended = stored.document.meta.deletion_timestamp
        if ended and parse_rfc3339(ended) + timedelta(seconds=60) < self._clock.now():
            raise TokenRefused(f'the token is bound to {plural} "{wanted.get("name", "")}", which is being deleted')


def _check_seconds(seconds: Any) -> None:
    if not isinstance(seconds, int) or seconds < _SHORTEST:
        text = f"Invalid value: {seconds}: may not specify a duration less than 10 minutes"
        raise _invalid_request(text, "spec.expirationSeconds")
    if seconds > _LONGEST:
        text = f"Invalid value: {seconds}: may not specify a duration larger than 2^32 seconds"
        raise _invalid_request(text, "spec.expirationSeconds")


def _invalid_request(text: str, field: str) -> Exception:
    return invalid("TokenRequest", "authentication.k8s.io", "", [StatusCause("FieldValueInvalid", text, field)])


def _user(namespace: str, account: Mapping[str, Any], private: Mapping[str, Any], claims: Mapping[str, Any]) -> User:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    extra: dict[str, tuple[str, ...]] = {
        "authentication.kubernetes.io/credential-id": (f"JTI={claims.get('jti', '')}",)
    }
    for kind in ("pod", "node"):
        if bound := private.get(kind):
            extra[f"authentication.kubernetes.io/{kind}-name"] = (bound["name"],)
            extra[f"authentication.kubernetes.io/{kind}-uid"] = (bound["uid"],)
    return User(f"system:serviceaccount:{namespace}:{account.get('name', '')}", groups, account.get("uid", ""), extra)
