"""What checks work with: an edge, the mapper that registered at it, and devices made after the one that was given."""

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from google.protobuf.message import Message
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from edgehive.api.devices import PropertyType
from edgehive.kit.clock import Clock, SystemClock
from edgehive.mapper.conformance.edge import CALLS, Caller, Edge, Report, wrapped
from edgehive.mapper.definition import Definition, Property
from edgehive.protos import dmi_pb2 as dmi

#: Seconds within which what should come comes, and for which what should not come is waited for.
PATIENCE, QUIET = 10.0, 0.7
MODEL, STEADY = "conformance-model", "conformance-steady"


class Broken(Exception):
    """The mapper did not do what it should; the text says what it did."""


class NotTried(Exception):
    """The check cannot be made with what was given."""


class Command:
    """A mapper as a process that may be ended and started again."""

    def __init__(self, line: str) -> None:
        self._words = shlex.split(line)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(*self._words, stdin=quiet, stdout=quiet, stderr=quiet)

    async def exit_code(self, patience: float) -> int | None:
        """How it ended, or ends within a moment, although nobody ended it; None while it runs."""
        if self._process is None:
            return None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                return await self._process.wait()
        return self._process.returncode

    async def end(self, *, kill: bool = False) -> int:
        """Its exit status; a mapper that does not end within ten seconds is killed, which gives -9."""
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            (process.kill if kill else process.terminate)()
        try:
            async with asyncio.timeout(10):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()


