"""A whole cluster in one process: API server, controllers, scheduler, and the two Hives joined in memory.

`run_site` is its life: it opens the store and the door, starts the private containerd, the controllers, the
cloud Hive and the edge Hive, says when the node is Ready, and closes everything in reverse when `stop` is set.
Containers are no part of it: they go on when the site ends.
"""

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from edgehive.api.config.edgesite import EdgeSite
from edgehive.api.core import Node
from edgehive.api.document import Document
from edgehive.api.registry import NODES
from edgehive.cloudcore.app import own_address, run_cloudcore
from edgehive.edgecore.app import run_edgecore
from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgesite import halves, images, pki
from edgehive.edgesite.addresses import ServiceAddresses
from edgehive.edgesite.authorizer import MastersOnly
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.edgesite.controllers.roster import run_controllers
from edgehive.edgesite.definitions import kubeedge_definitions
from edgehive.edgesite.layout import Layout
from edgehive.edgesite.mappers import Mappers
from edgehive.edgesite.pki import Pki
from edgehive.edgesite.progress import Progress
from edgehive.edgesite.remote_kubelets import kubelet_context, trust_cloud
from edgehive.edgesite.unattended import Unattended
from edgehive.kit.clock import Clock, parse_rfc3339
from edgehive.kit.memory import release_when_settled
from edgehive.kit.ssl_contexts import server_context
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client
from edgehive.kube.informer import Informer
from edgehive.kube.server.app import ApiServer, ServerOptions
from edgehive.kube.server.kubelets import reported_address
from edgehive.kube.sqlite import open_store
from edgehive.wire.link import Link, Peer
from edgehive.wire.memory import MemoryNetwork

log = logging.getLogger("edgehive.edgesite")


class PartEnded(Exception):
    """A part of the site ended although nobody asked it to; the text names it."""


async def run_site(site: EdgeSite, layout: Layout, clock: Clock, stop: asyncio.Event) -> None:
    """Run until `stop` is set. Raises PartEnded, PortInUse, ContainerdUnavailable, DatabaseError."""
    loop = asyncio.get_running_loop()
    began, since = loop.time(), clock.now().replace(microsecond=0)
    progress = Progress(layout.data, os.getpid())
    progress.starting("preparing keys and certificates")
    address = own_address()
    identity = pki.prepare(layout.pki, clock.now(), pki.server_names(address))
    private = _private_containerd(site, layout)
    runtime = spawn(_runtime(site, private), name="containerd") if site.node else None
    settling = release_when_settled()
    try:
        progress.starting("starting the API server")
        async with _api_server(site, layout, identity, clock, address) as server:
            config = pki.kubeconfig(identity, f"https://127.0.0.1:{site.port}")
            pki.write_private(layout.kubeconfig, config.encode())
            if runtime is None:
                parts = _control_plane(identity, server, clock)
                ready = _nothing()
            else:
                progress.starting("starting containerd")
                endpoint = await runtime
                progress.starting(f"waiting for the node {site.node_name} to be Ready")
                parts = _parts(site, layout, identity, server, clock, address, endpoint)
                ready = _node_ready(server.client("edgesite"), site.node_name, since)
            async with _kept(private) as keeping, parts as tasks:
                await _supervise(
                    [*tasks, *keeping], ready, stop, lambda: _tell_ready(site, progress, loop.time() - began)
                )
    finally:
        settling.cancel()
        await cancel_and_join(runtime)


def _tell_ready(site: EdgeSite, progress: Progress, seconds: float) -> None:
    progress.ready(seconds)
    log.info("%s is Ready after %.1f s", f"node {site.node_name}" if site.node else "the control plane", seconds)


async def _supervise(
    parts: "list[asyncio.Task[None]]",
    readiness: Coroutine[Any, Any, None],
    stop: asyncio.Event,
    tell: Callable[[], None],
) -> None:
    """Until `stop` is set; `tell` is called when the site is ready. Raises PartEnded."""
    ready, stopping = spawn(readiness, name="ready"), spawn(_wait(stop), name="stop")
    try:
        await _until([ready, stopping, *parts], first=ready)
        if ready.done():
            tell()
            await _until([stopping, *parts], first=stopping)
    finally:
        await cancel_and_join(ready, stopping)


async def _nothing() -> None:
    """A control plane is ready as soon as it serves."""


async def _wait(stop: asyncio.Event) -> None:
    await stop.wait()


