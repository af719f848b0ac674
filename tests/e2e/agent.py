"""edgecore as a process of its own that reaches no cloud, on a calendar some days ahead: `agent.py CONFIG DAYS`."""

import asyncio
import sys
from datetime import datetime, timedelta
from pathlib import Path

from edgehive.api.config.edgecore import EdgeCore
from edgehive.edgecore.app import run_edgecore
from edgehive.kit import config, log
from edgehive.kit.clock import SystemClock
from edgehive.wire.link import Link, LinkClosed


class LaterClock:
    """The machine's clock, days ahead."""

    def __init__(self, days: int) -> None:
        self._ahead = timedelta(days=days)

    def now(self) -> datetime:
        return SystemClock().now() + self._ahead


async def no_cloud() -> Link:
    raise LinkClosed("the cloud is away")


if __name__ == "__main__":
    log.setup("info")
    settings = config.load(Path(sys.argv[1]), EdgeCore)
    asyncio.run(run_edgecore(settings, dial=no_cloud, clock=LaterClock(int(sys.argv[2]))))
