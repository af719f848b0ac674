"""DeviceManagerService: where mappers register and report, gRPC on `<dmiSockPath>/dmi.sock`.

Who may connect is the socket's mode and a check of the peer's user. Requests are judged one by one, bounded in size,
time and number; a bad one gets a code and a sentence and never hurts the process. What is reported is handed to
devicetwin, which has stored it when the mapper gets its answer.

Go: edge/pkg/devicetwin/dmiserver/server.go
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from google.protobuf.message import Message
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from edgehive.edgecore.devicetwin.observation import SET_BY, SET_BY_EDGE, Observation
from edgehive.edgecore.devicetwin.rows import MapperRow
from edgehive.kit.grpc_requests import received
from edgehive.kit.grpc_server import ClosingServer
from edgehive.protos import dmi_pb2 as dmi

log = logging.getLogger("edgehive.devicetwin.dmi")

SOCKET_NAME = "dmi.sock"
#: A request's bytes at most (Go's own limit for a message).
REQUEST_LIMIT = 4 * 1024 * 1024
#: Seconds a mapper has to send a request, and devicetwin to store what it says.
READ_SECONDS, STORE_SECONDS = 10.0, 30.0
#: Values a mapper may report a second on average and at once: 1,000 devices of 10 properties, and half as much again.
RATE, BURST = 15_000, 30_000
#: Values in one request.
VALUES_LIMIT = 1000

_SERVICE = "/v1beta1.DeviceManagerService/"
_CREDENTIALS = struct.Struct("3i")


class Behind(Protocol):
    """What the service stands before."""

    async def register(self, row: MapperRow, with_data: bool) -> dmi.MapperRegisterResponse: ...

    async def report(self, device: str, observations: Sequence[Observation]) -> None: ...

    async def report_state(self, device: str, state: str) -> None: ...


class _Allowance:
    """One connection: whether its peer may speak, and how much more."""

    def __init__(self, refusal: str, now: float) -> None:
        self.refusal = refusal
        self._tokens = float(BURST)
        self._counted = now

    def take(self, count: int, now: float) -> bool:
        self._tokens = min(BURST, self._tokens + (now - self._counted) * RATE)
        self._counted = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True


class ManagerService:
    """The three calls."""

    def __init__(self, behind: Behind) -> None:
        self._behind = behind
        self._allowances: WeakKeyDictionary[Any, _Allowance] = WeakKeyDictionary()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"{_SERVICE}MapperRegister": self._handler(
                self._register, dmi.MapperRegisterRequest, dmi.MapperRegisterResponse
            ),
            f"{_SERVICE}ReportDeviceStatus": self._handler(
                self._report, dmi.ReportDeviceStatusRequest, dmi.ReportDeviceStatusResponse
            ),
            f"{_SERVICE}ReportDeviceStates": self._handler(
                self._report_state, dmi.ReportDeviceStatesRequest, dmi.ReportDeviceStatesResponse
            ),
        }

    def _handler(
        self, call: Callable[[Any, _Allowance], Awaitable[Message]], request: type[Message], reply: type[Message]
    ) -> Handler:
        async def serve(stream: Stream[Any, Any]) -> None:
            allowance = self._allowance(stream)
            if allowance.refusal:
                raise GRPCError(Status.PERMISSION_DENIED, allowance.refusal)
            await stream.send_message(
                await call(await received(stream, request, limit=REQUEST_LIMIT, seconds=READ_SECONDS), allowance)
            )

        return Handler(serve, Cardinality.UNARY_UNARY, request, reply)

    def _allowance(self, stream: Stream[Any, Any]) -> _Allowance:
        connection = stream._stream.connection
        allowance = self._allowances.get(connection)
        if allowance is None:
            door = connection._transport.get_extra_info("socket")
            now = asyncio.get_running_loop().time()
            allowance = self._allowances[connection] = _Allowance(_refusal_of(door), now)
        return allowance

    async def _register(self, request: dmi.MapperRegisterRequest, allowance: _Allowance) -> Message:
        _spend(allowance, 100)
        mapper = request.mapper
        fault = "the request has no mapper" if not request.HasField("mapper") else _fault_of(mapper)
        if fault:
            raise GRPCError(Status.INVALID_ARGUMENT, f"this mapper is not registered: {fault}")
        row = MapperRow(mapper.name, mapper.version, mapper.api_version, mapper.protocol, mapper.address, mapper.state)
        return await self._behind.register(row, request.withData)

    async def _report(self, request: dmi.ReportDeviceStatusRequest, allowance: _Allowance) -> Message:
        twins = request.reportedDevice.twins
        _spend(allowance, max(1, len(twins)))
        if not twins:
            # wire: code and text are those mappers get from a Go edge; tests/modules/devicetwin/test_dmi.py
            raise GRPCError(Status.UNKNOWN, "ReportDeviceStatusRequest does not have twin data")
        if len(twins) > VALUES_LIMIT:
            raise GRPCError(
                Status.INVALID_ARGUMENT, f"{len(twins)} values in one report; send at most {VALUES_LIMIT} at a time"
            )
        device = _device_id(request.deviceNamespace, request.deviceName)
        await self._behind.report(device, [_observation(twin) for twin in twins])
        return dmi.ReportDeviceStatusResponse()

    async def _report_state(self, request: dmi.ReportDeviceStatesRequest, allowance: _Allowance) -> Message:
        _spend(allowance, 1)
        if not request.state or not request.deviceName:
            raise GRPCError(Status.INVALID_ARGUMENT, "a report of a state needs deviceName and state")
        await self._behind.report_state(_device_id(request.deviceNamespace, request.deviceName), request.state)
        return dmi.ReportDeviceStatesResponse()


@asynccontextmanager
async def serving(folder: str, behind: Behind) -> AsyncIterator[Path | None]:
    """Serve mappers until the block ends; None and an error in the log where no socket can be made."""
    path = socket_path(folder)
    server = ClosingServer([ManagerService(behind)])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        await server.start(path=str(path))
        path.chmod(0o660)
    except OSError as error:
        log.error(
            "mappers cannot register: no socket at %s: %s; set modules.deviceTwin.dmiSockPath to a folder edgecore "
            "may write, of at most 90 characters", path, error.strerror or error,
        )  # fmt: skip
        yield None
        return
    log.info("mappers register at %s", path)
    try:
        yield path
    finally:
        server.close()
        await server.wait_closed()
        path.unlink(missing_ok=True)


def socket_path(folder: str) -> Path:
    """wire: an older configuration names the socket itself; its folder counts."""
    path = Path(folder or "/etc/kubeedge")
    return (path.parent if path.suffix == ".sock" else path) / SOCKET_NAME


def _spend(allowance: _Allowance, count: int) -> None:
    if not allowance.take(count, asyncio.get_running_loop().time()):
        raise GRPCError(
            Status.RESOURCE_EXHAUSTED, f"more than {RATE} values a second; report less often or only changes"
        )


def _refusal_of(door: socket.socket) -> str:
    """Why the process at the other end may not speak: it is neither root, nor this user, nor in this group."""
    _, user, group = _CREDENTIALS.unpack(door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user in (0, os.geteuid()) or group == os.getegid():
        return ""
    return f"user {user} of group {group} may not be a mapper here; run it as user {os.geteuid()} or root"


def _fault_of(mapper: dmi.MapperInfo) -> str:
    """Why a mapper cannot be registered; "" when it can."""
    if not mapper.name or len(mapper.name) > 200 or "/" in mapper.name:
        return "its name is empty, longer than 200 characters or holds a slash"
    if not mapper.protocol or len(mapper.protocol) > 200:
        return "it names no protocol"
    try:
        address = mapper.address.decode()
    except UnicodeDecodeError:
        return "its address is no text"
    if not address.removeprefix("unix://").startswith("/") or "\0" in address or len(address.encode()) > 107 + 7:
        return f"its address {address[:120]!r} is no absolute path of a socket of at most 107 bytes"
    return ""


def _device_id(namespace: str, name: str) -> str:
    return f"{namespace or 'default'}/{name}"


def _observation(twin: dmi.Twin) -> Observation:
    desired = twin.observedDesired if twin.HasField("observedDesired") else None
    reported = twin.reported if twin.HasField("reported") else None
    type = (reported.metadata.get("type", "") if reported is not None else "") or (
        desired.metadata.get("type", "") if desired is not None else ""
    )
    return Observation(
        twin.propertyName,
        desired.value if desired is not None else None,
        reported.value if reported is not None else None,
        type,
        desired is not None and desired.metadata.get(SET_BY) == SET_BY_EDGE,
    )
