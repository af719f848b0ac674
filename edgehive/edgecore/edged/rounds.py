"""The rounds of whatever looks around on the node from time to time. One failed round is never the last."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from edgehive.edgecore.edged.rpc import RuntimeRefused
from edgehive.edgecore.edged.volumes.local import VolumeError

log = logging.getLogger("edgehive.edged")


async def every(seconds: float, work: Callable[[], Awaitable[None]], what: str) -> None:
    """Work after each pause, for ever; trouble is told when it is new, that of a runtime that is away by pleg."""
    said = ""
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
            said = ""
        except (RuntimeRefused, VolumeError, OSError) as error:
            away = isinstance(error, RuntimeRefused) and error.transient
            log.log(logging.DEBUG if away or str(error) == said else logging.INFO, "%s: %s", what, error)
            said = str(error)
