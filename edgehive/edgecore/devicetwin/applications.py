"""What applications and mappers say of devices at the edge, over MQTT and DMI, and what comes of it.

Each function takes one message that was read, changes the device in memory and notes the consequences in the turn.
A refusal is answered on the topic of the result, under the device's own name (wire.md B16), and changes nothing.

Go: edge/pkg/devicetwin/dtmanager/twin.go, device.go
"""

import uuid
from collections.abc import Mapping, Sequence

import msgspec

from edgehive.edgecore.devicetwin import bodies, twins
from edgehive.edgecore.devicetwin.membership import REACHABLE, STATES, Device, Devices
from edgehive.edgecore.devicetwin.observation import Observation
from edgehive.edgecore.devicetwin.reports import Topic
from edgehive.edgecore.devicetwin.turn import Happening, Turn
from edgehive.edgecore.devicetwin.twins import Record, Refused
from edgehive.wire import topics
from edgehive.wire.devices import (
    Attribute,
    DeviceState,
    MembershipDetail,
    ReportKind,
    StateUpdate,
    Twin,
    TwinUpdate,
    TwinValue,
    TypeMetadata,
)
from edgehive.wire.topics import DeviceName, DeviceTopic

_update = msgspec.json.Decoder(TwinUpdate)
_asked = msgspec.json.Decoder(bodies.Asked)
_state = msgspec.json.Decoder(bodies.StateAsked)
_attributes = msgspec.json.Decoder(bodies.AttributesSaid)
_encode = msgspec.json.Encoder().encode

#: Reason of the Event on a device of which something was said that cannot be.
VALUE_REFUSED = "ValueRefused"
#: States that are an Event, and its reason.
_ILL = {"offline": "DeviceOffline", "unhealthy": "DeviceUnhealthy"}
#: Attributes one device may have.
ATTRIBUTE_LIMIT = 512


def update_twins(devices: Devices, name: DeviceName, payload: bytes, turn: Turn) -> None:
    """`twin/update`: all of it or nothing."""
    event_id = ""
    device = devices.find(name)
    try:
        said = _update.decode(payload)
        event_id = said.event_id
        if device is None:
            raise Refused(404, bodies.NO_DEVICE)
        if said.twin is None:
            event_id = ""
            raise Refused(400, bodies.NO_TWIN)
        changes = _judged(device, said.twin, turn.now)
    except msgspec.MsgspecError:
        _refuse(name, event_id, Refused(400, bodies.UNREADABLE), turn, device)
    except Refused as refusal:
        _refuse(name, event_id, refusal, turn, device)
    else:
        shown = {key: twins.shown(change.record, said.twin[key]) for key, change in changes.items() if change}
        instead = bodies.failure(event_id, turn.now, 500, "the update could not be stored; the disk refuses writes")
        answer = bodies.result(event_id, turn.now, shown)
        turn.tell(device, DeviceTopic.TWIN_UPDATE_RESULT, answer, asked=name, instead=instead)
        _apply(device, {key: change for key, change in changes.items() if change}, event_id, turn)


def observe(device: Device, observations: Sequence[Observation], types: Mapping[str, str], turn: Turn) -> list[str]:
    """A mapper's report over DMI: value by value, since one that is refused says nothing of the others."""
    refused, changes = [], {}
    for item in observations:
        try:
            twins.check_name(item.name)
            type = types.get(item.name) or twins.MODEL_TYPES.get(item.type.upper()) or _spoken_type(item.type)
            changes[item.name] = twins.observed(
                device.twins.get(item.name), item.desired, item.reported, type, turn.now, sets=item.sets
            )
            _check_room(device, item.name)
        except Refused as refusal:
            changes.pop(item.name, None)
            refused.append(f"{item.name[:128]}: {refusal}")
    if refused:
        text = "; ".join(refused[:3])
        turn.happenings.append(Happening(device, VALUE_REFUSED, f"values of its mapper were refused: {text}"))
    if changes:
        shown = {name: twins.shown(change.record) for name, change in changes.items()}
        turn.tell(device, DeviceTopic.TWIN_UPDATE_RESULT, bodies.result("", turn.now, shown))
        _apply(device, changes, "", turn)
    return refused


def desire(device: Device, desired: Mapping[str, str], types: Mapping[str, str], turn: Turn) -> None:
    """An application sets desired values through the node's own API: all of them or none; raises Refused."""
    changes = {}
    for name, value in desired.items():
        twins.check_name(name)
        twins.check_text(value)
        said = Twin(expected=TwinValue(value), metadata=TypeMetadata(types.get(name, "")))
        change = twins.set_at_edge(device.twins.get(name), said, turn.now)
        _check_room(device, name)
        if change is not None:
            changes[name] = change
    _apply(device, changes, "", turn)


def get_twins(devices: Devices, name: DeviceName, payload: bytes, turn: Turn) -> None:
    """`twin/get`."""
    device = devices.find(name)
    try:
        event_id = _asked.decode(payload).event_id
        if device is None:
            answer = bodies.failure(event_id, turn.now, 404, f"Device {name} not found while getting twin")
        else:
            answer = bodies.everything(event_id, turn.now, device.twins)
    except msgspec.MsgspecError as error:
        answer = bodies.failure("", turn.now, 400, f"the request cannot be read: {error}")
    turn.publish(topics.device(name, DeviceTopic.TWIN_GET_RESULT), answer)


