"""Real containers for tests: one private containerd for the session, on its own bridge and subnet."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgehive.edgecore.edged.containerd import Containerd
from edgehive.edgecore.edged.cri import CriClient, RuntimeRefused
from edgehive.edgesite.containerd import PrivateContainerd
from edgehive.edgesite.images import busybox_image, hello_image, import_image, pause_image
from edgehive.kit.clock import SystemClock
from edgehive.testing.cluster import Cluster

#: `whole_site`, `pod_site` and `agent` are imported by the tests beside them.
sys.path.insert(0, str(Path(__file__).parent))

from pod_site import Site


@pytest.fixture(scope="session")
def containerd() -> Iterator[PrivateContainerd]:
    """Running, with the images localhost/pause:1, localhost/busybox:1 and localhost/edgehive-hello:1."""
    # A short path: a unix socket's name has at most 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="ehive-", dir="/tmp"))
    pid = os.getpid()
    # Test runs side by side must not share addresses.
    private = PrivateContainerd(root, bridge=f"eh{pid % 10**8}", subnet=f"10.{224 + pid // 256 % 24}.{pid % 256}.0/24")
    try:
        asyncio.run(_start(private))
        yield private
    finally:
        asyncio.run(private.stop(purge=True))
        shutil.rmtree(root, ignore_errors=True)


async def _start(private: PrivateContainerd) -> None:
    await private.start()
    async with Containerd(private.endpoint) as client:
        for image in (pause_image(), busybox_image(), hello_image()):
            await import_image(client, image)


@pytest.fixture
async def cri(containerd: PrivateContainerd) -> AsyncIterator[CriClient]:
    """A client on the session's containerd; pods the test leaves behind are removed."""
    async with CriClient(containerd.endpoint) as client:
        yield client
        for sandbox in await client.list_pod_sandboxes():
            await client.stop_pod_sandbox(sandbox.id)
            await _removed(client, sandbox.id)


async def _removed(client: CriClient, sandbox_id: str) -> None:
    """An edged that ended in the middle of a start leaves a container that cannot be removed for a moment."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.remove_pod_sandbox(sandbox_id)
                return
            except RuntimeRefused as error:
                if "can't be removed" not in error.text:
                    raise
                await asyncio.sleep(0.05)


@pytest.fixture
async def site(containerd: PrivateContainerd, cri: CriClient, tmp_path: Path) -> AsyncIterator[Site]:
    """An edged to be started on the session's containerd, and an API in memory."""
    async with Cluster(clock=SystemClock()) as cluster:
        yield Site(cluster, containerd, tmp_path)
