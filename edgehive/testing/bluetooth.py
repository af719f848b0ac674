"""Bluetooth without hardware: bleak over bumble's virtual controllers, and devices that come and go. Needs bumble.

bleak itself is the one users have; only what it has for each platform, its backend, is replaced by one that speaks HCI
to a virtual controller. Everything from there on is bumble: link layer, L2CAP, ATT and the devices' GATT servers.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self
from uuid import UUID

from bleak.backends.adapter import BaseBleakAdapter
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.backends.service import BleakGATTService, BleakGATTServiceCollection
from bleak.exc import BleakError, BleakGATTProtocolError
from bumble import att, core, hci
from bumble.controller import Controller
from bumble.device import Device, Peer
from bumble.gatt import Characteristic, CharacteristicValue, Service
from bumble.host import Host
from bumble.link import LocalLink
from bumble.transport.common import AsyncPipeSink

from edgehive.kit.tasks import is_cancelled, spawn
from edgehive.mappers.bluetooth.radio import Radio

SERVICE = "f000aa00-0451-4000-b000-000000000000"
_FLAGS = {item: str(item.name).lower().replace("_", "-") for item in Characteristic.Properties}


@dataclass
class Cell:
    """One characteristic of a device."""

    uuid: str
    properties: str = "read"
    value: bytes = b""
    service: str = SERVICE
    #: What was written, in order.
    written: list[bytes] = field(default_factory=list)
    #: An ATT error with which requests are answered.
    refuses: int = 0

    def read(self, _connection: Any) -> bytes:
        self._refuse()
        return self.value

    def write(self, _connection: Any, value: bytes) -> None:
        self._refuse()
        self.value = bytes(value)
        self.written.append(self.value)

    def _refuse(self) -> None:
        if self.refuses:
            raise att.ATT_Error(att.ErrorCode(self.refuses))


class VirtualDevice:
    """A device with some characteristics."""

    def __init__(self, device: Device, cells: list[Cell]) -> None:
        self.device = device
        self.cells = {cell.uuid: cell for cell in cells}
        self._attributes: dict[str, Characteristic[bytes]] = {}
        for service in dict.fromkeys(cell.service for cell in cells):
            items = [self._characteristic(cell) for cell in cells if cell.service == service]
            device.add_service(Service(service, items))

    def _characteristic(self, cell: Cell) -> Characteristic[bytes]:
        properties = Characteristic.Properties.from_string(cell.properties.upper().replace("-", "_").replace(" ", ","))
        item: Characteristic[bytes] = Characteristic(
            cell.uuid,
            properties,
            Characteristic.READABLE | Characteristic.WRITEABLE,
            CharacteristicValue(cell.read, cell.write),
        )
        self._attributes[cell.uuid] = item
        return item

    async def switch_on(self) -> None:
        """Advertise, and again after each connection."""
        await self.device.start_advertising(auto_restart=True, advertising_interval_min=20, advertising_interval_max=20)

    async def switch_off(self) -> None:
        """Be gone: connections are lost, and nothing is advertised."""
        await self.device.stop_advertising()
        for connection in list(self.device.connections.values()):
            await connection.disconnect()

    async def notify(self, uuid: str, value: bytes) -> None:
        self.cells[uuid].value = value
        await self.device.notify_subscribers(self._attributes[uuid], value)


class Air:
    """Where devices and the mapper's radio hear one another."""

    def __init__(self) -> None:
        self.link = LocalLink()  # type: ignore[no-untyped-call]
        self.devices: list[VirtualDevice] = []
        #: Addresses of devices that advertise and let nobody connect.
        self.deaf: set[hci.Address] = set()
        #: Scans that go on, and how many there were.
        self.scanning = 0
        self.scans = 0
        air = {"air": self}
        self.radio = Radio(
            type("Adapter", (_Adapter,), air), type("Scanner", (_Scanner,), air), type("Client", (_Client,), air)
        )

    @cached_property
    def central(self) -> Device:
        """The mapper's side."""
        return self._device("central", "F0:F0:F0:F0:F0:F0")

    def _device(self, name: str, address: str) -> Device:
        controller = Controller(name, link=self.link, public_address=address)
        return Device(name=name, address=hci.Address(address), host=Host(controller, AsyncPipeSink(controller)))

    async def device(self, name: str, address: str, *cells: Cell) -> VirtualDevice:
        """One that is switched on."""
        device = self._device(name, address)
        data = core.AdvertisingData([(core.AdvertisingData.COMPLETE_LOCAL_NAME, name.encode())])
        device.advertising_data = bytes(data)
        found = VirtualDevice(device, list(cells))
        await device.power_on()
        await found.switch_on()
        self.devices.append(found)
        return found


class _Adapter(BaseBleakAdapter):
    air: Air

    @classmethod
    async def get(cls, **_: Any) -> Self:
        return cls()

    async def get_connected_devices(self, service_uuids: frozenset[str]) -> list[BLEDevice]:  # noqa: ARG002 - theirs
        names = {item.device.random_address: item.device.name for item in self.air.devices}
        found = [item.peer_address for item in self.air.central.connections.values()]
        return [BLEDevice(address.to_string(False), names.get(address), address) for address in found]