def update_state(devices: Devices, name: DeviceName, payload: bytes, turn: Turn) -> None:
    """`state/update`; a state nobody knows is ignored, and so is a device nobody knows."""
    device = devices.find(name)
    try:
        state = _state.decode(payload).state
    except msgspec.MsgspecError as error:
        turn.publish(
            topics.device(name, DeviceTopic.STATE_RESULT),
            bodies.failure("", turn.now, 400, f"the request cannot be read: {error}"),
        )
        return
    if device is not None:
        set_state(device, state, turn, asked=name)


def set_state(device: Device, state: str, turn: Turn, *, asked: DeviceName | None = None) -> None:
    if state.lower() not in STATES:
        return
    reachable = state.lower() in REACHABLE
    # A state that is repeated every second is told once a minute.
    news = device.state != state or (reachable and device.last_online[:16] != turn.date[:16])
    if device.state != state and state.lower() in _ILL:
        text = f"it is reported as {state.lower()}; the log of its mapper says why"
        turn.happenings.append(Happening(device, _ILL[state.lower()], text))
    device.state, device.last_online = state, turn.date if reachable else ""
    payload = _encode(StateUpdate(str(uuid.uuid4()), turn.now, state_of(device)))
    turn.tell(device, DeviceTopic.STATE_RESULT, payload, asked=asked)
    if news:
        device.state_unconfirmed = True
        turn.batch.device(device)
        turn.touched[Topic(device.id, ReportKind.STATE)] = None


def state_of(device: Device) -> DeviceState:
    return DeviceState(device.name, device.state, device.last_online)


def update_attributes(device: Device, payload: bytes, turn: Turn, *, whole: bool = False) -> None:
    """`updated`; raises msgspec.MsgspecError."""
    said = _attributes.decode(payload)
    set_attributes(device, said.attributes or {}, said.event_id, turn, whole=whole)


def set_attributes(
    device: Device, said: Mapping[str, Attribute | None], event_id: str, turn: Turn, *, whole: bool = False
) -> None:
    """Null takes an optional one away; with `whole`, all that are not named go."""
    changed: dict[str, Attribute | None] = {}
    gone = [name for name in device.attributes if name not in said] if whole else []
    for name, attribute in said.items():
        old = device.attributes.get(name)
        if attribute is None:
            if old is not None and old.optional is not False:
                gone.append(name)
        elif old != attribute and twins.NAME.fullmatch(name) and (old or len(device.attributes) < ATTRIBUTE_LIMIT):
            device.attributes[name] = changed[name] = attribute
    for name in gone:
        del device.attributes[name]
        changed[name] = None
    for name in changed:
        turn.batch.attribute(device, name)
    if changed:
        turn.tell(device, DeviceTopic.UPDATED, bodies.attributes(event_id, turn.now, changed))


def membership(devices: Devices, payload: bytes, now: int) -> bytes:
    """The answer to `membership/get`."""
    try:
        event_id = _asked.decode(payload).event_id
    except msgspec.MsgspecError as error:
        return bodies.failure("", now, 400, f"the request cannot be read: {error}")
    return _encode(MembershipDetail(event_id, now, [device.member() for device in devices]))


def tell_delta(device: Device, turn: Turn) -> None:
    delta = bodies.delta(str(uuid.uuid4()), turn.now, device.twins)
    if delta is not None:
        turn.tell(device, DeviceTopic.TWIN_DELTA, delta)


def mark(device: Device, name: str, turn: Turn) -> None:
    """A property has news for the cloud."""
    device.unconfirmed.add(name)
    turn.batch.twin(device, name)
    turn.touched[Topic(device.id, ReportKind.TWIN)] = None


def _judged(device: Device, said: Mapping[str, Twin | None], now: int) -> dict[str, twins.Changed | None]:
    changes = {}
    for name, twin in said.items():
        twins.check_name(name)
        for side in (twin.expected, twin.actual) if twin is not None else ():
            if side is not None and side.value is not None:
                twins.check_alphabet(side.value)
        changes[name] = twins.set_at_edge(device.twins.get(name), twin, now)
    if len(device.twins.keys() | changes.keys()) > twins.TWIN_LIMIT:
        raise Refused(400, f"a device has at most {twins.TWIN_LIMIT} properties")
    return changes


def _check_room(device: Device, name: str) -> None:
    if name not in device.twins and len(device.twins) >= twins.TWIN_LIMIT:
        raise Refused(400, f"a device has at most {twins.TWIN_LIMIT} properties")


def _apply(device: Device, changes: Mapping[str, twins.Changed], event_id: str, turn: Turn) -> None:
    changed: dict[str, bodies.Change] = {}
    for name, (record, news) in changes.items():
        old: Record | None = device.twins.get(name)
        changed[name] = bodies.Change(twins.shown(old) if old is not None else None, twins.shown(record))
        device.twins[name] = record
        if news:
            mark(device, name, turn)
        if record.desired != (old.desired if old is not None else None):
            turn.desired[device.id] = None
    if changed:
        turn.tell(device, DeviceTopic.TWIN_DOCUMENT, bodies.document(event_id, turn.now, changed))
    tell_delta(device, turn)


def _refuse(name: DeviceName, event_id: str, refusal: Refused, turn: Turn, device: Device | None) -> None:
    """Told to who asked, and as an Event to who looks at the device in the cloud."""
    answer = bodies.failure(event_id, turn.now, refusal.code, str(refusal))
    turn.publish(topics.device(name, DeviceTopic.TWIN_UPDATE_RESULT), answer)
    if device is not None:
        turn.happenings.append(Happening(device, VALUE_REFUSED, f"an update over MQTT was refused: {refusal}"))


def _spoken_type(type: str) -> str:
    return type if type in ("int", "integer", "float", "boolean") else twins.STRING
