"""What the flows of devicecontroller work with: the shared copies of the API, and who writes what is found."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from edgehive.api.device_faults import faults_of
from edgehive.api.devices import Device, DeviceModel
from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS
from edgehive.cloudcore.devicecontroller.conditions import Conditions, ConditionType, Finding
from edgehive.cloudcore.devicecontroller.desired_values import DesiredValues
from edgehive.cloudcore.devicecontroller.edge_edits import EdgeEdits
from edgehive.cloudcore.devicecontroller.status_writer import News, StatusWriter
from edgehive.cloudcore.objectsync import DeliveryRecords
from edgehive.cloudcore.placement import BY_MODEL, BY_NODE, model_key
from edgehive.cloudcore.replicas.standing import Standing
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kube.informer import Informer
from edgehive.wire.devices import DeviceId
from edgehive.wire.names import Operation

#: Faults named in one condition.
FAULTS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class DeviceContext:
    """Given to every flow."""

    devices: Informer
    models: Informer
    nodes: Informer
    records: DeliveryRecords
    statuses: StatusWriter
    conditions: Conditions
    desired: DesiredValues
    edits: EdgeEdits
    clock: Clock
    #: Of several cloudcores the leader makes statuses and judges devices.
    standing: Standing
    #: Devices that are told as soon as their node has confirmed that it lost them, or their model, before.
    held_back: "set[DeviceId]" = field(default_factory=set)

    def now(self) -> int:
        return unix_millis(self.clock.now())

    def is_edge(self, node: str) -> bool:
        return self.nodes.get(node) is not None

    def devices_on(self, node: str) -> list[Document]:
        return self.devices.by_index(BY_NODE, node)

    def devices_of(self, model: Document) -> list[Document]:
        """The devices that name this model."""
        return self.devices.by_index(BY_MODEL, f"{model.meta.namespace}/{model.meta.name}")

    def model_of(self, device: Document) -> Document | None:
        namespace, _, name = model_key(device).partition("/")
        return self.models.get(name, namespace) if name else None

    def is_used(self, model: str, node: str, *, apart_from: Document) -> bool:
        """Whether another device on the node has this model, which is given as `<namespace>/<name>`."""
        others = (one for one in self.devices.by_index(BY_MODEL, model) if one.meta.uid != apart_from.meta.uid)
        on_node = {one.meta.uid for one in self.devices_on(node)}
        return any(one.meta.uid in on_node for one in others)

    def operation(self, node: str, document: Document) -> str:
        """`insert` for what the node never acknowledged: its mappers are told to begin with it, not to change it."""
        acknowledged = self.records.version(node, document.meta.namespace, document.meta.uid)
        return Operation.UPDATE if acknowledged else Operation.INSERT

    def is_ending(self, node: str, document: Document) -> bool:
        return self.records.is_ending(node, document.meta.namespace, document.meta.uid)

    def is_new_to(self, node: str, document: Document) -> bool:
        """Whether nothing has been sent of it, as when its model was not there."""
        return self.records.version(node, document.meta.namespace, document.meta.uid) is None

    def ensure_status(self, device: Document) -> None:
        if self.standing.leads:
            self.statuses.add(DeviceId(device.meta.namespace, device.meta.name), News())

    def judge(self, document: Document, device: Device | None = None) -> None:
        """Say on the device whether its node is told of it and what is wrong with it."""
        if not self.standing.leads:
            return
        device = device or document.read(Device)
        model = self.model_of(document)
        self.conditions.find(document, self._finding(device, model))

    def judge_all(self, documents: Iterable[Document]) -> None:
        for document in documents:
            self.judge(document)

    def _finding(self, device: Device, model: Document | None) -> Finding:
        spec, namespace = device.spec, device.metadata.namespace
        if not spec.node_name:
            return _not_accepted("NoNode", "it has no spec.nodeName, so no node is told of it; name one")
        if not self.is_edge(spec.node_name):
            return _not_accepted(
                "NodeNotFound", f"{spec.node_name!r} is no edge node of this cluster; the device is told when it joins"
            )
        if spec.model_name and model is None:
            return _not_accepted(
                "ModelNotFound",
                f"device model {namespace}/{spec.model_name} does not exist; the device is told when it is created",
            )
        try:
            described = model.read(DeviceModel) if model is not None else None
        except msgspec.ValidationError as error:
            text = f"device model {namespace}/{spec.model_name} cannot be read: {error}"
            return _not_accepted("ModelUnreadable", f"{text}; write it as {DEVICE_MODELS.api_version}")
        faults = list(faults_of(device, described))
        if faults:
            more = f"; and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
            return _not_accepted("InvalidProperties", "; ".join(faults[:FAULTS_SHOWN]) + more)
        return Finding(ConditionType.ACCEPTED, True, "Told", f"node {spec.node_name} is told of it")


def _not_accepted(reason: str, message: str) -> Finding:
    return Finding(ConditionType.ACCEPTED, False, reason, message)
