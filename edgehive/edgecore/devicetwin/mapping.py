"""What mappers hear and say, between the DMI socket, the catalog and the registered mappers.

Registers a mapper (its row first), looks up what exactly an order means when its mapper hears it, and remembers on the
device's row what was told, so that nothing is told twice and nothing is forgotten over a restart.

Go: edge/pkg/devicetwin/dmiserver, edge/pkg/devicetwin/dmiclient
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from hashlib import blake2b

import msgspec
from google.protobuf.message import Message as Protobuf
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule, ReplyTimeout
from edgehive.beehive.message import Message
from edgehive.edgecore.devicetwin import dmi_messages
from edgehive.edgecore.devicetwin.cloud import House
from edgehive.edgecore.devicetwin.dmi import STORE_SECONDS
from edgehive.edgecore.devicetwin.mappers import Mappers, Order, Verb
from edgehive.edgecore.devicetwin.membership import REACHABLE, Device
from edgehive.edgecore.devicetwin.observation import SOURCE_STATE, SOURCE_VALUES, Observation
from edgehive.edgecore.devicetwin.rows import MapperRow, Rows
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.sqlite import DatabaseError
from edgehive.protos import dmi_pb2 as dmi
from edgehive.wire.names import EdgeModule, Group, Operation

log = logging.getLogger("edgehive.devicetwin.dmi")


#: Devices on which it is said that their mapper is away.
TOLD_AT_ONCE = 100

#: Seconds between two looks for devices that nobody serves.
UNSERVED_SECONDS = 60.0

#: Reason and text of an Event on a device.
Tell = Callable[[Device, str, str], Awaitable[None]]


class Mapping:
    """One per devicetwin."""

    def __init__(self, bus: Bus, house: House, rows: Rows, clock: Clock, tell: Tell) -> None:
        self._bus = bus
        self._house = house
        self._rows = rows
        self._clock = clock
        self._tell = tell
        self._registering = asyncio.Lock()
        #: Devices of which it was said that nobody serves them.
        self._unserved: set[str] = set()
        self.mappers = Mappers(self._prepare, self._done, self._is_away)

    async def start(self) -> None:
        """Serve the mappers that registered before, and tell them what changed since they were last told.

        One that began anew meanwhile registers again. It is not asked what it has: GetDevice ends a Go mapper.
        """
        for row in await self._rows.mappers():
            await self.mappers.put(row)
            for id in self._house.catalog.devices_of(protocol=row.protocol):
                device = self._house.devices.get(id)
                verb = Verb.UPDATE if device is not None and device.told else Verb.REGISTER
                self.mappers.order(row.protocol, [Order(verb, id)])

    async def watch(self) -> None:
        """Say of devices that nobody serves, neither a mapper nor an application over MQTT, until cancelled."""
        before: set[str] = set()
        while True:
            await asyncio.sleep(UNSERVED_SECONDS)
            silent = {device.id for device in self._house.devices if self._is_unserved(device)}
            self._unserved &= silent
            # One that came a moment ago is given another round.
            for id in sorted((silent & before) - self._unserved)[:TOLD_AT_ONCE]:
                self._unserved.add(id)
                device, known = self._house.devices.get(id), self._house.catalog.get(id)
                if device is not None and known is not None:
                    text = f"no mapper for protocol {known.protocol[:100]!r} has registered on this node"
                    await self._tell(device, "NoMapper", text)
            before = silent

    def _is_unserved(self, device: Device) -> bool:
        known = self._house.catalog.get(device.id)
        if known is None or device.state or self.mappers.of(known.protocol) is not None:
            return False
        return all(record.actual is None for record in device.twins.values())

    # Behind the socket

    async def register(self, row: MapperRow, with_data: bool) -> dmi.MapperRegisterResponse:
        row = msgspec.structs.replace(row, registered=unix_millis(self._clock.now()))
        async with self._registering:
            try:
                await self._rows.keep_mapper(row)
            except DatabaseError as error:
                raise GRPCError(Status.UNAVAILABLE, f"the registration cannot be stored: {error}") from error
            log.info("mapper %s %s registered for %s", row.name, row.version, row.protocol)
            before = self.mappers.of(row.protocol)
            await self.mappers.put(row, keep=not with_data)
            if before is not None and (before.row.name, before.row.address) != (row.name, row.address):
                text = f"mapper {row.name} serves it now, in place of {before.row.name}, which hears nothing any more"
                await self._tell_all(row.protocol, "MapperReplaced", text)
            return await self._everything(row.protocol) if with_data else dmi.MapperRegisterResponse()

    async def report(self, device: str, observations: Sequence[Observation]) -> None:
        await self._say(SOURCE_VALUES, device, observations)

    async def report_state(self, device: str, state: str) -> None:
        await self._say(SOURCE_STATE, device, state)

    async def _say(self, source: str, device: str, content: object) -> None:
        message = Message.of(
            source=source,
            group=Group.TWIN,
            operation=Operation.UPDATE,
            resource=device,
            content=content,
            timestamp=unix_millis(self._clock.now()),
        )
        try:
            answer = await self._bus.request(EdgeModule.DEVICE_TWIN, message, timeout=STORE_SECONDS)
        except (MailboxFull, NoSuchModule, ReplyTimeout) as error:
            raise GRPCError(Status.UNAVAILABLE, f"the report was not taken: {error}") from error
        if answer.route.operation == Operation.ERROR:
            raise GRPCError(Status.INVALID_ARGUMENT, answer.content_bytes().decode())

    async def _everything(self, protocol: str) -> dmi.MapperRegisterResponse:
        """Every device of the protocol, each model once; one without its model comes when that does."""
        models = await self._house.catalog.models()
        response, sent, told = dmi.MapperRegisterResponse(), set(), {}
        for id, device in (await self._house.catalog.devices()).items():
            known = self._house.catalog.get(id)
            if known is None or known.protocol != protocol:
                continue
            model = models.get(known.model)
            if model is None:
                log.warning("device %s is not given to its mapper: its model %r is not here", id, known.model)
                continue
            if known.model not in sent:
                sent.add(known.model)
                response.modelList.append(dmi_messages.model_message(model))
            here = self._house.devices.get(id)
            message = dmi_messages.device_message(device, model, here.desired_here if here is not None else None)
            response.deviceList.append(message)
            told[id] = _digest(message)
        await self._remember(told)
        return response

    # Before the mappers

    async def _prepare(self, order: Order) -> Protobuf | None:
        namespace, _, name = order.id.partition("/")
        if order.verb is Verb.REMOVE:
            return dmi.RemoveDeviceRequest(deviceName=name, deviceNamespace=namespace)
        if order.verb is Verb.REMOVE_MODEL:
            return dmi.RemoveDeviceModelRequest(modelName=name, modelNamespace=namespace)
        if order.verb in (Verb.CREATE_MODEL, Verb.UPDATE_MODEL):
            model = await self._house.catalog.model(order.id)
            if model is None:
                return None
            type = dmi.CreateDeviceModelRequest if order.verb is Verb.CREATE_MODEL else dmi.UpdateDeviceModelRequest
            return type(model=dmi_messages.model_message(model))
        return await self._device_request(order)

    async def _device_request(self, order: Order) -> Protobuf | None:
        known, here = self._house.catalog.get(order.id), self._house.devices.get(order.id)
        device = await self._house.catalog.device(order.id) if known is not None and here is not None else None
        if device is None or known is None or here is None:
            return None
        here_too = self._house.catalog.has_model(known.model)
        model = await self._house.catalog.model(known.model) if here_too else None
        if model is None:
            log.warning("device %s is not given to its mapper: its model %r is not here", order.id, known.model)
            return None
        message = dmi_messages.device_message(device, model, here.desired_here)
        if here.told == _digest(message):
            return None
        type = dmi.RegisterDeviceRequest if order.verb is Verb.REGISTER else dmi.UpdateDeviceRequest
        return type(device=message)

    async def _done(self, order: Order, request: Protobuf, refusal: str) -> None:
        device = self._house.devices.get(order.id)
        if refusal:
            log.error("a mapper refuses %s of %s: %s", order.verb, order.id, refusal)
            if device is not None:
                await self._tell(device, "MapperRefused", f"its mapper refuses it: {refusal}")
        elif device is not None and isinstance(request, dmi.RegisterDeviceRequest | dmi.UpdateDeviceRequest):
            await self._remember({order.id: _digest(request.device)})

    async def _is_away(self, mapper: MapperRow, why: str) -> None:
        """Whoever looks at a device in the cloud sees why nothing comes of it."""
        text = f"its mapper {mapper.name} does not answer: {why}; it hears of changes when it is back"
        await self._tell_all(mapper.protocol, "MapperAway", text)
        for id in self._house.catalog.devices_of(protocol=mapper.protocol):
            await self._doubt(id)

    async def _tell_all(self, protocol: str, reason: str, text: str) -> None:
        for id in self._house.catalog.devices_of(protocol=protocol)[:TOLD_AT_ONCE]:
            if (device := self._house.devices.get(id)) is not None:
                await self._tell(device, reason, text)

    async def _doubt(self, id: str) -> None:
        """What nothing is heard of is not shown as online; its mapper is asked to say the state again in any case."""
        here = self._house.devices.get(id)
        if here is None or here.state.lower() not in REACHABLE:
            return
        device = await self._house.catalog.device(id)
        asked = device.spec.state_report if device is not None else None
        if asked is None or not asked.report_to_cloud:
            return
        try:
            await self.report_state(id, "unknown")
        except GRPCError as error:
            log.warning("the state of %s stays as it was: %s", id, error.message)

    async def _remember(self, told: dict[str, str]) -> None:
        for id, digest in told.items():
            if (device := self._house.devices.get(id)) is not None:
                device.told = digest
        try:
            await self._rows.told(told)
        except DatabaseError as error:
            log.error("what mappers were told is not kept, and they are told again: %s", error)


def _digest(message: dmi.Device) -> str:
    return blake2b(message.SerializeToString(deterministic=True), digest_size=8).hexdigest()
