"""Mappers a site keeps running beside its node: each a process of its own, as its driver is somebody else's code.

Which they are stands in edgesite.yaml, which `edgesite mapper add` and `remove` change while the site runs. One that
ends is started again after a pause; all end with the site, also when that is killed. Devices are none of its affairs:
the mappers get them from the node over DMI.
"""

import asyncio
import contextlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path

from edgehive.edgesite.layout import Layout
from edgehive.kit.backoff import Backoff
from edgehive.kit.config import ConfigError
from edgehive.kit.tasks import cancel_and_join, spawn

log = logging.getLogger("edgehive.edgesite")

#: Seconds between two looks at edgesite.yaml, and those a mapper has to stop.
LOOK, STOP_SECONDS = 0.5, 5.0
AGAIN = Backoff(first=1.0, factor=2.0, limit=30.0, jitter=0.2)
#: Seconds after which one that ended had been well before.
WELL = 60.0


class Mappers:
    """One per site."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        #: By protocol: the driver and the task that keeps it running.
        self._kept: dict[str, tuple[str, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Keep those that are configured, until cancelled."""
        seen: tuple[int, int] | None = None
        try:
            # A file that another process writes tells nobody.
            while True:
                if (sight := self._sight()) != seen:
                    seen = sight
                    await self._settle()
                await asyncio.sleep(LOOK)
        finally:
            await cancel_and_join(*(task for _, task in self._kept.values()))

    def _sight(self) -> tuple[int, int] | None:
        try:
            found = self._layout.config.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    async def _settle(self) -> None:
        try:
            wanted: Mapping[str, str] = self._layout.read_config().mappers
        except (ConfigError, OSError) as error:
            log.error("mappers stay as they are: %s", error)
            return
        for protocol, (driver, task) in list(self._kept.items()):
            if wanted.get(protocol) != driver:
                await cancel_and_join(task)
                del self._kept[protocol]
        for protocol, driver in wanted.items():
            if protocol not in self._kept:
                self._kept[protocol] = driver, spawn(self._keep(protocol, driver), name=f"mapper {protocol}")

    async def _keep(self, protocol: str, driver: str) -> None:
        loop, attempt = asyncio.get_running_loop(), 0
        while True:
            began = loop.time()
            try:
                code: int | str = await _life(driver, self._layout.edge / "dmi.sock")
            except OSError as error:
                code = str(error)
            attempt = 0 if loop.time() - began > WELL else attempt + 1
            pause = AGAIN.delay(attempt)
            log.error("the mapper for %s ended (%s); it is started again in %.0f s", protocol, code, pause)
            await asyncio.sleep(pause)


async def _life(driver: str, socket: Path) -> int:
    """One process of a mapper; its exit code. What it says goes where the site's own words go."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgehive", "mapper", "run", driver, "--edge-socket", str(socket), "--end-with-parent",
        stdin=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
