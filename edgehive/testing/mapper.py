"""A mapper with a memory, for tests of what stands on the other side of DMI: it serves, remembers, hangs and refuses.

async with Mapper(folder / "m.sock") as mapper:
    answer = await mapper.register(edgecore_socket)
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError

from edgehive.kit.grpc_server import ClosingServer
from edgehive.protos import dmi_pb2 as dmi

_MAPPER = "/v1beta1.DeviceMapperService/"
_MANAGER = "/v1beta1.DeviceManagerService/"
_CALLS: dict[str, tuple[type[Message], type[Message]]] = {
    "RegisterDevice": (dmi.RegisterDeviceRequest, dmi.RegisterDeviceResponse),
    "RemoveDevice": (dmi.RemoveDeviceRequest, dmi.RemoveDeviceResponse),
    "UpdateDevice": (dmi.UpdateDeviceRequest, dmi.UpdateDeviceResponse),
    "CreateDeviceModel": (dmi.CreateDeviceModelRequest, dmi.CreateDeviceModelResponse),
    "UpdateDeviceModel": (dmi.UpdateDeviceModelRequest, dmi.UpdateDeviceModelResponse),
    "RemoveDeviceModel": (dmi.RemoveDeviceModelRequest, dmi.RemoveDeviceModelResponse),
    "GetDevice": (dmi.GetDeviceRequest, dmi.GetDeviceResponse),
}


class Manager:
    """edgecore's side, called: every method gives the reply or raises GRPCError."""

    def __init__(self, path: Path) -> None:
        self._channel = Channel(path=str(path))

    def close(self) -> None:
        self._channel.close()

    async def register(self, mapper: dmi.MapperInfo | None, *, with_data: bool = True) -> dmi.MapperRegisterResponse:
        request = dmi.MapperRegisterRequest(withData=with_data, mapper=mapper)
        answer: dmi.MapperRegisterResponse = await self.call("MapperRegister", request, dmi.MapperRegisterResponse)
        return answer

    async def report(self, device: str, **values: str) -> None:
        """Reported values, each with an observed desired one that is empty, as Go's mappers send it."""
        twins = [
            dmi.Twin(propertyName=name, observedDesired=dmi.TwinProperty(), reported=dmi.TwinProperty(value=value))
            for name, value in values.items()
        ]
        await self.report_twins(device, *twins)

    async def report_twins(self, device: str, *twins: dmi.Twin) -> None:
        request = dmi.ReportDeviceStatusRequest(
            deviceName=device, deviceNamespace="default", reportedDevice=dmi.DeviceStatus(twins=twins)
        )
        await self.call("ReportDeviceStatus", request, dmi.ReportDeviceStatusResponse)

    async def report_state(self, device: str, state: str) -> None:
        request = dmi.ReportDeviceStatesRequest(deviceName=device, deviceNamespace="default", state=state)
        await self.call("ReportDeviceStates", request, dmi.ReportDeviceStatesResponse)

    async def call(self, method: str, request: Message, reply: type[Message]) -> Any:
        stub: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, f"{_MANAGER}{method}", type(request), reply)
        return await stub(request, timeout=10)


class Mapper:
    """Serves DeviceMapperService at `path`; `calls` has what edgecore said."""

    def __init__(self, path: Path, *, name: str = "fake", protocol: str = "modbus") -> None:
        self.path = path
        self.info = dmi.MapperInfo(
            name=name, version="v1", api_version="v1beta1", protocol=protocol, address=str(path).encode(), state="ok"
        )
        self.devices: dict[str, dmi.Device] = {}
        self.calls: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        #: Set: calls wait for it to be cleared by `hang = None`.
        self.hang: asyncio.Event | None = None
        self.refusal = ""
        self._server: ClosingServer | None = None

    async def __aenter__(self) -> "Mapper":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        self._server = ClosingServer([self])
        await self._server.start(path=str(self.path))

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    async def register(self, manager: Path, *, with_data: bool = True) -> dmi.MapperRegisterResponse:
        client = Manager(manager)
        try:
            answer = await client.register(self.info, with_data=with_data)
        finally:
            client.close()
        for device in answer.deviceList:
            self.devices[device.name] = device
        return answer

    async def called(self) -> tuple[str, Any]:
        """The next thing edgecore said."""
        async with asyncio.timeout(10):
            return await self.calls.get()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"{_MAPPER}{name}": Handler(self._serve(name, reply), Cardinality.UNARY_UNARY, request, reply)
            for name, (request, reply) in _CALLS.items()
        }

    def _serve(self, name: str, reply: type[Message]) -> Callable[[Any], Awaitable[None]]:
        async def serve(stream: Any) -> None:
            request = await stream.recv_message()
            if self.hang is not None:
                await self.hang.wait()
            self.calls.put_nowait((name, request))
            if self.refusal:
                raise GRPCError(Status.UNKNOWN, self.refusal)
            await stream.send_message(self._answer(name, request, reply))

        return serve

    def _answer(self, name: str, request: Any, reply: type[Message]) -> Message:
        if name in ("RegisterDevice", "UpdateDevice"):
            self.devices[request.device.name] = request.device
        if name == "RegisterDevice":
            return dmi.RegisterDeviceResponse(deviceName=request.device.name, deviceNamespace=request.device.namespace)
        if name == "RemoveDevice":
            self.devices.pop(request.deviceName, None)
        if name == "CreateDeviceModel":
            model = request.model
            return dmi.CreateDeviceModelResponse(deviceModelName=model.name, deviceModelNamespace=model.namespace)
        if name == "GetDevice":
            return dmi.GetDeviceResponse(device=self.devices.get(request.deviceName))
        return reply()
