"""Resources that are questions: access reviews, token reviews, who am I. Created, answered, never stored.

Go: pkg/registry/authorization, pkg/registry/authentication
"""

from collections.abc import Callable, Mapping
from typing import Any

from edgehive.api.registry import ApiResource
from edgehive.kube.errors import BadRequest
from edgehive.kube.server.identity import Attributes, Authorizer, User
from edgehive.kube.server.options import Call
from edgehive.kube.server.tokens import TokenRefused, Tokens

Json = dict[str, Any]

_AUTHORIZATION, _AUTHENTICATION = "authorization.k8s.io", "authentication.k8s.io"


def _row(group: str, kind: str, *, namespaced: bool = False) -> ApiResource:
    return ApiResource(group, "v1", kind, f"{kind.lower()}s", namespaced, kind.lower(), verbs=("create",))


REVIEWS: tuple[ApiResource, ...] = (
    _row(_AUTHENTICATION, "SelfSubjectReview"),
    _row(_AUTHENTICATION, "TokenReview"),
    _row(_AUTHORIZATION, "LocalSubjectAccessReview", namespaced=True),
    _row(_AUTHORIZATION, "SelfSubjectAccessReview"),
    _row(_AUTHORIZATION, "SelfSubjectRulesReview"),
    _row(_AUTHORIZATION, "SubjectAccessReview"),
)


class Reviews:
    """Answers them."""

    def __init__(self, authorizer: Authorizer, tokens: Tokens | None) -> None:
        self._authorizer = authorizer
        self._tokens = tokens
        self._handlers: Mapping[str, Callable[[Call, Json], Json]] = {
            "SelfSubjectReview": self._who_am_i,
            "TokenReview": self._token,
            "SelfSubjectAccessReview": self._self_access,
            "SubjectAccessReview": self._access,
            "LocalSubjectAccessReview": self._access,
            "SelfSubjectRulesReview": self._rules,
        }

    def answers(self, call: Call) -> bool:
        return call.served.resource in REVIEWS

    def answer(self, call: Call, body: Json) -> Json:
        """The body with its status; raises BadRequest."""
        row = call.served.resource
        if body.get("kind") not in (None, "", row.kind):
            raise BadRequest(f"the body must be a {row.kind}, not a {body.get('kind')}")
        spec = body.get("spec") or {}
        status = self._handlers[row.kind](call, spec)
        return {"kind": row.kind, "apiVersion": row.api_version, "metadata": {"creationTimestamp": None}, "spec": spec,
                "status": status}  # fmt: skip

    def _who_am_i(self, call: Call, _: Json) -> Json:
        return {"userInfo": _user_info(call.user)}

    def _token(self, _: Call, spec: Json) -> Json:
        token, audiences = spec.get("token") or "", tuple(spec.get("audiences") or ())
        if not token:
            raise BadRequest("token is required for TokenReview in authentication")
        try:
            if self._tokens is None:
                raise TokenRefused("this server issues no tokens")
            bearer = self._tokens.verify(token, audiences)
        except TokenRefused as error:
            return {"user": {}, "error": f"invalid bearer token, {error}"}
        wanted = audiences or bearer.audiences
        return {
            "authenticated": True,
            "user": _user_info(bearer.user),
            "audiences": [audience for audience in wanted if audience in bearer.audiences],
        }

    def _self_access(self, call: Call, spec: Json) -> Json:
        return self._decide(call.user, spec)

    def _access(self, _: Call, spec: Json) -> Json:
        if not spec.get("user") and not spec.get("groups"):
            raise BadRequest("spec.user: Required value: at least one of user or group must be specified")
        extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
        user = User(spec.get("user") or "", tuple(spec.get("groups") or ()), spec.get("uid") or "", extra)
        return self._decide(user, spec)

    def _decide(self, user: User, spec: Json) -> Json:
        resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if bool(resource) == bool(path):
            raise BadRequest("exactly one of nonResourceAttributes or resourceAttributes must be specified")
        if path:
            attributes = Attributes(user, path.get("verb", ""), path=path.get("path", ""))
        else:
            wanted = ("verb", "group", "resource", "subresource", "namespace", "name")
            attributes = Attributes(user, **{key: (resource or {}).get(key) or "" for key in wanted})
        decision = self._authorizer.authorize(attributes)
        return {"allowed": decision.allowed} | ({"reason": decision.reason} if decision.reason else {})

    def _rules(self, call: Call, _: Json) -> Json:
        """What the seam can tell: everything or nothing, until rules are evaluated."""
        everything = self._authorizer.authorize(Attributes(call.user, "*", "*", "*")).allowed
        resource_rules = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}] if everything else []
        path_rules = [{"verbs": ["*"], "nonResourceURLs": ["*"]}] if everything else []
        return {"resourceRules": resource_rules, "nonResourceRules": path_rules, "incomplete": False}


def _user_info(user: User) -> Json:
    info: Json = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = list(user.groups)
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra.items()}
    return info
