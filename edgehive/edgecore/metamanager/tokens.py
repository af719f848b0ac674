"""Service-account token requests: the key they are stored under, and when a fresh one is due. Pure.

The key is Go's, so that a database changes hands without losing tokens:

    "sa1"/"default"/[]string{"golden"}/3607/v1.BoundObjectReference{Kind:"Pod", APIVersion:"v1", Name:"p5", UID:"…"}

Go: edge/pkg/metamanager/client/serviceaccount.go
"""

import json
import re
from datetime import datetime, timedelta

import msgspec

from edgehive.api.document import Document
from edgehive.kit.clock import parse_rfc3339

#: Kubernetes' default life of a token whose request names none.
DEFAULT_EXPIRATION = 3600
_OLDEST = timedelta(hours=24)
#: The clocks of cloud and edge may differ by this much.
_CLOCKS_APART = timedelta(minutes=5)
_UID = re.compile(r'UID:("(?:[^"\\]|\\.)*")\}$')


class BoundObjectReference(msgspec.Struct, rename={"api_version": "apiVersion"}, frozen=True):
    kind: str = ""
    api_version: str = ""
    name: str = ""
    uid: str = ""


class TokenSpec(msgspec.Struct, rename="camel", frozen=True):
    audiences: list[str] | None = None
    expiration_seconds: int | None = None
    bound_object_ref: BoundObjectReference | None = None


class TokenStatus(msgspec.Struct, rename="camel", frozen=True):
    token: str = ""
    expiration_timestamp: str | None = None


class TokenRequest(msgspec.Struct, rename="camel", frozen=True):
    spec: TokenSpec = msgspec.field(default_factory=TokenSpec)
    status: TokenStatus = msgspec.field(default_factory=TokenStatus)


def token_key(account: str, namespace: str, spec: TokenSpec) -> str:
    """The row key of a token: who asks, for whom, for how long, bound to what."""
    ref = spec.bound_object_ref or BoundObjectReference()
    return "/".join(
        (
            _quote(account),
            _quote(namespace),
            _strings(spec.audiences),
            str(spec.expiration_seconds or 0),
            f"v1.BoundObjectReference{{Kind:{_quote(ref.kind)}, APIVersion:{_quote(ref.api_version)}, "
            f"Name:{_quote(ref.name)}, UID:{_quote(ref.uid)}}}",
        )
    )


def bound_uid(key: str) -> str:
    """The uid of the object a stored token is bound to; "" for an unbound one or a key of another form."""
    found = _UID.search(key)
    if not found:
        return ""
    uid: str = json.loads(found.group(1))
    return uid


def is_usable(document: Document) -> bool:
    """Whether an answer holds a token at all; anything else must never replace a stored one."""
    try:
        return bool(document.read(TokenRequest).status.token)
    except (msgspec.ValidationError, msgspec.DecodeError):
        return False


def is_due(document: Document, now: datetime) -> bool:
    """Whether a stored token should be replaced: past 80 % of its life or a day old, as kubelets do.

    So should one from the future: a clock was set back, and nobody can tell how old it is.
    """
    try:
        request = document.read(TokenRequest)
        expires = parse_rfc3339(request.status.expiration_timestamp or "")
    except (msgspec.ValidationError, ValueError):
        return True
    life = timedelta(seconds=request.spec.expiration_seconds or DEFAULT_EXPIRATION)
    issued = expires - life
    return now >= min(issued + life * 0.8, issued + _OLDEST) or issued - now > _CLOCKS_APART


def _quote(text: str) -> str:
    """Go's %q for the characters Kubernetes names are made of."""
    return json.dumps(text, ensure_ascii=False)


def _strings(values: list[str] | None) -> str:
    if values is None:
        return "[]string(nil)"
    return "[]string{" + ", ".join(_quote(value) for value in values) + "}"
