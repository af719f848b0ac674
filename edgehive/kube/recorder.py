"""Kubernetes Events, told the way kubectl expects: repeats counted, similar ones combined, floods cut off.

Controllers, the scheduler and edged record through it. Recording never fails the caller: an event that cannot
be written is logged and forgotten. Entered as a context manager it writes from a bounded queue in the
background (the oldest go first when it is full); otherwise `event` writes before it returns.

Go: k8s.io/client-go/tools/record
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from edgehive.api.document import Document
from edgehive.api.registry import EVENTS
from edgehive.kit.clock import Clock, rfc3339
from edgehive.kit.mailbox import Mailbox, Policy
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, NotFound

log = logging.getLogger("edgehive.kube.recorder")

#: As client-go: so many different messages of one kind within the interval, then they are combined.
SIMILAR_LIMIT, SIMILAR_SECONDS = 10, 600.0
COMBINED = "(combined from similar events): "
#: As client-go: events about one object at once, and seconds until one more is allowed.
BURST, REFILL_SECONDS = 25, 300.0
#: Objects and events remembered; the least recently used are forgotten.
REMEMBERED = 4096
QUEUE = 1000
#: As client-go: of a long object's name the event's has what there is room for.
NAME_LIMIT = 253

_REFERENCE_KEYS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One thing that happened to one object."""

    object: Mapping[str, str]
    type: str
    reason: str
    message: str
    at: datetime

    @property
    def about(self) -> tuple[str, ...]:
        return tuple(
            self.object.get(key, "") for key in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")
        )

    @property
    def similarity(self) -> tuple[str, ...]:
        """Equal for events that differ in their message alone."""
        return (*self.about, self.type, self.reason)


@dataclass(slots=True)
class Recorded:
    """An Event as it was last written."""

    name: str
    namespace: str
    count: int


@dataclass(slots=True)
class _Similar:
    last: datetime
    messages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: datetime


class Correlator:
    """Decides what becomes of an occurrence; it knows no API."""

    def __init__(self) -> None:
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, ...], _Bucket] = OrderedDict()
        self._recorded: OrderedDict[tuple[str, ...], Recorded] = OrderedDict()

    def combine(self, occurrence: Occurrence) -> tuple[Occurrence, tuple[str, ...]]:
        """The occurrence (its message marked when combined with similar ones) and the key it is counted under."""
        similar = self._similar.get(occurrence.similarity)
        if similar is None or (occurrence.at - similar.last).total_seconds() > SIMILAR_SECONDS:
            similar = _Similar(occurrence.at)
        similar.last = occurrence.at
        if occurrence.message in similar.messages or len(similar.messages) < SIMILAR_LIMIT - 1:
            similar.messages.add(occurrence.message)
            key = (*occurrence.similarity, occurrence.message)
        else:
            occurrence = replace(occurrence, message=COMBINED + occurrence.message)
            key = occurrence.similarity
        _remember(self._similar, occurrence.similarity, similar)
        return occurrence, key

    def allows(self, occurrence: Occurrence) -> bool:
        """Whether this object may have another event now."""
        bucket = self._buckets.get(occurrence.about) or _Bucket(BURST, occurrence.at)
        gained = max(0.0, (occurrence.at - bucket.filled).total_seconds()) / REFILL_SECONDS
        bucket.tokens, bucket.filled = min(BURST, bucket.tokens + gained), occurrence.at
        _remember(self._buckets, occurrence.about, bucket)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def recorded(self, key: tuple[str, ...]) -> Recorded | None:
        return self._recorded.get(key)

    def remember(self, key: tuple[str, ...], recorded: Recorded) -> None:
        _remember(self._recorded, key, recorded)


def _remember(memory: "OrderedDict[tuple[str, ...], Any]", key: tuple[str, ...], value: Any) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


class Recorder:
    """Records events as `component` on `host`."""

    def __init__(self, client: Client, component: str, host: str, clock: Clock) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._correlator = Correlator()
        self._last_name = 0
        self._queue: Mailbox[Occurrence] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def event(
        self, object: Document | Mapping[str, Any], type: str, reason: str, message: str, *, field_path: str = ""
    ) -> None:
        """Record that something happened to `object` (or to what an object reference names)."""
        reference = reference_to(object)
        if field_path:
            reference["fieldPath"] = field_path
        occurrence = Occurrence(reference, type, reason, message, self._clock.now())
        if self._queue is not None:
            self._queue.put_nowait(occurrence)
        else:
            await self._record(occurrence)

    async def __aenter__(self) -> "Recorder":
        self._queue = Mailbox("events", size=QUEUE, policy=Policy.DROP_OLDEST)
        self._writer = spawn(self._write_queue(self._queue), name=f"events of {self._component}")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._queue = None
        await cancel_and_join(self._writer)

    async def _write_queue(self, queue: Mailbox[Occurrence]) -> None:
        async for occurrence in queue:
            await self._record(occurrence)

    async def _record(self, occurrence: Occurrence) -> None:
        occurrence, key = self._correlator.combine(occurrence)
        if not self._correlator.allows(occurrence):
            return
        try:
            await self._write(occurrence, key)
        except ApiError as error:
            log.warning("event %s about %s is lost: %s", occurrence.reason, "/".join(occurrence.about[:3]), error)

    async def _write(self, occurrence: Occurrence, key: tuple[str, ...]) -> None:
        recorded = self._correlator.recorded(key)
        if recorded is not None:
            try:
                await self._count_up(recorded, occurrence)
                return
            except NotFound:
                pass  # events live for an hour; this one is told anew
        namespace = occurrence.object.get("namespace") or "default"
        body = self._body(occurrence, namespace)
        # Remembered first: a second writer of the same occurrence then counts up instead of creating another.
        self._correlator.remember(key, Recorded(body["metadata"]["name"], namespace, 1))
        await self._client.create(EVENTS, body, namespace)

    async def _count_up(self, recorded: Recorded, occurrence: Occurrence) -> None:
        recorded.count += 1
        change = {"count": recorded.count, "lastTimestamp": rfc3339(occurrence.at), "message": occurrence.message}
        await self._client.patch(EVENTS, recorded.name, change, recorded.namespace, type=PatchType.STRATEGIC)

    def _body(self, occurrence: Occurrence, namespace: str) -> dict[str, Any]:
        at = rfc3339(occurrence.at)
        return {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": self._name(occurrence), "namespace": namespace},
            "involvedObject": dict(occurrence.object),
            "reason": occurrence.reason,
            "message": occurrence.message,
            "source": {"component": self._component, **({"host": self._host} if self._host else {})},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "type": occurrence.type,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }

    def _name(self, occurrence: Occurrence) -> str:
        """`<object>.<nanoseconds in hex>`, never the same twice from one recorder."""
        self._last_name = max(self._last_name + 1, int(occurrence.at.timestamp() * 1_000_000) * 1000)
        suffix = f".{self._last_name:x}"
        object = occurrence.object.get("name", "")[: NAME_LIMIT - len(suffix)]
        return object.rstrip(".-") + suffix


def reference_to(object: Document | Mapping[str, Any]) -> dict[str, str]:
    """An ObjectReference to a document; a mapping is taken as one already."""
    if isinstance(object, Document):
        meta = object.meta
        values = (object.kind, meta.namespace, meta.name, meta.uid, object.api_version, meta.resource_version, "")
        return {key: value for key, value in zip(_REFERENCE_KEYS, values, strict=True) if value}
    return {key: str(object[key]) for key in _REFERENCE_KEYS if object.get(key)}
