"""Fixtures for MetaServer's tests."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from metaserver_rig import Site, running_site


@pytest.fixture
def start(tmp_path: Path) -> Callable[[], AbstractAsyncContextManager[Site]]:
    """One life after the other of the node's agent."""
    return lambda: running_site(tmp_path / "edgecore.db")


@pytest.fixture
async def site(start: Callable[[], AbstractAsyncContextManager[Site]]) -> AsyncIterator[Site]:
    async with start() as running:
        yield running
