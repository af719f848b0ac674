"""Custom resources come and go with their definitions; no two kinds of a group share a name."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, LEASES, ApiResource
from edgehive.kit.clock import SystemClock
from edgehive.kube.client import DocumentList
from edgehive.kube.errors import NotFound
from edgehive.kube.sqlite import open_store
from edgehive.kube.store import Key, memory_store
from edgehive.testing.cluster import Cluster

pytestmark = pytest.mark.looptime


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with Cluster() as running:
        yield running


def definition(plural: str, kind: str, *, group: str = "example.com", **names: Any) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, **names},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


async def conditions(cluster: Cluster, name: str) -> dict[str, tuple[str, str, str]]:
    """Type to status, reason and message, once the server has judged the definition."""
    found: dict[str, tuple[str, str, str]] = {}
    while len(found) < 2:
        await asyncio.sleep(0.01)
        crd = (await cluster.client().get(CUSTOM_RESOURCE_DEFINITIONS, name)).to_dict()
        listed = (crd.get("status") or {}).get("conditions") or ()
        found = {item["type"]: (item["status"], item["reason"], item["message"]) for item in listed}
    return found


async def objects(cluster: Cluster, plural: str, kind: str) -> DocumentList:
    return await cluster.client().list(ApiResource("example.com", "v1", kind, plural, True))


CLASHES = [
    (definition("gadgets", "Gadget", singular="widget"), "SingularConflict", '"widget" is already in use'),
    (definition("gadgets", "Gadget", shortNames=["wd", "g"]), "ShortNamesConflict", '"wd" is already in use'),
    (
        definition("gadgets", "Widget", listKind="GadgetList", singular="g"),
        "KindConflict",
        '"Widget" is already in use',
    ),
    (definition("gadgets", "Gadget", listKind="WidgetList"), "ListKindConflict", '"WidgetList" is already in use'),
    (definition("widget", "Gadget"), "PluralConflict", '"widget" is already in use'),
]


@pytest.mark.parametrize(("second", "reason", "message"), CLASHES, ids=[item[1] for item in CLASHES])
async def test_a_name_belongs_to_whoever_came_first(
    cluster: Cluster, second: dict[str, Any], reason: str, message: str
) -> None:
    client, name = cluster.client(), second["metadata"]["name"]
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition("widgets", "Widget", shortNames=["wd"]))
    assert (await conditions(cluster, "widgets.example.com"))["Established"][0] == "True"
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, second)

    assert await conditions(cluster, name) == {
        "NamesAccepted": ("False", reason, message),
        "Established": ("False", "NotAccepted", "not all names are accepted"),
    }
    with pytest.raises(NotFound):
        await objects(cluster, second["spec"]["names"]["plural"], second["spec"]["names"]["kind"])

    await client.delete(CUSTOM_RESOURCE_DEFINITIONS, "widgets.example.com")
    await asyncio.sleep(1)
    assert await conditions(cluster, name) == {
        "NamesAccepted": ("True", "NoConflicts", "no conflicts found"),
        "Established": ("True", "InitialNamesAccepted", "the initial names have been accepted"),
    }
    found = await objects(cluster, second["spec"]["names"]["plural"], second["spec"]["names"]["kind"])
    assert found.items == []


async def test_names_of_another_group_do_not_clash(cluster: Cluster) -> None:
    for group in ("example.com", "example.org"):
        await cluster.client().create(CUSTOM_RESOURCE_DEFINITIONS, definition("widgets", "Widget", group=group))
        assert (await conditions(cluster, f"widgets.{group}"))["Established"][0] == "True"


async def test_a_kind_in_use_keeps_its_names_when_it_asks_for_taken_ones(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition("widgets", "Widget", shortNames=["wd"]))
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, definition("gadgets", "Gadget", shortNames=["gd"]))
    await conditions(cluster, "gadgets.example.com")

    await client.patch(
        CUSTOM_RESOURCE_DEFINITIONS, "gadgets.example.com", {"spec": {"names": {"shortNames": ["gd", "wd"]}}}
    )
    await asyncio.sleep(1)

    found = await conditions(cluster, "gadgets.example.com")
    assert found["NamesAccepted"] == ("False", "ShortNamesConflict", '"wd" is already in use')
    assert found["Established"][0] == "True"
    crd = (await client.get(CUSTOM_RESOURCE_DEFINITIONS, "gadgets.example.com")).to_dict()
    assert crd["status"]["acceptedNames"]["shortNames"] == ["gd"]
    assert (await objects(cluster, "gadgets", "Gadget")).items == []


async def test_a_definition_cannot_take_a_built_in_kind_nor_its_objects(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(LEASES, {"metadata": {"name": "a"}, "spec": {}}, "default")
    crd = definition("leases", "Lease", group="coordination.k8s.io")
    crd["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, for a test"}
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, crd)

    assert (await conditions(cluster, "leases.coordination.k8s.io"))["Established"][:2] == ("False", "NotAccepted")
    await client.delete(CUSTOM_RESOURCE_DEFINITIONS, "leases.coordination.k8s.io")
    await asyncio.sleep(1)
    assert (await client.get(LEASES, "a", "default")).meta.name == "a"
    assert (await client.list(CUSTOM_RESOURCE_DEFINITIONS)).items == []


def with_schema(crd: dict[str, Any], **properties: Any) -> dict[str, Any]:
    spec = {"type": "object", "properties": properties}
    crd["spec"]["versions"][0]["schema"] = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    return crd


WIDGETS = ApiResource("example.com", "v1", "Widget", "widgets", True)
TEXT = {"type": "string"}


async def test_an_object_is_read_by_the_schema_of_today(cluster: Cluster) -> None:
    client = cluster.client()
    await client.create(CUSTOM_RESOURCE_DEFINITIONS, with_schema(definition("widgets", "Widget"), old=TEXT, size=TEXT))
    await conditions(cluster, "widgets.example.com")
    await client.create(WIDGETS, {"metadata": {"name": "w"}, "spec": {"old": "a", "size": "b"}}, "default")

    newer = with_schema(definition("widgets", "Widget"), size=TEXT, colour=TEXT | {"default": "red"})
    await client.patch(CUSTOM_RESOURCE_DEFINITIONS, "widgets.example.com", {"spec": newer["spec"]})
    await asyncio.sleep(1)

    for found in (await client.get(WIDGETS, "w", "default"), *(await client.list(WIDGETS)).items):
        assert found.to_dict()["spec"] == {"size": "b", "colour": "red"}
    event = await anext(client.watch(WIDGETS))
    assert event.object.to_dict()["spec"] == {"size": "b", "colour": "red"}
    await client.patch(WIDGETS, "w", {"spec": {"size": "c"}}, "default")
    assert b"old" not in cluster.store.items("widgets.example.com")[0].raw


async def test_an_older_object_is_read_by_the_schema_after_a_restart(tmp_path: Path) -> None:
    clock, crd = SystemClock(), with_schema(definition("widgets", "Widget"), old=TEXT, size=TEXT)
    async with open_store(tmp_path / "store.db", clock=clock) as store, Cluster(store=store, clock=clock) as cluster:
        client = cluster.client()
        await client.create(CUSTOM_RESOURCE_DEFINITIONS, crd)
        await conditions(cluster, "widgets.example.com")
        await client.create(WIDGETS, {"metadata": {"name": "w"}, "spec": {"old": "a", "size": "b"}}, "default")
        newer = with_schema(definition("widgets", "Widget"), size=TEXT)
        await client.patch(CUSTOM_RESOURCE_DEFINITIONS, "widgets.example.com", {"spec": newer["spec"]})
    async with open_store(tmp_path / "store.db", clock=clock) as store, Cluster(store=store, clock=clock) as cluster:
        assert (await cluster.client().get(WIDGETS, "w", "default")).to_dict()["spec"] == {"size": "b"}


async def test_a_definition_that_makes_no_sense_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    store = memory_store()
    place = "customresourcedefinitions.apiextensions.k8s.io"
    for name, spec in (("as.ex.com", {}), ("bs.ex.com", {"group": "ex.com", "names": {"plural": "bs"}, "versions": 5})):
        await store.put(Key(place, "", name), None, {"metadata": {"name": name, "uid": name}, "spec": spec})
    async with Cluster(store=store) as cluster:
        await cluster.client().create(CUSTOM_RESOURCE_DEFINITIONS, definition("widgets", "Widget"))
        assert (await conditions(cluster, "widgets.example.com"))["Established"][0] == "True"
    assert "the definition as.ex.com in the store makes no sense and is not served" in caplog.text
