"""`edgehive devices set`: checked by the model, written alone, and never over what somebody else has just said."""

from typing import Any

import pytest
from devices_view_rig import Site

from edgehive.api.registry import DEVICE_MODELS, DEVICES
from edgehive.devices_view.choice import Unusable
from edgehive.devices_view.desire import set_desired
from edgehive.kube.client import PatchType

pytestmark = pytest.mark.looptime


async def properties(site: Site) -> Any:
    return (await site.client.get(DEVICES, "hall", "default")).to_dict()["spec"]["properties"]


async def put(site: Site, property: str, value: str, client: Any = None) -> str:
    return await set_desired(client or site.client, "default", "hall", property, value)


async def test_only_the_desired_value_is_changed(site: Site) -> None:
    await site.device()
    before = await properties(site)
    assert await put(site, "target", " 25 ") == "default/hall: target shall be 25 C"
    assert await properties(site) == [before[0], before[1] | {"desired": {"value": "25"}}, before[2]]
    assert await put(site, "label", "hello world") == "default/hall: label shall be hello world"
    assert (await properties(site))[2] == {"name": "label", "desired": {"value": "hello world"}}


async def test_an_empty_value_takes_it_back(site: Site) -> None:
    await site.device()
    assert await put(site, "target", "") == "default/hall: target is no longer desired to be anything"
    assert "desired" not in (await properties(site))[1]


async def test_what_is_so_already_is_not_written(site: Site) -> None:
    await site.device()
    before = (await site.client.get(DEVICES, "hall", "default")).meta.resource_version
    assert await put(site, "target", "21") == "default/hall: target is desired to be 21 C already"
    assert (await site.client.get(DEVICES, "hall", "default")).meta.resource_version == before


@pytest.mark.parametrize(
    ("property", "value", "said"),
    [
        ("target", "31", "the value '31' is above the maximum 30 C"),
        ("target", "4", "the value '4' is below the minimum 5 C"),
        ("target", "warm", "the value 'warm' is no INT"),
        ("target", "20.5", "the value '20.5' is no INT"),
        ("temperature", "20", "'temperature' is ReadOnly in the device's model"),
        ("tagret", "20", "has no property 'tagret'; did you mean target?"),
    ],
)
async def test_what_cannot_be_is_refused_before_it_is_written(site: Site, property: str, value: str, said: str) -> None:
    await site.device()
    before = await properties(site)
    with pytest.raises(Unusable, match=said):
        await put(site, property, value)
    assert await properties(site) == before


async def test_an_unknown_device_is_told_with_the_ones_there_are(site: Site) -> None:
    await site.device()
    with pytest.raises(Unusable, match=r"there is no device 'halle' in namespace default; did you mean hall\?"):
        await set_desired(site.client, "default", "halle", "target", "20")


async def test_without_its_model_nothing_is_written(site: Site) -> None:
    await site.device()
    await site.client.delete(DEVICE_MODELS, "thermometer", "default")
    with pytest.raises(Unusable, match=r"device model 'thermometer' of device 'hall' is absent.*create the model"):
        await put(site, "target", "20")


class Meddler:
    """Changes the device before each of our patches, so that they come too late."""

    def __init__(self, site: Site, *changes: dict[str, Any]) -> None:
        self._site = site
        self._changes = list(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site.client, name)

    async def patch(self, *words: Any, **options: Any) -> Any:
        if self._changes:
            change = self._changes.pop(0)
            await self._site.client.patch(DEVICES, "hall", change, "default", type=PatchType.MERGE)
        return await self._site.client.patch(*words, **options)


async def test_another_change_of_the_device_is_kept(site: Site) -> None:
    await site.device()
    meddler = Meddler(site, {"spec": {"nodeName": "other"}}, {"metadata": {"labels": {"a": "b"}}})
    assert await put(site, "target", "25", meddler) == "default/hall: target shall be 25 C"
    device = (await site.client.get(DEVICES, "hall", "default")).to_dict()
    assert device["spec"]["nodeName"] == "other" and device["metadata"]["labels"] == {"a": "b"}
    assert device["spec"]["properties"][1]["desired"] == {"value": "25"}


async def test_a_value_somebody_else_has_just_set_is_not_overwritten(site: Site) -> None:
    await site.device()
    theirs = [{"name": "temperature"}, {"name": "target", "desired": {"value": "18"}}, {"name": "label"}]
    with pytest.raises(Unusable, match="somebody else set 'target' to '18' meanwhile"):
        await put(site, "target", "25", Meddler(site, {"spec": {"properties": theirs}}))
    assert await properties(site) == theirs
