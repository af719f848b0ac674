"""KubeEdge's own kinds as CustomResourceDefinitions, for a site's API server. Pure.

Only what both sides of the wire agree on is typed; what belongs to a mapper or a protocol is left open.
Definitions that are already in a site's database stay as they are, so newer ones can be applied over these.

Go: build/crds/{devices,router,reliablesyncs}
"""

from collections.abc import Mapping
from typing import Any, Final

from edgehive.api.registry import (
    CLUSTER_OBJECT_SYNCS,
    DEVICE_MODELS,
    DEVICE_STATUSES,
    DEVICES,
    OBJECT_SYNCS,
    RULE_ENDPOINTS,
    RULES,
    ApiResource,
)
from edgehive.cloudcore.crds import definition

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_NUMBER: Final[Json] = {"type": "integer"}
_LONG: Final[Json] = {"type": "integer", "format": "int64"}
_FLAG: Final[Json] = {"type": "boolean"}
_TEXTS: Final[Json] = {"type": "object", "additionalProperties": _TEXT}
_OPEN: Final[Json] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def kubeedge_definitions() -> tuple[Json, ...]:
    """Every kind of KubeEdge a site serves."""
    kinds: tuple[tuple[ApiResource, Json | None], ...] = (
        (OBJECT_SYNCS, None),
        (CLUSTER_OBJECT_SYNCS, None),
        (DEVICES, _device()),
        (DEVICE_MODELS, _device_model()),
        (DEVICE_STATUSES, _device_status()),
        (RULES, _rule()),
        (RULE_ENDPOINTS, _rule_endpoint()),
    )
    return tuple(definition(resource, properties) for resource, properties in kinds)


def _struct(required: tuple[str, ...] = (), **properties: Mapping[str, Any]) -> Json:
    return {"type": "object", "properties": properties} | ({"required": list(required)} if required else {})


def _list(items: Mapping[str, Any]) -> Json:
    return {"type": "array", "items": items}


def _one_of(*values: str) -> Json:
    return {"type": "string", "enum": list(values)}


def _protocol() -> Json:
    return _struct(protocolName=_TEXT, configData=_OPEN)


def _value() -> Json:
    return _struct(("value",), value=_TEXT, metadata=_TEXTS)


def _device() -> Json:
    one = _struct(
        name=_TEXT,
        collectCycle=_LONG,
        reportCycle=_LONG,
        reportToCloud=_FLAG,
        desired=_value(),
        visitors=_protocol(),
        pushMethod=_OPEN,
    )
    method = _struct(name=_TEXT, description=_TEXT, propertyNames=_list(_TEXT))
    spec = _struct(
        deviceModelRef=_struct(name=_TEXT | {"default": ""}) | {"x-kubernetes-map-type": "atomic"},
        methods=_list(method),
        nodeName=_TEXT,
        properties=_list(one),
        protocol=_protocol(),
        stateReport=_struct(reportCycle=_LONG, reportToCloud=_FLAG),
    )
    return {"spec": spec, "status": _OPEN}


def _device_model() -> Json:
    one = _struct(
        name=_TEXT,
        description=_TEXT,
        type=_one_of("INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"),
        accessMode=_one_of("ReadWrite", "ReadOnly"),
        minimum=_TEXT,
        maximum=_TEXT,
        unit=_TEXT,
        visitors=_protocol(),
    )
    return {"spec": _struct(properties=_list(one), protocol=_TEXT, protocolConfigData=_OPEN)}


def _device_status() -> Json:
    twin = _struct(propertyName=_TEXT, observedDesired=_value(), reported=_value())
    status = _struct(twins=_list(twin), state=_TEXT, lastOnlineTime=_TEXT, extensions=_OPEN)
    return {"spec": _struct(), "status": status}


def _rule() -> Json:
    required = ("source", "sourceResource", "target", "targetResource")
    spec = _struct(required, source=_TEXT, sourceResource=_TEXTS, target=_TEXT, targetResource=_TEXTS)
    return {"spec": spec, "status": _struct(successMessages=_NUMBER, failMessages=_NUMBER, errors=_list(_TEXT))}


def _rule_endpoint() -> Json:
    kind = _one_of("rest", "eventbus", "servicebus")
    return {"spec": _struct(("ruleEndpointType",), ruleEndpointType=kind, properties=_TEXTS)}
