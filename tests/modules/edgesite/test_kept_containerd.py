"""The site's own containerd is started again whenever it ends, also when the first attempts fail."""

import asyncio
from pathlib import Path

import pytest

from edgehive.edgesite.containerd import ContainerdUnavailable, PrivateContainerd
from edgehive.kit.tasks import cancel_and_join, spawn


class Mortal(PrivateContainerd):
    """A containerd that is only a number; every second start fails."""

    living: int | None = 1
    attempts = 0
    started: asyncio.Event

    @property
    def pid(self) -> int | None:
        return self.living

    def _lives(self, pid: int) -> bool:
        return pid == self.living

    async def start(self) -> None:
        self.attempts += 1
        if self.attempts % 2:
            raise ContainerdUnavailable("no space left")
        self.living = self.attempts
        self.started.set()


@pytest.mark.looptime
async def test_containerd_comes_back_each_time_it_ends(tmp_path: Path) -> None:
    containerd = Mortal(tmp_path)
    containerd.started = asyncio.Event()
    keeping = spawn(containerd.keep(), name="keep")
    await asyncio.sleep(30)
    assert containerd.attempts == 0
    for attempts in (2, 4):
        containerd.living = None
        containerd.started.clear()
        await containerd.started.wait()
        assert containerd.attempts == attempts
        await asyncio.sleep(30)
    assert containerd.attempts == 4
    await cancel_and_join(keeping)
