"""Devices for the tests of the mapper SDK, and an edge that remembers what it was told."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from edgehive.api import devices as api
from edgehive.kit.clock import FixedClock
from edgehive.mapper.definition import Definition, definition_of
from edgehive.mapper.report import EdgeAway, EdgeRefused, Reading
from edgehive.wire.devices import DeviceId

CLOCK = FixedClock(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def model(*properties: dict[str, Any], name: str = "m") -> api.DeviceModel:
    body = {"metadata": {"name": name, "namespace": "default"}, "spec": {"properties": list(properties)}}
    return msgspec.convert(body, api.DeviceModel)


def device(
    *properties: dict[str, Any], name: str = "d", config: dict[str, Any] | None = None, **spec: Any
) -> api.Device:
    protocol = {"protocolName": "virtual", "configData": config or {}}
    body = {"deviceModelRef": {"name": "m"}, "protocol": protocol, "properties": list(properties), **spec}
    return msgspec.convert({"metadata": {"name": name, "namespace": "default"}, "spec": body}, api.Device)


def define(*properties: tuple[dict[str, Any], dict[str, Any]], **rest: Any) -> Definition:
    """Of pairs: the property in the model (FLOAT, ReadWrite) and in the device (told each second)."""
    modelled = [{"type": "FLOAT", "accessMode": "ReadWrite", **first} for first, _ in properties]
    own = [
        {"name": first["name"], "collectCycle": 1000, "reportCycle": 1000, "reportToCloud": True, **second}
        for first, second in properties
    ]
    return definition_of(device(*own, **rest), model(*modelled))


class FakeEdge:
    """Takes reports; `away` and `refusal` make it fail."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, DeviceId, dict[str, str]]] = []
        self.readings: list[Reading] = []
        self.states: list[tuple[float, str]] = []
        self.away = False
        self.refusal = ""
        self.slow = 0.0

    async def report(self, device: DeviceId, readings: Sequence[Reading]) -> None:
        await self._meet()
        now = asyncio.get_running_loop().time()
        self.reports.append((now, device, {item.name: item.text for item in readings}))
        self.readings.extend(readings)

    async def report_state(self, device: DeviceId, state: str) -> None:
        await self._meet()
        self.states.append((asyncio.get_running_loop().time(), state))

    async def _meet(self) -> None:
        await asyncio.sleep(self.slow)
        if self.away:
            raise EdgeAway("away")
        if self.refusal:
            raise EdgeRefused(self.refusal)

    def values(self, name: str) -> list[str]:
        """What a property was told to be, without repetitions."""
        told = [told[name] for _, _, told in self.reports if name in told]
        return [text for text, before in zip(told, [None, *told], strict=False) if text != before]
