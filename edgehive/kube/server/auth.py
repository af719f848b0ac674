"""Who is behind a request: client certificate, bearer token, impersonation.

No credentials at all make an anonymous user; bad ones are refused (401).

Go: k8s.io/apiserver/pkg/authentication/request/{x509,bearertoken}, .../endpoints/filters/impersonation.go
"""

import hmac
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from edgehive.kube.errors import Forbidden, Unauthorized
from edgehive.kube.server.identity import ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, User, forbidden_text
from edgehive.kube.server.tokens import TokenRefused, Tokens


class Authenticator:
    """Turns a request into a `User`. `without_credentials` stands for requests that carry none."""

    def __init__(
        self,
        *,
        tokens: Tokens | None = None,
        static_tokens: Mapping[str, User] | None = None,
        without_credentials: User = ANONYMOUS,
    ) -> None:
        self._tokens = tokens
        self._static = dict(static_tokens or {})
        self._without = without_credentials

    def authenticate(self, request: web.Request) -> User:
        """Raises Unauthorized."""
        header = request.headers.get("Authorization", "")
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return self._bearer(token.strip())
        if header:
            raise Unauthorized("Unauthorized")
        transport = request.transport
        certificate = transport.get_extra_info("peercert") if transport is not None else None
        return user_of_certificate(certificate) if certificate else self._without

    def _bearer(self, token: str) -> User:
        for known, user in self._static.items():
            if hmac.compare_digest(known.encode(), token.encode()):
                return user
        if self._tokens is None:
            raise Unauthorized("Unauthorized")
        try:
            return self._tokens.verify(token).user
        except TokenRefused as error:
            raise Unauthorized("Unauthorized") from error


def user_of_certificate(certificate: Mapping[str, Any]) -> User:
    """CN is the user, every O a group; the TLS layer has verified the chain."""
    name, groups = "", []
    for relative_name in certificate.get("subject", ()):
        for kind, value in relative_name:
            if kind == "commonName":
                name = value
            elif kind == "organizationName":
                groups.append(value)
    return User(name, (*groups, AUTHENTICATED))


def impersonated(user: User, request: web.Request, authorizer: Authorizer) -> User:
    """The user the caller wants to act as, if it may; raises Forbidden."""
    name = request.headers.get("Impersonate-User", "")
    groups = tuple(request.headers.getall("Impersonate-Group", ()))
    if not name:
        if groups:
            raise Forbidden("requested groups to impersonate without impersonating a user")
        return user
    wanted = [Attributes(user, "impersonate", resource="users", name=name)]
    wanted += [Attributes(user, "impersonate", resource="groups", name=group) for group in groups]
    for attributes in wanted:
        decision = authorizer.authorize(attributes)
        if not decision.allowed:
            raise Forbidden(
                f'{attributes.resource} "{attributes.name}" is forbidden: {forbidden_text(attributes, decision)}'
            )
    if AUTHENTICATED not in groups:
        groups = (*groups, AUTHENTICATED)
    return User(name, groups, request.headers.get("Impersonate-Uid", ""), _extra(request))


def _extra(request: web.Request) -> dict[str, tuple[str, ...]]:
    prefix, found = "impersonate-extra-", dict[str, tuple[str, ...]]()
    for header, value in request.headers.items():
        if header.lower().startswith(prefix):
            key = unquote(header[len(prefix) :].lower())
            found[key] = (*found.get(key, ()), value)
    return found
