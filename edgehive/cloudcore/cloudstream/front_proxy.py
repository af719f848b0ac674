"""Who the API server says is asking, where it passes requests on to an API that cloudstream serves for it.

The API server's front proxy shows a certificate of a CA that is trusted for this alone, so connections that ask for the
API's name get TLS settings of their own: whoever that CA certifies is nobody at the stream port, and the other way
round. What it says in headers is believed of no one else.

Go: k8s.io/apiserver/pkg/authentication/request/headerrequest
"""

import ssl
import weakref
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import unquote

import msgspec
from aiohttp import web

from edgehive.cloudcore.cloudstream.callers import Caller, Refused
from edgehive.kit.http import subject_of
from edgehive.kit.keypair import KeyPair
from edgehive.kit.ssl_contexts import server_context_in_memory
from edgehive.kube.errors import Unauthorized


class Trust(NamedTuple):
    """What a cluster publishes about its front proxy. `names` empty: any that the CA (PEM) certifies."""

    ca: str
    names: frozenset[str]
    user_headers: tuple[str, ...]
    group_headers: tuple[str, ...]
    extra_prefixes: tuple[str, ...]

    @classmethod
    def published(cls, data: Mapping[str, str]) -> "Trust | None":
        """From ConfigMap kube-system/extension-apiserver-authentication; None where it tells of no front proxy."""
        ca = data.get("requestheader-client-ca-file", "").strip()
        users = _listed(data, "requestheader-username-headers")
        if not ca or not users:
            return None
        return cls(
            ca,
            frozenset(_listed(data, "requestheader-allowed-names")),
            users,
            _listed(data, "requestheader-group-headers"),
            tuple(prefix.lower() for prefix in _listed(data, "requestheader-extra-headers-prefix")),
        )


def _listed(data: Mapping[str, str], key: str) -> tuple[str, ...]:
    try:
        return msgspec.json.decode(data.get(key) or "[]", type=tuple[str, ...])
    except msgspec.DecodeError:
        return ()


class FrontProxy:
    """Connections that ask for `server_name`; they are shown `certificate`."""

    def __init__(self, server_name: str, certificate: KeyPair) -> None:
        self._server_name = server_name
        self._certificate = certificate
        self._trust: Trust | None = None
        self._context: ssl.SSLContext | None = None
        self._contexts: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()

    def follow(self, trust: Trust | None) -> None:
        """Believe this front proxy from now on; raises ssl.SSLError for a CA that is none."""
        if trust is None:
            self._context = None
        elif self._trust is None or self._context is None or trust.ca != self._trust.ca:
            self._context = server_context_in_memory(self._certificate, client_ca=trust.ca)
            self._contexts.add(self._context)
        self._trust = trust

    def stand_at(self, context: ssl.SSLContext) -> None:
        """Take the connections of a door that ask for the name."""

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            if name == self._server_name and self._context is not None:
                connection.context = self._context

        context.sni_callback = choose

    def owns(self, request: web.Request) -> bool:
        """Whether the request came over such a connection, also one of before a change of CA."""
        connection = request.get_extra_info("ssl_object")
        return connection is not None and connection.context in self._contexts

    def caller(self, request: web.Request) -> Caller:
        """For whom the front proxy asks; raises Refused."""
        connection, trust = request.get_extra_info("ssl_object"), self._trust
        name, _ = subject_of(request)
        # A session taken up again would bring the certificate of whatever CA was trusted where it began.
        if trust is None or connection.context is not self._context or connection.session_reused or not name:
            raise Refused(Unauthorized("this API is asked through the API server alone, and it shows a certificate"))
        if trust.names and name not in trust.names:
            raise Refused(Unauthorized(f"{name!r} is no front proxy of this cluster (requestheader-allowed-names)"))
        user = next((value for header in trust.user_headers if (value := request.headers.get(header))), "")
        if not user:
            raise Refused(Unauthorized("the front proxy does not say for whom it asks"))
        groups = tuple(value for header in trust.group_headers for value in request.headers.getall(header, ()))
        return Caller(user, groups, _extra(request, trust.extra_prefixes))


def _extra(request: web.Request, prefixes: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: dict[str, list[str]] = {}
    for header, value in request.headers.items():
        prefix = next((prefix for prefix in prefixes if header.lower().startswith(prefix)), None)
        if prefix is not None:
            found.setdefault(unquote(header.lower().removeprefix(prefix)), []).append(value)
    return tuple((name, tuple(values)) for name, values in sorted(found.items()))
