"""A pod never begins with a ConfigMap as it was before the pod was created, even when its node loses the link at once.

While no pod on a node needs an object, its row there may be old (decision 0013).
"""

import asyncio
from typing import Any

import pytest

from edgehive.api.document import Document
from edgehive.api.registry import CONFIG_MAPS, PODS
from edgehive.cloudcore import synccontroller
from edgehive.kit.tasks import spawn
from edgehive.kube.errors import NotFound
from edgehive.testing.pair import NODE, Pair

pytestmark = pytest.mark.looptime


@pytest.fixture(autouse=True)
def no_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is owed to the slow round over all nodes."""
    monkeypatch.setattr(synccontroller, "ROUND_SECONDS", 1e6)


async def write(pair: Pair, value: str) -> None:
    await pair.client.create(CONFIG_MAPS, {"metadata": {"name": "settings"}, "data": {"k": value}}, "default")


async def create_pod(pair: Pair, name: str) -> None:
    volumes = [{"name": "v", "configMap": {"name": "settings"}}]
    spec = {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}], "volumes": volumes}
    await pair.client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "default")


async def with_an_unneeded_row(pair: Pair) -> None:
    await pair.settle(20)
    await write(pair, "one")
    await create_pod(pair, "first")
    await pair.settle(20)
    await pair.client.delete(PODS, "first", "default", grace_period_seconds=0)
    await asyncio.sleep(5)
    assert pair.edge is not None
    assert [item.meta.name for item in await pair.edge.store.all_of("configmap")] == ["settings"]


async def found_by_a_pod_whose_node_is_cut_off(pair: Pair) -> Any:
    """What a new pod reads when the link falls the moment the pod arrives; None when it has to wait."""
    arrived, cuts = asyncio.Event(), set()

    def cut(pod: Document, _: bool) -> None:
        pair.plugged = False
        cuts.add(spawn(pair.cut(), name="cut"))
        arrived.set()

    assert pair.edge is not None
    pair.edge.edged.on_pod = cut
    await create_pod(pair, "next")
    await asyncio.wait_for(arrived.wait(), 10)
    await asyncio.gather(*cuts)
    try:
        return (await pair.edge.client.get(CONFIG_MAPS, "settings", "default")).to_dict()["data"]["k"]
    except NotFound:
        return None


async def test_it_finds_what_was_changed_before_it() -> None:
    async with Pair() as pair:
        await with_an_unneeded_row(pair)
        await pair.client.patch(CONFIG_MAPS, "settings", {"data": {"k": "two"}}, "default")
        assert await found_by_a_pod_whose_node_is_cut_off(pair) == "two"


async def test_it_finds_nothing_of_a_former_life() -> None:
    async with Pair() as pair:
        await with_an_unneeded_row(pair)
        await pair.client.delete(CONFIG_MAPS, "settings", "default")
        await write(pair, "two")
        assert await found_by_a_pod_whose_node_is_cut_off(pair) in (None, "two")


async def test_it_finds_what_is_there_when_nothing_changed() -> None:
    async with Pair() as pair:
        await with_an_unneeded_row(pair)
        assert await found_by_a_pod_whose_node_is_cut_off(pair) == "one"


async def test_it_finds_what_was_changed_while_its_node_was_away() -> None:
    async with Pair() as pair:
        await with_an_unneeded_row(pair)
        pair.plugged = False
        await pair.cut()
        await pair.client.patch(CONFIG_MAPS, "settings", {"data": {"k": "two"}}, "default")
        await asyncio.sleep(1)
        pair.plugged = True
        assert await found_by_a_pod_whose_node_is_cut_off(pair) == "two"
