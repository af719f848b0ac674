"""edgecore of a site alone, with no cloud to reach and the calendar thirty days on: what a reboot offline meets."""

import asyncio
import sys
from datetime import datetime, timedelta
from pathlib import Path

from edgehive.cloudcore.app import own_address
from edgehive.edgecore.app import run_edgecore
from edgehive.edgesite import halves
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.edgesite.layout import Layout
from edgehive.kit.clock import SystemClock
from edgehive.wire.link import Link, LinkClosed


class LaterClock:
    """The machine's clock, thirty days ahead: every token of the site has expired."""

    def now(self) -> datetime:
        return SystemClock().now() + timedelta(days=30)


async def no_cloud() -> Link:
    raise LinkClosed("the cloud is away")


def main() -> None:
    layout = Layout(Path(sys.argv[1]))
    endpoint = PrivateContainerd(layout.containerd).endpoint
    config = halves.edge(layout.read_config(), layout, own_address(), endpoint)
    asyncio.run(run_edgecore(config, dial=no_cloud, clock=LaterClock()))


if __name__ == "__main__":
    main()
