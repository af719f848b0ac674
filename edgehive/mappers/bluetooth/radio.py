"""Finding devices and connecting to them, for all devices of one mapper: they share the radio.

One scan runs while anybody looks for a device, so one that is not there keeps nobody from finding another. Connections
are made one after the other, as most adapters can make one at a time, and each within a limit.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bleak import BleakAdapter, BleakClient, BleakScanner
from bleak.args.bluez import BlueZAdapterArgs
from bleak.backends.adapter import BaseBleakAdapter
from bleak.backends.client import BaseBleakClient
from bleak.backends.device import BLEDevice
from bleak.backends.scanner import AdvertisementData, BaseBleakScanner
from bleak.exc import BleakDBusError, BleakError

from edgehive.mappers.bluetooth.conversion import shown

# What bleak says of each lost connection is said by the mapper, in one line.
logging.getLogger("bleak").setLevel(logging.CRITICAL)

#: Seconds to look for a device, unless its configuration says otherwise, and those a connection may take. Together they
#: are less than a driver's deadline.
SEARCH_SECONDS, CONNECT_SECONDS = 4.0, 5.0
#: Seconds after which a scan that is still wanted begins anew, as its adapter may have been reset meanwhile.
SCAN_SECONDS = 30.0
_ADDRESS = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}")


@dataclass(frozen=True, slots=True)
class Peer:
    """How a device is told from others: by its address, or by the name it advertises."""

    address: str = ""
    name: str = ""
    #: hci0; "": the first one there is.
    adapter: str = ""
    pair: bool = False
    seconds: float = SEARCH_SECONDS

    def __str__(self) -> str:
        return self.address or repr(self.name)

    def is_meant(self, device: BLEDevice, advertised_name: str | None = None) -> bool:
        if self.address:
            return device.address.upper() == self.address
        names = (advertised_name, device.name)
        return any(name is not None and name.casefold() == self.name.casefold() for name in names)


def peer_of(config: Mapping[str, Any]) -> Peer:
    """Raises ValueError."""
    address, name = str(config.get("macAddress") or "").upper().replace("-", ":"), str(config.get("localName") or "")
    if not address and not name:
        raise ValueError("configData has neither macAddress nor localName")
    if address and not _ADDRESS.fullmatch(address):
        raise ValueError(f"macAddress {shown(config['macAddress'])} is none like BC:6A:29:AE:CC:96")
    timeout = config.get("timeout", SEARCH_SECONDS * 1000)
    if not isinstance(timeout, int | float) or not 0 < timeout <= 3600_000:
        raise ValueError(f"timeout {shown(timeout)} is no number of milliseconds")
    return Peer(address, name, str(config.get("adapter", "")), config.get("pair") is True, timeout / 1000)


class Radio:
    """bleak with its own backend, or with another one."""

    def __init__(
        self,
        adapter: type[BaseBleakAdapter] | None = None,
        scanner: type[BaseBleakScanner] | None = None,
        client: type[BaseBleakClient] | None = None,
    ) -> None:
        self._adapter = adapter
        self._scanner = scanner
        self._client = client
        self._searches: dict[str, _Search] = {}
        self._connecting = asyncio.Lock()

    async def connect(self, peer: Peer) -> BleakClient:
        """Raises ConnectionError."""
        device = await self._find(peer)
        client = BleakClient(device, pair=peer.pair, backend=self._client)
        async with self._connecting:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await client.connect()
            except TimeoutError:
                raise ConnectionError(f"{peer} is heard, but no connection was made in {CONNECT_SECONDS:g} s") from None
            except BleakError as error:
                raise ConnectionError(f"{peer} is heard, but cannot be connected: {said(error)}") from error
        return client

    async def _find(self, peer: Peer) -> BLEDevice:
        try:
            found = await self._connected(peer) or await self._heard(peer)
        except (BleakError, OSError) as error:
            raise ConnectionError(f"Bluetooth cannot be used: {said(error)}; does bluetoothd run?") from error
        if found is None:
            raise ConnectionError(f"{peer} was not heard in {peer.seconds:g} s; is it on, near, and advertising?")
        return found

    async def _connected(self, peer: Peer) -> BLEDevice | None:
        """One that is connected does not advertise: a mapper that was killed left it so, or another Device has it."""
        where: BlueZAdapterArgs = {"adapter": peer.adapter} if peer.adapter else {}
        try:
            adapter = await BleakAdapter.get(bluez=where, backend=self._adapter)
            return next((item for item in await adapter.get_connected_devices() if peer.is_meant(item)), None)
        except NotImplementedError:
            return None

    async def _heard(self, peer: Peer) -> BLEDevice | None:
        search = self._searches.setdefault(peer.adapter, _Search(self._new_scanner, peer.adapter))
        try:
            return await search.find(peer)
        finally:
            if search.is_idle:
                self._searches.pop(peer.adapter, None)

    def _new_scanner(self, heard: Callable[[BLEDevice, AdvertisementData], None], adapter: str) -> BleakScanner:
        return BleakScanner(heard, backend=self._scanner, bluez={"adapter": adapter} if adapter else {})


class _Search:
    """One adapter's scan, while there is somebody who waits for a device."""

    def __init__(self, new_scanner: Callable[[Any, str], BleakScanner], adapter: str) -> None:
        self._new_scanner = new_scanner
        self._adapter = adapter
        self._waiting: dict[asyncio.Future[BLEDevice], Peer] = {}
        self._turn = asyncio.Lock()
        self._scanner: BleakScanner | None = None
        self._since = 0.0

    @property
    def is_idle(self) -> bool:
        return not self._waiting and self._scanner is None

    async def find(self, peer: Peer) -> BLEDevice | None:
        """None: it was not heard in time. Raises BleakError or OSError."""
        found: asyncio.Future[BLEDevice] = asyncio.get_running_loop().create_future()
        self._waiting[found] = peer
        try:
            await self._scan()
            async with asyncio.timeout(peer.seconds):
                return await found
        except TimeoutError:
            return None
        finally:
            del self._waiting[found]
            await self._rest()

    async def _scan(self) -> None:
        async with self._turn:
            now = asyncio.get_running_loop().time()
            if self._scanner is not None and now - self._since < SCAN_SECONDS:
                return
            await self._stop()
            scanner = self._new_scanner(self._heard, self._adapter)
            await scanner.start()
            self._scanner, self._since = scanner, now

    async def _rest(self) -> None:
        async with self._turn:
            if not self._waiting:
                await self._stop()

    async def _stop(self) -> None:
        scanner, self._scanner = self._scanner, None
        if scanner is not None:
            await scanner.stop()

    def _heard(self, device: BLEDevice, advertisement: AdvertisementData) -> None:
        for found, peer in self._waiting.items():
            if not found.done() and peer.is_meant(device, advertisement.local_name):
                found.set_result(device)


def said(error: BaseException) -> str:
    """What an error says, in one line."""
    texts = [item for item in error.args if type(item) is str]
    # Several of bleak's errors have a code besides, and would show as a tuple.
    text = texts[0] if texts and len(error.args) > 1 and not isinstance(error, OSError | BleakDBusError) else str(error)
    return (" ".join(text.split()) or type(error).__name__)[:200]
