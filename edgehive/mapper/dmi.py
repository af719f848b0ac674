"""DMI both ways: DeviceMapperService for the edge on a socket of ours, DeviceManagerService called on the edge's.

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/{grpcserver,grpcclient}
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Stream

from edgehive.kit.fatal import Fatal
from edgehive.kit.grpc_requests import received
from edgehive.kit.grpc_server import ClosingServer
from edgehive.mapper.devices import Devices, NotTaken
from edgehive.mapper.dmi_objects import device_of, model_of
from edgehive.mapper.report import EdgeAway, EdgeRefused, Reading
from edgehive.protos import dmi_pb2 as dmi
from edgehive.wire.devices import DeviceId

log = logging.getLogger("edgehive.mapper.dmi")

#: Seconds for one call of the edge; bytes of a request, and seconds it may take to come.
CALL_SECONDS, REQUEST_LIMIT, READ_SECONDS = 10.0, 4 * 1024 * 1024, 10.0

_MAPPER = "/v1beta1.DeviceMapperService/"
_MANAGER = "/v1beta1.DeviceManagerService/"
_AWAY = frozenset({Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.RESOURCE_EXHAUSTED, Status.CANCELLED})


# --- the edge, called ------------------------------------------------------------------------------------


class EdgeManager:
    """The edge's DeviceManagerService; errors are EdgeAway and EdgeRefused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._channel: Channel | None = None

    async def register(self, mapper: dmi.MapperInfo) -> dmi.MapperRegisterResponse:
        """Register and get every device of the mapper's protocol."""
        request = dmi.MapperRegisterRequest(withData=True, mapper=mapper)
        answer: dmi.MapperRegisterResponse = await self._call("MapperRegister", request, dmi.MapperRegisterResponse)
        return answer

    async def report(self, device: DeviceId, readings: Sequence[Reading]) -> None:
        request = dmi.ReportDeviceStatusRequest(
            deviceName=device.name,
            deviceNamespace=device.namespace,
            reportedDevice=dmi.DeviceStatus(twins=[twin_of(item) for item in readings]),
        )
        await self._call("ReportDeviceStatus", request, dmi.ReportDeviceStatusResponse)

    async def report_state(self, device: DeviceId, state: str) -> None:
        request = dmi.ReportDeviceStatesRequest(deviceName=device.name, deviceNamespace=device.namespace, state=state)
        await self._call("ReportDeviceStates", request, dmi.ReportDeviceStatesResponse)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    async def _call(self, method: str, request: Message, reply: type[Message]) -> Any:
        if self._channel is None:
            self._channel = Channel(path=str(self.path))
        stub: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, f"{_MANAGER}{method}", type(request), reply)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await stub(request)
        except GRPCError as error:
            text = error.message or Status(error.status).name
            raise (EdgeAway if error.status in _AWAY else EdgeRefused)(text) from error
        except TimeoutError:
            raise EdgeAway(f"no answer within {CALL_SECONDS:g} s") from None
        except (OSError, StreamTerminatedError, ProtocolError, asyncio.IncompleteReadError) as error:
            raise EdgeAway(str(error) or type(error).__name__) from error


def twin_of(item: Reading) -> dmi.Twin:
    """wire: a Go edge reads `observedDesired` without looking whether it is there."""
    metadata = {"type": item.type, "timestamp": str(item.millis)}
    return dmi.Twin(
        propertyName=item.name,
        observedDesired=dmi.TwinProperty(value=item.observed_desired, metadata=metadata),
        reported=dmi.TwinProperty(value=item.text, metadata=metadata),
    )


# --- the edge, answered ----------------------------------------------------------------------------------


