"""The port that iptables lead to the stream port, agreed on by all cloudcores."""

import asyncio
from typing import Any

import pytest

from edgehive.api.registry import CONFIG_MAPS
from edgehive.cloudcore.tunnelport import (
    ANNOTATION,
    FIRST_PORT,
    LAST_PORT,
    NoTunnelPort,
    Record,
    negotiate,
    take,
)
from edgehive.kube.client import PatchType
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


async def test_a_cloudcore_keeps_the_port_it_was_given() -> None:
    async with Cluster() as cluster:
        client = cluster.client()
        assert await negotiate(client, "10.0.0.1") == 10351
        assert await negotiate(client, "10.0.0.2") == 10352
        for _ in range(3):
            assert await negotiate(client, "10.0.0.1") == 10351


async def test_cloudcores_that_start_at_once_get_a_port_each() -> None:
    async with Cluster() as cluster:
        ports = await asyncio.gather(*(negotiate(cluster.client(), f"10.0.0.{number}") for number in range(5)))
        assert sorted(ports) == list(range(10351, 10356))


async def test_what_a_stock_cloudcore_recorded_is_kept() -> None:
    async with Cluster() as cluster:
        client = cluster.client()
        await negotiate(client, "10.0.0.1")
        record = '{"ipTunnelPort":{"10.0.0.9":10351},"port":{"10351":true,"10352":true}}'
        await client.patch(CONFIG_MAPS, "tunnelport", _annotated(record), "kubeedge", type=PatchType.MERGE)
        assert await negotiate(client, "10.0.0.1") == 10353
        assert await negotiate(client, "10.0.0.9") == 10351


@pytest.mark.parametrize("record", ["no json", "[]", '{"ipTunnelPort":{"10.0.0.1":"x"}}'])
async def test_a_record_that_cannot_be_read_is_one_sentence(record: str) -> None:
    async with Cluster() as cluster:
        client = cluster.client()
        await negotiate(client, "10.0.0.1")
        await client.patch(CONFIG_MAPS, "tunnelport", _annotated(record), "kubeedge", type=PatchType.MERGE)
        with pytest.raises(NoTunnelPort, match=r"annotation tunnelportrecord\.kubeedge\.io .* cannot be read"):
            await negotiate(client, "10.0.0.1")


def test_when_all_ports_are_taken_the_mend_is_named() -> None:
    record = Record(taken={str(port): True for port in range(FIRST_PORT, LAST_PORT + 1)})
    with pytest.raises(NoTunnelPort, match="remove the entries of absent cloudcores"):
        take(record, "10.0.0.1")


def _annotated(record: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {ANNOTATION: record}}}
