"""The kinds of devices.kubeedge.io: their schemas, and what `kubectl get` shows of them. Pure.

v1beta1 is stored. v1alpha2 is served as well and nothing is converted, as upstream: objects of that time can be read.
The schemas refuse nothing that upstream's accept; what belongs to a protocol or a mapper is left open.

Go: build/crds/devices
"""

from dataclasses import dataclass
from typing import Final

from edgehive.api.definition import definition
from edgehive.api.devices import AccessMode, PropertyType
from edgehive.api.registry import DEVICE_MODELS, DEVICE_STATUSES, DEVICES, ApiResource
from edgehive.api.schema_parts import (
    FLAG,
    INT32,
    INT64,
    NUMBER,
    OPEN,
    REAL,
    REFERENCE,
    TEXT,
    TEXTS,
    Json,
    array,
    column,
    one_of,
    struct,
)

OLDER_VERSION: Final = "v1alpha2"


@dataclass(frozen=True, slots=True)
class KindSchema:
    """One kind: the properties of its stored version, its columns, and the properties of older versions by name."""

    resource: ApiResource
    properties: Json
    columns: tuple[Json, ...]
    older: dict[str, Json]

    def definition(self) -> Json:
        """Its CustomResourceDefinition."""
        return definition(self.resource, self.properties, columns=self.columns, older=self.older)


def device_kinds() -> tuple[KindSchema, ...]:
    return (
        KindSchema(DEVICES, _device(), _DEVICE_COLUMNS, {OLDER_VERSION: _older_device()}),
        KindSchema(DEVICE_MODELS, _model(), _MODEL_COLUMNS, {OLDER_VERSION: _older_model()}),
        KindSchema(DEVICE_STATUSES, _status(), _STATUS_COLUMNS, {OLDER_VERSION: {"twins": array(_older_twin())}}),
    )


_AGE = column("Age", ".metadata.creationTimestamp", "date")
_DEVICE_COLUMNS = (
    column("Node", ".spec.nodeName"),
    column("Model", ".spec.deviceModelRef.name"),
    column("Protocol", ".spec.protocol.protocolName"),
    column(
        "Accepted",
        '.status.conditions[?(@.type=="Accepted")].status',
        description="Whether its node has been told of it as it stands; the condition says what is wrong.",
    ),
    column("Reason", '.status.conditions[?(@.type=="Accepted")].reason', wide=True),
    _AGE,
)
_MODEL_COLUMNS = (column("Protocol", ".spec.protocol"), _AGE)
_STATUS_COLUMNS = (
    column("State", ".status.state"),
    column("Online", ".status.lastOnlineTime", "date", description="When it was last online."),
    column("Property", ".status.twins[0].propertyName", description="The first of its properties."),
    column("Reported", ".status.twins[0].reported.value"),
    column("Desired", ".status.twins[0].observedDesired.value", description="What the device knows to be desired."),
    column("Also", ".status.twins[1].propertyName", wide=True, description="The second of its properties."),
    column("Also-Reported", ".status.twins[1].reported.value", wide=True),
    _AGE,
)


# --- v1beta1 ----------------------------------------------------------------------------------------------


def _protocol() -> Json:
    return struct(protocolName=TEXT, configData=OPEN)


def _value() -> Json:
    return struct(("value",), value=TEXT, metadata=TEXTS)


def _push_method() -> Json:
    influx = struct(
        influxdb2ClientConfig=struct(url=TEXT, org=TEXT, bucket=TEXT),
        influxdb2DataConfig=struct(measurement=TEXT, tag=TEXTS, fieldKey=TEXT),
    )
    redis = struct(redisClientConfig=struct(addr=TEXT, db=NUMBER, poolsize=NUMBER, minIdleConns=NUMBER))
    database = struct(
        influxdb2=influx,
        redis=redis,
        TDEngine=struct(TDEngineClientConfig=struct(addr=TEXT, dbName=TEXT)),
        mysql=struct(mysqlClientConfig=struct(addr=TEXT, database=TEXT, userName=TEXT)),
    )
    return struct(
        http=struct(hostName=TEXT, port=INT64, requestPath=TEXT, timeout=INT64),
        mqtt=struct(address=TEXT, topic=TEXT, qos=INT32, retained=FLAG),
        otel=struct(endpointURL=TEXT),
        dbMethod=database,
        anomalyDetection=OPEN,
    )


def _device() -> Json:
    one = struct(
        name=TEXT,
        desired=_value(),
        visitors=_protocol(),
        reportCycle=INT64,
        collectCycle=INT64,
        reportToCloud=FLAG,
        pushMethod=_push_method(),
    )
    spec = struct(
        deviceModelRef=REFERENCE,
        nodeName=TEXT,
        properties=array(one),
        protocol=_protocol(),
        methods=array(struct(name=TEXT, description=TEXT, propertyNames=array(TEXT))),
        stateReport=struct(reportToCloud=FLAG, reportCycle=INT64),
    )
    status = OPEN | {"properties": {"reportToCloud": FLAG, "reportCycle": INT64}}
    return {"spec": spec, "status": status}


