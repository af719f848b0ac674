"""Lying nodes over real TLS sockets: cloudcore counts each lie in /metrics, and honest nodes are served as before."""

import asyncio
import re

import aiohttp
import pytest

from edgehive.testing.fleet.fleet import Fleet, Plan
from edgehive.testing.fleet.liars import KINDS, Liars

SIGNS = {
    "acks-twice": "repeated acknowledgement",
    "acks-unsent": "unknown acknowledgement",
    "floods": "message rate",
    "reconnects": "reconnects",
    "garbage": "handshake",
}


async def counted(port: int, reason: str) -> float:
    """What /metrics says of the hub's door."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        text = await answer.text()
    found = re.search(rf'^edgehive_refusals_total{{door="hub",reason="{reason}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


@pytest.mark.parametrize("kind", sorted(SIGNS))
async def test_a_lie_is_counted_and_costs_nobody_else_his_answers(cloud, kind: str) -> None:
    plan = Plan(2, cloud.hub, cloud.join_server, cloud.token, prefix="liar")
    async with Fleet(cloud.plan(5)) as fleet, Liars(plan, [kind, kind]) as liars:
        await fleet.certify()
        await fleet.connect()
        await fleet.register()
        await liars.begin()
        async with asyncio.timeout(30):
            while not await counted(cloud.monitor_port, SIGNS[kind]):
                await asyncio.sleep(0.05)
            for _ in range(5):
                await fleet.each(lambda node: node.renewed())
        assert fleet.connected == 5
        assert fleet.journal.counts["answers missing"] == 0
        assert fleet.journal.quantiles()["lease renewal"].count == 25
    assert liars.journal.counts


async def test_a_liar_is_made_for_each_kind_that_is_named(cloud) -> None:
    plan = Plan(len(KINDS), cloud.hub, cloud.join_server, cloud.token, prefix="liar")
    async with Liars(plan, list(KINDS)) as liars:
        await liars.begin()
        await asyncio.sleep(0)
        assert [type(node) for node in liars.nodes] == list(KINDS.values())
        assert liars.connected >= len(KINDS) - 2
