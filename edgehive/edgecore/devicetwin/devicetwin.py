"""devicetwin: what devices are on this node, what is desired of them and what they report.

It hears applications (over eventbus), mappers (over DMI), the cloud (over the hub) and Device objects (over
metamanager), one batch of messages at a time: each is applied in memory, the rows of the whole batch are written, and
only then is anybody told. What the cloud has yet to hear is a matter of rows and `reports.py`.

Go: edge/pkg/devicetwin
"""

import asyncio
import logging
import sqlite3
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api import devices as api
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.edgecore.devicetwin import applications, twins
from edgehive.edgecore.devicetwin.catalog import Catalog
from edgehive.edgecore.devicetwin.cloud import House
from edgehive.edgecore.devicetwin.membership import Device, Devices
from edgehive.edgecore.devicetwin.observation import SOURCE_STATE, SOURCE_VALUES, Observation
from edgehive.edgecore.devicetwin.reports import Report, Reports, Topic
from edgehive.edgecore.devicetwin.rows import Rows
from edgehive.edgecore.devicetwin.turn import Turn
from edgehive.kit import metrics
from edgehive.kit.clock import Clock, rfc3339, unix_millis
from edgehive.kit.json_depth import too_deep
from edgehive.kit.mailbox import Mailbox
from edgehive.kit.sqlite import Database, DatabaseError
from edgehive.kube.client import Client
from edgehive.kube.recorder import Recorder
from edgehive.wire import resource as paths
from edgehive.wire import topics
from edgehive.wire.devices import DeviceId, ReportKind, membership_question, state_report, twin_report
from edgehive.wire.names import EdgeModule, Group, Operation, Path, ResourceType, Source
from edgehive.wire.payloads import read_connection_notice
from edgehive.wire.topics import DeviceName, DeviceTopic, NodeTopic

if TYPE_CHECKING:
    from edgehive.edgecore.devicetwin.mapping import Mapping

log = logging.getLogger("edgehive.devicetwin")

#: Messages one transaction takes at most: all that came while a slow disk was busy with the last.
BATCH = 1024
#: Batches that are stored and not told yet; beyond, the next one waits.
TURNS = 4
#: As Go: a write that fails is tried this often, this many seconds apart.
WRITE_TRIES, WRITE_PAUSE = 5, 1.0
_DEVICE_API = "devices.kubeedge.io/v1beta1"
_observations = msgspec.json.Decoder(list[Observation])


class _Desired(msgspec.Struct, frozen=True):
    """What an application sets through the node's own API."""

    desired: dict[str, str]


