"""Live enabling: an edited configuration file starts and stops exactly the modules it now says.

Used by cloudcore and edgecore beside their Hive. Only which modules run is taken from the new file; all other
keys hold until the next start. A file that cannot be read or names an unknown module changes nothing.

Go (2019): beehive/pkg/core/core.go, the listener of `modules.enabled`
"""

import asyncio
import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path

from edgehive.beehive.hive import Hive, ModuleFailed, UnknownModule

log = logging.getLogger("edgehive.beehive")

#: How often the file is looked at, in seconds; a change takes effect within two looks.
LOOK_SECONDS = 0.8


async def follow_file(hive: Hive, path: Path, enabled: Callable[[Path], Collection[str]]) -> None:
    """Run for ever; `enabled` reads the file and says which modules should run, or raises ValueError to refuse it."""
    seen = _stamp(path)
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        stamp = _stamp(path)
        if stamp == seen or stamp is None:
            continue
        seen = stamp
        try:
            names = enabled(path)
            log.info("%s changed; modules enabled: %s", path, ", ".join(names))
            await hive.set_enabled(names)
        except (ValueError, UnknownModule, ModuleFailed) as error:
            log.error("the change of %s is not followed: %s", path, error)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What tells one version of the file from another; None while there is none (an editor is replacing it)."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
