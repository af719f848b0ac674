"""What the cloud says of devices: who is here, what they are, what is desired of them, what it has of our reports.

Each function takes one message that was read and notes the consequences in the turn. Devices come as membership and as
Device objects, from whichever controller (a Go cloud resends them from another one, wire.md B5): each alone suffices.
Nobody is removed by a list that is empty.

Go: edge/pkg/devicetwin/dtmanager/membership.go, dmiworker.go
"""

import logging
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from edgehive.api import devices as api
from edgehive.edgecore.devicetwin import twins
from edgehive.edgecore.devicetwin.applications import mark, set_attributes, tell_delta
from edgehive.edgecore.devicetwin.catalog import Catalog
from edgehive.edgecore.devicetwin.mappers import Order, Verb
from edgehive.edgecore.devicetwin.membership import Device, Devices
from edgehive.edgecore.devicetwin.reports import Topic
from edgehive.edgecore.devicetwin.turn import Turn
from edgehive.edgecore.devicetwin.twins import Record
from edgehive.wire import topics
from edgehive.wire.devices import (
    DELETED,
    DESCRIPTION_LABEL,
    Member,
    MembershipDetail,
    MembershipUpdate,
    ReportKind,
    Twin,
    TwinUpdate,
)
from edgehive.wire.names import Operation
from edgehive.wire.topics import NodeTopic

log = logging.getLogger("edgehive.devicetwin")
_encode = msgspec.json.Encoder().encode

#: Devices one node may have.
DEVICE_LIMIT = 20_000


