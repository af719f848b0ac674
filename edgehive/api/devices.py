"""Read-only lenses on devices.kubeedge.io/v1beta1: Device, DeviceModel, DeviceStatus. Data only.

The cloud, the edge and mappers read devices through them; nobody encodes one back. Optional structures may be null
or absent, which mean the same: write `spec.properties or ()`. What belongs to a protocol is left open: `config_data`
is the mapping as it was written.

Go: staging/src/github.com/kubeedge/api/apis/devices/v1beta1
"""

from enum import StrEnum
from typing import Any

import msgspec

from edgehive.api.core import Lens, LocalObjectReference
from edgehive.api.meta import Condition, ObjectMeta


class PropertyType(StrEnum):
    """What a DeviceModel may say of a property's values."""

    INT = "INT"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    STRING = "STRING"
    BOOLEAN = "BOOLEAN"
    BYTES = "BYTES"
    STREAM = "STREAM"


class AccessMode(StrEnum):
    READ_WRITE = "ReadWrite"
    READ_ONLY = "ReadOnly"


class ProtocolConfig(Lens, frozen=True):
    """How a mapper reaches a device, or one property of it (visitors)."""

    protocol_name: str = ""
    config_data: dict[str, Any] | None = None


# --- DeviceModel ------------------------------------------------------------------------------------------


class ModelProperty(Lens, frozen=True):
    """`type` and `access_mode` are text: a newer API may know more of them."""

    name: str = ""
    description: str = ""
    type: str = ""
    access_mode: str = ""
    minimum: str = ""
    maximum: str = ""
    unit: str = ""
    visitors: ProtocolConfig | None = None


class DeviceModelSpec(Lens, frozen=True):
    properties: list[ModelProperty] | None = None
    protocol: str = ""
    #: What instances have where they say nothing else.
    protocol_config_data: dict[str, Any] | None = None


class DeviceModel(Lens, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: DeviceModelSpec = DeviceModelSpec()


# --- where a mapper pushes readings -----------------------------------------------------------------------


class PushHttp(Lens, frozen=True):
    host_name: str = ""
    port: int = 0
    request_path: str = ""
    timeout: int = 0


class PushMqtt(Lens, frozen=True):
    address: str = ""
    topic: str = ""
    qos: int = 0
    retained: bool = False


class PushOtel(Lens, frozen=True):
    endpoint_url: str = msgspec.field(default="", name="endpointURL")


class InfluxClient(Lens, frozen=True):
    url: str = ""
    org: str = ""
    bucket: str = ""


class InfluxData(Lens, frozen=True):
    measurement: str = ""
    tag: dict[str, str] | None = None
    field_key: str = ""


class PushInflux(Lens, frozen=True):
    client: InfluxClient | None = msgspec.field(default=None, name="influxdb2ClientConfig")
    data: InfluxData | None = msgspec.field(default=None, name="influxdb2DataConfig")


class RedisClient(Lens, frozen=True):
    addr: str = ""
    db: int = 0
    poolsize: int = 0
    min_idle_conns: int = 0


class PushRedis(Lens, frozen=True):
    client: RedisClient | None = msgspec.field(default=None, name="redisClientConfig")


class TdengineClient(Lens, frozen=True):
    addr: str = ""
    db_name: str = ""


class PushTdengine(Lens, frozen=True):
    client: TdengineClient | None = msgspec.field(default=None, name="TDEngineClientConfig")


class MysqlClient(Lens, frozen=True):
    addr: str = ""
    database: str = ""
    user_name: str = ""


class PushMysql(Lens, frozen=True):
    client: MysqlClient | None = msgspec.field(default=None, name="mysqlClientConfig")


class PushDatabase(Lens, frozen=True):
    influxdb2: PushInflux | None = None
    redis: PushRedis | None = None
    tdengine: PushTdengine | None = msgspec.field(default=None, name="TDEngine")
    mysql: PushMysql | None = None


class PushMethod(Lens, frozen=True):
    http: PushHttp | None = None
    mqtt: PushMqtt | None = None
    otel: PushOtel | None = None
    db_method: PushDatabase | None = None
    anomaly_detection: dict[str, Any] | None = None


# --- Device -----------------------------------------------------------------------------------------------


class TwinProperty(Lens, frozen=True):
    """A value as text, and what is said about it (`timestamp`, `type`)."""

    value: str = ""
    metadata: dict[str, str] | None = None


class DeviceProperty(Lens, frozen=True):
    """Cycles are milliseconds; 0 leaves them to the mapper."""

    name: str = ""
    desired: TwinProperty | None = None
    visitors: ProtocolConfig | None = None
    report_cycle: int = 0
    collect_cycle: int = 0
    report_to_cloud: bool = False
    push_method: PushMethod | None = None


class DeviceMethod(Lens, frozen=True):
    name: str = ""
    description: str = ""
    property_names: list[str] | None = None


class StateReport(Lens, frozen=True):
    report_to_cloud: bool = False
    report_cycle: int = 0


class DeviceSpec(Lens, frozen=True):
    device_model_ref: LocalObjectReference | None = None
    node_name: str = ""
    properties: list[DeviceProperty] | None = None
    protocol: ProtocolConfig | None = None
    methods: list[DeviceMethod] | None = None
    state_report: StateReport | None = None

    @property
    def model_name(self) -> str:
        """The model in the device's own namespace, "" for none."""
        return self.device_model_ref.name if self.device_model_ref else ""


class OwnStatus(Lens, frozen=True):
    """Device.status: what upstream keeps there for a time, and our conditions."""

    report_to_cloud: bool = False
    report_cycle: int = 0
    conditions: list[Condition] | None = None


class Device(Lens, frozen=True):
    metadata: ObjectMeta = ObjectMeta()
    spec: DeviceSpec = DeviceSpec()
    status: OwnStatus = OwnStatus()


# --- DeviceStatus -----------------------------------------------------------------------------------------


class Twin(Lens, frozen=True):
    property_name: str = ""
    reported: TwinProperty | None = None
    observed_desired: TwinProperty | None = None


class DeviceStatusStatus(Lens, frozen=True):
    twins: list[Twin] | None = None
    state: str = ""
    last_online_time: str = ""
    extensions: dict[str, Any] | None = None


class DeviceStatus(Lens, frozen=True):
    """What is known of a device; it has the device's name and is owned by it."""

    metadata: ObjectMeta = ObjectMeta()
    status: DeviceStatusStatus = DeviceStatusStatus()
