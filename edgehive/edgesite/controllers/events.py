"""Events live an hour: a sweep deletes older ones, so that the store of a busy site does not grow without end.

A real API server lets etcd expire them by lease. Runs beside the controllers; never touches another kind.
"""

import asyncio
import logging
from datetime import datetime, timedelta

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import EVENTS
from edgehive.kit.clock import Clock, parse_rfc3339
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError, NotFound

log = logging.getLogger("edgehive.edgesite")

LIFETIME = timedelta(hours=1)
SWEEP_SECONDS = 300.0


class _Times(msgspec.Struct, rename="camel", frozen=True):
    last_timestamp: str | None = None
    event_time: str | None = None


class EventExpiry:
    """`run` sweeps for ever; `sweep` once."""

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    async def run(self) -> None:
        while True:
            try:
                await self.sweep()
            except ApiError as error:
                log.warning("old events stay until the next sweep: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Delete every event that nothing has happened to for an hour."""
        now = self._clock.now()
        for event in (await self._client.list(EVENTS)).items:
            if is_expired(event, now):
                meta = event.meta
                try:
                    await self._client.delete(EVENTS, meta.name, meta.namespace, uid=meta.uid)
                except NotFound:
                    continue


def is_expired(event: Document, now: datetime) -> bool:
    """Whether the newest time the event carries is an hour past; one without a readable time is kept."""
    try:
        times = event.read(_Times)
        newest = times.last_timestamp or times.event_time or event.meta.creation_timestamp
        return newest is not None and parse_rfc3339(newest) + LIFETIME < now
    except (msgspec.ValidationError, ValueError):
        return False
