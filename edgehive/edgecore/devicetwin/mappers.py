"""DeviceMapperService called: each registered mapper hears of its devices and models, and no mapper waits for another.

A mapper has a queue of what it is still to hear, the newest per object, and one task that tells it: ten seconds a call,
again and again with growing pauses while the mapper is away. What exactly it hears is looked up when it is told. Where
there is nothing to tell, its socket is looked at now and then: a mapper that is gone is said.

Go: edge/pkg/devicetwin/dmiclient/client.go
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from edgehive.edgecore.devicetwin.rows import MapperRow
from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.protos import dmi_pb2 as dmi

log = logging.getLogger("edgehive.devicetwin.dmi")

#: Seconds a mapper has for one call, as Go gives it.
CALL_SECONDS = 10.0
#: How often a mapper may refuse an order before it is given up; a mapper that is away is waited for.
REFUSALS = 3
PATIENT = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.3)
#: Seconds between two looks at a mapper that has nothing to hear, and those one may take.
LOOK, LOOK_SECONDS = 30.0, 5.0
#: After this many tries without an answer it is said of its devices.
SAID_AFTER = 4

#: What opens an HTTP/2 connection, and the kind of frame each side begins with (RFC 9113, 3.4).
_FRAME_HEADER, _SETTINGS = 9, b"\x04"
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + _SETTINGS + b"\0" * 5

_SERVICE = "/v1beta1.DeviceMapperService/"
_AWAY = frozenset({Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED, Status.CANCELLED})


class Verb(StrEnum):
    REGISTER = "RegisterDevice"
    UPDATE = "UpdateDevice"
    REMOVE = "RemoveDevice"
    CREATE_MODEL = "CreateDeviceModel"
    UPDATE_MODEL = "UpdateDeviceModel"
    REMOVE_MODEL = "RemoveDeviceModel"


_MODEL_VERBS = frozenset({Verb.CREATE_MODEL, Verb.UPDATE_MODEL, Verb.REMOVE_MODEL})
_TYPES: dict[Verb, tuple[type[Message], type[Message]]] = {
    Verb.REGISTER: (dmi.RegisterDeviceRequest, dmi.RegisterDeviceResponse),
    Verb.UPDATE: (dmi.UpdateDeviceRequest, dmi.UpdateDeviceResponse),
    Verb.REMOVE: (dmi.RemoveDeviceRequest, dmi.RemoveDeviceResponse),
    Verb.CREATE_MODEL: (dmi.CreateDeviceModelRequest, dmi.CreateDeviceModelResponse),
    Verb.UPDATE_MODEL: (dmi.UpdateDeviceModelRequest, dmi.UpdateDeviceModelResponse),
    Verb.REMOVE_MODEL: (dmi.RemoveDeviceModelRequest, dmi.RemoveDeviceModelResponse),
}


class Order(NamedTuple):
    """Something a mapper is to hear: the verb and `<namespace>/<name>` of the object."""

    verb: Verb
    id: str

    @property
    def key(self) -> tuple[bool, bool, str]:
        """Newer orders of one key replace older ones; a removal stands for itself."""
        removes = self.verb in (Verb.REMOVE, Verb.REMOVE_MODEL)
        return self.verb in _MODEL_VERBS, removes, self.id


class MapperRefused(Exception):
    """A mapper said no."""


class MapperAway(Exception):
    """A mapper did not answer."""


#: The request of an order as things stand; None when it has become pointless.
Prepare = Callable[[Order], Awaitable[Message | None]]
#: Told when an order was carried out, or given up with the mapper's words.
Done = Callable[[Order, Message, str], Awaitable[None]]
#: Told when a mapper has not answered for a while, with why.
Away = Callable[[MapperRow, str], Awaitable[None]]


class Mapper:
    """One registered mapper."""

    def __init__(self, row: MapperRow, prepare: Prepare, done: Done, away: Away) -> None:
        self.row = row
        self._prepare = prepare
        self._done = done
        self._away = away
        self._orders: OrderedDict[tuple[bool, bool, str], Order] = OrderedDict()
        self._refusals: dict[Order, int] = {}
        self._wake = asyncio.Event()
        self._channel: Channel | None = None

    def order(self, order: Order) -> None:
        is_model, removes, id = order.key
        if removes:
            self._orders.pop((is_model, False, id), None)
        self._orders[order.key] = order
        if is_model and not removes:
            self._orders.move_to_end(order.key, last=False)  # devices refer to it
        self._wake.set()

    @property
    def _path(self) -> str:
        return self.row.address.decode().removeprefix("unix://")

    def orders(self) -> list[Order]:
        """What it is still to hear."""
        return list(self._orders.values())

    async def run(self) -> None:
        """Tell what is ordered until cancelled."""
        silent = refused = 0
        try:
            while True:
                try:
                    await (self._tell_next() if self._orders else self._rest(at_once=silent > 0))
                except MapperAway as error:
                    silent += 1
                    await self._did_not_answer(error, silent)
                    continue
                except MapperRefused as error:
                    refused += 1
                    log.warning("mapper %s refuses, and is asked again: %s", self.row.name, error)
                    await asyncio.sleep(PATIENT.delay(refused - 1))
                else:
                    refused = 0
                if silent >= SAID_AFTER:
                    log.info("mapper %s answers again", self.row.name)
                silent = 0
        finally:
            self._close()

    async def _did_not_answer(self, error: MapperAway, attempt: int) -> None:
        if attempt == 1:
            log.warning("mapper %s does not answer: %s", self.row.name, error)
        elif attempt == SAID_AFTER:
            await self._away(self.row, str(error))
        self._close()
        await asyncio.sleep(PATIENT.delay(attempt - 1))

    async def _rest(self, *, at_once: bool) -> None:
        """Until there is something to tell; raises MapperAway when meanwhile the mapper is gone."""
        self._wake.clear()
        if not at_once:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await self._wake.wait()
                    return
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                answers = await _answers(self._path)
        except (OSError, TimeoutError) as error:
            raise MapperAway(
                f"nobody is at {self._path} ({getattr(error, 'strerror', None) or 'no answer'})"
            ) from error
        if not answers:
            raise MapperAway(f"what is at {self._path} speaks no gRPC")

    async def _tell_next(self) -> None:
        """The oldest order; it stays in the queue, behind the others, while it fails."""
        key, order = next(iter(self._orders.items()))
        request = await self._prepare(order)
        if next(iter(self._orders), None) != key:
            return  # its model came meanwhile and goes first
        try:
            if request is not None:
                await self._call(order.verb, request)
        except MapperRefused as error:
            if self._counted(order) < REFUSALS:
                self._put_behind(key, order)
                raise
            await self._finished(key, order, request, str(error))
        except MapperAway:
            self._put_behind(key, order)
            raise
        else:
            await self._finished(key, order, request, "")

    def _counted(self, order: Order) -> int:
        self._refusals[order] = self._refusals.get(order, 0) + 1
        return self._refusals[order]

    def _put_behind(self, key: tuple[bool, bool, str], order: Order) -> None:
        """One thing that fails does not keep the rest waiting; models still come before what refers to them."""
        if self._orders.get(key) is order and not key[0]:
            self._orders.move_to_end(key)

    async def _finished(self, key: tuple[bool, bool, str], order: Order, request: Message | None, refusal: str) -> None:
        self._refusals.pop(order, None)
        if self._orders.get(key) is order:
            del self._orders[key]
        if request is not None:
            await self._done(order, request, refusal)

    async def _call(self, verb: Verb, request: Message) -> None:
        method, reply = verb.value, _TYPES[verb][1]
        if self._channel is None:
            self._channel = Channel(path=self._path)
        stub: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, f"{_SERVICE}{method}", type(request), reply)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await stub(request, timeout=CALL_SECONDS)
        except GRPCError as error:
            text = f"{method}: {error.message or Status(error.status).name}"
            raise (MapperAway if error.status in _AWAY else MapperRefused)(text) from error
        except TimeoutError:
            raise MapperAway(f"{method}: no answer within {CALL_SECONDS:g} s") from None
        except (OSError, StreamTerminatedError, ProtocolError, asyncio.IncompleteReadError) as error:
            raise MapperAway(f"{method}: {error}") from error

    def _close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None


async def _answers(path: str) -> bool:
    """Whether somebody speaks there: a process that hangs still has its connections accepted, by the kernel."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(_GREETING)
        return (await reader.read(_FRAME_HEADER))[3:4] == _SETTINGS
    finally:
        writer.close()


