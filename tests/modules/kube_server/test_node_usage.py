"""How nodes are asked for what they use: seldom, together, and without waiting for the slow."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from edgehive.kube.errors import ServiceUnavailable
from edgehive.kube.node_usage import DEADLINE, PATIENCE, NodeUsage

pytestmark = pytest.mark.looptime


class LoopClock:
    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=asyncio.get_running_loop().time())


class Fleet:
    """Every node uses one core; names beginning with `slow` take their time."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.at_once = self.most = 0

    async def read(self, name: str) -> bytes:
        self.asked.append(name)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            async with asyncio.timeout(DEADLINE):
                await asyncio.sleep(60 if name.startswith("slow") else 0.1)
        except TimeoutError:
            raise ServiceUnavailable("no answer") from None
        finally:
            self.at_once -= 1
        spent = round(asyncio.get_running_loop().time() * 10**9)
        return json.dumps({"node": {"cpu": {"usageCoreNanoSeconds": spent}, "memory": {"workingSetBytes": 1}}}).encode()


async def test_a_node_is_asked_once_in_a_window_by_all_together() -> None:
    fleet = Fleet()
    usage = NodeUsage(fleet.read, LoopClock(), fresh=15.0, at_once=8)
    found = await asyncio.gather(*(usage.of(["a"]) for _ in range(20)))
    assert len(fleet.asked) == 2  # there was nothing to compare with
    assert all(item["a"].node is not None for item in found)
    await asyncio.sleep(14)
    await usage.of(["a"])
    assert len(fleet.asked) == 2
    await asyncio.sleep(2)
    again = await usage.of(["a"])
    assert len(fleet.asked) == 3
    assert again["a"].node is not None
    assert again["a"].node.nanocores == pytest.approx(10**9, rel=0.01)


async def test_slow_nodes_are_left_out_and_hold_nobody_up_for_longer_than_agreed() -> None:
    fleet = Fleet()
    usage = NodeUsage(fleet.read, LoopClock(), fresh=15.0, at_once=4)
    names = [f"slow{number}" for number in range(30)] + ["quick"]
    began = asyncio.get_running_loop().time()
    await usage.of(names)
    assert asyncio.get_running_loop().time() - began <= PATIENCE + 0.01
    assert fleet.most <= 4
    assert set(await usage.of(["quick"])) == {"quick"}


async def test_a_node_that_failed_is_left_alone_for_a_while_too() -> None:
    fleet = Fleet()
    usage = NodeUsage(fleet.read, LoopClock(), fresh=15.0, at_once=4)
    for _ in range(3):
        assert await usage.of(["slow", "quick"]) != {}
    assert fleet.asked.count("slow") == 1
    usage.forget(lambda name: name == "slow")
    await usage.of(["slow"])
    assert fleet.asked.count("slow") == 2
