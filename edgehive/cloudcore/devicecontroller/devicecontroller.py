"""Module `devicecontroller`: devices and their models down to the nodes they are bound to, values and states up.

It wires its parts: `cloudcore.flows` runs what goes down, `reports` judges what comes up, `status_writer` keeps
DeviceStatus, `conditions` says on the Device what is wrong. It carries nothing itself: cloudhub does.

Go: cloud/pkg/devicecontroller/devicecontroller.go
"""

import asyncio
import logging

from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS, DEVICES, NODES
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.cloudcore.deps import EDGE_NODE_SELECTOR, CloudDeps
from edgehive.cloudcore.devicecontroller import devices, models
from edgehive.cloudcore.devicecontroller.conditions import Conditions
from edgehive.cloudcore.devicecontroller.confirmations import Confirmations
from edgehive.cloudcore.devicecontroller.context import DeviceContext
from edgehive.cloudcore.devicecontroller.desired_values import DesiredValues
from edgehive.cloudcore.devicecontroller.edge_edits import BY_CREATOR, EdgeEdits, by_creator, edits_first
from edgehive.cloudcore.devicecontroller.reports import Reports, refusal_finding
from edgehive.cloudcore.devicecontroller.status_writer import StatusWriter
from edgehive.cloudcore.flows import FlowEngine, flows_of
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.placement import BY_MODEL, BY_NODE, by_model, by_node
from edgehive.kit.refusals import Refusals
from edgehive.kube.recorder import Recorder
from edgehive.wire.devices import DeviceId
from edgehive.wire.names import CloudModule, Source

log = logging.getLogger("edgehive.devicecontroller")

#: Devices before models: a device brings its model along.
FLOW_FILES = (devices, models)


#: How often it is looked whether a device that was held back can be told.
HELD_BACK_SECONDS = 1.0
#: How often a cloudcore looks whether it leads.
TAKE_OVER_SECONDS = 5.0


class DeviceController:
    """See the file's head."""

    name: str = CloudModule.DEVICE_CONTROLLER
    group: str = CloudModule.DEVICE_CONTROLLER
    needs: tuple[str, ...] = (CloudModule.CLOUD_HUB,)

    def __init__(self, deps: CloudDeps, records: DeliveryRecords) -> None:
        self._deps = deps
        self._records = records
        self._mailbox = deps.bus.register(self.name, self.group, size=4096)
        # Asking for them here lets their first lists start with the process.
        self._devices = deps.informers.of(DEVICES, indexers={BY_NODE: by_node, BY_MODEL: by_model})
        self._models = deps.informers.of(DEVICE_MODELS, indexers={BY_CREATOR: by_creator})
        self._nodes = deps.informers.of(NODES, label_selector=EDGE_NODE_SELECTOR)

    async def run(self, ready: Ready) -> None:
        async with (
            Recorder(self._deps.client, self.name, "", self._deps.clock) as recorder,
            asyncio.TaskGroup() as group,
        ):
            context = self._context(recorder)
            engine = FlowEngine(
                self.name,
                bus=self._deps.bus,
                informers=self._deps.informers,
                records=self._records,
                clock=self._deps.clock,
                context=context,
                flows=flows_of(*FLOW_FILES),
                source=Source.DEVICE_CONTROLLER,
            )
            confirmations = Confirmations(engine.send)
            refusals = Refusals("devicecontroller", log, self._deps.registry)
            self._reports = Reports(context, refusals, confirmations, engine.send)
            group.create_task(confirmations.run(), name="confirmations")
            group.create_task(context.edits.run(engine.send), name="edits of the edge")
            group.create_task(context.statuses.run(), name="device statuses")
            group.create_task(context.conditions.run(), name="conditions of devices")
            group.create_task(_take_over(context), name="judge devices as leader")
            group.create_task(_tell_held_back(context, engine), name="devices held back")
            # A cluster that has not the kinds, and does not let them be made, is served as far as it goes.
            ready()
            await engine.run(self._mailbox, lambda: None, edits_first(context.edits, self._reports.take))

    def _context(self, recorder: Recorder) -> DeviceContext:
        client, clock = self._deps.client, self._deps.clock
        conditions = Conditions(client, clock, recorder, find_device=self._find)
        desired = DesiredValues(client, conditions)
        statuses = StatusWriter(
            client,
            standing=self._deps.standing,
            find=self._find,
            confirm=self._confirm,
            agree=desired.agree,
            refuse=self._refuse,
        )
        self._conditions = conditions
        return DeviceContext(
            self._devices,
            self._models,
            self._nodes,
            self._records,
            statuses,
            conditions,
            desired,
            EdgeEdits(client, clock, conditions, self._deps.standing, devices=self._devices, models=self._models),
            clock,
            self._deps.standing,
        )

    def _find(self, device: DeviceId) -> Document | None:
        return self._devices.get(device.name, device.namespace)

    def _confirm(self, report: Message, version: str) -> None:
        self._reports.confirm(report, version)

    def _refuse(self, device: DeviceId, text: str) -> None:
        log.warning("device %s: %s", device, text)
        document = self._find(device)
        if document is not None:
            self._conditions.find(document, refusal_finding(text))


async def _take_over(context: DeviceContext) -> None:
    """Whoever becomes leader sees to what the leader before may have missed."""
    led = context.standing.leads
    while not context.standing.alone:
        await asyncio.sleep(TAKE_OVER_SECONDS)
        if context.standing.leads and not led:
            for device in context.devices.items():
                context.ensure_status(device)
                context.judge(device)
        led = context.standing.leads


async def _tell_held_back(context: DeviceContext, engine: FlowEngine[DeviceContext]) -> None:
    while True:
        await asyncio.sleep(HELD_BACK_SECONDS)
        await engine.deliver(list(devices.tell_held_back(context)))
