"""Device and DeviceModel objects on this node: a little of each in memory, the rest asked of metamanager's rows.

devicetwin learns of objects by their arrival; this remembers who speaks which protocol, which device follows which
model, and of what type properties are. It stores nothing: the rows are metamanager's.

Go: edge/pkg/devicetwin/dmicache/dmicache.go
"""

import logging
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from edgehive.api.devices import Device, DeviceModel
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.edgecore.devicetwin.twins import MODEL_TYPES
from edgehive.wire import resource as paths
from edgehive.wire.device_edits import CREATED_ANNOTATION, number_of
from edgehive.wire.devices import EDGE_OWNED_ANNOTATION
from edgehive.wire.names import EdgeModule, Group, Operation, ResourceType, Source
from edgehive.wire.resource import Resource

log = logging.getLogger("edgehive.devicetwin")

_TIMEOUT = 30.0

T = TypeVar("T")
_device = msgspec.json.Decoder(Device)
_model = msgspec.json.Decoder(DeviceModel)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a Device object."""

    uid: str
    protocol: str
    model: str
    edge_owned: frozenset[str]
    #: The uid it had when it was made at the edge ("": it was not), and the last edit of the edge that is in it.
    created: str = ""
    edit: int = 0

    def edge_owns(self, property: str) -> bool:
        return property in self.edge_owned or "*" in self.edge_owned


class Catalog:
    """One per devicetwin."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._devices: dict[str, Known] = {}
        self._types: dict[str, dict[str, str]] = {}
        self._protocols: dict[str, str] = {}

    def get(self, id: str) -> Known | None:
        return self._devices.get(id)

    def types_of(self, id: str) -> dict[str, str]:
        """The types of a device's properties by its model; nothing without one."""
        known = self._devices.get(id)
        return self._types.get(known.model, {}) if known is not None else {}

    def has_model(self, id: str) -> bool:
        return id in self._types

    def protocol_of_model(self, id: str) -> str:
        return self._protocols.get(id, "")

    def put_device(self, id: str, device: Device) -> Known:
        spec, notes = device.spec, device.metadata.annotations or {}
        owned = frozenset(name.strip() for name in notes.get(EDGE_OWNED_ANNOTATION, "").split(",") if name.strip())
        namespace = id.partition("/")[0]
        model = f"{namespace}/{spec.model_name}" if spec.model_name else ""
        known = Known(
            device.metadata.uid,
            spec.protocol.protocol_name if spec.protocol else "",
            model,
            owned,
            notes.get(CREATED_ANNOTATION, ""),
            number_of({"metadata": {"annotations": notes}}),
        )
        self._devices[id] = known
        return known

    def drop_device(self, id: str) -> Known | None:
        return self._devices.pop(id, None)

    def put_model(self, id: str, model: DeviceModel) -> None:
        self._types[id] = {
            item.name: type for item in model.spec.properties or () if (type := MODEL_TYPES.get(item.type.upper()))
        }
        self._protocols[id] = model.spec.protocol

    def drop_model(self, id: str) -> None:
        self._types.pop(id, None)
        self._protocols.pop(id, None)

    def devices_of(self, *, protocol: str = "", model: str = "") -> list[str]:
        """Ids of those that speak the protocol or follow the model."""
        return [
            id
            for id, known in self._devices.items()
            if (known.protocol == protocol if protocol else known.model == model)
        ]

    def protocols_of_model(self, id: str) -> set[str]:
        """Whose mappers are to hear of a model: its own protocol's, and those of its devices."""
        found = {self._devices[device].protocol for device in self.devices_of(model=id)}
        return {name for name in found | {self.protocol_of_model(id)} if name}

    # metamanager's rows

    async def device(self, id: str) -> Device | None:
        return await self._one(ResourceType.DEVICE, id, _device)

    async def model(self, id: str) -> DeviceModel | None:
        return await self._one(ResourceType.DEVICE_MODEL, id, _model)

    async def devices(self) -> dict[str, Device]:
        """All that can be read, by id."""
        found = await self._all(ResourceType.DEVICE, _device)
        return {f"{item.metadata.namespace}/{item.metadata.name}": item for item in found}

    async def models(self) -> dict[str, DeviceModel]:
        found = await self._all(ResourceType.DEVICE_MODEL, _model)
        return {f"{item.metadata.namespace}/{item.metadata.name}": item for item in found}

    async def _one(self, type: str, id: str, decoder: "msgspec.json.Decoder[T]") -> T | None:
        namespace, _, name = id.partition("/")
        answer = await self._ask(paths.of(type, namespace, name))
        if answer is None:
            return None
        try:
            return decoder.decode(answer.content)
        except msgspec.MsgspecError as error:
            log.error("%s %s cannot be read: %s", type, id, error)
            return None

    async def _all(self, type: str, decoder: "msgspec.json.Decoder[T]") -> list[T]:
        answer = await self._ask(paths.of(type, ""))
        found = []
        for row in answer.read(list[msgspec.Raw]) if answer is not None else ():
            try:
                found.append(decoder.decode(row))
            except msgspec.MsgspecError as error:
                log.error("a %s kept on disk cannot be read: %s", type, error)
        return found

    async def _ask(self, resource: Resource) -> Message | None:
        """None when there is no such row, or nobody who would know."""
        question = Message.of(
            source=Source.TWIN, group=Group.META, operation=Operation.QUERY, resource=str(resource), timestamp=0
        )
        try:
            answer = await self._bus.request(EdgeModule.META_MANAGER, question, timeout=_TIMEOUT)
        except (NoSuchModule, MailboxFull, ReplyTimeout) as error:
            log.error("%s cannot be looked up: %s", resource, error)
            return None
        return answer if answer.route.operation != Operation.ERROR else None
