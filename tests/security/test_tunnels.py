"""What a node may not have by its tunnel: another's place."""

import asyncio
import contextlib

import pytest

from edgehive.cloudcore.cloudstream.tunnels import Tunnels
from edgehive.kit.tasks import cancel_and_join, spawn


class Carrier:
    """A tunnel that stands until it is ended."""

    refused_frames = 0
    reason = ""

    def __init__(self) -> None:
        self._ended = asyncio.Event()

    async def run(self) -> None:
        await self._ended.wait()

    async def end(self, reason: str) -> None:
        self.reason = reason
        self._ended.set()


@pytest.mark.looptime
async def test_a_node_that_says_another_s_address_is_not_asked_in_its_place() -> None:
    tunnels = Tunnels()
    good, bad = Carrier(), Carrier()
    first = spawn(tunnels._hold("n1", "10.0.0.1", good), name="n1")  # type: ignore[arg-type]
    await asyncio.sleep(1)
    second = spawn(tunnels._hold("n2", "10.0.0.1", bad), name="n2")  # type: ignore[arg-type]
    await asyncio.sleep(1)
    assert tunnels.node_at("10.0.0.1") == "n1"
    await bad.end("over")
    await asyncio.sleep(1)
    assert tunnels.node_at("10.0.0.1") == "n1"
    await good.end("over")
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(first, second)
    assert tunnels.node_at("10.0.0.1") is None
    moved = [spawn(tunnels._hold("n1", address, Carrier()), name="n1") for address in ("10.0.0.1", "10.0.0.2")]  # type: ignore[arg-type]
    await asyncio.sleep(1)
    assert (tunnels.node_at("10.0.0.1"), tunnels.node_at("10.0.0.2")) == (None, "n1"), "an address it left is free"
    await cancel_and_join(*moved)
    await cancel_and_join(first, second)
