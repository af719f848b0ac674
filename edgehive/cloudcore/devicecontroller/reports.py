"""What comes up from devicetwin: values, states, and the question which devices a node has.

A report counts when its device is bound to the node it comes from, and when it is of this life of the device; what is
refused is counted, and said once a minute. A report that makes no sense is confirmed, as it will make none next time;
one of a device that is not known, or not the node's, is not: this cloudcore may be late to know.

Go: cloud/pkg/devicecontroller/controller/upstream.go
"""

import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from edgehive.api.device_faults import VALUE_LIMIT, value_fault
from edgehive.api.devices import Device, DeviceModel, ModelProperty
from edgehive.api.document import Document
from edgehive.beehive.message import Message
from edgehive.cloudcore.devicecontroller.conditions import ConditionType, Finding
from edgehive.cloudcore.devicecontroller.confirmations import Confirmations
from edgehive.cloudcore.devicecontroller.context import FAULTS_SHOWN, DeviceContext
from edgehive.cloudcore.devicecontroller.desired_values import conflicts_of, wishes_of
from edgehive.cloudcore.devicecontroller.devices import member_of
from edgehive.cloudcore.devicecontroller.status_writer import News
from edgehive.cloudcore.devicecontroller.twin_news import Slot, Value, values_of
from edgehive.kit.refusals import Refusals
from edgehive.wire import devices as wire
from edgehive.wire import resource as paths
from edgehive.wire.device_edits import CREATED_ANNOTATION
from edgehive.wire.devices import DeviceId, DeviceState, ReportKind, ReportPath, TwinUpdate
from edgehive.wire.names import Operation, Path

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

#: Of a state and its time.
STATE_LIMIT = 256
#: Devices and models that are kept decoded, and devices of which it is remembered what was wrong.
REMEMBERED = 10_000


class _Known(NamedTuple):
    """A device as reports are held against it, decoded once per version of it and of its model."""

    device: Document
    model: Document | None
    node: str
    properties: tuple[str, ...]
    described: Mapping[str, ModelProperty]