class House:
    """What one node knows of its devices."""

    def __init__(self, node: str, devices: Devices, catalog: Catalog) -> None:
        self.node = node
        self.devices = devices
        self.catalog = catalog

    # Membership

    def membership_changed(self, content: bytes, turn: Turn) -> None:
        said = msgspec.json.decode(content, type=MembershipUpdate)
        for member in said.added_devices or ():
            self._take_member(member, turn)
        for member in said.removed_devices or ():
            self._remove(member.id, turn)

    def membership_detailed(self, content: bytes, turn: Turn) -> None:
        """These devices and no others."""
        listed = msgspec.json.decode(content, type=MembershipDetail).devices
        if not listed:
            log.info("the cloud lists no device of this node; those that are here stay until each is taken away")
            return
        for member in listed:
            self._take_member(member, turn)
        ids = {member.id for member in listed}
        for device in [device for device in self.devices if device.id not in ids and not self._is_made_here(device)]:
            self._remove(device.id, turn)

    def _is_made_here(self, device: Device) -> bool:
        """The list may be older than what the cloud has of it; its end is told by its object."""
        known = self.catalog.get(device.id)
        return known is not None and bool(known.created)

    def _take_member(self, member: Member, turn: Turn) -> None:
        if not member.id or len(member.id) > 512:
            log.error("a device without an id, or with an endless one, was not added: %r", member.id[:128])
            return
        device = self._present(member.id, member.name, member.description, turn)
        if device is None:
            return
        if member.attributes is not None:
            set_attributes(device, member.attributes, "", turn, whole=True)
        if member.twin:
            self._take_twins(device, member.twin, turn)

    def _present(self, id: str, name: str, description: str | None, turn: Turn) -> Device | None:
        device = self.devices.get(id)
        if device is None:
            if len(self.devices) >= DEVICE_LIMIT:
                log.error("device %s was not added: a node has at most %d", id, DEVICE_LIMIT)
                return None
            device = Device(id, name or id.rpartition("/")[2], description or "")
            self.devices.add(device)
            turn.batch.device(device)
            self._tell_membership(turn, added=[device])
        elif description is not None and description != device.description:
            device.description = description
            turn.batch.device(device)
        return device

    def _remove(self, id: str, turn: Turn) -> None:
        device = self.devices.remove(id)
        if device is None:
            return
        turn.batch.drop(id)
        turn.forgotten.append(id)
        self._tell_membership(turn, removed=[device])

    def _tell_membership(self, turn: Turn, *, added: Iterable[Device] = (), removed: Iterable[Device] = ()) -> None:
        came, went = ([device.member(briefly=True) for device in group] or None for group in (added, removed))
        body = _encode(MembershipUpdate(str(uuid.uuid4()), turn.now, came, went))
        turn.publish(topics.node(self.node, NodeTopic.MEMBERSHIP_UPDATED), body)

    # Objects

    def device_arrived(self, id: str, said: api.Device, turn: Turn) -> None:
        """A Device object, new or not."""
        before = self.catalog.get(id)
        known = self.catalog.put_device(id, said)
        # A Go cloud tells membership once and does not repeat what was lost.
        description = (said.metadata.labels or {}).get(DESCRIPTION_LABEL)
        device = self._present(id, said.metadata.name, description, turn)
        if device is None:
            return
        if device.uid and device.uid == known.created:
            # Made at the edge: the cloud has given it a uid of its own, and it lives on.
            device.uid = known.uid
            turn.batch.device(device)
        elif device.uid != known.uid:
            device = self._begin_life(device, known.uid, turn)
        if before is not None and (before.uid, before.edit) != (known.uid, known.edit):
            self._tell_again(device, turn)
        self._take_desired(device, said, turn)
        if before is not None and before.protocol != known.protocol:
            turn.orders.append((before.protocol, Order(Verb.REMOVE, id)))
            device.told = ""
        turn.orders.append((known.protocol, Order(Verb.UPDATE if device.told else Verb.REGISTER, id)))

    def _tell_again(self, device: Device, turn: Turn) -> None:
        """Of a property that was new to it the cloud has kept no value, though it has confirmed the report."""
        for name in device.twins:
            mark(device, name, turn)

    def _begin_life(self, device: Device, uid: str, turn: Turn) -> Device:
        """The first that is known of a device's uid, or another one: then nothing of the old life stays."""
        if not device.uid:
            device.uid = uid
            turn.batch.device(device)
            return device
        fresh = Device(device.id, device.name, device.description, uid=uid)
        fresh.spoken_without_namespace = device.spoken_without_namespace
        self.devices.add(fresh)
        turn.batch.drop(device.id)
        turn.forgotten.append(device.id)
        turn.batch.device(fresh)
        return fresh

    def _take_desired(self, device: Device, said: api.Device, turn: Turn) -> None:
        types, known = self.catalog.types_of(device.id), self.catalog.get(device.id)
        version = said.metadata.resource_version
        number = int(version) if version.isdecimal() else turn.now
        desired = {
            item.name: (item.desired.value or None) if item.desired else None for item in said.spec.properties or ()
        }
        listed = desired | {name: None for name in device.twins if name not in desired}
        changed = False
        for name, value in listed.items():
            record = device.twins.get(name)
            if value is None and (record is None or record.deleted):
                continue
            owned = known is not None and known.edge_owns(name)
            change = twins.desired_by_cloud(record, value, number, turn.now, type=types.get(name, ""), edge_owns=owned)
            changed = self._take_change(device, name, record, change, turn) or changed
        if changed:
            tell_delta(device, turn)

    def _take_change(self, device: Device, name: str, old: Record | None, change: twins.Changed, turn: Turn) -> bool:
        new = change.record
        if new is old or (not change.news and old is None):
            return False
        device.twins[name] = new
        turn.desired[device.id] = None
        if not change.news:
            turn.batch.twin(device, name)
            return False
        if new.merge.conflict is not None and (old is None or new.merge.conflict != old.merge.conflict):
            log.warning("%s: desired values of %s conflict: %s", device.id, name, new.merge.conflict)
            turn.conflict(device, name, new.merge.conflict, new.desired)
        mark(device, name, turn)
        return True

    def order_desired(self, turn: Turn) -> None:
        """Have mappers hear of desired values that were set here."""
        for id in turn.desired:
            device, known = self.devices.get(id), self.catalog.get(id)
            if device is not None and known is not None:
                turn.orders.append((known.protocol, Order(Verb.UPDATE if device.told else Verb.REGISTER, id)))

    def device_gone(self, id: str, turn: Turn) -> None:
        """A Device object was deleted; membership may say the same, before or after."""
        known = self.catalog.drop_device(id)
        if known is not None:
            turn.orders.append((known.protocol, Order(Verb.REMOVE, id)))
        self._remove(id, turn)

    def model_arrived(self, id: str, said: api.DeviceModel, operation: str, turn: Turn) -> None:
        new = not self.catalog.has_model(id)
        self.catalog.put_model(id, said)
        verb = Verb.CREATE_MODEL if new or operation == Operation.INSERT else Verb.UPDATE_MODEL
        for protocol in self.catalog.protocols_of_model(id):
            turn.orders.append((protocol, Order(verb, id)))
        for device_id in self.catalog.devices_of(model=id):
            device, known = self.devices.get(device_id), self.catalog.get(device_id)
            if device is not None and known is not None:
                order = Order(Verb.UPDATE if device.told else Verb.REGISTER, device_id)
                turn.orders.append((known.protocol, order))

    def model_gone(self, id: str, turn: Turn) -> None:
        for protocol in self.catalog.protocols_of_model(id):
            turn.orders.append((protocol, Order(Verb.REMOVE_MODEL, id)))
        self.catalog.drop_model(id)

    # Values

    def twins_from_cloud(self, device: Device, content: bytes, turn: Turn) -> None:
        """`twin/cloud_updated`, as clouds of 2019 send it."""
        said = msgspec.json.decode(content, type=TwinUpdate)
        self._take_twins(device, said.twin or {}, turn)

    def _take_twins(self, device: Device, said: Mapping[str, Twin | None], turn: Turn) -> None:
        """Only desired values: what is reported the edge knows better."""
        known = self.catalog.get(device.id)
        changed = False
        for name, twin in said.items():
            if twin is None or not twins.NAME.fullmatch(name) or len(device.twins) >= twins.TWIN_LIMIT:
                continue
            record, type = device.twins.get(name), twin.metadata.type if twin.metadata is not None else ""
            version = twin.expected_version.cloud if twin.expected_version is not None else 0
            if type == DELETED:
                change = twins.deleted_by_cloud(record, version) if record is not None else None
            elif twin.expected is None or twin.expected.value is None:
                change = None
            else:
                owned = known is not None and known.edge_owns(name)
                change = twins.desired_by_cloud(
                    record, twin.expected.value, version, turn.now, type=type, edge_owns=owned
                )
            if change is not None:
                changed = self._take_change(device, name, record, change, turn) or changed
        if changed:
            tell_delta(device, turn)

    # Confirmations

    def confirmed(self, topic: Topic, sent: Any, version: int, turn: Turn) -> None:
        """The cloud has a report; what is newer goes with the next."""
        device = self.devices.get(topic.id)
        if device is None:
            return
        if topic.kind is ReportKind.STATE:
            device.state_unconfirmed = (device.state, device.last_online) != sent
            turn.batch.device(device)
        else:
            for name, record in sent.items():
                now = device.twins.get(name)
                if now is None:
                    continue
                device.twins[name], news = twins.confirmed(now, record, version)
                if not version and name not in device.known_to_go_cloud:
                    # wire: it took the name of the property and lost the values (B14).
                    device.known_to_go_cloud.add(name)
                elif not news:
                    device.unconfirmed.discard(name)
                turn.batch.twin(device, name)
                self._give_way(device, name, turn)
        if device.state_unconfirmed if topic.kind is ReportKind.STATE else device.unconfirmed:
            turn.touched[topic] = None

    def _give_way(self, device: Device, name: str, turn: Turn) -> None:
        """A Device overtook the confirmation that lets it win over what was set here."""
        record = device.twins[name]
        if twins.overruled(record):
            change = twins.desired_by_cloud(record, record.merge.base, record.merge.seen, turn.now)
            if self._take_change(device, name, record, change, turn):
                tell_delta(device, turn)