class MapperService:
    """The seven calls."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        #: What the edge said of each device, for GetDevice.
        self._told: dict[DeviceId, dmi.Device] = {}

    def take(self, answer: dmi.MapperRegisterResponse) -> None:
        """Everything a registration brought; what cannot be used is in the log."""
        for model in answer.modelList:
            self._devices.put_model(model_of(model))
        for device in answer.deviceList:
            try:
                self._put(device)
            except NotTaken as error:
                log.error("%s", error)

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"{_MAPPER}RegisterDevice": self._handler(
                self._register, dmi.RegisterDeviceRequest, dmi.RegisterDeviceResponse
            ),
            f"{_MAPPER}UpdateDevice": self._handler(self._update, dmi.UpdateDeviceRequest, dmi.UpdateDeviceResponse),
            f"{_MAPPER}RemoveDevice": self._handler(self._remove, dmi.RemoveDeviceRequest, dmi.RemoveDeviceResponse),
            f"{_MAPPER}GetDevice": self._handler(self._get, dmi.GetDeviceRequest, dmi.GetDeviceResponse),
            f"{_MAPPER}CreateDeviceModel": self._handler(
                self._create_model, dmi.CreateDeviceModelRequest, dmi.CreateDeviceModelResponse
            ),
            f"{_MAPPER}UpdateDeviceModel": self._handler(
                self._update_model, dmi.UpdateDeviceModelRequest, dmi.UpdateDeviceModelResponse
            ),
            f"{_MAPPER}RemoveDeviceModel": self._handler(
                self._remove_model, dmi.RemoveDeviceModelRequest, dmi.RemoveDeviceModelResponse
            ),
        }

    def _handler(
        self, call: Callable[[Any], Awaitable[Message]], request: type[Message], reply: type[Message]
    ) -> Handler:
        async def serve(stream: Stream[Any, Any]) -> None:
            asked = await received(stream, request, limit=REQUEST_LIMIT, seconds=READ_SECONDS)
            try:
                await stream.send_message(await call(asked))
            except NotTaken as error:
                raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from error

        return Handler(serve, Cardinality.UNARY_UNARY, request, reply)

    async def _register(self, request: dmi.RegisterDeviceRequest) -> Message:
        self._put(_present(request, "device"))
        device = request.device
        return dmi.RegisterDeviceResponse(deviceName=device.name, deviceNamespace=device.namespace)

    async def _update(self, request: dmi.UpdateDeviceRequest) -> Message:
        self._put(_present(request, "device"))
        return dmi.UpdateDeviceResponse()

    async def _remove(self, request: dmi.RemoveDeviceRequest) -> Message:
        id = _id(request.deviceNamespace, request.deviceName)
        self._told.pop(id, None)
        await self._devices.remove(id)
        return dmi.RemoveDeviceResponse()

    async def _get(self, request: dmi.GetDeviceRequest) -> Message:
        id = _id(request.deviceNamespace, request.deviceName)
        if id not in self._told or id not in self._devices:
            raise GRPCError(Status.NOT_FOUND, f"device {id} is not here")
        answer = dmi.GetDeviceResponse(device=self._told[id])
        if (device := self._devices.get(id)) is not None:
            del answer.device.status.twins[:]
            answer.device.status.twins.extend(twin_of(item) for item in device.readings())
        return answer

    async def _create_model(self, request: dmi.CreateDeviceModelRequest) -> Message:
        model = self._put_model(request)
        return dmi.CreateDeviceModelResponse(deviceModelName=model.name, deviceModelNamespace=model.namespace)

    async def _update_model(self, request: dmi.UpdateDeviceModelRequest) -> Message:
        self._put_model(request)
        return dmi.UpdateDeviceModelResponse()

    async def _remove_model(self, request: dmi.RemoveDeviceModelRequest) -> Message:
        self._devices.remove_model(request.modelNamespace, request.modelName)
        return dmi.RemoveDeviceModelResponse()

    def _put_model(self, request: Any) -> dmi.DeviceModel:
        model: dmi.DeviceModel = _present(request, "model")
        if not model.name:
            raise NotTaken("the model has no name")
        self._devices.put_model(model_of(model))
        return model

    def _put(self, message: dmi.Device) -> None:
        try:
            device = device_of(message)
        except ValueError as error:
            raise NotTaken(f"device {message.name[:80]!r}: {error}") from error
        id = _id(message.namespace, message.name)
        try:
            self._devices.put(device)
        finally:
            if id in self._devices:
                self._told[id] = message


@asynccontextmanager
async def serving(path: Path, service: MapperService) -> AsyncIterator[None]:
    """Serve the edge at `path` until the block ends; raises OSError, and Fatal where another mapper serves there."""
    server = ClosingServer([service])
    path.parent.mkdir(parents=True, exist_ok=True)
    if await _is_served(path):
        raise Fatal(f"another mapper serves {path}; end that one, or give this one a --name or --socket of its own")
    path.unlink(missing_ok=True)  # noqa: ASYNC240 - a socket's name, not its bytes
    await server.start(path=str(path))
    path.chmod(0o660)  # noqa: ASYNC240
    try:
        yield
    finally:
        server.close()
        await server.wait_closed()
        path.unlink(missing_ok=True)  # noqa: ASYNC240


async def _is_served(path: Path) -> bool:
    """What a killed mapper left behind answers nobody."""
    try:
        _, writer = await asyncio.open_unix_connection(path)
    except OSError:
        return False
    writer.close()
    return True


def _present(request: Any, field: str) -> Any:
    if not request.HasField(field):
        raise NotTaken(f"the request has no {field}")
    return getattr(request, field)


def _id(namespace: str, name: str) -> DeviceId:
    return DeviceId(namespace or "default", name)
