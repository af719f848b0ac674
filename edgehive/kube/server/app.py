"""`ApiServer`: store, catalog, rules and faces put together.

edgesite runs it over SQLite, tests over memory. Keys and certificates are given from outside: whoever runs
the server keeps them.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from edgehive.api.registry import BUILTIN, OTHER_VERSIONS, ApiResource
from edgehive.kit.clock import Clock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.server import bootstrap
from edgehive.kube.server.admission import Admission, NamespaceLifecycle, PodPriority, PodTolerations, ServiceAccounts
from edgehive.kube.server.api import Api
from edgehive.kube.server.catalog import Catalog
from edgehive.kube.server.crds import Crds
from edgehive.kube.server.identity import ANONYMOUS, AUTHENTICATED, MASTERS, AllowAll, Authorizer, User
from edgehive.kube.server.local import LocalClient
from edgehive.kube.server.reviews import REVIEWS
from edgehive.kube.server.tokens import ISSUER, Tokens
from edgehive.kube.store import Store
from edgehive.kube.usage import NODE_METRICS, POD_METRICS

if TYPE_CHECKING:
    from edgehive.kube.server.kubelets import KubeletAddress


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What may differ between a site and a test."""

    #: P-256 key (SEC1 DER) service-account tokens are signed with; without it there are no tokens.
    service_account_key: bytes | None = None
    issuer: str = ISSUER
    #: Pods get the token volume, and their service account must exist.
    service_account_admission: bool = False
    #: Serve metrics.k8s.io, asked of the nodes' kubelets.
    node_metrics: bool = False
    #: Kinds served beside the built-in ones without a CRD.
    extra_resources: tuple[ApiResource, ...] = ()
    #: CustomResourceDefinitions that are there from the start; what a database already has stays as it is.
    definitions: tuple[Mapping[str, Any], ...] = ()
    #: Further steps of admission, made with the store; they come last.
    extra_admission: tuple[Callable[[Store], Admission], ...] = ()


class ApiServer:
    """A Kubernetes API over a store. Call `start` before anything else and `stop` at the end."""

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
        metrics = (NODE_METRICS, POD_METRICS) if options.node_metrics else ()
        self.catalog = Catalog(BUILTIN + OTHER_VERSIONS + REVIEWS + metrics + options.extra_resources)
        self._ready = False
        self._custom: asyncio.Task[None] | None = None
        key = options.service_account_key
        self.tokens = Tokens(key, store, clock, issuer=options.issuer) if key else None
        self.api = Api(
            store,
            self.catalog,
            clock=clock,
            authorizer=authorizer or AllowAll(),
            admission=_admission(store, options),
            tokens=self.tokens,
        )
        self._crds = Crds(store, self.catalog, self.api.writer)
        self._definitions = options.definitions

    async def start(self) -> None:
        """Create what every cluster has; custom resources of the database are served when this returns."""
        client = self.client("system:apiserver")
        await bootstrap.create_namespaces(client)
        await bootstrap.create_definitions(client, self._definitions)
        await self._crds.load()
        self._custom = spawn(self._crds.run(), name="crds")
        self._ready = True

    async def publish(self, addresses: Sequence[str], port: int, cluster_ip: str) -> None:
        """Tell pods where this server is: the `kubernetes` Service and its endpoints."""
        await bootstrap.publish_service(self.client("system:apiserver"), addresses, port, cluster_ip)

    async def stop(self) -> None:
        """End what `start` began; the store is the caller's to close."""
        self._ready = False
        await cancel_and_join(self._custom)

    @asynccontextmanager
    async def serve(
        self,
        host: str,
        port: int,
        ssl_context: ssl.SSLContext | None = None,
        *,
        without_credentials: User = ANONYMOUS,
        static_tokens: Mapping[str, User] | None = None,
        kubelet: "KubeletAddress | None" = None,
        kubelet_tls: ssl.SSLContext | None = None,
        metrics: CollectorRegistry | None = None,
    ) -> AsyncIterator[tuple[str, int]]:
        """Answer HTTP until the block is left; gives the address. Raises PortInUse.

        `kubelet` knows the way to nodes (without it their own word counts), `kubelet_tls` verifies them.
        """
        from edgehive.kit import http
        from edgehive.kube.server.auth import Authenticator
        from edgehive.kube.server.backends import Backends
        from edgehive.kube.server.connect import Connect
        from edgehive.kube.server.kubelets import Kubelets, reported_address
        from edgehive.kube.server.metrics_api import MetricsApi
        from edgehive.kube.server.rest import Rest, RestParts

        authenticator = Authenticator(
            tokens=self.tokens, static_tokens=static_tokens, without_credentials=without_credentials
        )
        metrics = metrics or CollectorRegistry()
        async with Backends(kubelet_tls) as backends:
            kubelets = Kubelets(self.store, kubelet or reported_address)
            connect = Connect(kubelets, backends, self.api.authorize, metrics)
            usage = MetricsApi(self.store, kubelets, backends, self.clock)
            parts = RestParts(self.api, authenticator, connect, usage, self.clock, metrics, lambda: self._ready)
            application = Rest(parts).application()
            async with http.serve(application, host=host, port=port, ssl_context=ssl_context) as address:
                yield address

    def client(self, user: str = "admin", groups: Sequence[str] = (MASTERS,)) -> LocalClient:
        """A client in this process, as that user."""
        return LocalClient(self.api, User(user, (*groups, AUTHENTICATED)))


def _admission(store: Store, options: ServerOptions) -> list[Admission]:
    plugins: list[Admission] = [NamespaceLifecycle(store), PodTolerations(), PodPriority(store)]
    if options.service_account_admission:
        plugins.append(ServiceAccounts(store))
    return plugins + [make(store) for make in options.extra_admission]
