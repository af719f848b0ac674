"""An edge for mappers to talk to: DeviceManagerService with a memory and faults, and calls of a mapper's own service.

It sends what a Go edge sends: every number in configuration as a 32-bit float.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from google.protobuf.any_pb2 import Any as Wrapped
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, FloatValue, StringValue
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from edgehive.kit.grpc_requests import received
from edgehive.kit.grpc_server import ClosingServer
from edgehive.protos import dmi_pb2 as dmi

MAPPER, MANAGER = "/v1beta1.DeviceMapperService/", "/v1beta1.DeviceManagerService/"
#: Seconds a mapper has for a call, as edgecore gives it.
CALL_SECONDS = 10.0
_LIMIT = 4 * 1024 * 1024
#: Calls of a mapper: each one's request and answer.
CALLS: dict[str, tuple[type[Message], type[Message]]] = {
    "RegisterDevice": (dmi.RegisterDeviceRequest, dmi.RegisterDeviceResponse),
    "RemoveDevice": (dmi.RemoveDeviceRequest, dmi.RemoveDeviceResponse),
    "UpdateDevice": (dmi.UpdateDeviceRequest, dmi.UpdateDeviceResponse),
    "CreateDeviceModel": (dmi.CreateDeviceModelRequest, dmi.CreateDeviceModelResponse),
    "UpdateDeviceModel": (dmi.UpdateDeviceModelRequest, dmi.UpdateDeviceModelResponse),
    "RemoveDeviceModel": (dmi.RemoveDeviceModelRequest, dmi.RemoveDeviceModelResponse),
    "GetDevice": (dmi.GetDeviceRequest, dmi.GetDeviceResponse),
}


class Report(NamedTuple):
    """One value a mapper told, and when by the loop's clock."""

    at: float
    namespace: str
    device: str
    twin: dmi.Twin
    #: Which call brought it.
    call: int

    @property
    def value(self) -> str:
        return self.twin.reported.value


class StateTold(NamedTuple):
    at: float
    namespace: str
    device: str
    state: str


class Edge:
    """Serves at `path` inside `async with edge.serving()`; may be stopped and served again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.registrations: list[tuple[float, dmi.MapperRegisterRequest]] = []
        self.reports: list[Report] = []
        self.states: list[StateTold] = []
        self.calls = 0
        #: What a registration is answered with.
        self.models: list[dmi.DeviceModel] = []
        self.devices: list[dmi.Device] = []
        #: Faults: seconds a report takes, and how registrations and reports are refused.
        self.slow = 0.0
        self.refuse_registrations: GRPCError | None = None
        self.refuse_reports: GRPCError | None = None
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = ClosingServer([self])
        self.path.unlink(missing_ok=True)
        await server.start(path=str(self.path))
        try:
            yield
        finally:
            server.close()
            await server.wait_closed()
            self.path.unlink(missing_ok=True)

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"{MANAGER}MapperRegister": self._handler(
                self._register, dmi.MapperRegisterRequest, dmi.MapperRegisterResponse
            ),
            f"{MANAGER}ReportDeviceStatus": self._handler(
                self._report, dmi.ReportDeviceStatusRequest, dmi.ReportDeviceStatusResponse
            ),
            f"{MANAGER}ReportDeviceStates": self._handler(
                self._report_state, dmi.ReportDeviceStatesRequest, dmi.ReportDeviceStatesResponse
            ),
        }

    async def until(self, met: Callable[[], object], seconds: float) -> bool:
        """Whether something comes true in time; looked at whenever the mapper said something."""
        try:
            async with asyncio.timeout(seconds):
                while not met():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return bool(met())
        return True

    def _handler(
        self, call: Callable[[Any], Awaitable[Message]], request: type[Message], reply: type[Message]
    ) -> Handler:
        async def serve(stream: Any) -> None:
            asked = await received(stream, request, limit=_LIMIT, seconds=CALL_SECONDS)
            answer = await call(asked)
            self._changed.set()
            await stream.send_message(answer)

        return Handler(serve, Cardinality.UNARY_UNARY, request, reply)

    async def _register(self, request: dmi.MapperRegisterRequest) -> Message:
        self.registrations.append((_now(), request))
        self._changed.set()
        if self.refuse_registrations is not None:
            raise self.refuse_registrations
        return dmi.MapperRegisterResponse(modelList=self.models, deviceList=self.devices)

    async def _report(self, request: dmi.ReportDeviceStatusRequest) -> Message:
        await self._meet()
        self.calls += 1
        for twin in request.reportedDevice.twins:
            self.reports.append(Report(_now(), request.deviceNamespace, request.deviceName, twin, self.calls))
        return dmi.ReportDeviceStatusResponse()

    async def _report_state(self, request: dmi.ReportDeviceStatesRequest) -> Message:
        await self._meet()
        self.states.append(StateTold(_now(), request.deviceNamespace, request.deviceName, request.state))
        return dmi.ReportDeviceStatesResponse()

    async def _meet(self) -> None:
        await asyncio.sleep(self.slow)
        if self.refuse_reports is not None:
            self._changed.set()
            raise self.refuse_reports


class Caller:
    """A mapper's service, called as edgecore calls it; errors are GRPCError, OSError and TimeoutError."""

    def __init__(self, address: bytes) -> None:
        self._path = address.decode().removeprefix("unix://")
        self._channel: Channel | None = None

    async def call(self, method: str, request: Message) -> Any:
        return await self.send(method, request, *CALLS[method])

    async def send(self, method: str, request: Message, asked: type[Message], reply: type[Message]) -> Any:
        if self._channel is None:
            self._channel = Channel(path=self._path)
        stub: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, f"{MAPPER}{method}", asked, reply)
        async with asyncio.timeout(CALL_SECONDS):
            return await stub(request, timeout=CALL_SECONDS)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def wrapped(value: Any) -> Wrapped:
    """One value of free-form configuration as a Go edge wraps it; objects and lists as ours does."""
    holder = Wrapped()
    if isinstance(value, bool):
        holder.Pack(BoolValue(value=value))
    elif isinstance(value, int | float):
        holder.Pack(FloatValue(value=value))
    else:
        text = msgspec.json.encode(value).decode() if isinstance(value, dict | list) else str(value)
        holder.Pack(StringValue(value=text))
    return holder


def unavailable() -> GRPCError:
    return GRPCError(Status.UNAVAILABLE, "the edge is busy")


def refused() -> GRPCError:
    return GRPCError(Status.UNKNOWN, "the edge refuses this")


def _now() -> float:
    return asyncio.get_running_loop().time()
