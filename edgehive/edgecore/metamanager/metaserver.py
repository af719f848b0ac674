"""MetaServer: a Kubernetes API for the applications of one node, answered from what the node holds.

It serves with the cloud there and away alike: pods, config maps, secrets, the node, devices and models as they are on
this node. Devices may be written. What the node does not hold is refused in a sentence that says so, never answered
with an empty list. Plain HTTP on a loopback address: whoever is on the node may use it, nobody else can.

Go: edge/pkg/metamanager/metaserver
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from aiohttp import web
from prometheus_client import CollectorRegistry

from edgehive.api.device_kinds import device_kinds
from edgehive.api.registry import DEVICE_MODELS
from edgehive.edgecore.metamanager.edge_admission import EdgeAdmission
from edgehive.edgecore.metamanager.edge_store import HELD, WRITABLE, EdgeStore
from edgehive.kit import http
from edgehive.kit.clock import Clock
from edgehive.kit.loopback import is_from_web_page, is_loopback, names_this_machine
from edgehive.kube.client import WatchEvent
from edgehive.kube.errors import ApiError, Forbidden, NotFound, TooManyRequests, qualified
from edgehive.kube.server.api import Answer, Api
from edgehive.kube.server.auth import Authenticator
from edgehive.kube.server.backends import Backends
from edgehive.kube.server.catalog import Catalog, Served
from edgehive.kube.server.connect import CONNECTED, Connect
from edgehive.kube.server.crd_names import Claims, judged
from edgehive.kube.server.crds import versions_of
from edgehive.kube.server.identity import AUTHENTICATED, MASTERS, AllowAll, User
from edgehive.kube.server.kubelets import Kubelets
from edgehive.kube.server.local import LocalClient
from edgehive.kube.server.metrics_api import MetricsApi
from edgehive.kube.server.options import Call, DeleteOptions, ListOptions, Page
from edgehive.kube.server.rest import Rest, RestParts
from edgehive.kube.server.urls import ResourcePath
from edgehive.kube.server.writes import Removal

log = logging.getLogger("edgehive.metaserver")

WATCH_LIMIT = 256
_READ = ("get", "list", "watch")
_EVERYBODY = User("system:edge-application", (MASTERS, AUTHENTICATED))


class NotServed(Exception):
    """The configuration asks for what is not built; the text is one sentence with the mend."""


def address(server: str, *, authorized: bool) -> tuple[str, int]:
    """Host and port to listen at; raises NotServed for what would let strangers in."""
    if authorized:
        raise NotServed(
            "MetaServer is not started: featureGates.requireAuthorization is on, and it tells nobody apart yet; "
            "switch the gate off, then everybody on this node may use it, or switch metaServer off"
        )
    host, _, port = server.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise NotServed(f"MetaServer is not started: metaServer.server is {server!r}; write host:port")
    if not is_loopback(host):
        raise NotServed(
            f"MetaServer is not started: metaServer.server is {server}, where everybody in the network could steer "
            "this node's devices; write a loopback address, such as 127.0.0.1:10550"
        )
    return host, int(port)


class _Everybody(Authenticator):
    """Whoever reaches the loopback address; what they say of themselves is not asked for."""

    def authenticate(self, request: web.Request) -> User:
        """Raises Forbidden for what a web page makes a browser on this node send."""
        if not names_this_machine(request.host) or is_from_web_page(request.headers):
            raise Forbidden("MetaServer answers programs of this node at a loopback address, and no web pages")
        return _EVERYBODY


class EdgeApi(Api):
    """The verbs over what one node holds."""

    def __init__(self, store: EdgeStore, catalog: Catalog, clock: Clock, node: str) -> None:
        self._admission = EdgeAdmission(node)
        super().__init__(store, catalog, clock=clock, authorizer=AllowAll(), admission=[self._admission], tokens=None)
        self._node = node
        self._watching = 0

    def authorize(self, call: Call, verb: str) -> None:
        """Pods are not written here, and yet looked into: their logs, commands in them."""
        if call.subresource not in CONNECTED:
            super().authorize(call, verb)

    async def get(self, call: Call) -> Answer:
        try:
            return await super().get(call)
        except NotFound as error:
            raise self._not_here(error) from error

    async def select(self, call: Call, options: ListOptions) -> Page:
        page = await super().select(call, options)
        if not page.items:
            row = call.served.resource
            call.warnings.append(
                f"node {self._node} holds no such {qualified(row.plural, row.group)}; there may be some in the cloud"
            )
        return page

    async def watch(self, call: Call, options: ListOptions) -> AsyncGenerator[list[WatchEvent], None]:
        if self._watching >= WATCH_LIMIT:
            raise TooManyRequests(f"{WATCH_LIMIT} watches are open at this node; close some")
        return self._counted(await super().watch(call, options))

    async def _counted(self, stream: AsyncGenerator[list[WatchEvent], None]) -> AsyncGenerator[list[WatchEvent], None]:
        self._watching += 1
        try:
            async with aclosing(stream):
                async for batch in stream:
                    yield batch
        finally:
            self._watching -= 1

    async def delete(self, call: Call, options: DeleteOptions) -> Removal:
        """Nothing here waits for dependants: they are the cloud's to collect."""
        if call.served.resource.plural == DEVICE_MODELS.plural:
            self._admission.check_model((await super().get(call)).document.to_dict())
        try:
            return await super().delete(call, replace(options, propagation="Background"))
        except NotFound as error:
            raise self._not_here(error) from error

    def _not_here(self, error: NotFound) -> NotFound:
        details = error.status.details
        return NotFound(f"{error} on node {self._node}; the cloud was not asked", details=details)