class DeviceTwin:
    """The module `twin`. `client` records Events; `dmi_folder` "" serves no mappers.

    With `local_api` metamanager hears of desired values that are set here, to show them.
    """

    name = str(EdgeModule.DEVICE_TWIN)
    group = str(Group.TWIN)
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        node: str,
        *,
        client: Client | None = None,
        dmi_folder: str = "",
        local_api: bool = False,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._bus = bus
        self._clock = clock
        self._node = node
        self._client = client
        self._dmi_folder = dmi_folder
        self._local_api = local_api
        #: What metamanager was last told of, by device.
        self._shown: dict[str, dict[str, str]] = {}
        self._mailbox = bus.register(self.name, self.group)
        self._rows = Rows(database)
        self._house = House(node, Devices(), Catalog(bus))
        #: Held while what is in memory is not on disk yet.
        self._gate = asyncio.Lock()
        self._told: Mailbox[tuple[Turn, bool]] = Mailbox("news of devices", size=TURNS)
        self._reports = Reports(self._report, self._send, self._gate)
        self._recorder: Recorder | None = None
        self._mapping: Mapping | None = None
        registry = registry or CollectorRegistry()
        self._refused = metrics.counter(
            "edgehive_twin_refused", "Messages that could not be read or meant nothing.", ["source"], registry=registry
        )
        self._turns = metrics.counter("edgehive_twin_batches", "Batches of messages taken.", registry=registry)
        self._taken = metrics.counter("edgehive_twin_messages", "Messages taken.", registry=registry)
        self._reported = metrics.counter("edgehive_twin_reports", "Reports of mappers among them.", registry=registry)

    async def run(self, ready: Ready) -> None:
        async with AsyncExitStack() as stack:
            if self._client is not None:
                recorder = Recorder(self._client, "devicetwin", self._node, self._clock)
                self._recorder = await stack.enter_async_context(recorder)
            await self._load()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            sending = tasks.create_task(self._reports.run(), name="device reports")
            stack.callback(sending.cancel)
            if self._dmi_folder:
                await self._open_dmi(stack, tasks)
            telling = tasks.create_task(self._tell_all(), name="device news")
            stack.callback(telling.cancel)
            ready()
            while True:
                await self._take_batch()

    async def _open_dmi(self, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> None:
        from edgehive.edgecore.devicetwin.dmi import serving
        from edgehive.edgecore.devicetwin.mapping import Mapping

        self._mapping = mapping = Mapping(self._bus, self._house, self._rows, self._clock, self._happened)
        stack.push_async_callback(mapping.mappers.close)
        await stack.enter_async_context(serving(self._dmi_folder, mapping))
        await mapping.start()
        watching = tasks.create_task(mapping.watch(), name="devices nobody serves")
        stack.callback(watching.cancel)

    async def _load(self) -> None:
        """Rows of last time, and objects that came while this module was not there."""
        self._house.devices = Devices(await self._rows.load())
        for id, model in (await self._house.catalog.models()).items():
            self._house.catalog.put_model(id, model)
        turn = self._turn()
        for device in self._house.devices:
            if device.unconfirmed:
                turn.touched[Topic(device.id, ReportKind.TWIN)] = None
            if device.state_unconfirmed:
                turn.touched[Topic(device.id, ReportKind.STATE)] = None
        for id, said in (await self._house.catalog.devices()).items():
            self._house.device_arrived(id, said, turn)
        turn.orders.clear()  # mappers hear when they are served again
        stored = not turn.batch or await self._write(turn)
        self._act(turn, stored)
        await self._tell(turn, stored)

    # One batch

    async def _take_batch(self) -> None:
        batch = [await self._mailbox.get()]
        while len(batch) < BATCH and len(self._mailbox):
            batch.append(self._mailbox.get_nowait())
        self._turns.inc()
        self._taken.inc(len(batch))
        self._reported.inc(sum(message.route.source == SOURCE_VALUES for message in batch))
        async with self._gate:
            turn = self._turn()
            for message in batch:
                self._take(message, turn)
            self._house.order_desired(turn)
            stored = not turn.batch or await self._write(turn)
            self._act(turn, stored)
        await self._told.put((turn, stored))

    async def _tell_all(self) -> None:
        """Tell of one batch while the next is being written, in their order."""
        while True:
            await self._tell(*await self._told.get())

    def _turn(self) -> Turn:
        now = self._clock.now()
        return Turn(unix_millis(now), rfc3339(now))

    def _take(self, message: Message, turn: Turn) -> None:
        route = message.route
        try:
            if route.source == Source.BUS:
                self._from_bus(route.resource, message.content_bytes(), turn)
            elif route.source in (SOURCE_VALUES, SOURCE_STATE):
                self._from_mapper(message, turn)
            elif route.source == Source.META_MANAGER:
                self._from_metamanager(message, turn)
            elif (notice := read_connection_notice(message)) is not None:
                self._link_changed(notice)
            else:
                self._from_cloud(message, turn)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._refused.labels(route.source).inc()
            log.error("%s %s of %s cannot be read: %s", route.operation, route.resource[:300], route.source, error)

    def _act(self, turn: Turn, stored: bool) -> None:
        """What follows at once from rows that are written, or could not be."""
        for id in turn.forgotten:
            self._reports.forget(id)
        for request in turn.requests:
            self._answer(request, stored)
        if not stored:
            return
        for topic in turn.touched:
            self._reports.touch(topic)
        if self._mapping is not None:
            for protocol, order in turn.orders:
                self._mapping.mappers.order(protocol, [order])

    async def _tell(self, turn: Turn, stored: bool) -> None:
        for publication in turn.publications:
            payload = publication.payload if stored else publication.instead
            if payload is not None:
                await self._publish(publication.topic, payload)
        for happening in turn.happenings:
            await self._happened(happening.device, happening.reason, happening.text)
        if stored and self._local_api:
            for id in dict.fromkeys(turn.forgotten) | turn.desired:
                await self._show(id)

    async def _write(self, turn: Turn) -> bool:
        """Whether the rows are on disk; else the devices are as the disk has them."""
        for _ in range(WRITE_TRIES):
            try:
                await self._rows.commit(turn.batch)
                return True
            except (DatabaseError, sqlite3.Error) as error:
                log.error("what happened to devices cannot be stored: %s", error)
                await asyncio.sleep(WRITE_PAUSE)
        try:
            self._house.devices = Devices(await self._rows.load())
        except (DatabaseError, sqlite3.Error) as error:
            log.error("devices cannot be read either, and stay as they are in memory: %s", error)
        return False

    # Who speaks

    def _from_bus(self, topic: str, payload: bytes, turn: Turn) -> None:
        """A publication of an application. One that nests too deep to be read is answered as any that cannot be."""
        payload = b"" if too_deep(payload) else payload
        spoken = topics.read_device(topic)
        if spoken is not None:
            self._from_application(spoken.device, spoken.what, payload, turn)
        elif (node := topics.read_node(topic)) is not None and node[1] is NodeTopic.MEMBERSHIP_GET:
            answer = applications.membership(self._house.devices, payload, turn.now)
            turn.publish(topics.node(node[0], NodeTopic.MEMBERSHIP_RESULT), answer)

    def _from_application(self, name: DeviceName, what: DeviceTopic, payload: bytes, turn: Turn) -> None:
        devices = self._house.devices
        if what is DeviceTopic.TWIN_UPDATE:
            applications.update_twins(devices, name, payload, turn)
        elif what is DeviceTopic.TWIN_GET:
            applications.get_twins(devices, name, payload, turn)
        elif what is DeviceTopic.STATE_UPDATE:
            applications.update_state(devices, name, payload, turn)
        elif (device := devices.find(name)) is None:
            return
        elif what is DeviceTopic.CLOUD_UPDATED:
            self._house.twins_from_cloud(device, payload, turn)
        elif what is DeviceTopic.UPDATED:
            applications.update_attributes(device, payload, turn)

    def _from_mapper(self, message: Message, turn: Turn) -> None:
        """wire: a device or state nobody knows is no error to a mapper (wire.md §7.5, observed S13)."""
        device = self._house.devices.get(message.route.resource)
        if device is not None and message.route.source == SOURCE_STATE:
            applications.set_state(device, message.content_bytes().decode(), turn)
        elif device is not None:
            types = self._house.catalog.types_of(device.id)
            refused = applications.observe(device, _observations.decode(message.content), types, turn)
            if refused:
                text = "; ".join(refused[:10])
                self._bus.reply(message.reply(text, operation=Operation.ERROR, timestamp=turn.now), sender=self.name)
                return
        turn.requests.append(message)

    def _from_metamanager(self, message: Message, turn: Turn) -> None:
        route = message.route
        namespace, _, rest = route.resource.partition("/")
        type, _, name = rest.partition("/")
        id, deleted = f"{namespace}/{name}", route.operation == Operation.DELETE
        if route.resource == Path.DESIRED:
            turn.desired |= dict.fromkeys(self._shown) | {
                one.id: None for one in self._house.devices if one.desired_here
            }
            self._shown.clear()
        elif route.operation == Operation.PATCH:
            self._desire(id, message, turn)
        elif type == ResourceType.DEVICE:
            if deleted:
                self._house.device_gone(id, turn)
            else:
                self._house.device_arrived(id, message.read(api.Device), turn)
        elif type == ResourceType.DEVICE_MODEL:
            if deleted:
                self._house.model_gone(id, turn)
            else:
                self._house.model_arrived(id, message.read(api.DeviceModel), route.operation, turn)

    def _desire(self, id: str, message: Message, turn: Turn) -> None:
        device = self._house.devices.get(id)
        try:
            if device is None:
                raise twins.Refused(404, f"device {id} is not on this node")
            applications.desire(device, message.read(_Desired).desired, self._house.catalog.types_of(id), turn)
        except twins.Refused as refusal:
            answer = message.reply(str(refusal), operation=Operation.ERROR, timestamp=turn.now)
            self._bus.reply(answer, sender=self.name)
        else:
            turn.requests.append(message)

    def _from_cloud(self, message: Message, turn: Turn) -> None:
        path, content = message.route.resource, message.content_bytes()
        if too_deep(content):
            raise msgspec.DecodeError("it nests too deep")
        if message.header.parent_id:
            self._confirmed(message, turn)
        elif path.endswith(Path.MEMBERSHIP_DETAIL):
            self._house.membership_detailed(content, turn)
        elif path.endswith(Path.MEMBERSHIP):
            self._house.membership_changed(content, turn)
        elif (spoken := topics.read_device(f"$hw/events/{path}")) is not None:
            # wire: what clouds of 2019 call device/<id>/... has the form of a topic.
            device = self._house.devices.find(spoken.device)
            if device is not None and spoken.what is DeviceTopic.CLOUD_UPDATED:
                self._house.twins_from_cloud(device, content, turn)
            elif device is not None and spoken.what is DeviceTopic.UPDATED:
                applications.update_attributes(device, content, turn)
        else:
            self._refused.labels(message.route.source).inc()
            log.warning("%s %s of %s means nothing here", message.route.operation, path, message.route.source)

    # The cloud

    def _link_changed(self, connected: bool) -> None:
        self._reports.link(connected)
        if connected:
            question = membership_question(self._node, event_id=str(uuid.uuid4()), timestamp=self._now())
            try:
                self._bus.mailbox(EdgeModule.EDGE_HUB).put_nowait(question)
            except (NoSuchModule, MailboxFull) as error:
                log.warning("the cloud is not asked for this node's devices: %s", error)

    def _report(self, topic: Topic) -> Report | None:
        """Everything about a device that the cloud has not confirmed."""
        device = self._house.devices.get(topic.id)
        if device is None:
            return None
        id = DeviceId(*topic.id.split("/", 1)) if "/" in topic.id else DeviceId("default", topic.id)
        event, now = str(uuid.uuid4()), self._now()
        if topic.kind is ReportKind.STATE:
            if not device.state_unconfirmed:
                return None
            message = state_report(id, applications.state_of(device), event_id=event, timestamp=now)
            return Report(message, (device.state, device.last_online))
        sent = {name: twins.telling(device.twins[name]) for name in sorted(device.unconfirmed) if name in device.twins}
        if not sent:
            return None
        device.twins.update(sent)
        told = {name: twins.reported(record) for name, record in sent.items()}
        return Report(twin_report(id, told, uid=device.uid, event_id=event, timestamp=now), sent)

    def _confirmed(self, message: Message, turn: Turn) -> None:
        found = self._reports.confirmed(message.header.parent_id)
        if found is not None:
            version = message.header.resourceversion
            self._house.confirmed(*found, int(version) if version.isdecimal() else 0, turn)
        self._reports.release()

    async def _send(self, message: Message) -> None:
        await self._bus.send(EdgeModule.EDGE_HUB, message)

    # Telling

    async def _publish(self, topic: str, payload: bytes) -> None:
        message = Message.of(
            source=Source.TWIN,
            group=Group.BUS,
            operation=Operation.PUBLISH,
            resource=topic,
            content=msgspec.Raw(payload),
            timestamp=0,
        )
        try:
            await self._bus.send(EdgeModule.EVENT_BUS, message)
        except NoSuchModule:
            pass  # nobody listens where eventbus is switched off
        except MailboxFull as error:
            log.error("%s is not published: %s", topic, error)

    async def _show(self, id: str) -> None:
        """Have the node's own API show what was set here."""
        device = self._house.devices.get(id)
        desired = device.desired_here if device is not None else {}
        if desired == self._shown.get(id, {}):
            return
        self._shown[id] = desired
        if not desired:
            del self._shown[id]
        namespace, _, name = id.partition("/")
        message = Message.of(
            source=Source.TWIN,
            group=Group.META,
            operation=Operation.UPDATE,
            resource=str(paths.of(ResourceType.DEVICE, namespace, name)),
            content=desired,
            timestamp=self._now(),
        )
        try:
            await self._bus.send(EdgeModule.META_MANAGER, message)
        except (NoSuchModule, MailboxFull) as error:
            log.warning("desired values of %s that were set here are not shown: %s", id, error)

    def _answer(self, request: Message, stored: bool) -> None:
        content, operation = ("OK", Operation.RESPONSE) if stored else ("the disk refuses writes", Operation.ERROR)
        self._bus.reply(request.reply(content, operation=operation, timestamp=self._now()), sender=self.name)

    async def _happened(self, device: Device, reason: str, text: str) -> None:
        """An Event on the Device."""
        if self._recorder is None:
            return
        namespace, _, name = device.id.rpartition("/")
        reference = {
            "kind": "Device", "apiVersion": _DEVICE_API, "namespace": namespace or "default", "name": name,
            "uid": device.uid,
        }  # fmt: skip
        await self._recorder.event(reference, "Warning", reason, text)

    def _now(self) -> int:
        return unix_millis(self._clock.now())
