"""All devices of a mapper: each in its own task, made of what the edge said of it and of its model.

A device whose model is not here yet waits for it. Devices end when they are removed, never because a list lacks them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edgehive.api import devices as api
from edgehive.kit.clock import Clock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper.definition import definition_of
from edgehive.mapper.device import Device
from edgehive.mapper.driver import Driver
from edgehive.mapper.polling import DEADLINE
from edgehive.mapper.report import Edge
from edgehive.wire.devices import DeviceId

log = logging.getLogger("edgehive.mapper")

#: Seconds after which a device's task that failed by our own fault begins anew.
AGAIN = 5.0
#: Seconds between the beginnings of two devices, so that a thousand that came together are not all read in one moment.
APART = 0.001
#: Calls of the edge at a time: more would only wait there, with values that grow old.
CALLS = 64
#: Devices of one mapper.
LIMIT = 10_000


class NotTaken(Exception):
    """A device this mapper cannot have, or has only in part; the text says why."""


@dataclass(slots=True)
class _Kept:
    told: api.Device
    device: Device | None = None
    task: "asyncio.Task[None] | None" = None


class Devices:
    """One per mapper."""

    def __init__(
        self, make: Callable[[], Driver], protocol: str, edge: Edge, clock: Clock, *, deadline: float = DEADLINE
    ) -> None:
        self._make = make
        self._protocol = protocol
        self._edge = edge
        self._clock = clock
        self._deadline = deadline
        self._kept: dict[DeviceId, _Kept] = {}
        self._models: dict[tuple[str, str], api.DeviceModel] = {}
        self._began_last = 0.0
        self._room = asyncio.Semaphore(CALLS)

    def put(self, told: api.Device) -> None:
        """A new device, or a newer form of one; raises NotTaken, also where only a part of it works."""
        meta = told.metadata
        id = DeviceId(meta.namespace or "default", meta.name)
        if not meta.name or "/" in str(id).partition("/")[2]:
            raise NotTaken(f"device {meta.name[:80]!r} has no name that can be used")
        protocol = told.spec.protocol.protocol_name if told.spec.protocol else ""
        if protocol and protocol != self._protocol:
            raise NotTaken(f"device {id} speaks {protocol!r}, and this mapper speaks {self._protocol!r}")
        if id not in self._kept and len(self._kept) >= LIMIT:
            raise NotTaken(f"this mapper has {LIMIT} devices and takes no more")
        kept = self._kept.setdefault(id, _Kept(told))
        kept.told = told
        if faults := self._settle(id, kept):
            raise NotTaken(f"device {id}: {'; '.join(faults)[:1000]}; the rest of it works")

    async def remove(self, id: DeviceId) -> None:
        """One that is not here is removed already."""
        if (kept := self._kept.pop(id, None)) is not None:
            await cancel_and_join(kept.task)
            log.info("%s is gone", id)

    def put_model(self, model: api.DeviceModel) -> None:
        """Its devices follow at once."""
        key = model.metadata.namespace or "default", model.metadata.name
        self._models[key] = model
        for id, kept in self._kept.items():
            if (id.namespace, kept.told.spec.model_name) == key:
                self._settle(id, kept)

    def remove_model(self, namespace: str, name: str) -> None:
        """Devices that have it keep what they took from it."""
        self._models.pop((namespace or "default", name), None)

    def get(self, id: DeviceId) -> Device | None:
        kept = self._kept.get(id)
        return kept.device if kept is not None else None

    def model_of(self, id: DeviceId) -> api.DeviceModel | None:
        """The model of a device that is here."""
        kept = self._kept.get(id)
        return self._models.get((id.namespace, kept.told.spec.model_name)) if kept is not None else None

    def __contains__(self, id: object) -> bool:
        return id in self._kept

    def __iter__(self) -> Iterator[Device]:
        return iter([kept.device for kept in self._kept.values() if kept.device is not None])

    def tell_everything(self) -> None:
        for device in self:
            device.tell_everything()

    async def close(self) -> None:
        """End all, each closing its driver."""
        await cancel_and_join(*(kept.task for kept in self._kept.values()))
        self._kept.clear()

    def _turn(self) -> float:
        """Seconds until the next device may begin."""
        now = asyncio.get_running_loop().time()
        self._began_last = max(now, self._began_last + APART)
        return self._began_last - now

    def _settle(self, id: DeviceId, kept: _Kept) -> tuple[str, ...]:
        """Begin or change the device by what is known now; what of it cannot be used."""
        model = self._models.get((id.namespace, kept.told.spec.model_name))
        if model is None:
            log.warning("%s waits for its model %r", id, kept.told.spec.model_name)
            return ()
        definition = definition_of(kept.told, model)
        if kept.device is None:
            kept.device = Device(
                definition, self._make, self._edge, self._clock, deadline=self._deadline, room=self._room
            )
            kept.task = spawn(_keep_running(kept.device, self._turn()), name=f"device {id}")
        elif definition != kept.device.definition or definition.faults != kept.device.definition.faults:
            kept.device.follow(definition)
        return definition.faults


async def _keep_running(device: Device, after: float) -> None:
    await asyncio.sleep(after)
    while True:
        try:
            await device.run()
        except Exception:  # a fault of ours must not end the device, nor reach the others
            log.exception("%s: begins anew after a fault", device.definition.id)
        await asyncio.sleep(AGAIN)
