"""An edge that lost its database gets everything again, without any change in the API (decision 0013)."""

import pytest

from edgehive.api.registry import CONFIG_MAPS, PODS
from edgehive.testing.pair import NODE, Pair

pytestmark = pytest.mark.looptime


async def pod(pair: Pair, name: str, *, config_map: str = "") -> None:
    volumes = [{"name": "v", "configMap": {"name": config_map}}] if config_map else []
    containers = [{"name": "main", "image": "localhost/busybox:1"}]
    body = {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": NODE, "containers": containers, "volumes": volumes},
    }
    await pair.client.create(PODS, body, "default")


async def config_map(pair: Pair, name: str, value: str) -> None:
    await pair.client.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"k": value}}, "default")


async def filled(pair: Pair) -> None:
    await pair.settle(20)
    await config_map(pair, "settings", "one")
    await pod(pair, "web", config_map="settings")
    await pod(pair, "db")
    await pair.settle(20)
    assert await pair.difference() == []
    assert len(await pair.edge.store.all_of("pod")) == 2


async def test_a_lost_database_is_filled_again() -> None:
    async with Pair() as pair:
        await filled(pair)
        await pair.lose_database()
        await pair.settle(20)
        assert await pair.difference() == []
        assert {held.type for held in await pair.edge.store.held()} >= {"pod", "configmap", "node"}


async def test_and_also_when_cloudcore_was_down_meanwhile() -> None:
    async with Pair() as pair:
        await filled(pair)
        await pair.crash_cloud()
        await pair.lose_database()
        await pair.settle(20)
        assert await pair.difference() == []
