"""Device and DeviceModel as edges send them over DMI, read into the lenses of `api.devices`. Pure.

wire: edges wrap free-form configuration value by value, every number as a 32-bit float; the shortest decimal of it is
what was written in the cloud. Objects and lists, which only our edge sends, come as JSON text.
tests/pure/mapper/test_dmi_objects.py

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/util/parse/grpc.go
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.any_pb2 import Any as Wrapped
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import (
    BoolValue,
    BytesValue,
    DoubleValue,
    FloatValue,
    Int32Value,
    Int64Value,
    StringValue,
    UInt32Value,
    UInt64Value,
)

from edgehive.api import devices as api
from edgehive.api.core import LocalObjectReference
from edgehive.api.meta import ObjectMeta
from edgehive.mapper import values
from edgehive.protos import dmi_pb2 as dmi

#: Objects in objects; a text with more of them stays a text.
NESTING_LIMIT = 64
_WRAPPERS = {
    wrapper.DESCRIPTOR.full_name: wrapper
    for wrapper in (
        BoolValue, BytesValue, DoubleValue, FloatValue, Int32Value, Int64Value, StringValue, UInt32Value, UInt64Value,
    )
}  # fmt: skip


def device_of(message: dmi.Device) -> api.Device:
    """Raises ValueError saying what is wrong."""
    spec = message.spec
    report = api.StateReport(message.status.reportToCloud, message.status.reportCycle)
    return api.Device(
        metadata=ObjectMeta(name=message.name, namespace=message.namespace or "default"),
        spec=api.DeviceSpec(
            device_model_ref=LocalObjectReference(name=spec.deviceModelReference),
            protocol=api.ProtocolConfig(spec.protocol.protocolName, _config(spec.protocol.configData.data)),
            properties=[_property(item) for item in spec.properties],
            methods=[api.DeviceMethod(item.name, item.description, list(item.propertyNames)) for item in spec.methods],
            state_report=report,
        ),
    )


def model_of(message: dmi.DeviceModel) -> api.DeviceModel:
    properties = [
        api.ModelProperty(
            item.name, item.description, item.type, item.accessMode, item.minimum, item.maximum, item.unit
        )
        for item in message.spec.properties
    ]
    meta = ObjectMeta(name=message.name, namespace=message.namespace or "default")
    return api.DeviceModel(metadata=meta, spec=api.DeviceModelSpec(properties=properties))


def unwrapped(holder: Wrapped) -> Any:
    """One value of free-form configuration; raises ValueError."""
    name = holder.type_url.rpartition("/")[2]
    if name not in _WRAPPERS:
        raise ValueError(f"a configuration value is wrapped in {name[:100]!r}, which is not known")
    box = _WRAPPERS[name]()
    try:
        box.ParseFromString(holder.value)
    except DecodeError as error:
        raise ValueError(f"a configuration value is no {name}: {error}") from error
    if isinstance(box, FloatValue):
        return values.single(box.value)
    return _from_json(box.value) if isinstance(box, StringValue) else box.value


def _from_json(text: str) -> Any:
    if text[:1] not in ("{", "["):
        return text
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return found if _is_shallow(found) else text


def _is_shallow(found: Any, levels: int = NESTING_LIMIT) -> bool:
    items = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    return levels > 0 and all(_is_shallow(item, levels - 1) for item in items)


def _config(data: Mapping[str, Wrapped]) -> dict[str, Any]:
    found = {}
    for name, holder in data.items():
        try:
            found[name] = unwrapped(holder)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def _property(item: dmi.DeviceProperty) -> api.DeviceProperty:
    return api.DeviceProperty(
        name=item.name,
        desired=api.TwinProperty(item.desired.value, dict(item.desired.metadata)),
        visitors=api.ProtocolConfig(item.visitors.protocolName, _config(item.visitors.configData.data)),
        report_cycle=item.reportCycle,
        collect_cycle=item.collectCycle,
        report_to_cloud=item.reportToCloud,
        push_method=_push(item.pushMethod) if item.HasField("pushMethod") else None,
    )


def _push(message: dmi.PushMethod) -> api.PushMethod | None:
    """None where it names nothing: edges send an empty one for a property without."""
    http, mqtt = message.http, message.mqtt
    method = api.PushMethod(
        http=api.PushHttp(http.hostname, http.port, http.requestpath, http.timeout) if http.hostname else None,
        mqtt=api.PushMqtt(mqtt.address, mqtt.topic, mqtt.qos, mqtt.retained) if mqtt.address else None,
        otel=api.PushOtel(message.otel.endpointURL) if message.otel.endpointURL else None,
        db_method=_database(message.dbMethod),
        anomaly_detection=_config(message.anomalyDetection.data) or None,
    )
    return method if method != api.PushMethod() else None


def _database(message: dmi.DBMethod) -> api.PushDatabase | None:
    influx, data = message.influxdb2.influxdb2ClientConfig, message.influxdb2.influxdb2DataConfig
    redis, tdengine = message.redis.redisClientConfig, message.tdengine.tdEngineClientConfig
    mysql = message.mysql.mysqlClientConfig
    found = api.PushDatabase(
        influxdb2=api.PushInflux(
            api.InfluxClient(influx.url, influx.org, influx.bucket),
            api.InfluxData(data.measurement, dict(data.tag), data.fieldKey),
        )
        if influx.url
        else None,
        redis=api.PushRedis(api.RedisClient(redis.addr, redis.db, redis.poolsize, redis.minIdleConns))
        if redis.addr
        else None,
        tdengine=api.PushTdengine(api.TdengineClient(tdengine.addr, tdengine.dbname)) if tdengine.addr else None,
        mysql=api.PushMysql(api.MysqlClient(mysql.addr, mysql.database, mysql.userName)) if mysql.addr else None,
    )
    return found if found != api.PushDatabase() else None
