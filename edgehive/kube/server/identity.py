"""Who asks, and whether they may: users, request attributes and the authorizer seam.

Every face of the API server makes a `User` and hands it to the core; which rules apply is the authorizer's
affair (`AllowAll` until RBAC rules are evaluated). Nothing here reads credentials.

Go: k8s.io/apiserver/pkg/authentication/user, k8s.io/apiserver/pkg/authorization/authorizer
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

MASTERS = "system:masters"
AUTHENTICATED = "system:authenticated"
UNAUTHENTICATED = "system:unauthenticated"


@dataclass(frozen=True, slots=True)
class User:
    """An identity with its groups."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS = User("system:anonymous", (UNAUTHENTICATED,))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an authorizer is asked about; `path` is set for non-resource requests."""

    user: User
    verb: str
    group: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    allowed: bool
    reason: str = ""


class Authorizer(Protocol):
    """Answers at once, from memory: it is asked on every request."""

    def authorize(self, attributes: Attributes) -> Decision: ...


class AllowAll:
    """Everyone who could prove who they are may do everything; anonymous users may only look at health and version."""

    _open_paths = ("/healthz", "/livez", "/readyz", "/version")

    def authorize(self, attributes: Attributes) -> Decision:
        if UNAUTHENTICATED not in attributes.user.groups:
            return Decision(True)
        return Decision(attributes.path.startswith(self._open_paths) if attributes.path else False)


def forbidden_text(attributes: Attributes, decision: Decision) -> str:
    """The sentence Kubernetes puts into a 403."""
    user, verb = attributes.user.name, attributes.verb
    if attributes.path:
        return f'User "{user}" cannot {verb} path "{attributes.path}"' + (
            f": {decision.reason}" if decision.reason else ""
        )
    plural = f"{attributes.resource}/{attributes.subresource}" if attributes.subresource else attributes.resource
    where = f' in the namespace "{attributes.namespace}"' if attributes.namespace else " at the cluster scope"
    text = f'User "{user}" cannot {verb} resource "{plural}" in API group "{attributes.group}"{where}'
    return f"{text}: {decision.reason}" if decision.reason else text
