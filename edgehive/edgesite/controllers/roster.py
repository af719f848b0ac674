"""THE list of controllers of a site, and the one coroutine that runs them all with the scheduler."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from edgehive.edgesite.controllers.certificates import Certificates
from edgehive.edgesite.controllers.daemonsets import DaemonSets
from edgehive.edgesite.controllers.deployments import Deployments
from edgehive.edgesite.controllers.engine import Controller, ControllerDeps, run_controller
from edgehive.edgesite.controllers.events import EventExpiry
from edgehive.edgesite.controllers.garbage_collection import GarbageCollector
from edgehive.edgesite.controllers.jobs import Jobs
from edgehive.edgesite.controllers.namespaces import Namespaces
from edgehive.edgesite.controllers.nodes import Nodes
from edgehive.edgesite.controllers.replicasets import ReplicaSets
from edgehive.edgesite.controllers.service_accounts import ServiceAccounts
from edgehive.edgesite.controllers.services import Services
from edgehive.edgesite.scheduler import Scheduler
from edgehive.kit.clock import Clock
from edgehive.kit.keypair import KeyPair
from edgehive.kube.client import Client
from edgehive.kube.informer import Informers
from edgehive.kube.recorder import Recorder

ClientFor = Callable[[str], Client]


async def run_controllers(client_for: ClientFor, authority: KeyPair, host: str, clock: Clock) -> None:
    """Run everything a cluster needs beside its API server until cancelled.

    `client_for` gives a client acting as `system:<name>`, so that objects say who wrote them.
    """
    client, scheduling = client_for("kube-controller-manager"), client_for("kube-scheduler")
    async with AsyncExitStack() as stack:
        informers = await stack.enter_async_context(Informers(client))

        async def deps(component: str) -> ControllerDeps:
            recorder = await stack.enter_async_context(Recorder(client, component, host, clock))
            return ControllerDeps(client, informers, recorder, clock)

        controllers: list[Controller] = [
            Deployments(await deps("deployment-controller")),
            ReplicaSets(await deps("replicaset-controller")),
            DaemonSets(await deps("daemonset-controller")),
            Jobs(await deps("job-controller")),
            Services(await deps("endpoint-slice-controller")),
            Namespaces(await deps("namespace-controller")),
            Nodes(await deps("node-controller")),
            ServiceAccounts(await deps("service-account-controller"), authority.certificate_pem.decode()),
            Certificates(await deps("certificate-controller"), authority),
        ]
        collector = GarbageCollector(await deps("garbage-collector"))
        recorder = await stack.enter_async_context(Recorder(scheduling, "default-scheduler", host, clock))
        scheduler = Scheduler(scheduling, informers, recorder, clock)
        async with asyncio.TaskGroup() as group:
            for controller in controllers:
                group.create_task(run_controller(controller), name=f"controller {controller.name}")
            group.create_task(collector.run(), name="garbage collector")
            group.create_task(scheduler.run(), name="scheduler")
            group.create_task(EventExpiry(client, clock).run(), name="event expiry")
