"""Several worker processes on one machine: each a cloudcore of its own among the replicas, all at the same ports.

The parent starts them, starts a dead one again, passes signals on, and answers for all of them at the one port for
health and metrics. It serves no node itself. The kernel deals out connections (SO_REUSEPORT), so for edges and for the
API server there is one cloudcore. A worker ends when its parent does.
"""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from edgehive.api.config.cloudcore import CloudCore
from edgehive.beehive.hive import STOP_SIGNALS
from edgehive.cloudcore.worker_monitor import WorkerMonitor
from edgehive.kit.backoff import Backoff
from edgehive.kit.door import demand_free
from edgehive.kit.fatal import Fatal
from edgehive.kit.tasks import cancel_and_join, spawn

log = logging.getLogger("edgehive.cloudcore")

#: How long workers may take to stop before they are killed; their modules have 10 s each at most.
STOP_SECONDS = 30.0
RESTART = Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.3)
#: Times in a row that a worker may end without having become ready.
FAILURES = 5
#: A worker says this and its monitor's port on standard output, and nothing else.
ANNOUNCEMENT = "monitor"


class WorkersFailed(Fatal):
    """They cannot run; the text says which and what to look at."""


# A worker's side


def announce(port: int) -> None:
    """Tell the parent where this worker's health is asked."""
    sys.stdout.write(f"{ANNOUNCEMENT} {port}\n")
    sys.stdout.flush()


# The parent's side


class Workers:
    """`command` starts worker number N when N is put behind it."""

    def __init__(self, config: CloudCore, command: Sequence[str]) -> None:
        self._config = config
        self._command = tuple(command)
        self._count = config.common_config.workers
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._monitor = WorkerMonitor(self._count)
        self._all_ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> None:
        """Until a stop signal; raises WorkersFailed, or PortInUse before any worker is started."""
        for host, port in shared_ports(self._config):
            demand_free(host, port)
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as stack:
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, self._on_signal, number)
                stack.callback(loop.remove_signal_handler, number)
            await stack.enter_async_context(self._monitor.serving(self._config))
            supervisors = [spawn(self._supervise(number), name=f"worker {number}") for number in range(self._count)]
            stopping = spawn(self._stop.wait(), name="stop signal")
            try:
                await asyncio.wait([*supervisors, stopping], return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._stop.set()
                await self._end_all()
                await cancel_and_join(stopping)
                await asyncio.wait(supervisors)
            for supervisor in supervisors:
                supervisor.result()

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            for process in self._processes.values():
                process.kill()
        log.info("%s received, stopping", signal.Signals(number).name)
        self._signal = number
        self._stop.set()

    async def _supervise(self, number: int) -> None:
        failures = 0
        while not self._stop.is_set():
            was_ready, code = await self._life(number)
            if self._stop.is_set():
                return
            failures = 0 if was_ready else failures + 1
            said = f"worker {number} of cloudcore ended with {_spoken(code)}"
            if failures and (not self._monitor.ever_ready or failures >= FAILURES):
                raise WorkersFailed(f"{said} before it was ready; its last words are above")
            delay = RESTART.delay(failures)
            log.error("%s; it is started again in %.1f s", said, delay)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stop.wait()

    async def _life(self, number: int) -> tuple[bool, int]:
        """One life of a worker: whether it became ready, and how it ended."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            str(number),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._processes[number] = process
        watching = spawn(self._monitor.follow(number, process.stdout), name=f"worker {number} ready")
        try:
            code = await process.wait()
        finally:
            self._processes.pop(number, None)
            was_ready = self._monitor.is_ready(number)
            await cancel_and_join(watching)
            self._monitor.forget(number)
        return was_ready, code

    async def _end_all(self) -> None:
        for process in list(self._processes.values()):
            process.send_signal(self._signal)
        if await _until(lambda: not self._processes, STOP_SECONDS):
            return
        log.error("workers %s do not stop: killed", ", ".join(map(str, self._processes)))
        for process in list(self._processes.values()):
            process.kill()
        await _until(lambda: not self._processes, STOP_SECONDS)


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


def _spoken(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def shared_ports(config: CloudCore) -> list[tuple[str, int]]:
    """Where all workers listen."""
    hub, stream = config.modules.cloud_hub, config.modules.cloud_stream
    listening = [
        (hub.enable and hub.websocket.enable, hub.websocket.address, hub.websocket.port),
        (hub.enable and hub.https.enable, hub.https.address, hub.https.port),
        (stream.enable, stream.address, stream.tunnel_port),
        (stream.enable, stream.address, stream.stream_port),
    ]
    return [(host, port) for on, host, port in listening if on and port]


def command(config_file: Path, log_level: str) -> tuple[str, ...]:
    """How a worker is started, up to its number."""
    module = "edgehive.cloudcore.app"
    return (sys.executable, "-m", module, "--config", str(config_file), "--log-level", log_level, "--worker")
