"""Who may ask a node's kubelet through the stream port: what a kubelet asks of its own callers, cloudstream asks too.

A caller shows a client certificate of the cluster's CA (kube-apiserver: --kubelet-client-certificate) or a bearer
token; the API says whether that user may do this to `nodes/<name>/<subresource>`. Answers are kept for a while.

Go: pkg/kubelet/server/auth.go (a stock cloudcore asks nobody)
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from aiohttp import web

from edgehive.api.registry import ApiResource
from edgehive.kit.http import subject_of
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, Forbidden, Unauthorized

log = logging.getLogger("edgehive.cloudstream")

#: As a kubelet keeps them.
ALLOWED_SECONDS, REFUSED_SECONDS, TOKEN_SECONDS = 300.0, 30.0, 120.0
KEPT = 1000
ASK_SECONDS = 10.0
AUTHENTICATED = "system:authenticated"
#: Who is served where cloudcore may not ask: administrators and kubeadm's API server, whom only the cluster's CA makes.
TRUSTED_GROUPS = frozenset({"system:masters", "kubeadm:cluster-admins"})
TRUSTED_USERS = frozenset({"kube-apiserver-kubelet-client"})

_ACCESS = ApiResource("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", False)
_TOKEN = ApiResource("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", False)

T = TypeVar("T")


class Refused(Exception):
    """The caller is not served; the text says why and names the mend."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


class Caller(NamedTuple):
    """`extra` is what the cluster's authenticators say besides, by name; authorizers may judge by it."""

    user: str
    groups: tuple[str, ...]
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


#: Whoever shows nothing, where that is only audited.
ANONYMOUS = Caller("system:anonymous", ("system:unauthenticated",))


class Question(Protocol):
    """What a caller may do or not; hashable, and in words after "may"."""

    @property
    def attributes(self) -> dict[str, Any]:
        """The part of a SubjectAccessReview's spec that says what is asked."""
        ...

    @property
    def mend(self) -> str:
        """How somebody comes to be allowed."""
        ...


class OfNode(NamedTuple):
    """May the caller do this to the node's kubelet?"""

    verb: str
    node: str
    subresource: str

    @property
    def attributes(self) -> dict[str, Any]:
        subject = {"version": "v1", "resource": "nodes", "subresource": self.subresource, "name": self.node}
        return {"resourceAttributes": {"verb": self.verb} | subject}

    @property
    def mend(self) -> str:
        return "bind it to ClusterRole system:kubelet-api-admin"

    def __str__(self) -> str:
        return f"{self.verb} nodes/{self.subresource} of {self.node}"


class Callers:
    """`enforce` False: whoever may not is logged and served, as a stock cloudcore serves everybody.

    A yes is kept for `allowed` seconds and a no for `refused`.
    """

    def __init__(
        self,
        client: Client,
        *,
        enforce: bool = True,
        allowed: float = ALLOWED_SECONDS,
        refused: float = REFUSED_SECONDS,
    ) -> None:
        self._allowed, self._refused = allowed, refused
        self._client = client
        self._enforce = enforce
        self._access: dict[tuple[Caller, Question], tuple[float, str]] = {}
        self._users: dict[bytes, tuple[float, Caller | None]] = {}

    async def identify(self, request: web.Request) -> Caller:
        """Who asks, before anything is looked up for him. Raises Refused, or ApiError when the API cannot be asked."""
        try:
            return await self._caller(request)
        except Refused as refused:
            self._refuse(refused)
            return ANONYMOUS

    async def demand(self, caller: Caller, question: Question) -> None:
        """Raises Refused, or ApiError when the API cannot be asked."""
        if caller is ANONYMOUS:
            return  # said already
        if why := await self._refusal(caller, question):
            self._refuse(Refused(Forbidden(why)))

    def _refuse(self, refused: Refused) -> None:
        if self._enforce:
            raise refused
        log.warning("served all the same (cloudStream.authentication: audit): %s", refused)

    async def _caller(self, request: web.Request) -> Caller:
        name, groups = subject_of(request)
        if name:
            return Caller(name, (*groups, AUTHENTICATED))
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused(
                Unauthorized(
                    "this port wants a client certificate of the cluster's CA: start kube-apiserver with "
                    "--kubelet-client-certificate, or set cloudStream.authentication to audit"
                )
            )
        key = hashlib.sha256(token.strip().encode()).digest()
        caller = await _kept(self._users, key, lambda: self._token_user(token.strip()))
        if caller is None:
            raise Refused(Unauthorized("the bearer token is none of this cluster"))
        return caller

    async def _token_user(self, token: str) -> tuple[float, Caller | None]:
        status = await self._ask(_TOKEN, {"token": token})
        user = status.get("user") or {}
        if not status.get("authenticated"):
            return REFUSED_SECONDS, None
        return TOKEN_SECONDS, Caller(user.get("username", ""), tuple(user.get("groups") or ()))

    async def _refusal(self, caller: Caller, question: Question) -> str:
        return await _kept(self._access, (caller, question), lambda: self._review(caller, question))

    async def _review(self, caller: Caller, question: Question) -> tuple[float, str]:
        spec = {"user": caller.user, "groups": list(caller.groups)} | question.attributes
        if caller.extra:
            spec["extra"] = {name: list(values) for name, values in caller.extra}
        try:
            status = await self._ask(_ACCESS, spec)
        except Forbidden as error:
            if caller.user in TRUSTED_USERS or TRUSTED_GROUPS.intersection(caller.groups):
                return self._allowed, ""
            return (
                self._refused,
                f"whether {caller.user} may {question} cannot be asked: {error}",
            )
        if status.get("allowed"):
            return self._allowed, ""
        return self._refused, f"{caller.user} may not {question}: {question.mend}"

    async def _ask(self, resource: ApiResource, spec: dict[str, Any]) -> dict[str, Any]:
        body = {"apiVersion": resource.api_version, "kind": resource.kind, "spec": spec}
        async with asyncio.timeout(ASK_SECONDS):
            answer = await self._client.create(resource, body)
        return answer.to_dict().get("status") or {}


async def _kept(cache: dict[Any, tuple[float, T]], key: Any, ask: Callable[[], Awaitable[tuple[float, T]]]) -> T:
    """The answer known, or a new one, kept as long as it says."""
    now = asyncio.get_running_loop().time()
    until, answer = cache.get(key, (0.0, None))
    if now < until:
        return answer  # type: ignore[return-value]
    lifetime, fresh = await ask()
    if len(cache) >= KEPT:
        cache.pop(next(iter(cache)))
    cache[key] = (now + lifetime, fresh)
    return fresh
