"""Rounds of the fleet, which have no socket."""

import asyncio

import pytest

from edgehive.testing.fleet.rounds import Round


@pytest.mark.looptime
async def test_everybody_is_called_once_a_period_and_evenly() -> None:
    loop, calls = asyncio.get_running_loop(), []
    round = Round[int](10.0, lambda member: calls.append((member, loop.time())))
    round.start()
    began = loop.time()
    for member in range(20):
        round.add(member)
        await asyncio.sleep(0.5)
    await asyncio.sleep(began + 20.05 - loop.time())
    round.remove(0)
    await asyncio.sleep(10)
    round.stop()
    for member in range(1, 20):
        assert len([at for who, at in calls if who == member]) == 2
    assert len([at for who, at in calls if who == 0]) <= 2
    busiest = max(sum(1 for _, at in calls if second <= at - began < second + 1) for second in range(30))
    assert busiest <= 4
