"""A mapper as a process: it serves its socket, registers at the edge, and keeps its devices until it is stopped.

The registration is repeated until it works, and again whenever the edge made its socket anew, which is how a restart
of edgecore shows; the devices go on meanwhile and tell everything afterwards.

Go: staging/src/github.com/kubeedge/mapper-framework/_template/mapper/cmd/main.go
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from edgehive import __version__
from edgehive.kit import log as logs
from edgehive.kit import parent
from edgehive.kit.backoff import Backoff
from edgehive.kit.clock import Clock, SystemClock
from edgehive.kit.fatal import Fatal
from edgehive.mapper.devices import Devices
from edgehive.mapper.dmi import EdgeManager, MapperService, serving
from edgehive.mapper.driver import Driver
from edgehive.mapper.http_door import HttpDoor
from edgehive.mapper.inspection import NotADriver, require_driver
from edgehive.mapper.polling import DEADLINE
from edgehive.mapper.report import EdgeAway, EdgeRefused
from edgehive.protos import dmi_pb2 as dmi

if TYPE_CHECKING:
    from edgehive.mapper.http_api import HttpApi

log = logging.getLogger("edgehive.mapper")

#: Where edgecore has its socket unless it is configured otherwise.
EDGE_SOCKET = Path("/etc/kubeedge/dmi.sock")
PATIENT = Backoff(first=0.5, factor=2.0, limit=10.0, jitter=0.3)
#: Seconds between two looks at the edge's socket.
LOOK = 0.5
#: The longest path a socket can have.
PATH_LIMIT = 107


class Mapper:
    """One driver's; `run` works until cancelled."""

    def __init__(
        self,
        make: Callable[[], Driver],
        *,
        protocol: str,
        edge_socket: Path = EDGE_SOCKET,
        socket: Path | None = None,
        name: str = "",
        http: HttpDoor | None = None,
        clock: Clock | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.name = name or f"{protocol}-mapper"
        self.protocol = protocol
        self.socket = (socket or edge_socket.parent / f"{self.name}.sock").absolute()
        if len(str(self.socket).encode()) > PATH_LIMIT:
            raise ValueError(f"the path {self.socket} is longer than {PATH_LIMIT} bytes; name a shorter --socket")
        self._edge = EdgeManager(edge_socket.absolute())
        clock = clock or SystemClock()
        self.devices = Devices(make, protocol, self._edge, clock, deadline=deadline)
        self._service = MapperService(self.devices)
        self.http: HttpApi | None = None
        if http is not None:
            # A mapper without that door needs no HTTP server.
            from edgehive.mapper import http_api

            self.http = http_api.HttpApi(self.devices, clock, http, patience=2 * deadline)

    async def run(self) -> None:
        """Raises OSError where the socket cannot be made, and Fatal where it or the port of HTTP is another's."""
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(serving(self.socket, self._service))
                log.info("mapper %s for %s serves %s", self.name, self.protocol, self.socket)
                if self.http is not None:
                    await stack.enter_async_context(self.http.serving())
                await self._stay_registered()
        finally:
            await self.devices.close()
            self._edge.close()

    async def _stay_registered(self) -> None:
        while True:
            seen = await self._register()
            # A socket of another process tells nobody that it is made anew.
            while self._sight() == seen:  # noqa: ASYNC110
                await asyncio.sleep(LOOK)
            log.info("the edge's socket changed; registering again")
            self._edge.close()

    async def _register(self) -> tuple[int, int] | None:
        """Try until it works; the sight of the socket it worked with."""
        said = ""
        for pause in PATIENT.delays():
            seen = self._sight()
            try:
                if seen is None:
                    raise EdgeAway(f"there is no {self._edge.path}")
                answer = await self._edge.register(self._info())
            except (EdgeAway, EdgeRefused) as error:
                self._edge.close()
                if str(error) != said:
                    log.warning("no registration yet: %s; trying on", error)
                    said = str(error)
                await asyncio.sleep(min(pause, LOOK) if seen is None else pause)
                continue
            log.info("registered; the edge has %d devices for us", len(answer.deviceList))
            self._service.take(answer)
            self.devices.tell_everything()
            return seen
        raise AssertionError("back-off ended")

    def _info(self) -> dmi.MapperInfo:
        return dmi.MapperInfo(
            name=self.name,
            version=__version__,
            api_version="v1beta1",
            protocol=self.protocol,
            address=str(self.socket).encode(),
            state="ok",
        )

    def _sight(self) -> tuple[int, int] | None:
        """A socket made anew looks different, also where the number of its inode is used again."""
        try:
            found = self._edge.path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns


async def serve(mapper: Mapper, *, end_with_parent: bool = False) -> None:
    """Run a mapper until SIGTERM or SIGINT (or the end of standard input), then stop it cleanly."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if end_with_parent:
        parent.end_with_parent()
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(mapper.run(), name=mapper.name)
        await stop.wait()
        log.info("mapper %s stops", mapper.name)
        working.cancel()


def run_driver(driver: type[Driver], *, edge_socket: str | Path, socket: str | Path, name: str, http: str) -> None:
    """`edgehive.mapper.run`; what is wrong is one line on stderr and exit code 1."""
    try:
        require_driver(driver)
        logs.setup()
        mapper = Mapper(
            driver,
            protocol=driver.protocol,
            edge_socket=Path(edge_socket) if edge_socket else EDGE_SOCKET,
            socket=Path(socket) if socket else None,
            name=name,
            http=HttpDoor.parse(http) if http else None,
        )
        asyncio.run(serve(mapper))
    except* (OSError, ValueError, NotADriver, Fatal) as group:
        sys.exit("; ".join(str(error) for error in group.exceptions))
