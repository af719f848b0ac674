"""The characteristics of one connected device: read, written, and heard of where they notify.

Requests go one at a time, whoever asks: the mapper's readings, schedules and the watcher.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bleak import BleakClient
from bleak.backends.characteristic import BleakGATTCharacteristic
from bleak.exc import BleakError

from edgehive.kit.tasks import is_cancelled
from edgehive.mappers.bluetooth.conversion import Place, bounded, listed
from edgehive.mappers.bluetooth.radio import said

#: Seconds to wait for what a characteristic that cannot be read notifies first.
FIRST = 2.0
T = TypeVar("T")


class Gatt:
    """`client` is connected."""

    def __init__(self, client: BleakClient) -> None:
        self._client = client
        self._turn = asyncio.Lock()
        self._subscribed: set[int] = set()
        #: By handle: what was notified, or was written where nothing can be read.
        self._known: dict[int, bytes] = {}
        self._came = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    async def read(self, place: Place) -> bytes:
        """Raises ConnectionError when the device is gone, ValueError when only this cannot be read."""
        item = self._find(place)
        can_be_read, notifies = "read" in item.properties, bool({"notify", "indicate"} & set(item.properties))
        if place.notify and not notifies:
            raise ValueError(f"{item.uuid} notifies nothing; it can only: {listed(list(item.properties))}")
        if notifies and (place.notify or not can_be_read):
            return await self._newest(item, can_be_read)
        if can_be_read:
            return await self._read(item)
        if item.handle not in self._known:
            raise ValueError(f"{item.uuid} can only be written, and nothing was written to it yet")
        self._require_connection()
        return self._known[item.handle]

    async def write(self, place: Place, data: bytes) -> None:
        """Errors: as for `read`."""
        item = self._find(place)
        if not {"write", "write-without-response"} & set(item.properties):
            raise ValueError(f"{item.uuid} cannot be written; it can only: {listed(list(item.properties))}")
        answered = "write" in item.properties
        await self._ask(lambda: self._client.write_gatt_char(item, bounded(data), response=answered))
        if "read" in item.properties:
            self._known.pop(item.handle, None)
        else:
            self._known[item.handle] = data

    async def close(self) -> None:
        try:
            await self._client.disconnect()
        except BleakError as error:
            raise ConnectionError(said(error)) from error

    async def _newest(self, item: BleakGATTCharacteristic, can_be_read: bool) -> bytes:
        if item.handle not in self._subscribed:
            await self._ask(lambda: self._client.start_notify(item, self._heard))
            self._subscribed.add(item.handle)
        if item.handle not in self._known and can_be_read:
            read = await self._read(item)
            self._known.setdefault(item.handle, read)
        await self._wait_for(item)
        self._require_connection()
        return self._known[item.handle]

    async def _wait_for(self, item: BleakGATTCharacteristic) -> None:
        try:
            async with asyncio.timeout(FIRST):
                while item.handle not in self._known:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            self._require_connection()
            raise ValueError(f"{item.uuid} can only notify, and has notified nothing yet") from None

    def _heard(self, item: BleakGATTCharacteristic, data: bytearray) -> None:
        self._known[item.handle] = bytes(data)
        self._came.set()

    async def _read(self, item: BleakGATTCharacteristic) -> bytes:
        return bytes(await self._ask(lambda: self._client.read_gatt_char(item)))

    async def _ask(self, request: Callable[[], Awaitable[T]]) -> T:
        async with self._turn:
            self._require_connection()
            try:
                return await request()
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                raise ConnectionError("the request was cut off") from None
            except BleakError as error:
                self._require_connection()
                raise ValueError(f"the device answers: {said(error)}") from error

    def _require_connection(self) -> None:
        if not self._client.is_connected:
            raise ConnectionError("the device is gone")

    def _find(self, place: Place) -> BleakGATTCharacteristic:
        self._require_connection()
        services = self._client.services
        found = [
            item
            for item in services.characteristics.values()
            if item.uuid == place.uuid and place.service in ("", item.service_uuid)
        ]
        if not found:
            known = listed([item.uuid for item in services.characteristics.values()])
            where = f" in service {place.service}" if place.service else ""
            raise ValueError(f"the device has no characteristic {place.uuid}{where}; it has: {known}")
        if len(found) > 1:
            services_of_it = listed([item.service_uuid for item in found])
            raise ValueError(
                f"{len(found)} services have a characteristic {place.uuid}; add serviceUUID: {services_of_it}"
            )
        return found[0]