def _model() -> Json:
    one = struct(
        name=TEXT,
        description=TEXT,
        type=one_of(*PropertyType),
        accessMode=one_of(*AccessMode),
        minimum=TEXT,
        maximum=TEXT,
        unit=TEXT,
        visitors=_protocol(),
    )
    return {"spec": struct(properties=array(one), protocol=TEXT, protocolConfigData=OPEN)}


def _status() -> Json:
    twin = struct(propertyName=TEXT, observedDesired=_value(), reported=_value())
    status = struct(twins=array(twin), state=TEXT, lastOnlineTime=TEXT, extensions=OPEN)
    return {"spec": struct(), "status": status}


# --- v1alpha2 ---------------------------------------------------------------------------------------------


def _older_twin() -> Json:
    return struct(propertyName=TEXT, desired=_value(), reported=_value())


def _node_selector() -> Json:
    atomic = {"x-kubernetes-list-type": "atomic"}
    requirement = struct(("key", "operator"), key=TEXT, operator=TEXT, values=array(TEXT) | atomic)
    requirements = array(requirement) | atomic
    term = struct(matchExpressions=requirements, matchFields=requirements) | {"x-kubernetes-map-type": "atomic"}
    selector = struct(("nodeSelectorTerms",), nodeSelectorTerms=array(term) | atomic)
    return selector | {"x-kubernetes-map-type": "atomic"}


def _older_protocol() -> Json:
    bauds = (115200, 57600, 38400, 19200, 9600, 4800, 2400, 1800, 1200, 600, 300, 200, 150, 134, 110, 75, 50)
    serial = struct(
        serialPort=TEXT,
        baudRate=one_of(*bauds),
        dataBits=one_of(8, 7, 6, 5),
        parity=one_of("none", "even", "odd"),
        stopBits=one_of(1, 2),
    )
    common = struct(
        com=serial,
        tcp=struct(ip=TEXT, port=INT64),
        commType=TEXT,
        reconnTimeout=INT64,
        reconnRetryTimes=INT64,
        collectTimeout=INT64,
        collectRetryTimes=INT64,
        collectType=one_of("sync", "async"),
        customizedValues=OPEN,
    )
    opcua = struct(
        url=TEXT,
        userName=TEXT,
        password=TEXT,
        securityPolicy=TEXT,
        securityMode=TEXT,
        certificate=TEXT,
        privateKey=TEXT,
        timeout=INT64,
    )
    return struct(
        opcua=opcua,
        modbus=struct(slaveID=INT64),
        bluetooth=struct(macAddress=TEXT),
        common=common,
        customizedProtocol=_protocol(),
    )


def _older_visitor() -> Json:
    converter = struct(
        startIndex=NUMBER,
        endIndex=NUMBER,
        shiftLeft=NUMBER,
        shiftRight=NUMBER,
        orderOfOperations=array(struct(operationType=TEXT, operationValue=REAL)),
    )
    written: Json = {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}}
    modbus = struct(
        register=one_of("CoilRegister", "DiscreteInputRegister", "InputRegister", "HoldingRegister"),
        offset=INT64,
        limit=INT64,
        scale=REAL,
        isSwap=FLAG,
        isRegisterSwap=FLAG,
    )
    return struct(
        propertyName=TEXT,
        reportCycle=INT64,
        collectCycle=INT64,
        customizedValues=OPEN,
        opcua=struct(nodeID=TEXT, browseName=TEXT),
        modbus=modbus,
        bluetooth=struct(characteristicUUID=TEXT, dataWrite=written, dataConverter=converter),
        customizedProtocol=_protocol(),
    )


def _older_device() -> Json:
    data = struct(dataProperties=array(struct(propertyName=TEXT, metadata=TEXTS)), dataTopic=TEXT)
    spec = struct(
        deviceModelRef=REFERENCE,
        protocol=_older_protocol(),
        nodeSelector=_node_selector(),
        propertyVisitors=array(_older_visitor()),
        data=data,
    )
    return {"spec": spec, "status": struct(twins=array(_older_twin()))}


def _older_model() -> Json:
    mode = one_of(*AccessMode)

    def bounded(kind: Json) -> Json:
        return struct(accessMode=mode, defaultValue=kind, minimum=kind, maximum=kind, unit=TEXT)

    type = struct(
        int=bounded(INT64),
        float=bounded(REAL),
        double=bounded(REAL),
        string=struct(accessMode=mode, defaultValue=TEXT),
        boolean=struct(accessMode=mode, defaultValue=FLAG),
        bytes=struct(accessMode=mode),
    )
    one = struct(name=TEXT, description=TEXT, type=type)
    return {"spec": struct(properties=array(one), protocol=TEXT)}
