"""Connections come, go, fall silent and replace each other without harm (users.md row 5)."""

import asyncio

import msgspec
import pytest

from edgehive.api.config.cloudcore import CloudCore
from edgehive.api.registry import NODES
from edgehive.testing.cloud import cloud, content_of
from edgehive.wire.codec import decode, encode

pytestmark = pytest.mark.looptime


async def test_silence_ends_a_session_after_the_interval_and_keepalives_hold_it() -> None:
    """[19]"""
    async with cloud() as it:
        silent, lively = await it.edge("n1"), await it.edge("n2")
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(6):
            await asyncio.sleep(10)
            await lively.keepalive()
            if silent.closed.is_set():
                break
        assert silent.closed.is_set()
        assert 29 <= loop.time() - began <= 41
        await asyncio.sleep(20)
        assert not lively.closed.is_set()


async def test_other_traffic_does_not_stand_for_a_keepalive() -> None:
    """[19]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        for _ in range(29):
            await asyncio.sleep(1)
            await edge.request("query", "kube-node-lease/lease/n1")
        await asyncio.wait_for(edge.closed.wait(), 5)


async def test_a_second_connection_replaces_the_first_without_loss() -> None:
    """[20]"""
    async with cloud() as it:
        first = await it.edge("n1")
        first.acknowledge = False
        await it.pod("a", "n1")
        await first.expect_object("default/pod/a")
        await it.pod("b", "n1")
        await asyncio.sleep(0.5)
        second = await it.edge("n1", register=False)
        await asyncio.wait_for(first.closed.wait(), 5)
        assert {(await second.expect_object(f"default/pod/{name}")).route.operation for name in "ab"} <= {
            "insert",
            "update",
        }
        await asyncio.sleep(10)
        assert len(second.pushed("default/pod/a")) == 1
        assert len(second.pushed("default/pod/b")) == 1


async def test_the_end_of_a_replaced_session_leaves_its_successor_alone() -> None:
    async with cloud() as it:
        edges = [await it.edge("n1")]
        for _ in range(5):
            edges.append(await it.edge("n1", register=False))
        await asyncio.sleep(5)
        assert [edge.closed.is_set() for edge in edges] == [True] * 5 + [False]
        await edges[-1].keepalive()
        await it.pod("web", "n1")
        await edges[-1].expect_object("default/pod/web")


async def test_the_limit_refuses_one_node_more_and_nobody_else() -> None:
    config = msgspec.convert({"modules": {"cloudHub": {"nodeLimit": 2}}}, CloudCore)
    async with cloud(config) as it:
        one, two = await it.edge("n1"), await it.edge("n2")
        third = await it.edge("n3", register=False)
        await asyncio.wait_for(third.closed.wait(), 5)
        again = await it.edge("n2", register=False)
        await asyncio.wait_for(two.closed.wait(), 5)
        await it.pod("a", "n1")
        await it.pod("b", "n2")
        await one.expect_object("default/pod/a")
        await again.expect_object("default/pod/b")


async def test_a_deleted_node_ends_its_session_and_its_records() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        await it.pod("web", "n1")
        await edge.expect_object("default/pod/web")
        await asyncio.sleep(1)
        await it.client.delete(NODES, "n1")
        await asyncio.wait_for(edge.closed.wait(), 5)
        assert edge.pushed("null/node/n1") == ["update"] * len(edge.pushed("null/node/n1"))


async def test_a_slow_node_holds_up_nobody() -> None:
    async with cloud() as it:
        slow, quick = await it.edge("n1"), await it.edge("n2")
        slow.acknowledge = False
        for number in range(30):
            await it.pod(f"s{number}", "n1")
        await it.pod("q", "n2")
        await quick.expect_object("default/pod/q", patience=1)


async def test_connecting_is_written_on_the_node_once() -> None:
    async with cloud() as it:
        edge = await it.edge("n1")
        node = await it.client.get(NODES, "n1")
        assert node.meta.annotations["cloudcore"]
        await edge.close()
        await it.edge("n1", register=False)
        await asyncio.sleep(1)
        assert (await it.client.get(NODES, "n1")).meta.resource_version == node.meta.resource_version


async def test_messages_without_identity_unknown_ones_and_foreign_sources_are_ignored() -> None:
    """[74]"""
    async with cloud() as it:
        edge = await it.edge("n1")
        empty = decode(b'{"header":{"msg_id":"","timestamp":0},"route":{},"content":null}')
        await edge.link.send(empty)
        await edge.send("frobnicate", "default/pod/x")
        await edge.send("query", "default/frob/x")
        await edge.send("query", "short")
        await edge.send("query", "default/configmap/x", source="edgecontroller")
        # The link lives and serves on.
        reply = await edge.request("query", "kube-node-lease/lease/n1")
        assert content_of(reply)["Object"] is None
        assert encode(empty)
