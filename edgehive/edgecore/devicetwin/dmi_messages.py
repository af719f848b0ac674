"""Device and DeviceModel objects as mappers get them over DMI: merged with the model, values in their wrappers. Pure.

Free-form configuration travels as `Any`. wire: numbers are 32-bit floats there, as the Go edge sends them, so a
fraction keeps some seven digits; a whole number that would change (beyond 16,777,216) goes as Int32Value where that
holds it, which Go's mappers read as well. Where the Go edge gives up, on objects and lists in it, ours sends their JSON
as text; null is left out. tests/pure/edgecore/test_dmi_messages.py

Go: edge/pkg/devicetwin/dtcommon/util.go, edge/pkg/devicetwin/dmicache/dmicache.go
"""

import struct
from collections.abc import Mapping
from typing import Any

import msgspec
from google.protobuf.any_pb2 import Any as Wrapped
from google.protobuf.wrappers_pb2 import BoolValue, FloatValue, Int32Value, StringValue

from edgehive.api import devices as api
from edgehive.protos import dmi_pb2 as dmi

_FLOAT = struct.Struct("<f")
_INT32 = range(-(2**31), 2**31)


def model_message(model: api.DeviceModel) -> dmi.DeviceModel:
    properties = [
        dmi.ModelProperty(
            name=item.name,
            description=item.description,
            type=item.type,
            accessMode=item.access_mode,
            minimum=item.minimum,
            maximum=item.maximum,
            unit=item.unit,
        )
        for item in model.spec.properties or ()
    ]
    meta = model.metadata
    return dmi.DeviceModel(name=meta.name, namespace=meta.namespace, spec=dmi.DeviceModelSpec(properties=properties))


def device_message(device: api.Device, model: api.DeviceModel, desired: Mapping[str, str] | None = None) -> dmi.Device:
    """The device with its model's defaults; what the instance says wins, and over that what is `desired` here."""
    spec, visitors = device.spec, {item.name: item.visitors for item in model.spec.properties or ()}
    protocol = spec.protocol or api.ProtocolConfig()
    config = _merged(model.spec.protocol_config_data, protocol.config_data)
    report, status = spec.state_report, device.status
    return dmi.Device(
        name=device.metadata.name,
        namespace=device.metadata.namespace,
        spec=dmi.DeviceSpec(
            deviceModelReference=spec.model_name,
            protocol=dmi.ProtocolConfig(protocolName=protocol.protocol_name, configData=_customized(config)),
            properties=[
                _property(item, visitors.get(item.name), (desired or {}).get(item.name))
                for item in spec.properties or ()
            ],
            methods=[
                dmi.DeviceMethod(name=item.name, description=item.description, propertyNames=item.property_names or ())
                for item in spec.methods or ()
            ],
        ),
        status=dmi.DeviceStatus(
            reportToCloud=report.report_to_cloud if report else status.report_to_cloud,
            reportCycle=report.report_cycle if report else status.report_cycle,
        ),
    )


def wrapped(value: Any) -> Wrapped:
    """One value of free-form configuration."""
    holder = Wrapped()
    if isinstance(value, bool):
        holder.Pack(BoolValue(value=value))
    elif isinstance(value, int) and value in _INT32 and _as_float(value) != value:
        holder.Pack(Int32Value(value=value))
    elif isinstance(value, int | float):
        holder.Pack(FloatValue(value=_as_float(value)))
    elif isinstance(value, str):
        holder.Pack(StringValue(value=value))
    else:
        holder.Pack(StringValue(value=msgspec.json.encode(value).decode()))
    return holder


def _as_float(value: float) -> float:
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    return rounded


def _property(
    item: api.DeviceProperty, default: api.ProtocolConfig | None, desired: str | None = None
) -> dmi.DeviceProperty:
    own = item.visitors
    message = dmi.DeviceProperty(
        name=item.name,
        reportCycle=item.report_cycle,
        collectCycle=item.collect_cycle,
        reportToCloud=item.report_to_cloud,
    )
    message.desired.SetInParent()
    if item.desired is not None:
        message.desired.value = item.desired.value
        message.desired.metadata.update(item.desired.metadata or {})
    if desired is not None:
        message.desired.value = desired
    name = (default.protocol_name if default else "") or (own.protocol_name if own else "")
    config = _merged(default.config_data if default else None, own.config_data if own else None)
    message.visitors.CopyFrom(dmi.VisitorConfig(protocolName=name, configData=_customized(config)))
    if item.push_method is not None:
        message.pushMethod.CopyFrom(_push(item.push_method))
    return message


def _merged(defaults: Mapping[str, Any] | None, own: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if defaults is None and own is None:
        return None
    return {**(defaults or {}), **(own or {})}


def _customized(config: Mapping[str, Any] | None) -> dmi.CustomizedValue | None:
    return None if config is None else dmi.CustomizedValue(data=_wrapped_all(config))


def _wrapped_all(config: Mapping[str, Any]) -> dict[str, Wrapped]:
    return {key: wrapped(value) for key, value in config.items() if value is not None}


def _push(push: api.PushMethod) -> dmi.PushMethod:
    message = dmi.PushMethod()
    if http := push.http:
        message.http.CopyFrom(
            dmi.PushMethodHTTP(
                hostname=http.host_name, port=http.port, requestpath=http.request_path, timeout=http.timeout
            )
        )
    if mqtt := push.mqtt:
        message.mqtt.CopyFrom(
            dmi.PushMethodMQTT(address=mqtt.address, topic=mqtt.topic, qos=mqtt.qos, retained=mqtt.retained)
        )
    if push.otel:
        message.otel.endpointURL = push.otel.endpoint_url
    if push.db_method:
        message.dbMethod.CopyFrom(_database(push.db_method))
    if push.anomaly_detection is not None:
        message.anomalyDetection.CopyFrom(dmi.AnomalyDetection(data=_wrapped_all(push.anomaly_detection)))
    return message


def _database(push: api.PushDatabase) -> dmi.DBMethod:
    message = dmi.DBMethod()
    if push.influxdb2:
        client, data = push.influxdb2.client or api.InfluxClient(), push.influxdb2.data or api.InfluxData()
        message.influxdb2.CopyFrom(
            dmi.DBMethodInfluxdb2(
                influxdb2ClientConfig=dmi.Influxdb2ClientConfig(url=client.url, org=client.org, bucket=client.bucket),
                influxdb2DataConfig=dmi.Influxdb2DataConfig(
                    measurement=data.measurement, tag=data.tag or {}, fieldKey=data.field_key
                ),
            )
        )
    if push.redis:
        redis = push.redis.client or api.RedisClient()
        message.redis.redisClientConfig.CopyFrom(
            dmi.RedisClientConfig(
                addr=redis.addr, db=redis.db, poolsize=redis.poolsize, minIdleConns=redis.min_idle_conns
            )
        )
    if push.tdengine:
        tdengine = push.tdengine.client or api.TdengineClient()
        message.tdengine.tdEngineClientConfig.CopyFrom(
            dmi.TDEngineClientConfig(addr=tdengine.addr, dbname=tdengine.db_name)
        )
    if push.mysql:
        mysql = push.mysql.client or api.MysqlClient()
        message.mysql.mysqlClientConfig.CopyFrom(
            dmi.MySQLClientConfig(addr=mysql.addr, database=mysql.database, userName=mysql.user_name)
        )
    return message
