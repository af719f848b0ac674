"""`ApiServer`: store, catalog, rules and faces put together.

edgesite runs it over SQLite, tests over memory. Keys and certificates are given from outside: whoever runs
the server keeps them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgehive.api.registry import BUILTIN, ApiResource
from edgehive.kit.clock import Clock
from edgehive.kube.server import bootstrap
from edgehive.kube.server.admission import Admission, NamespaceLifecycle, PodPriority, PodTolerations, ServiceAccounts
from edgehive.kube.server.api import Api
from edgehive.kube.server.catalog import Catalog
from edgehive.kube.server.identity import AUTHENTICATED, MASTERS, AllowAll, Authorizer, User
from edgehive.kube.server.local import LocalClient
from edgehive.kube.server.tokens import ISSUER, Tokens
from edgehive.kube.store import Store


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What may differ between a site and a test."""

    #: P-256 key (SEC1 DER) service-account tokens are signed with; without it there are no tokens.
    service_account_key: bytes | None = None
    issuer: str = ISSUER
    #: Pods get the token volume, and their service account must exist.
    service_account_admission: bool = False
    #: Kinds served beside the built-in ones without a CRD.
    extra_resources: tuple[ApiResource, ...] = ()


class ApiServer:
    """A Kubernetes API over a store. Call `start` once before anything else."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        options: ServerOptions | None = None,
        authorizer: Authorizer | None = None,
    ) -> None:
        options = options or ServerOptions()
        self.store = store
        self.clock = clock
        self.catalog = Catalog(BUILTIN + options.extra_resources)
        key = options.service_account_key
        self.tokens = Tokens(key, store, clock, issuer=options.issuer) if key else None
        self.api = Api(
            store,
            self.catalog,
            clock=clock,
            authorizer=authorizer or AllowAll(),
            admission=_admission(store, service_accounts=options.service_account_admission),
            tokens=self.tokens,
        )

    async def start(self) -> None:
        """Create what every cluster has."""
        await bootstrap.create_namespaces(self.client("system:apiserver"))

    def client(self, user: str = "admin", groups: Sequence[str] = (MASTERS,)) -> LocalClient:
        """A client in this process, as that user."""
        return LocalClient(self.api, User(user, (*groups, AUTHENTICATED)))


def _admission(store: Store, *, service_accounts: bool) -> list[Admission]:
    plugins: list[Admission] = [NamespaceLifecycle(store), PodTolerations(), PodPriority(store)]
    if service_accounts:
        plugins.append(ServiceAccounts(store))
    return plugins