class Reports:
    """`take` every message of a node's twin."""

    def __init__(
        self,
        context: DeviceContext,
        refusals: Refusals,
        confirmations: Confirmations,
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._context = context
        self._confirmations = confirmations
        self._refusals = refusals
        self._send = send
        self._devices: OrderedDict[DeviceId, _Known] = OrderedDict()
        self._models: OrderedDict[tuple[str, str], tuple[Document, Mapping[str, ModelProperty]]] = OrderedDict()
        #: What is wrong with the values a device reported last, by property.
        self._faults: OrderedDict[DeviceId, dict[str, str]] = OrderedDict()

    async def take(self, message: Message) -> None:
        """Answer a question, or hand a report on to be written."""
        node, path = paths.strip_node(message.route.resource)
        standing = self._context.standing
        if not standing.owns(node) and not standing.is_contested(node):
            # The node says it again to the cloudcore that has it.
            return
        if path == Path.MEMBERSHIP_DETAIL and message.route.operation == Operation.GET:
            await self._tell_members(node, message)
            return
        try:
            report = ReportPath.parse(message.route.resource)
        except ValueError as error:
            self._refuse(message, node, "malformed", f"node {node}: {error}")
            return
        about = f"{node} {report.device}"
        device = self._context.devices.get(report.device.name, report.device.namespace)
        if device is None:
            said = f"node {node} reports of device {report.device}, which does not exist"
            self._refusals.refuse("unknown device", said, about=about)
        elif (bound := self._known(report.device, device).node) != node:
            said = f"node {node} may not report of device {report.device}, which is bound to {bound or 'no node'}"
            self._refusals.refuse("forbidden", said, about=about)
        else:
            self._judge(report, device, message)

    def confirm(self, message: Message, version: str = "") -> None:
        """Tell the edge that a report needs no repetition; edges of ours hear against which Device it was held."""
        node, _ = paths.strip_node(message.route.resource)
        version = message.header.resourceversion and version
        answer = wire.confirmation(message, timestamp=self._context.now(), resource_version=version)
        self._confirmations.add(node, answer.with_route(resource=paths.add_node(node, Path.TWIN)))

    # Membership

    async def _tell_members(self, node: str, question: Message) -> None:
        """Confirm the question, or a Go edge repeats it for ever; the list is a message of its own."""
        self.confirm(question)
        members = [member_of(device) for device in self._context.devices_on(node)]
        message = wire.membership_detail(members, event_id=str(uuid.uuid4()), timestamp=self._context.now())
        await self._send(message.with_route(resource=paths.add_node(node, message.route.resource)))

    # Reports

    def _judge(self, report: ReportPath, device: Document, message: Message) -> None:
        try:
            if report.kind is ReportKind.STATE:
                news, uid = _state_news(message), ""
                self._context.conditions.find(device, _health(news.state))
            else:
                update = wire.read(message, TwinUpdate)
                uid = update.uid or ""
                news = self._news(report.device, device, update)
        except (msgspec.MsgspecError, UnicodeError, ValueError) as error:
            said = f"node {report.node}: the report of device {report.device} cannot be read: {error}"
            self._refuse(message, report.node, "malformed", said, about=f"{report.node} {report.device}")
            return
        if uid and uid not in (device.meta.uid, (device.meta.annotations or {}).get(CREATED_ANNOTATION)):
            said = f"node {report.node} reports of an earlier device {report.device}"
            self._refuse(message, report.node, "earlier life", said, about=f"{report.node} {report.device}")
            return
        version = device.meta.resource_version if uid else ""
        kept = Message(message.header, message.route).with_header(resourceversion=version)
        news.reports[message.id] = kept
        self._context.statuses.add(report.device, news)

    def _news(self, id: DeviceId, device: Document, update: TwinUpdate) -> News:
        twins, properties = update.twin or {}, self._known(id, device).properties
        values = self._values(id, device, update)
        # Only an edge of ours, which says of which life it speaks, may ask for a change of the Device.
        if not update.uid:
            return News(values)
        return News(values, wishes=wishes_of(twins, properties), conflicts=conflicts_of(twins, properties))

    def _values(self, id: DeviceId, device: Document, update: TwinUpdate) -> dict[Slot, Value]:
        """The values of a report; what is wrong with them is said on the device, and they count all the same."""
        known = self._known(id, device)
        values = values_of(update.twin or {}, known.properties)
        faults = dict(self._faults.get(id, {}))
        for (name, kind), value in list(values.items()):
            text = value.content["value"]
            fault = value_fault(known.described.get(name), text)
            if len(text) > VALUE_LIMIT:
                del values[name, kind]
            faults.pop(f"{name} {kind}", None)
            if fault:
                faults[f"{name} {kind}"] = f"property {name!r}: the {_SAID[kind]} value {fault}"
        self._note(id, device, faults)
        return values

    def _note(self, id: DeviceId, device: Document, faults: dict[str, str]) -> None:
        if faults == self._faults.get(id, {}) and (faults or id in self._faults):
            return
        _remember(self._faults, id, faults)
        said = "; ".join(list(faults.values())[:FAULTS_SHOWN])
        finding = Finding(
            ConditionType.REPORTS_VALID,
            not faults,
            "InvalidReport" if faults else "Valid",
            said or "what it reports fits its model",
        )
        self._context.conditions.find(device, finding)

    def _known(self, id: DeviceId, device: Document) -> _Known:
        model = self._context.model_of(device)
        known = self._devices.get(id)
        if known is None or known.device is not device or known.model is not model:
            spec = device.read(Device).spec
            names = tuple(one.name for one in spec.properties or ())
            known = _Known(device, model, spec.node_name, names, self._described(model))
            _remember(self._devices, id, known)
        return known

    def _described(self, model: Document | None) -> Mapping[str, ModelProperty]:
        if model is None:
            return {}
        id = (model.meta.namespace, model.meta.name)
        held = self._models.get(id)
        if held is None or held[0] is not model:
            held = model, {one.name: one for one in _properties_of(model)}
            _remember(self._models, id, held)
        return held[1]

    def _refuse(self, message: Message, node: str, reason: str, text: str, *, about: str = "") -> None:
        self._refusals.refuse(reason, text[:500], about=about or node)
        self.confirm(message)


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _properties_of(model: Document) -> Sequence[ModelProperty]:
    """None of a model that cannot be read, which its devices say (`Accepted`)."""
    try:
        return model.read(DeviceModel).spec.properties or ()
    except msgspec.ValidationError:
        return ()


#: States that are trouble, and the reason of the condition; whatever else a mapper says is none.
_TROUBLE = {"offline": "DeviceOffline", "unhealthy": "DeviceUnhealthy", "unknown": "DeviceUnknown"}
_SAID = {"reported": "reported", "observedDesired": "observed desired"}


def _health(state: DeviceState | None) -> Finding:
    said = state.state if state is not None else ""
    reason = _TROUBLE.get(said.lower())
    why = "; the Events of the device may say why" if reason else ""
    return Finding(ConditionType.HEALTHY, reason is None, reason or "StateReported", f"its state is {said}{why}")


def _state_news(message: Message) -> News:
    update = wire.read_state(message)
    state = update.device
    if not state.state:
        raise ValueError("it names no state")
    if len(state.state) > STATE_LIMIT or len(state.last_online_time) > STATE_LIMIT:
        raise ValueError(f"its state is longer than {STATE_LIMIT} characters")
    return News(state=state, state_at=update.timestamp)


def refusal_finding(text: str) -> Finding:
    """What a device says whose status the API does not take."""
    return Finding(ConditionType.REPORTS_VALID, False, "StatusRefused", text)