class _Scanner(BaseBleakScanner):
    air: Air

    def __init__(self, heard: Any, services: list[str] | None, _mode: str, **_: Any) -> None:
        super().__init__(heard, services)

    async def start(self) -> None:
        self.seen_devices = {}
        self.air.scanning += 1
        self.air.scans += 1
        self.air.central.on("advertisement", self._advertised)
        await _result_of(spawn(self._scan(), name="scan"))

    async def _scan(self) -> None:
        if not self.air.central.powered_on:
            await self.air.central.power_on()
        await self.air.central.start_scanning(legacy=True)

    async def stop(self) -> None:
        self.air.scanning -= 1
        self.air.central.remove_listener("advertisement", self._advertised)
        await _result_of(spawn(self.air.central.stop_scanning(legacy=True), name="stop"))

    def _advertised(self, told: Any) -> None:
        address, name = told.address.to_string(False), told.data.get(core.AdvertisingData.COMPLETE_LOCAL_NAME)
        data = AdvertisementData(name, {}, {}, [], None, told.rssi, ())
        self.call_detection_callbacks(self.create_or_update_device(address, address, name, told.address, data), data)


class _Client(BaseBleakClient):
    air: Air

    def __init__(self, device: BLEDevice | str, **rest: Any) -> None:
        super().__init__(device, disconnected_callback=rest["disconnected_callback"], timeout=rest["timeout"])
        assert isinstance(device, BLEDevice)
        self._address = device.details
        self._connection: Any = None
        self._peer: Any = None

    @property
    def name(self) -> str:
        return self.address

    @property
    def mtu_size(self) -> int:
        return 23 if self._peer is None else self._peer.gatt_client.mtu

    @property
    def is_connected(self) -> bool:
        return self._connection is not None

    async def connect(self, pair: bool, **_: Any) -> None:  # noqa: ARG002 - bleak names it
        if self._address in self.air.deaf:
            await asyncio.Event().wait()
        try:
            kept = [item for item in self.air.central.connections.values() if item.peer_address == self._address]
            connection = kept[0] if kept else await _result_of(spawn(self._connected(), name="connecting"))
            connection.on("disconnection", self._disconnected)
            self._connection, self._peer = connection, Peer(connection)
        except core.BaseBumbleError as error:
            raise BleakError(str(error)) from error
        await self._do(self._peer.discover_all)
        self.services = self._collection()

    async def _connected(self) -> Any:
        return await self.air.central.connect(self._address, timeout=5)

    def _collection(self) -> BleakGATTServiceCollection:
        found = BleakGATTServiceCollection()
        for service in self._peer.services:
            kept = BleakGATTService(service, service.handle, _uuid(service))
            found.add_service(kept)
            for item in service.characteristics:
                flags: Any = [name for flag, name in _FLAGS.items() if flag & item.properties]
                found.add_characteristic(
                    BleakGATTCharacteristic(item, item.handle, _uuid(item), flags, lambda: 20, kept)
                )
        return found

    def _disconnected(self, _reason: Any) -> None:
        self._connection = None
        if self._disconnected_callback is not None:
            self._disconnected_callback()

    async def disconnect(self) -> None:
        if self._connection is not None:
            await _result_of(spawn(self._connection.disconnect(), name="disconnect"))

    async def pair(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("virtual devices ask for no pairing")

    async def unpair(self) -> None:
        raise NotImplementedError("virtual devices ask for no pairing")

    async def read_gatt_char(self, characteristic: BleakGATTCharacteristic, **_: Any) -> bytearray:
        return bytearray(await self._do(self._peer.read_value, characteristic.obj))

    async def write_gatt_char(self, characteristic: BleakGATTCharacteristic, data: Any, response: bool) -> None:
        await self._do(self._peer.write_value, characteristic.obj, bytes(data), with_response=response)

    async def start_notify(self, characteristic: BleakGATTCharacteristic, callback: Any, **_: Any) -> None:
        await self._do(self._peer.subscribe, characteristic.obj, lambda data: callback(bytearray(data)))

    async def stop_notify(self, characteristic: BleakGATTCharacteristic) -> None:
        await self._do(self._peer.unsubscribe, characteristic.obj)

    async def read_gatt_descriptor(self, *args: Any, **kwargs: Any) -> bytearray:
        raise NotImplementedError("drivers read no descriptors")

    async def write_gatt_descriptor(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("drivers write no descriptors")

    async def _do(self, request: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self._connection is None:
            raise BleakError("Not connected")
        work = spawn(request(*arguments, **options), name="request")
        self._connection.cancel_on_disconnection(work)
        try:
            return await _result_of(work)
        except att.ATT_Error as error:
            raise BleakGATTProtocolError(int(error.error_code)) from error
        except core.BaseBumbleError as error:
            raise BleakError(str(error)) from error
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise BleakError("the connection is lost") from None


async def _result_of(work: asyncio.Task[Any]) -> Any:
    """bumble waits by `asyncio.wait_for`, which in Python 3.11 may swallow a cancellation; this does not."""
    try:
        await asyncio.wait({work})
        return work.result()
    finally:
        work.cancel()


def _uuid(item: Any) -> str:
    return str(UUID(bytes=item.uuid.to_bytes(force_128=True)[::-1]))