async def _until(tasks: list["asyncio.Task[None]"], first: "asyncio.Task[None]") -> None:
    """Return when `first` or the stop task is done; a part that ends by itself is an error."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
        if task is not first and task.get_name() != "stop":
            raise PartEnded(f"{task.get_name()} ended although nobody asked it to; the log tells why")


def _private_containerd(site: EdgeSite, layout: Layout) -> PrivateContainerd | None:
    if not site.node or site.containerd:
        return None
    return PrivateContainerd(layout.containerd, bridge=site.bridge, subnet=site.pod_subnet)


async def _runtime(site: EdgeSite, private: PrivateContainerd | None) -> str:
    """Start (or find) containerd and give it the images a site brings; the endpoint."""
    endpoint = site.containerd
    if private is not None:
        await private.start()
        endpoint = private.endpoint
    async with Containerd(endpoint) as containerd:
        for make in (images.pause_image, images.busybox_image, images.hello_image):
            await images.import_image(containerd, await asyncio.to_thread(make))
    return endpoint


@asynccontextmanager
async def _kept(private: PrivateContainerd | None) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """The site's own containerd comes back when it ends; nobody else would start it."""
    keeping = [spawn(private.keep(), name="keep containerd")] if private is not None else []
    try:
        yield keeping
    finally:
        await cancel_and_join(*keeping)


@asynccontextmanager
async def _api_server(
    site: EdgeSite, layout: Layout, identity: Pki, clock: Clock, address: str
) -> AsyncIterator[ApiServer]:
    """The API server over SQLite, behind TLS with client certificates."""
    options = ServerOptions(
        service_account_key=identity.service_account_key,
        service_account_admission=True,
        node_metrics=True,
        definitions=kubeedge_definitions(),
        extra_admission=(lambda store: ServiceAddresses(store, site.service_subnet), lambda _: Unattended()),
    )
    context = server_context(
        identity.server_certificate,
        identity.server_key,
        client_ca=identity.authority_file,
        client_certificate="optional",
    )

    def kubelet(node: Document) -> str | None:
        local = site.node and node.meta.name == site.node_name
        return f"http://127.0.0.1:{site.kubelet_port}" if local else reported_address(node)

    kubelet_tls = kubelet_context(identity)

    async with open_store(layout.store, clock=clock) as store:
        server = ApiServer(store, clock=clock, options=options, authorizer=MastersOnly())
        await server.start()
        try:
            await server.publish([address], site.port, str(ipaddress.ip_network(site.service_subnet)[1]))
            doors = server.serve("0.0.0.0", site.port, context, kubelet=kubelet, kubelet_tls=kubelet_tls)  # noqa: S104
            async with doors:
                trusting = spawn(trust_cloud(server.client("system:apiserver"), kubelet_tls), name="trust the cloud")
                try:
                    yield server
                finally:
                    await cancel_and_join(trusting)
        finally:
            await server.stop()


@asynccontextmanager
async def _control_plane(identity: Pki, server: ApiServer, clock: Clock) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Controllers and scheduler alone, for nodes elsewhere."""

    def client_for(name: str) -> Client:
        return server.client(f"system:{name}")

    running = spawn(run_controllers(client_for, identity.authority, socket.gethostname(), clock), name="controllers")
    try:
        yield [running]
    finally:
        await cancel_and_join(running)


@asynccontextmanager
async def _parts(
    site: EdgeSite,
    layout: Layout,
    identity: Pki,
    server: ApiServer,
    clock: Clock,
    address: str,
    endpoint: str,
) -> AsyncIterator[list["asyncio.Task[None]"]]:
    """Controllers, cloud, edge and its mappers as tasks; at the end these stop first, the controllers last."""
    network, registry, stopping = MemoryNetwork(clock=clock), CollectorRegistry(), asyncio.Event()
    host = socket.gethostname()

    def client_for(name: str) -> Client:
        return server.client(f"system:{name}")

    async def dial() -> Link:
        return await network.dial(Peer(node=site.node_name))

    def start(name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return spawn(work, name=name)

    controllers = start("controllers", run_controllers(client_for, identity.authority, host, clock))
    cloud = start(
        "cloudcore",
        run_cloudcore(
            halves.cloud(site),
            client_for("cloudcore"),
            acceptors=[network.acceptor()],
            clock=clock,
            stop=stopping,
            registry=registry,
            api_ca=identity.authority.certificate_pem.decode(),
        ),
    )
    edge = start(
        "edgecore",
        run_edgecore(
            halves.edge(site, layout, address, endpoint),
            dial=dial,
            clock=clock,
            stop=stopping,
            registry=CollectorRegistry(),
        ),
    )
    mappers = start("mappers", Mappers(layout).run())
    try:
        yield [controllers, cloud, edge, mappers]
    finally:
        stopping.set()
        await cancel_and_join(mappers)
        await asyncio.wait([edge, cloud], timeout=20)
        await cancel_and_join(edge, cloud, controllers)


async def _node_ready(client: Client, name: str, since: Any) -> None:
    """Return when the node has said since `since` that it is Ready."""
    informer = Informer(client, NODES, field_selector=f"metadata.name={name}")
    running = spawn(informer.run(), name="node ready: informer")
    try:
        async for change in informer.changes():
            condition = change.document.read(Node).status.condition("Ready")
            if condition is None or condition.status != "True" or not condition.last_heartbeat_time:
                continue
            if parse_rfc3339(condition.last_heartbeat_time) >= since:
                return
    finally:
        await cancel_and_join(running)
