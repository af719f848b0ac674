"""THE list of controllers of a site, and the one coroutine that runs them all with the scheduler."""

import asyncio
from collections.abc import Callable

from edgehive.edgesite.controllers.certificates import Certificates
from edgehive.edgesite.controllers.daemonsets import DaemonSets
from edgehive.edgesite.controllers.deployments import Deployments
from edgehive.edgesite.controllers.engine import Controller, ControllerDeps, run_controller
from edgehive.edgesite.controllers.garbage_collection import GarbageCollector
from edgehive.edgesite.controllers.jobs import Jobs
from edgehive.edgesite.controllers.namespaces import Namespaces
from edgehive.edgesite.controllers.nodes import Nodes
from edgehive.edgesite.controllers.replicasets import ReplicaSets
from edgehive.edgesite.controllers.service_accounts import ServiceAccounts
from edgehive.edgesite.controllers.services import Services
from edgehive.edgesite.scheduler import Scheduler
from edgehive.kit.clock import Clock
from edgehive.kit.tls import KeyPair
from edgehive.kube.client import Client
from edgehive.kube.informer import Informers
from edgehive.kube.recorder import Recorder

ClientFor = Callable[[str], Client]


async def run_controllers(client_for: ClientFor, authority: KeyPair, host: str, clock: Clock) -> None:
    """Run everything a cluster needs beside its API server until cancelled.

    `client_for` gives a client acting as `system:<name>`, so that objects say who wrote them.
    """
    client = client_for("kube-controller-manager")
    async with Informers(client) as informers, asyncio.TaskGroup() as group:
        for controller in _controllers(client, informers, authority, host, clock):
            group.create_task(run_controller(controller), name=f"controller {controller.name}")
        collector = GarbageCollector(_deps(client, informers, "garbage-collector", host, clock))
        group.create_task(collector.run(), name="garbage collector")
        scheduling = client_for("kube-scheduler")
        recorder = Recorder(scheduling, "default-scheduler", host, clock)
        group.create_task(Scheduler(scheduling, informers, recorder, clock).run(), name="scheduler")


def _controllers(client: Client, informers: Informers, authority: KeyPair, host: str, clock: Clock) -> list[Controller]:
    def deps(component: str) -> ControllerDeps:
        return _deps(client, informers, component, host, clock)

    return [
        Deployments(deps("deployment-controller")),
        ReplicaSets(deps("replicaset-controller")),
        DaemonSets(deps("daemonset-controller")),
        Jobs(deps("job-controller")),
        Services(deps("endpoint-slice-controller")),
        Namespaces(deps("namespace-controller")),
        Nodes(deps("node-controller")),
        ServiceAccounts(deps("service-account-controller"), authority.certificate_pem.decode()),
        Certificates(deps("certificate-controller"), authority),
    ]


def _deps(client: Client, informers: Informers, component: str, host: str, clock: Clock) -> ControllerDeps:
    return ControllerDeps(client, informers, Recorder(client, component, host, clock), clock)