def catalog_of_node() -> Catalog:
    """What a node may hold; built-in kinds to be read, devices and their models to be written."""
    catalog = Catalog([replace(row, verbs=_READ, subresources=_subresources(row.plural)) for row in HELD
                       if row not in WRITABLE])  # fmt: skip
    for kind in device_kinds():
        if kind.resource in WRITABLE:
            definition = judged(kind.definition(), Claims(), "")
            current = [one for one in versions_of(definition) if one.resource.version == kind.resource.version]
            catalog.set_custom(f"{kind.resource.plural}.{kind.resource.group}", [_without_collection(*current)])
    return catalog


def _subresources(plural: str) -> tuple[str, ...]:
    return ("log", "exec", "attach", "portforward") if plural == "pods" else ()


def _without_collection(served: Served) -> Served:
    """Devices are deleted one by one here: nobody takes all of a node's away by a selector that was too wide."""
    row = served.resource
    return replace(served, resource=replace(row, verbs=tuple(verb for verb in row.verbs if verb != "deletecollection")))


class MetaServer:
    """One per metamanager. `kubelet` is the base URL of this node's own kubelet API, for logs and commands."""

    def __init__(self, store: EdgeStore, clock: Clock, node: str, *, kubelet: str = "") -> None:
        self._store = store
        self._clock = clock
        self._node = node
        self._kubelet = kubelet
        self._api = EdgeApi(store, catalog_of_node(), clock, node)

    def client(self) -> LocalClient:
        """The same without HTTP, for who is in this process."""
        return LocalClient(self._api, _EVERYBODY)

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
        """Answer until the block is left; gives the address. Raises PortInUse."""
        metrics = CollectorRegistry()
        async with Backends() as backends:
            kubelets = Kubelets(self._store, lambda _: self._kubelet or None)
            connect = Connect(kubelets, backends, self._api.authorize, metrics)
            usage = MetricsApi(self._store, kubelets, backends, self._clock)
            parts = RestParts(
                self._api, _Everybody(), connect, usage, self._clock, metrics, lambda: True, self._not_held
            )
            async with http.serve(Rest(parts).application(), host=host, port=port) as bound:
                log.info("MetaServer answers at %s:%d", *bound)
                yield bound

    async def run(self, host: str, port: int) -> None:
        """Serve until cancelled; a port that is taken is tried again."""
        while True:
            try:
                async with self.serving(host, port):
                    await asyncio.Event().wait()
            except http.PortInUse as error:
                log.error("MetaServer is not started: %s; it is tried again", error)
            await asyncio.sleep(10.0)

    def _not_held(self, place: ResourcePath) -> ApiError:
        what = qualified(place.plural, place.group)
        return NotFound(
            f"node {self._node} holds no {what}: MetaServer answers from what this node has, which is "
            f"{', '.join(sorted(_names()))}; ask the API server in the cloud"
        )


def _names() -> list[str]:
    return [qualified(row.plural, row.group) for row in HELD]
