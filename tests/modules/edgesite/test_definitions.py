"""KubeEdge's kinds on a site are definitions like any other: listed, typed, and over whatever a database holds."""

from pathlib import Path

import aiohttp
import pytest

from edgehive.api.devices import Device, DeviceStatus
from edgehive.api.registry import (
    CUSTOM_RESOURCE_DEFINITIONS,
    DEVICE_MODELS,
    DEVICE_STATUSES,
    DEVICES,
    KUBEEDGE,
    OBJECT_SYNCS,
    RULES,
    ApiResource,
)
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


PUSH = {
    "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 10},
    "mqtt": {"address": "tcp://b:1883", "topic": "t", "qos": 1, "retained": True},
    "otel": {"endpointURL": "http://o:4318"},
    "dbMethod": {
        "influxdb2": {
            "influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
            "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"},
        },
        "redis": {"redisClientConfig": {"addr": "r:6379", "db": 1, "poolsize": 2, "minIdleConns": 3}},
        "TDEngine": {"TDEngineClientConfig": {"addr": "t:6041", "dbName": "d"}},
        "mysql": {"mysqlClientConfig": {"addr": "m:3306", "database": "d", "userName": "u"}},
    },
    "anomalyDetection": {"anything": [1, {"deep": True}]},
}


async def test_a_device_keeps_every_field_of_the_api_and_the_lens_reads_it() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster:
        one = {
            "name": "t",
            "desired": {"value": "20", "metadata": {"type": "int"}},
            "visitors": {"protocolName": "modbus", "configData": {"register": "CoilRegister"}},
            "reportCycle": 1000,
            "collectCycle": 500,
            "reportToCloud": True,
            "pushMethod": PUSH,
        }
        spec = {
            "deviceModelRef": {"name": "m"},
            "nodeName": "n",
            "properties": [one],
            "protocol": {"protocolName": "modbus", "configData": {"slave": 1}},
            "methods": [{"name": "set", "description": "d", "propertyNames": ["t"]}],
            "stateReport": {"reportToCloud": True, "reportCycle": 5000},
        }
        made = await cluster.client().create(DEVICES, {"metadata": {"name": "d"}, "spec": spec}, "default")
        assert made.to_dict()["spec"] == spec
        device = made.read(Device)
        (read,) = device.spec.properties or ()
        push = read.push_method
        assert push is not None and push.db_method is not None and push.db_method.tdengine is not None
        assert push.db_method.tdengine.client is not None and push.db_method.tdengine.client.db_name == "d"
        assert push.otel is not None and push.otel.endpoint_url == "http://o:4318"
        assert push.db_method.influxdb2 is not None and push.db_method.influxdb2.data is not None
        assert push.db_method.influxdb2.data.field_key == "f"
        assert (device.spec.model_name, read.report_cycle, read.report_to_cloud) == ("m", 1000, True)


async def test_what_upstream_refuses_of_devices_is_refused() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster:
        client = cluster.client()
        for kind, spec, fault in (
            (DEVICE_MODELS, {"properties": [{"name": "p", "type": "int"}]}, "Unsupported value"),
            (DEVICE_MODELS, {"properties": [{"name": "p", "accessMode": "Both"}]}, "Unsupported value"),
            (DEVICES, {"properties": [{"name": "p", "desired": {}}]}, "Required value"),
            (DEVICES, {"properties": [{"name": "p", "reportCycle": "soon"}]}, "must be of type integer"),
        ):
            with pytest.raises(Invalid, match=fault):
                await client.create(kind, {"metadata": {"name": "x"}, "spec": spec}, "default")


async def test_kubectl_sees_the_first_values_of_a_device() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster, cluster.serve() as url:
        twins = [{"propertyName": "t", "reported": {"value": "21"}, "observedDesired": {"value": "20"}}]
        status = {"metadata": {"name": "d"}, "spec": {}, "status": {"state": "online", "twins": twins}}
        made = await cluster.client().create(DEVICE_STATUSES, status, "default")
        assert made.read(DeviceStatus).status.twins is not None
        table = "application/json;as=Table;v=v1;g=meta.k8s.io"
        async with (
            aiohttp.ClientSession(url) as session,
            session.get(DEVICE_STATUSES.path("default"), headers={"Accept": table}) as answer,
        ):
            shown = await answer.json()
        cells = dict(zip([item["name"] for item in shown["columnDefinitions"]], shown["rows"][0]["cells"], strict=True))
        assert [cells[name] for name in ("Name", "State", "Property", "Reported", "Desired")] == [
            "d", "online", "t", "21", "20",
        ]  # fmt: skip


async def test_objects_of_the_version_before_can_be_written_and_read() -> None:
    async with Cluster(options=ServerOptions(definitions=kubeedge_definitions())) as cluster:
        older = ApiResource("devices.kubeedge.io", "v1alpha2", "DeviceModel", "devicemodels", True)
        spec = {"properties": [{"name": "p", "type": {"int": {"accessMode": "ReadWrite", "maximum": 9}}}]}
        made = await cluster.client().create(older, {"metadata": {"name": "m"}, "spec": spec}, "default")
        assert made.to_dict()["spec"] == spec
        found = await cluster.client().get(older, "m", "default")
        assert (found.api_version, found.meta.uid) == ("devices.kubeedge.io/v1alpha2", made.meta.uid)


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