class Mappers:
    """All of them, by protocol."""

    def __init__(self, prepare: Prepare, done: Done, away: Away) -> None:
        self._prepare = prepare
        self._done = done
        self._away = away
        self._mappers: dict[str, tuple[Mapper, asyncio.Task[None]]] = {}

    async def put(self, row: MapperRow, *, keep: bool = False) -> Mapper:
        """Serve a mapper, in place of the one that served its protocol before; `keep`: it takes over its orders."""
        mapper = Mapper(row, self._prepare, self._done, self._away)
        if (older := self._mappers.pop(row.protocol, None)) is not None:
            await cancel_and_join(older[1])
            for order in older[0].orders() if keep else ():
                mapper.order(order)
        self._mappers[row.protocol] = mapper, spawn(mapper.run(), name=f"mapper {row.name}")
        return mapper

    def of(self, protocol: str) -> Mapper | None:
        found = self._mappers.get(protocol)
        return found[0] if found is not None else None

    def order(self, protocol: str, orders: Iterable[Order]) -> None:
        """What the mapper of a protocol is to hear; without one it is forgotten, as a registration brings all."""
        mapper = self.of(protocol)
        if mapper is not None:
            for order in orders:
                mapper.order(order)

    async def close(self) -> None:
        await cancel_and_join(*(task for _, task in self._mappers.values()))
        self._mappers.clear()
