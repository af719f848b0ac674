"""Devices and models as mappers get them: merged with the model, free-form values in wrappers a Go mapper reads."""

import struct
from typing import Any

import msgspec
import pytest
from google.protobuf.wrappers_pb2 import BoolValue, FloatValue, Int32Value, StringValue

from edgehive.api import devices as api
from edgehive.edgecore.devicetwin import dmi_messages as messages


def model(**spec: Any) -> api.DeviceModel:
    return msgspec.convert({"metadata": {"name": "m", "namespace": "ns"}, "spec": spec}, api.DeviceModel)


def device(**spec: Any) -> api.Device:
    body = {"metadata": {"name": "d", "namespace": "ns"}, "spec": {"deviceModelRef": {"name": "m"}, **spec}}
    return msgspec.convert(body, api.Device)


def single(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


@pytest.mark.parametrize(
    ("value", "wrapper"),
    [
        ("text", StringValue(value="text")),
        (True, BoolValue(value=True)),
        (1, FloatValue(value=1)),
        (-2.5, FloatValue(value=-2.5)),
        (16777216, FloatValue(value=16777216)),
        # As a 32-bit float it would be 16777216.
        (16777217, Int32Value(value=16777217)),
        (2**31 - 1, Int32Value(value=2**31 - 1)),
        (2**40 + 1, FloatValue(value=float(2**40))),
        (0.1, FloatValue(value=single(0.1))),
        (1e300, FloatValue(value=float("inf"))),
        # The Go edge refuses these; ours gives their JSON.
        ({"a": [1, None]}, StringValue(value='{"a":[1,null]}')),
        ([1, "b"], StringValue(value='[1,"b"]')),
    ],
)
def test_values_travel_in_wrappers(value: object, wrapper: Any) -> None:
    wrapped = messages.wrapped(value)
    unpacked = type(wrapper)()
    assert wrapped.Unpack(unpacked), wrapped.type_url
    assert unpacked == wrapper
    assert wrapped.type_url.startswith("type.googleapis.com/google.protobuf.")


def test_the_instance_wins_over_its_model() -> None:
    defaults = {"protocolName": "modbus", "configData": {"register": 1, "scale": 2}}
    properties = [
        {"name": "t", "visitors": {"configData": {"register": 7}}},
        {"name": "u", "visitors": {"protocolName": "own", "configData": {"x": 1}}},
        {"name": "v"},
    ]
    made = messages.device_message(
        device(protocol={"protocolName": "modbus", "configData": {"slaveID": 2, "gone": None}}, properties=properties),
        model(
            protocolConfigData={"slaveID": 1, "baud": 9600},
            properties=[{"name": "t", "visitors": defaults}, {"name": "v", "visitors": defaults}],
        ),
    )
    assert made.spec.deviceModelReference == "m"
    assert numbers(made.spec.protocol.configData) == {"slaveID": 2, "baud": 9600}
    t, u, v = made.spec.properties
    assert (t.visitors.protocolName, numbers(t.visitors.configData)) == ("modbus", {"register": 7, "scale": 2})
    assert (u.visitors.protocolName, numbers(u.visitors.configData)) == ("own", {"x": 1})
    assert numbers(v.visitors.configData) == {"register": 1, "scale": 2}


def numbers(customized: Any) -> dict[str, float]:
    found = {}
    for key, value in customized.data.items():
        number = FloatValue()
        assert value.Unpack(number)
        found[key] = number.value
    return found


def test_state_reports_override_the_status() -> None:
    made = messages.device_message(device(stateReport={"reportToCloud": True, "reportCycle": 500}), model())
    assert (made.status.reportToCloud, made.status.reportCycle) == (True, 500)


def test_push_methods_are_kept() -> None:
    push = {
        "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 3},
        "mqtt": {"address": "a", "topic": "t", "qos": 1, "retained": True},
        "otel": {"endpointURL": "o"},
        "dbMethod": {
            "influxdb2": {
                "influxdb2ClientConfig": {"url": "u", "org": "g", "bucket": "b"},
                "influxdb2DataConfig": {"measurement": "m", "tag": {"k": "v"}, "fieldKey": "f"},
            },
            "redis": {"redisClientConfig": {"addr": "r", "db": 1, "poolsize": 2, "minIdleConns": 3}},
            "TDEngine": {"TDEngineClientConfig": {"addr": "d", "dbName": "n"}},
            "mysql": {"mysqlClientConfig": {"addr": "y", "database": "z", "userName": "w"}},
        },
        "anomalyDetection": {"window": 5},
    }
    made = messages.device_message(device(properties=[{"name": "t", "pushMethod": push}]), model())
    found = made.spec.properties[0].pushMethod
    assert (found.http.hostname, found.http.requestpath, found.mqtt.retained) == ("h", "/p", True)
    assert found.otel.endpointURL == "o"
    database = found.dbMethod
    assert database.influxdb2.influxdb2DataConfig.tag == {"k": "v"}
    assert (database.redis.redisClientConfig.poolsize, database.tdengine.tdEngineClientConfig.dbname) == (2, "n")
    assert database.mysql.mysqlClientConfig.userName == "w"
    assert numbers(found.anomalyDetection) == {"window": 5}


def test_a_model_is_told_without_its_visitors() -> None:
    item = {
        "name": "t", "description": "x", "type": "INT", "accessMode": "ReadOnly", "minimum": "0", "maximum": "9",
        "unit": "K", "visitors": {"protocolName": "modbus"},
    }  # fmt: skip
    made = messages.model_message(model(properties=[item]))
    told = made.spec.properties[0]
    assert (made.name, made.namespace) == ("m", "ns")
    assert (told.type, told.accessMode, told.minimum, told.maximum, told.unit) == ("INT", "ReadOnly", "0", "9", "K")
