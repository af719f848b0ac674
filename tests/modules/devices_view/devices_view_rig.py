"""A cluster in memory with a model and a thermometer, and `edgehive devices` looking at it."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from rich.console import Console

from edgehive.api.registry import DEVICE_STATUSES, DEVICES
from edgehive.devices_view.app import Order, view
from edgehive.devices_view.choice import Scope
from edgehive.kit.clock import unix_millis
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType, Reader
from edgehive.testing.virtual_time import LoopClock

Json = dict[str, Any]

MODEL = {
    "metadata": {"name": "thermometer"},
    "spec": {
        "protocol": "modbus",
        "properties": [
            {"name": "temperature", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "C"},
            {"name": "target", "type": "INT", "accessMode": "ReadWrite", "minimum": "5", "maximum": "30", "unit": "C"},
            {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
        ],
    },
}


class Site:
    """The cluster and what happens in it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.clock = LoopClock()

    async def device(self, name: str = "hall", namespace: str = "default", **more: Any) -> None:
        spec = {
            "deviceModelRef": {"name": "thermometer"},
            "nodeName": "edge",
            "properties": [
                {"name": "temperature", "reportToCloud": True},
                {"name": "target", "desired": {"value": "21"}, "reportCycle": 1000},
                {"name": "label"},
            ],
        }
        body: Json = {"metadata": {"name": name} | more.pop("metadata", {}), "spec": spec | more}
        await self.client.create(DEVICES, body, namespace)
        await self.client.create(DEVICE_STATUSES, {"metadata": {"name": name}}, namespace)

    async def report(self, name: str = "hall", *, state: str = "online", at: int | None = None, **values: str) -> None:
        """The device's values are these from now on."""
        stamp = str(unix_millis(self.clock.now()) if at is None else at)
        twins = [
            {"propertyName": key, "reported": {"value": value, "metadata": {"timestamp": stamp, "type": "string"}}}
            for key, value in values.items()
        ]
        patch = {"status": {"twins": twins, "state": state}}
        await self.client.patch(DEVICE_STATUSES, name, patch, "default", type=PatchType.MERGE)

    async def printed(self, order: Order, scope: Scope, capsys: pytest.CaptureFixture[str]) -> str:
        await view(self.client, scope, order, Console(file=io.StringIO()), self.clock)
        return capsys.readouterr().out


class Screen(io.StringIO):
    """A terminal that counts its pictures and keeps the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(file=self, force_terminal=True, width=150, height=24, color_system=None)

    @property
    def text(self) -> str:
        """The last picture."""
        return self.getvalue().rpartition("\x1b[2K")[2]

    @asynccontextmanager
    async def showing(self, site: Site, order: Order, client: Reader | None = None) -> AsyncIterator[None]:
        chosen: Any = client or site.client
        task = spawn(view(chosen, Scope("default"), order, self.console, site.clock), name="view")
        try:
            await asyncio.sleep(1)
            yield
        finally:
            await cancel_and_join(task)

    async def until(self, wanted: Callable[[str], bool]) -> None:
        async with asyncio.timeout(60):
            while not wanted(self.text):
                await asyncio.sleep(0.1)
