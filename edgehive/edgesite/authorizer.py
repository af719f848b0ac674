"""Who may do what on a site, as long as RBAC rules are not evaluated: administrators everything, others nothing.

Everyone who proved an identity may look at discovery, health and version and ask about themselves, as in a
cluster without any binding. A pod's token therefore opens nothing.
"""

from edgehive.kube.server.identity import AUTHENTICATED, MASTERS, Attributes, Decision

OPEN = ("/healthz", "/livez", "/readyz", "/version")
DISCOVERY = ("/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks")
ABOUT_ONESELF = ("selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews")


class MastersOnly:
    """The site's `Authorizer`."""

    def authorize(self, attributes: Attributes) -> Decision:
        groups = attributes.user.groups
        if MASTERS in groups:
            return Decision(True)
        if attributes.path and _below(attributes.path, OPEN):
            return Decision(True)
        if AUTHENTICATED not in groups:
            return Decision(False)
        if attributes.path:
            return Decision(_below(attributes.path, DISCOVERY))
        return Decision(attributes.verb == "create" and attributes.resource in ABOUT_ONESELF)


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)
