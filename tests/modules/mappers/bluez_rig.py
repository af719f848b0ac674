"""A bluetoothd that exists in memory, on a D-Bus of its own, for bleak's Linux backend as it is. Needs dbus-daemon.

It has one adapter and the devices it is given, in the words of BlueZ's D-Bus interfaces; no radio is behind it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

ADAPTER = "/org/bluez/hci0"
SERVICE = "f000aa00-0451-4000-b000-000000000000"
#: Every device has it; who looks for connected ones looks for it.
GENERIC_ATTRIBUTE = "00001801-0000-1000-8000-00805f9b34fb"
OBJECTS = "org.freedesktop.DBus.ObjectManager"
Interfaces = dict[str, dict[str, Variant]]


@dataclass
class BluezDevice:
    """`characteristics`: by UUID, what they can do, and their value."""

    address: str
    name: str
    characteristics: dict[str, tuple[list[str], bytes]]
    advertising: bool = True
    connected: bool = False

    @property
    def path(self) -> str:
        return f"{ADAPTER}/dev_{self.address.replace(':', '_')}"

    def interfaces(self) -> Interfaces:
        texts = {"Address": self.address, "AddressType": "public", "Name": self.name, "Alias": self.name}
        truths = dict.fromkeys(("Paired", "Trusted", "Blocked", "LegacyPairing"), False)
        truths |= dict.fromkeys(("Connected", "ServicesResolved"), self.connected)
        properties = {key: Variant("s", value) for key, value in texts.items()}
        properties |= {key: Variant("b", value) for key, value in truths.items()}
        properties |= {"UUIDs": Variant("as", [GENERIC_ATTRIBUTE]), "Adapter": Variant("o", ADAPTER)}
        return {"org.bluez.Device1": properties | {"RSSI": Variant("n", -50)}}

    def objects(self) -> dict[str, Interfaces]:
        """Its service and characteristics, by path."""
        service = f"{self.path}/service0001"
        of_service = {"UUID": Variant("s", SERVICE), "Device": Variant("o", self.path), "Primary": Variant("b", True)}
        found: dict[str, Interfaces] = {service: {"org.bluez.GattService1": of_service}}
        for uuid, (flags, _) in self.characteristics.items():
            item = {"UUID": Variant("s", uuid), "Service": Variant("o", service), "Flags": Variant("as", flags)}
            item |= {"Notifying": Variant("b", False), "MTU": Variant("q", 23)}
            found[self.path_of(uuid)] = {"org.bluez.GattCharacteristic1": item}
        return found

    def path_of(self, uuid: str) -> str:
        return f"{self.path}/service0001/char{list(self.characteristics).index(uuid) + 2:04x}"

    def uuid_at(self, path: str) -> str:
        return list(self.characteristics)[int(path[-4:], 16) - 2]


class Bluez:
    """Answers calls by methods of their names."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self.devices: dict[str, BluezDevice] = {}
        self._known: set[str] = set()
        self.discovering = False
        bus.add_message_handler(self._handle)

    def add(self, device: BluezDevice) -> BluezDevice:
        self.devices[device.path] = device
        return device

    def lose(self, device: BluezDevice) -> None:
        device.connected = False
        gone = {"ServicesResolved": Variant("b", False), "Connected": Variant("b", False)}
        self._changed(device.path, "org.bluez.Device1", gone)
        for path, interfaces in device.objects().items():
            self._bus.send(Message.new_signal("/", OBJECTS, "InterfacesRemoved", "oas", [path, list(interfaces)]))

    def notify(self, device: BluezDevice, uuid: str, value: bytes) -> None:
        self._changed(device.path_of(uuid), "org.bluez.GattCharacteristic1", {"Value": Variant("ay", value)})

    def _handle(self, message: Message) -> Message | bool | None:
        if message.message_type is not MessageType.METHOD_CALL:
            return None
        act = getattr(self, f"_on_{message.member}", None)
        return act(message) if act is not None else None

    def _on_GetManagedObjects(self, message: Message) -> Message:
        adapter = {"Address": Variant("s", "00:11:22:33:44:55"), "Powered": Variant("b", True)}
        found: dict[str, Interfaces] = {
            ADAPTER: {"org.bluez.Adapter1": adapter | {"Roles": Variant("as", ["central", "peripheral"])}}
        }
        for path in self._known:
            found[path] = self.devices[path].interfaces()
            if self.devices[path].connected:
                found |= self.devices[path].objects()
        return Message.new_method_return(message, "a{oa{sa{sv}}}", [found])

    def _on_SetDiscoveryFilter(self, message: Message) -> Message:
        return Message.new_method_return(message)

    def _on_StartDiscovery(self, message: Message) -> Message:
        if self.discovering:
            return Message.new_error(message, "org.bluez.Error.InProgress", "Operation already in progress")
        self.discovering = True
        self._advertise()
        return Message.new_method_return(message)

    def _on_StopDiscovery(self, message: Message) -> Message:
        self.discovering = False
        return Message.new_method_return(message)

    def _advertise(self) -> None:
        if not self.discovering:
            return
        for path, device in self.devices.items():
            if not device.advertising or device.connected:
                continue
            if path in self._known:
                self._changed(path, "org.bluez.Device1", {"RSSI": Variant("n", -50)})
            else:
                self._known.add(path)
                self._added(path, device.interfaces())
        asyncio.get_running_loop().call_later(0.02, self._advertise)

    def _on_Connect(self, message: Message) -> Message:
        device = self.devices[message.path or ""]
        device.connected = True
        self._changed(device.path, "org.bluez.Device1", {"Connected": Variant("b", True)})
        for path, interfaces in device.objects().items():
            self._added(path, interfaces)
        self._changed(device.path, "org.bluez.Device1", {"ServicesResolved": Variant("b", True)})
        return Message.new_method_return(message)

    def _on_Disconnect(self, message: Message) -> Message:
        self.lose(self.devices[message.path or ""])
        return Message.new_method_return(message)

    def _on_ReadValue(self, message: Message) -> Message:
        device, uuid = self._characteristic(message)
        return Message.new_method_return(message, "ay", [device.characteristics[uuid][1]])

    def _on_WriteValue(self, message: Message) -> Message:
        device, uuid = self._characteristic(message)
        device.characteristics[uuid] = (device.characteristics[uuid][0], bytes(message.body[0]))
        return Message.new_method_return(message)

    def _on_StartNotify(self, message: Message) -> Message:
        return Message.new_method_return(message)

    def _characteristic(self, message: Message) -> tuple[BluezDevice, str]:
        device = self.devices[str(message.path).partition("/service")[0]]
        return device, device.uuid_at(str(message.path))

    def _added(self, path: str, interfaces: Interfaces) -> None:
        self._bus.send(Message.new_signal("/", OBJECTS, "InterfacesAdded", "oa{sa{sv}}", [path, interfaces]))

    def _changed(self, path: str, interface: str, changed: dict[str, Any]) -> None:
        body = [interface, changed, []]
        self._bus.send(
            Message.new_signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged", "sa{sv}as", body)
        )


@asynccontextmanager
async def bluez_at(folder: Path) -> AsyncIterator[tuple[Bluez, str]]:
    """It, and the address of its bus."""
    address = f"unix:path={folder}/bus"
    quiet = asyncio.subprocess.DEVNULL
    command = ("dbus-daemon", "--session", "--nofork", f"--address={address}")
    daemon = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    try:
        async with asyncio.timeout(20):
            while not (folder / "bus").exists():
                await asyncio.sleep(0.01)
        bus = await MessageBus(bus_address=address).connect()
        found = Bluez(bus)
        await bus.request_name("org.bluez")
        yield found, address
        bus.disconnect()
        await bus.wait_for_disconnect()
    finally:
        daemon.terminate()
        await daemon.wait()
