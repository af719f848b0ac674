"""Nodes that lie: each lie is counted in /metrics and said once a minute, and the others notice nothing of it.

In virtual time over links in memory; over sockets in tests/modules/fleet/test_fleet_liars.py.
"""

import asyncio
import re

import pytest

from edgehive.beehive.message import Message
from edgehive.cloudcore.cloudhub.conduct import RETURNS_AT_ONCE, RETURNS_PER_SECOND, Returns
from edgehive.cloudcore.cloudhub.outbox import ATTEMPTS, RETRY_AFTER
from edgehive.testing.cloud import Cloud, ScriptedEdge, cloud
from edgehive.testing.fleet.liars import unsent
from edgehive.wire.link import Peer
from edgehive.wire.names import Path

pytestmark = pytest.mark.looptime

MINUTES = 3


def refusals(it: Cloud, reason: str) -> float:
    """What /metrics says."""
    found = re.search(rf'^edgehive_refusals_total{{door="hub",reason="{reason}"}} (\S+)$', it.metrics(), re.MULTILINE)
    return float(found[1]) if found else 0.0


def said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [line for record in caplog.records if text in (line := record.getMessage())]


async def alive(*edges: ScriptedEdge, seconds: float) -> None:
    """Let time pass while these keep their sessions."""
    for _ in range(int(seconds / 10)):
        for edge in edges:
            await edge.keepalive()
        await asyncio.sleep(10)


async def soon_delivered(it: Cloud, edge: ScriptedEdge, name: str) -> None:
    """An honest node has its pod at once, whatever a liar does."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await it.pod(name, edge.node)
    await edge.expect_object(f"default/pod/{name}")
    assert loop.time() - began < 1


async def test_who_acknowledges_nothing_waits_alone(caplog: pytest.LogCaptureFixture) -> None:
    async with cloud() as it:
        honest, liar = await it.edge("honest"), await it.edge("liar")
        liar.acknowledge = False
        for number in range(20):
            await it.pod(f"liar-{number}", "liar")
        await alive(honest, liar, seconds=60 * MINUTES)
        await soon_delivered(it, honest, "web")
        gave_up = 60 * MINUTES // (ATTEMPTS * RETRY_AFTER)
        assert gave_up - 2 <= refusals(it, "no acknowledgement") <= gave_up
        assert len(said(caplog, "node liar has acknowledged default/pod/liar-")) <= MINUTES + 1
        # One message at a time, however long: nothing piles up on the way.
        assert len(liar.received) < 60 * MINUTES / RETRY_AFTER + 10


async def test_who_acknowledges_twice_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with cloud() as it:
        honest, liar = await it.edge("honest"), await it.edge("liar")
        ack = liar.ack

        async def twice(message: Message) -> None:
            await ack(message)
            await ack(message)

        liar.ack = twice  # type: ignore[method-assign]
        for number in range(20):
            await it.pod(f"liar-{number}", "liar")
        await alive(honest, liar, seconds=60)
        await soon_delivered(it, honest, "web")
        assert refusals(it, "repeated acknowledgement") == 20
        assert refusals(it, "unknown acknowledgement") == 0
        assert len(said(caplog, "node liar acknowledges what it has acknowledged before")) == 1


async def test_who_acknowledges_what_was_never_sent_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with cloud() as it:
        honest, liar = await it.edge("honest"), await it.edge("liar")
        for _ in range(MINUTES):
            for _ in range(500):
                await liar.link.send(unsent("liar"))
            await alive(honest, liar, seconds=60)
        await soon_delivered(it, honest, "web")
        await soon_delivered(it, liar, "for-the-liar")
        assert refusals(it, "unknown acknowledgement") == 500 * MINUTES
        assert len(said(caplog, "node liar acknowledges what was not sent to it here")) == MINUTES


async def test_a_connection_that_says_nothing_ends_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with cloud() as it:
        honest = await it.edge("honest")
        half_open = [await it.network.dial(Peer(node=f"liar-{number}", address="memory")) for number in range(100)]
        await alive(honest, seconds=60)
        await soon_delivered(it, honest, "web")
        assert refusals(it, "silent") == 100
        assert "edgehive_hub_sessions 1.0" in it.metrics()
        # A hundred liars are a hundred counts, not a hundred lines.
        assert len(said(caplog, "sent no keepalive within 30 s")) == 20
        assert len(said(caplog, "further ones (silent) are only counted")) == 1
        for link in half_open:
            await link.close()


async def test_who_reconnects_in_a_loop_is_kept_waiting(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with cloud() as it:
        honest, dials, tasks = await it.edge("honest"), 1800, len(asyncio.all_tasks())
        for number in range(dials):
            link = await it.network.dial(Peer(node="liar", address="memory"))
            await link.close()
            if number % 200 == 0:
                await honest.keepalive()
            await asyncio.sleep(0.1)
        await soon_delivered(it, honest, "web")
        sessions = len(said(caplog, "node liar connected"))
        assert RETURNS_AT_ONCE < sessions <= RETURNS_AT_ONCE + 60 * MINUTES * RETURNS_PER_SECOND + 1
        assert refusals(it, "reconnects") == dials - sessions
        assert len(said(caplog, "node liar is kept waiting")) == MINUTES
        assert len(asyncio.all_tasks()) < tasks + 20


def test_who_returns_seldom_is_never_kept_waiting() -> None:
    returns = Returns(at_once=3, per_second=1)
    assert [returns.allowed("n1", 0.0) for _ in range(4)] == [True, True, True, False]
    assert returns.allowed("n2", 0.0)
    assert not returns.allowed("n1", 0.5)
    assert all(returns.allowed("n1", float(second)) for second in range(2, 1000))


async def test_a_node_that_cannot_store_is_named_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        for _ in range(200):
            await edge.send("error", "default/pod/web", "no space left on device")
        await edge.keepalive()
        await asyncio.sleep(1)
        assert refusals(it, "not stored") == 200
        (line,) = said(caplog, "could not store")
        assert line == "node n1 could not store default/pod/web: no space left on device"


async def test_an_inventory_nobody_asked_for_is_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        for _ in range(50):
            await edge.send("response", Path.INVENTORY, [])
        await asyncio.sleep(1)
        assert refusals(it, "unasked inventory") == 50
        assert len(said(caplog, "tells what it holds without being asked")) == 1
