"""Devices as edges send them over DMI, read."""

import pytest
from google.protobuf.any_pb2 import Any as Wrapped
from google.protobuf.wrappers_pb2 import BoolValue, DoubleValue, FloatValue, Int32Value, Int64Value, StringValue

from edgehive.api import devices as api
from edgehive.edgecore.devicetwin.dmi_messages import device_message, model_message
from edgehive.edgecore.devicetwin.dmi_messages import wrapped as wrapped_by_our_edge
from edgehive.mapper.definition import definition_of, plain
from edgehive.mapper.dmi_objects import device_of, model_of, unwrapped
from edgehive.protos import dmi_pb2 as dmi


def packed(message: object) -> Wrapped:
    holder = Wrapped()
    holder.Pack(message)
    return holder


@pytest.mark.parametrize(
    ("message", "value"),
    [
        (FloatValue(value=5020), 5020),
        (FloatValue(value=0.1), 0.1),
        (FloatValue(value=-2.5), -2.5),
        (DoubleValue(value=0.1), 0.1),
        (Int32Value(value=7), 7),
        (Int64Value(value=2**40), 2**40),
        (BoolValue(value=True), True),
        (StringValue(value="/dev/ttyUSB0"), "/dev/ttyUSB0"),
        (StringValue(value='{"a": [1, 2]}'), {"a": [1, 2]}),
        (StringValue(value="[no list"), "[no list"),
        (StringValue(value="[" * 5000), "[" * 5000),
        (StringValue(value="[" * 600 + "]" * 600), "[" * 600 + "]" * 600),
        (StringValue(value=""), ""),
    ],
)
def test_a_configuration_value_is_what_was_written_in_the_cloud(message: object, value: object) -> None:
    found = plain(unwrapped(packed(message)))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("value", [1, 502, 16_777_217, 0.1, 21.3, True, "x", {"a": {"b": 1}}, [1, "two", None]])
def test_what_our_edge_wraps_arrives_as_it_was(value: object) -> None:
    assert plain(unwrapped(wrapped_by_our_edge(value))) == value


def test_what_is_wrapped_in_an_unknown_type_is_told() -> None:
    with pytest.raises(ValueError, match="which is not known"):
        unwrapped(Wrapped(type_url="type.googleapis.com/no.such.Type"))
    with pytest.raises(ValueError, match="is no google"):
        unwrapped(Wrapped(type_url="type.googleapis.com/google.protobuf.FloatValue", value=b"\xff"))


PUSH = {
    "http": {"hostName": "h", "port": 1, "requestPath": "/p", "timeout": 5},
    "mqtt": {"address": "tcp://b:1883", "topic": "t", "qos": 1, "retained": True},
    "otel": {"endpointURL": "http://o"},
    "dbMethod": {
        "influxdb2": {
            "influxdb2ClientConfig": {"url": "http://i", "org": "o", "bucket": "b"},
            "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"},
        },
        "redis": {"redisClientConfig": {"addr": "r:6379", "db": 2, "poolsize": 3, "minIdleConns": 1}},
        "TDEngine": {"TDEngineClientConfig": {"addr": "t:6041", "dbName": "d"}},
        "mysql": {"mysqlClientConfig": {"addr": "s:3306", "database": "d", "userName": "u"}},
    },
}


def device_and_model() -> tuple[api.Device, api.DeviceModel]:
    import msgspec

    model = {
        "metadata": {"name": "m", "namespace": "default"},
        "spec": {
            "protocol": "modbus",
            "protocolConfigData": {"port": 502, "timeout": 0.5},
            "properties": [
                {"name": "t", "type": "FLOAT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "9.5",
                 "visitors": {"protocolName": "modbus", "configData": {"register": "HoldingRegister", "scale": 0.1}}},
                {"name": "s", "type": "STRING", "accessMode": "ReadOnly"},
            ],
        },
    }  # fmt: skip
    device = {
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "m"},
            "protocol": {"protocolName": "modbus", "configData": {"port": 5020}},
            "stateReport": {"reportToCloud": True, "reportCycle": 5000},
            "properties": [
                {"name": "t", "desired": {"value": "5"}, "collectCycle": 100, "reportCycle": 300, "reportToCloud": True,
                 "visitors": {"protocolName": "modbus", "configData": {"offset": 3, "deadband": 0.2}},
                 "pushMethod": PUSH},
                {"name": "s"},
            ],
        },
    }  # fmt: skip
    return msgspec.convert(device, api.Device), msgspec.convert(model, api.DeviceModel)


def test_a_device_is_the_same_from_a_file_and_over_dmi() -> None:
    device, model = device_and_model()
    from_file = definition_of(device, model)
    over_dmi = definition_of(device_of(device_message(device, model)), model_of(model_message(model)))
    assert over_dmi == from_file
    assert over_dmi.config == {"port": 5020, "timeout": 0.5}
    item = over_dmi.properties["t"]
    assert item.visitor.config == {"register": "HoldingRegister", "scale": 0.1, "offset": 3, "deadband": 0.2}
    assert (item.desired, item.collect_cycle, item.report_cycle, item.deadband) == (5.0, 0.1, 0.3, 0.2)
    assert item.push == device.spec.properties[0].push_method  # type: ignore[index]
    assert (over_dmi.report_state, over_dmi.state_cycle) == (True, 5.0)
    assert over_dmi.properties["s"].push is None


def test_what_cannot_be_used_is_told_and_the_rest_stays() -> None:
    device, model = device_and_model()
    message, told = device_message(device, model), model_message(model)
    message.spec.properties[0].desired.value = "99"
    message.spec.properties.add(name="x")
    told.spec.properties[1].type = "COLOUR"
    found = definition_of(device_of(message), model_of(told))
    assert list(found.properties) == ["t"]
    assert found.properties["t"].desired is None
    assert found.faults == (
        "property 't': desired value '99' is above the maximum 9.5",
        "property 's': its type 'COLOUR' is none of INT, FLOAT, DOUBLE, STRING, BOOLEAN, BYTES, STREAM",
        "property 'x' is not in model 'm'; it has: t, s",
    )


def test_an_unset_device_is_read_without_harm() -> None:
    found = definition_of(device_of(dmi.Device(name="d")), model_of(dmi.DeviceModel(name="m")))
    assert (str(found.id), found.properties, found.report_state) == ("default/d", {}, False)
