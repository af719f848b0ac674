"""Lets the tests share `devices_view_rig` and gives them a cluster and a screen."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from devices_view_rig import MODEL, Screen, Site

from edgehive.api.registry import DEVICE_MODELS, NAMESPACES
from edgehive.testing.cluster import Cluster
from edgehive.testing.virtual_time import LoopClock


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with Cluster(clock=LoopClock()) as cluster:
        client = cluster.client()
        await client.create(NAMESPACES, {"metadata": {"name": "other"}})
        await client.create(DEVICE_MODELS, MODEL, "default")
        await client.create(DEVICE_MODELS, MODEL, "other")
        yield Site(client)


@pytest.fixture
def screen() -> Screen:
    return Screen()
