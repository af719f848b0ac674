"""KubeEdge's kinds on a site are definitions like any other: listed, typed, and over whatever a database holds."""

from pathlib import Path

import pytest

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, DEVICES, KUBEEDGE, OBJECT_SYNCS, RULES
from edgehive.edgesite.definitions import kubeedge_definitions
from edgehive.kit.clock import SystemClock
from edgehive.kube.errors import Invalid
from edgehive.kube.server.app import ApiServer, ServerOptions
from edgehive.kube.sqlite import open_store
from edgehive.testing.cluster import Cluster


async def test_every_kind_is_listed_and_served_from_the_first_moment() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster:
        client = cluster.client()
        listed = [item.to_dict() for item in (await client.list(CUSTOM_RESOURCE_DEFINITIONS)).items]
        assert {item["metadata"]["name"] for item in listed} == {f"{row.plural}.{row.group}" for row in KUBEEDGE}
        for item in listed:
            states = {condition["type"]: condition["status"] for condition in item["status"]["conditions"]}
            assert states == {"NamesAccepted": "True", "Established": "True"}
        for row in KUBEEDGE:
            assert (await client.list(row)).items == []


async def test_objects_are_typed_and_what_belongs_to_a_mapper_is_left_open() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster:
        client = cluster.client()
        config = {"anything": {"goes": [1, 2]}}
        spec = {"nodeName": "n", "protocol": {"protocolName": "modbus", "configData": config}, "unknown": 1}
        device = await client.create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
        assert device.to_dict()["spec"]["protocol"]["configData"] == config
        assert "unknown" not in device.to_dict()["spec"]
        with pytest.raises(Invalid, match=r"spec\.target: Required value"):
            await client.create(RULES, {"metadata": {"name": "r"}, "spec": {"source": "s"}}, "default")


async def test_objects_from_before_the_definitions_are_reached(tmp_path: Path) -> None:
    clock, record = SystemClock(), {"metadata": {"name": "n.uid"}, "spec": {"objectName": "web"}}
    async with open_store(tmp_path / "store.db", clock=clock) as store:
        server = ApiServer(store, clock=clock, options=ServerOptions(extra_resources=KUBEEDGE))
        await server.start()
        made = await server.client().create(OBJECT_SYNCS, record, "default")
        await server.stop()
    for _ in range(2):
        async with open_store(tmp_path / "store.db", clock=clock) as store:
            server = ApiServer(store, clock=clock, options=ServerOptions(definitions=kubeedge_definitions()))
            await server.start()
            found = await server.client().get(OBJECT_SYNCS, "n.uid", "default")
            assert (found.meta.uid, found.to_dict()["spec"]) == (made.meta.uid, {"objectName": "web"})
            patched = await server.client().patch(
                OBJECT_SYNCS, "n.uid", {"status": {"objectResourceVersion": "7"}}, "default", subresource="status"
            )
            assert patched.to_dict()["status"] == {"objectResourceVersion": "7"}
            await server.stop()