class Bench:
    """One run of the kit."""

    def __init__(
        self, socket: Path, definition: Definition, command: Command | None = None, clock: Clock | None = None
    ) -> None:
        self.edge = Edge(socket)
        self.definition = definition
        self.clock = clock or SystemClock()
        self._command = command
        self._caller: Caller | None = None
        self._door = AsyncExitStack()
        self._count = 0
        self._was_cut_off = False
        self._added: dict[tuple[str, str], dmi.Device] = {}

    @asynccontextmanager
    async def open(self, seconds: float) -> AsyncIterator[None]:
        """Serve, start the mapper if it is ours, and wait for its registration; raises Broken."""
        self.edge.models, self.edge.devices = [self.model()], [self.device(STEADY)]
        try:
            await self.open_edge()
            if self._command is not None:
                await self._command.start()
            if not await self.edge.until(lambda: self.edge.registrations, seconds):
                raise Broken(f"no mapper registered at {self.edge.path} within {seconds:g} s")
            yield
        finally:
            self.hang_up()
            if self._command is not None:
                await self._command.end()
            await self.close_edge()

    async def revive(self) -> str:
        """Start a mapper of ours that has ended by itself; what happened, "" for nothing. Raises Broken."""
        # One that broke a call off is about to end.
        patience, self._was_cut_off = (2.0 if self._was_cut_off else 0.0), False
        if self._command is None or (code := await self._command.exit_code(patience)) is None:
            return ""
        self.hang_up()
        before = len(self.edge.registrations)
        await self._command.start()
        if not await self.edge.until(lambda: len(self.edge.registrations) > before, 2 * PATIENCE):
            raise Broken(f"the mapper ended (exit code {code}) and does not register when it is started again")
        await self.answering()
        return f"the mapper ended (exit code {code}) and was started again"

    @property
    def command(self) -> Command:
        if self._command is None:
            raise NotTried("needs --command, to end and start the mapper")
        return self._command

    @property
    def info(self) -> dmi.MapperInfo:
        """What the mapper said of itself last."""
        return self.edge.registrations[-1][1].mapper

    async def open_edge(self) -> None:
        await self._door.enter_async_context(self.edge.serving())

    async def close_edge(self) -> None:
        await self._door.aclose()

    # Objects

    def model(self, name: str = MODEL, **changes: dict[str, Any]) -> dmi.DeviceModel:
        """Like the given one; `changes` by property."""
        found = []
        for item in self.definition.properties.values():
            visitor = item.visitor
            one = dmi.ModelProperty(
                name=visitor.property,
                type=visitor.type.value,
                accessMode="ReadWrite" if visitor.writable else "ReadOnly",
                unit=visitor.unit,
                minimum="" if visitor.minimum is None else f"{visitor.minimum:g}",
                maximum="" if visitor.maximum is None else f"{visitor.maximum:g}",
            )
            for field, value in changes.get(visitor.property, {}).items():
                setattr(one, field, value)
            found.append(one)
        return dmi.DeviceModel(name=name, namespace="default", spec=dmi.DeviceModelSpec(properties=found))

    def device(
        self,
        name: str = "",
        *,
        namespace: str = "default",
        cycle: int = 100,
        told: bool = True,
        desired: Mapping[str, str] | None = None,
        leave_out: str = "",
        model: str = MODEL,
        state_cycle: int = 0,
    ) -> dmi.Device:
        """Like the given one; `told`: its properties are reported, `state_cycle`: its state is."""
        self._count += 1
        config = {key: wrapped(value) for key, value in self.definition.config.items()}
        protocol = dmi.ProtocolConfig(
            protocolName=self.definition.protocol, configData=dmi.CustomizedValue(data=config)
        )
        properties = [
            self._property(item, cycle, told, (desired or {}).get(item.name, ""))
            for item in self.definition.properties.values()
            if item.name != leave_out
        ]
        return dmi.Device(
            name=name or f"conformance-{self._count}",
            namespace=namespace,
            spec=dmi.DeviceSpec(deviceModelReference=model, protocol=protocol, properties=properties),
            status=dmi.DeviceStatus(reportToCloud=state_cycle > 0, reportCycle=state_cycle),
        )

    def _property(self, item: Property, cycle: int, told: bool, desired: str) -> dmi.DeviceProperty:
        config = {key: wrapped(value) for key, value in item.visitor.config.items()}
        visitors = dmi.VisitorConfig(protocolName=self.definition.protocol, configData=dmi.CustomizedValue(data=config))
        return dmi.DeviceProperty(
            name=item.name,
            visitors=visitors,
            desired=dmi.TwinProperty(value=desired),
            collectCycle=cycle,
            reportCycle=cycle,
            reportToCloud=told,
        )

    def any_property(self) -> Property:
        return next(iter(self.definition.properties.values()))

    def writable(self) -> tuple[Property, str, str]:
        """A property that can be set, and two values it may have."""
        for item in self.definition.properties.values():
            if item.visitor.writable and (pair := _pair(item)):
                return item, *pair
        raise NotTried("the device has no ReadWrite property of a type that can be tried")

    def writable_number(self) -> tuple[Property, str, str]:
        for item in self.definition.properties.values():
            if item.visitor.writable and item.visitor.type in ("INT", "FLOAT", "DOUBLE") and (pair := _pair(item)):
                return item, *pair
        raise NotTried("the device has no ReadWrite property that is a number")

    # Calls of the mapper

    async def call(self, method: str, request: Message) -> Any:
        """The answer; GRPCError when the mapper says no, Broken when it says nothing."""
        return await self.send(method, request, *CALLS[method])

    async def send(self, method: str, request: Message, asked: type[Message], reply: type[Message]) -> Any:
        if self._caller is None:
            self._caller = Caller(self.info.address)
        try:
            return await self._caller.send(method, request, asked, reply)
        except (OSError, TimeoutError, StreamTerminatedError, ProtocolError) as error:
            self.hang_up()
            self._was_cut_off = True
            raise Broken(f"{method} got no answer: {error or type(error).__name__}") from error

    async def refused(self, method: str, request: Message) -> str:
        """The words with which the mapper says no; raises Broken when it agrees."""
        try:
            await self.call(method, request)
        except GRPCError as error:
            return error.message or ""
        raise Broken(f"{method} was answered as if all were well")

    async def either(self, method: str, request: Message) -> bool:
        """Whether the mapper agreed; yes and no are both right, silence is not."""
        with contextlib.suppress(GRPCError):
            await self.call(method, request)
            return True
        return False

    async def add(self, device: dmi.Device) -> dmi.RegisterDeviceResponse:
        self._added[device.namespace, device.name] = device
        answer: dmi.RegisterDeviceResponse = await self.call("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
        return answer

    async def update(self, device: dmi.Device) -> None:
        await self.call("UpdateDevice", dmi.UpdateDeviceRequest(device=device))

    async def remove(self, device: dmi.Device) -> None:
        # Once: Go's mappers end at the second time.
        self._added.pop((device.namespace, device.name), None)
        await self.call(
            "RemoveDevice", dmi.RemoveDeviceRequest(deviceName=device.name, deviceNamespace=device.namespace)
        )

    async def touch(self) -> None:
        """A call that changes nothing, to see whether the mapper answers."""
        await self.call("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=self.model()))

    async def answering(self) -> None:
        """Until it answers: Go's mappers serve their socket a moment after they registered. Raises Broken."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while True:
            try:
                await self.touch()
                return
            except GRPCError:
                return  # no is an answer
            except Broken:
                if loop.time() > end:
                    raise
            await asyncio.sleep(0.05)

    async def get(self, device: dmi.Device) -> dmi.Device:
        answer = await self.call(
            "GetDevice", dmi.GetDeviceRequest(deviceName=device.name, deviceNamespace=device.namespace)
        )
        found: dmi.Device = answer.device
        return found

    async def alive(self) -> None:
        """The mapper answers and takes a new device still."""
        device = self.device()
        await self.add(device)
        await self.first_report(device)

    async def clear(self) -> None:
        """Take back what the last check added, and its faults."""
        self.edge.slow, self.edge.refuse_reports, self.edge.refuse_registrations = 0.0, None, None
        for device in list(self._added.values()):
            with contextlib.suppress(GRPCError, Broken):
                await self.remove(device)
        self._added.clear()

    def hang_up(self) -> None:
        """Call on a new connection from now on."""
        caller, self._caller = self._caller, None
        if caller is not None:
            caller.close()

    # What the mapper told

    def reports(self, device: dmi.Device, property: str = "", since: int = 0) -> list[Report]:
        return [
            item
            for item in self.edge.reports[since:]
            if (item.device, item.namespace) == (device.name, device.namespace or "default")
            and property in ("", item.twin.propertyName)
        ]

    def mark(self) -> int:
        """Now, for `since`."""
        return len(self.edge.reports)

    async def first_report(self, device: dmi.Device, property: str = "", since: int = 0) -> Report:
        found = await self.report_where(device, lambda _: True, "any report", property, since)
        return found

    async def report_where(
        self, device: dmi.Device, fits: Callable[[Report], bool], what: str, property: str = "", since: int = 0
    ) -> Report:
        def found() -> list[Report]:
            return [item for item in self.reports(device, property, since) if fits(item)]

        if not await self.edge.until(found, PATIENCE):
            last = [item.value for item in self.reports(device, property)][-1:]
            told = f"; the last was {last[0]!r}" if last else "; nothing was reported"
            raise Broken(f"no report of {device.name} with {what} within {PATIENCE:g} s{told}")
        return found()[0]

    async def silence(self, device: dmi.Device, property: str = "", *, grace: float = 0.3) -> None:
        """No report after a moment for those on their way."""
        await asyncio.sleep(grace)
        since = self.mark()
        await asyncio.sleep(QUIET)
        if late := self.reports(device, property, since):
            raise Broken(f"{len(late)} reports of {late[0].twin.propertyName} came, where none should")


def _pair(item: Property) -> tuple[str, str] | None:
    visitor = item.visitor
    if visitor.type is PropertyType.BOOLEAN:
        return "true", "false"
    if visitor.type is PropertyType.STRING:
        return "on", "off"
    if visitor.type not in ("INT", "FLOAT", "DOUBLE"):
        return None
    low = visitor.minimum if visitor.minimum is not None else min(1.0, visitor.maximum or 1.0)
    high = visitor.maximum if visitor.maximum is not None else low + 1
    return f"{round(low) if visitor.type == 'INT' else low:g}", f"{round(high) if visitor.type == 'INT' else high:g}"
