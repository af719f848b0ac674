"""`Cluster`: a whole Kubernetes API in memory, for tests of everything that speaks to one.

No node, no scheduler, no controller runs in it: only what the API server itself does. KubeEdge's own kinds
are served.

    async with Cluster() as cluster:
        client = cluster.client()
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import TracebackType

from edgehive.api.registry import KUBEEDGE
from edgehive.kit.clock import Clock, FixedClock
from edgehive.kit.tls import new_key
from edgehive.kube.server.app import ApiServer, ServerOptions
from edgehive.kube.server.identity import AUTHENTICATED, MASTERS, User
from edgehive.kube.server.local import LocalClient
from edgehive.kube.store import Store, memory_store

#: When a cluster without a clock of its own lives.
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


class Cluster:
    """An API server over a fresh store; `clock` defaults to one that stands still."""

    def __init__(
        self, *, clock: Clock | None = None, store: Store | None = None, options: ServerOptions | None = None
    ) -> None:
        self.clock = clock or FixedClock(EPOCH)
        options = options or ServerOptions(service_account_key=new_key(), extra_resources=KUBEEDGE)
        self.server = ApiServer(store or memory_store(), clock=self.clock, options=options)

    @property
    def store(self) -> Store:
        return self.server.store

    async def __aenter__(self) -> "Cluster":
        await self.server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.stop()

    def client(self, user: str = "admin", groups: Sequence[str] = (MASTERS,)) -> LocalClient:
        """A client acting as that user."""
        return self.server.client(user, groups)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """The same cluster over plain HTTP on a free port; everyone is admin. Gives the URL."""
        admin = User("admin", (MASTERS, AUTHENTICATED))
        async with self.server.serve("127.0.0.1", 0, without_credentials=admin) as (host, port):
            yield f"http://{host}:{port}"
