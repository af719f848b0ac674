"""One Bluetooth LE device as the mapper's driver sees it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from edgehive.mapper import Value, Visitor
from edgehive.mappers.bluetooth.automation import Automation
from edgehive.mappers.bluetooth.conversion import data_of, place_of, value_of
from edgehive.mappers.bluetooth.gatt import Gatt
from edgehive.mappers.bluetooth.radio import Radio, peer_of
from edgehive.mappers.bluetooth.rules import is_automatic, with_file


class Bluetooth:
    """One device."""

    protocol = "bluetooth"
    #: Shared by all devices.
    radio: ClassVar[Radio] = Radio()

    def __init__(self) -> None:
        self._gatt: Gatt | None = None
        self._automation: Automation | None = None
        self._device = ""
        self._visitors: Sequence[Visitor] = ()

    async def prepare(self, device: str, visitors: Sequence[Visitor]) -> None:
        self._device, self._visitors = device, visitors

    async def open(self, config: Mapping[str, Any]) -> None:
        config = with_file(config)
        peer = peer_of(config)
        if is_automatic(config):
            self._automation = Automation.of(self._device, config)
            for visitor in self._visitors:
                self._automation.learn(visitor)
        self._gatt = Gatt(await self.radio.connect(peer))
        if self._automation is not None:
            await self._automation.attach(self._gatt)

    async def read(self, visitor: Visitor) -> Value:
        gatt = self._open_for(visitor)
        return value_of(visitor, await gatt.read(place_of(visitor.config)))

    async def write(self, visitor: Visitor, value: Value) -> None:
        gatt = self._open_for(visitor)
        if self._automation is None or not await self._automation.desire(gatt, visitor, value):
            await gatt.write(place_of(visitor.config), data_of(visitor, value))

    async def close(self) -> None:
        automation, self._automation = self._automation, None
        if automation is not None:
            automation.detach()
            automation.release()
        gatt, self._gatt = self._gatt, None
        if gatt is not None:
            await gatt.close()

    def _open_for(self, visitor: Visitor) -> Gatt:
        if self._gatt is None:
            raise ConnectionError("the device is not open")
        if self._automation is not None:
            self._automation.learn(visitor)
        return self._gatt
