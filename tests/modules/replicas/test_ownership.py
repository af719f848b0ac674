"""Three cloudcores on one API: one speaks for a node, whatever dies or comes late, and nothing is written twice.

Issue 4, "Several cloudcores".
"""

import asyncio
import re

import pytest

from edgehive.api.registry import NODES, OBJECT_SYNCS, PODS
from edgehive.testing.cloud import ScriptedEdge
from edgehive.testing.replicas import Replicas, Write, name_of, replicas

pytestmark = pytest.mark.looptime


def pods_told(edge: ScriptedEdge) -> list[str]:
    """The pods an edge was told of, in order, replies left out."""
    found = [re.fullmatch(r"default/pod/(.*)", message.route.resource) for message in edge.received]
    return [match[1] for match in found if match]


async def keep_alive(*edges: ScriptedEdge, seconds: float) -> None:
    for _ in range(int(seconds // 10)):
        await asyncio.sleep(10)
        for edge in edges:
            if not edge.closed.is_set():
                await edge.keepalive()


def claims(them: Replicas, node: str) -> list[Write]:
    return [write for write in them.writes(kind="Node", verb="patch") if write.name == node and "annot" in str(write)]


async def test_each_record_is_written_once_by_the_replica_that_has_the_node() -> None:
    async with replicas() as them:
        edges = {node: await them.connect(node, to=number % 3) for number, node in enumerate("abcdef")}
        for number in range(5):
            for node in edges:
                await them.pod(f"{node}{number}", node)
        await asyncio.sleep(20)
        for node, edge in edges.items():
            assert pods_told(edge) == [f"{node}{number}" for number in range(5)]
        assert them.repeated() == []
        names = {item.meta.name for item in (await them.client.list(OBJECT_SYNCS)).items}
        assert len(names) == 30
        for write in them.writes(kind="ObjectSync"):
            assert write.replica == "abcdef".index(write.name[0]) % 3


async def test_registration_writes_the_claim_with_the_node() -> None:
    async with replicas() as them:
        await them.connect("n1", to=1)
        await asyncio.sleep(5)
        assert (await them.claim("n1")).replica == name_of(1)
        assert claims(them, "n1") == []


async def test_a_return_to_the_same_replica_writes_nothing_on_the_node() -> None:
    async with replicas() as them:
        edge = await them.connect("n1", to=1)
        await edge.close()
        before = (await them.client.get(NODES, "n1")).meta.resource_version
        await them.connect("n1", to=1)
        await asyncio.sleep(5)
        assert (await them.client.get(NODES, "n1")).meta.resource_version == before


async def test_moving_costs_one_write_on_the_node() -> None:
    async with replicas() as them:
        for number in (0, 1, 2, 0):
            edge = await them.connect("n1", to=number)
            await asyncio.sleep(5)
            await edge.close()
        assert [write.replica for write in claims(them, "n1")] == [1, 2, 0]
        assert (await them.claim("n1")).epoch == 4


@pytest.mark.parametrize("victim", range(3))
async def test_killing_any_one_moves_its_nodes_and_nothing_else(victim: int) -> None:
    async with replicas() as them:
        edges = {node: await them.connect(node, to=number % 3) for number, node in enumerate("abcdef")}
        for node in edges:
            await them.pod(f"{node}-before", node)
        await keep_alive(*edges.values(), seconds=20)
        moving = [node for number, node in enumerate("abcdef") if number % 3 == victim]
        await them.kill(victim)
        marked = len(them.journal)
        for node in edges:
            for number in range(3):
                await them.pod(f"{node}-{number}", node)
        for node in moving:
            assert edges[node].closed.is_set()
            edges[node] = await them.connect(node)
        for node in edges:
            await them.pod(f"{node}-after", node)
        await keep_alive(*edges.values(), seconds=200)
        for node, edge in edges.items():
            fresh = [f"{node}-{number}" for number in range(3)] + [f"{node}-after"]
            told = pods_told(edge)
            # What was acknowledged is not sent again, and the rest comes once and in order.
            assert told == (fresh if node in moving else [f"{node}-before", *fresh])
            assert not edge.closed.is_set()
            claim = await them.claim(node)
            assert (claim.replica != name_of(victim)) and claim.epoch == (2 if node in moving else 1)
        assert them.repeated() == []
        assert {write.replica for write in them.journal[marked:]} == {0, 1, 2} - {victim}


async def test_what_was_sent_and_never_acknowledged_is_sent_by_the_next_owner() -> None:
    async with replicas() as them:
        edge = await them.connect("n1", to=0)
        await asyncio.sleep(1)
        edge.acknowledge = False
        await them.pod("lost", "n1")
        await edge.expect_object("default/pod/lost")
        await them.kill(0)
        edge = await them.connect("n1", to=1)
        await edge.expect_object("default/pod/lost")
        await asyncio.sleep(100)
        assert pods_told(edge) == ["lost"]
        assert them.repeated() == []


async def test_what_was_deleted_while_a_node_moved_is_deleted_once() -> None:
    async with replicas() as them:
        await them.connect("n1", to=0)
        await them.pod("goes", "n1")
        await asyncio.sleep(10)
        await them.kill(0)
        await them.client.delete(PODS, "goes", "default", grace_period_seconds=0)
        await asyncio.sleep(1)
        edge = await them.connect("n1", to=2)
        await asyncio.sleep(100)
        assert edge.pushed("default/pod/goes") == ["delete"]
        assert (await them.client.list(OBJECT_SYNCS)).items == []
        assert them.repeated() == []


async def test_a_half_open_session_writes_nothing_any_more_and_ends() -> None:
    async with replicas() as them:
        stale = await them.connect("n1", to=0)
        await asyncio.sleep(5)
        # Moved once before, so that the session here has written its claim itself.
        edge = await them.connect("n1", to=1)
        await asyncio.sleep(2)
        assert (await them.claim("n1")).replica == name_of(1)
        marked = len(them.journal)
        for number in range(3):
            await them.pod(f"p{number}", "n1")
        await keep_alive(edge, seconds=60)
        assert pods_told(edge) == ["p0", "p1", "p2"]
        assert stale.closed.is_set()
        assert [write for write in them.journal[marked:] if write.replica == 0 and write.kind != "Lease"] == []
        assert them.repeated() == []


async def test_a_session_that_wrote_its_claim_gives_way_at_once() -> None:
    async with replicas() as them:
        await (await them.connect("n1", to=0)).close()
        stale = await them.connect("n1", to=1)
        await asyncio.sleep(2)
        await them.connect("n1", to=2)
        await asyncio.wait_for(stale.closed.wait(), 1)


async def test_a_late_claim_does_not_undo_a_newer_one() -> None:
    async with replicas() as them:
        await (await them.connect("n1", to=2)).close()
        await asyncio.sleep(2)
        gate = them.hold_up_nodes(0)
        left = await them.connect("n1", to=0)
        await asyncio.sleep(1)
        edge = await them.connect("n1", to=1)
        await asyncio.sleep(1)
        gate.set()
        await keep_alive(edge, seconds=60)
        assert (await them.claim("n1")).replica == name_of(1)
        assert left.closed.is_set() and not edge.closed.is_set()
        assert [(write.replica, write.failed) for write in claims(them, "n1")] == [(1, ""), (0, "Conflict")]


async def test_the_newest_connection_prevails_when_the_older_claim_lands_first() -> None:
    async with replicas() as them:
        await (await them.connect("n1", to=2)).close()
        await asyncio.sleep(2)
        gates = them.hold_up_nodes(0), them.hold_up_nodes(1)
        left = await them.connect("n1", to=0)
        await asyncio.sleep(1)
        edge = await them.connect("n1", to=1)
        await asyncio.sleep(1)
        gates[0].set()
        await asyncio.sleep(1)
        gates[1].set()
        await keep_alive(edge, seconds=60)
        assert (await them.claim("n1")).replica == name_of(1)
        assert left.closed.is_set() and not edge.closed.is_set()
        await them.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        # The older, the newer's in vain, the newer's again: no more.
        assert [write.replica for write in claims(them, "n1")] == [0, 1, 1]


async def test_two_machines_that_say_they_are_one_node_do_not_fight_without_end() -> None:
    async with replicas() as them:
        await (await them.connect("n1", to=2)).close()
        one, two = await them.connect("n1", to=0), await them.connect("n1", to=1)
        await keep_alive(one, two, seconds=120)
        assert [one.closed.is_set(), two.closed.is_set()].count(True) == 1
        assert len(claims(them, "n1")) <= 4


async def test_other_writes_on_the_node_do_not_disturb_a_claim() -> None:
    async with replicas() as them:
        await (await them.connect("n1", to=2)).close()
        gate = them.hold_up_nodes(0)
        edge = await them.connect("n1", to=0)
        await asyncio.sleep(1)
        await them.client.patch(NODES, "n1", {"metadata": {"labels": {"other": "yes"}}})
        gate.set()
        await asyncio.sleep(5)
        assert (await them.claim("n1")).replica == name_of(0)
        assert not edge.closed.is_set()


async def test_a_deleted_nodes_records_end_once() -> None:
    async with replicas() as them:
        edge = await them.connect("n1", to=2)
        for number in range(3):
            await them.pod(f"p{number}", "n1")
        await asyncio.sleep(10)
        await them.client.delete(NODES, "n1")
        await asyncio.wait_for(edge.closed.wait(), 5)
        await asyncio.sleep(100)
        assert (await them.client.list(OBJECT_SYNCS)).items == []
        assert len(them.writes(kind="ObjectSync", verb="delete")) == 3
        assert them.repeated() == []


async def test_a_node_that_nobody_has_costs_no_write() -> None:
    async with replicas() as them:
        edge = await them.connect("n1", to=0)
        await edge.close()
        await them.kill(0)
        marked = len(them.journal)
        for number in range(3):
            await them.pod(f"p{number}", "n1")
        await asyncio.sleep(130)
        assert {write.kind for write in them.journal[marked:]} <= {"Lease"}
        edge = await them.connect("n1", to=1)
        await asyncio.sleep(20)
        assert pods_told(edge) == ["p0", "p1", "p2"]


async def test_requests_that_still_wait_when_their_node_has_gone_are_not_done() -> None:
    async with replicas() as them:
        edge = await them.connect("n1", to=0)
        await asyncio.sleep(1)
        gate = them.hold_up_nodes(0)
        for phase in ("first", "second", "third"):
            await edge.send("patch", "null/nodepatch/n1", {"status": {"phase": phase}})
        await asyncio.sleep(1)
        await them.connect("n1", to=1)
        await asyncio.sleep(2)
        marked = len(them.journal)
        gate.set()
        await asyncio.sleep(5)
        # The one that was on its way cannot be called back; those behind it are refused.
        late = [write for write in them.journal[marked:] if write.replica == 0 and write.kind == "Node"]
        assert [b"first" in bytes(write.body) for write in late if write.verb == "patch"] == [True]
