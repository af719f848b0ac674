"""A device as a mapper works with it, made of a Device and its DeviceModel. Pure.

What cannot be used is left out and told in `faults`, one sentence each; the rest of the device works.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgehive.api import devices as api
from edgehive.mapper import values
from edgehive.mapper.driver import Value, Visitor
from edgehive.wire.devices import DeviceId

#: Seconds, where a Device says nothing (Go's mappers), and the shortest there are.
DEFAULT_CYCLE, SHORTEST_CYCLE = 1.0, 0.01


@dataclass(frozen=True, slots=True)
class Property:
    """One property. Cycles are seconds."""

    visitor: Visitor
    #: The desired text and the value it means; None: nothing is desired, or it is no value of this property.
    desired_text: str | None = None
    desired: Value | None = None
    collect_cycle: float = DEFAULT_CYCLE
    report_cycle: float = DEFAULT_CYCLE
    report_to_cloud: bool = False
    #: A number that differs from the last reported one by no more than this is not reported.
    deadband: float = 0.0
    push: api.PushMethod | None = None
    #: What the driver's `detect` gets; None: readings are not judged.
    anomaly_detection: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.visitor.property


@dataclass(frozen=True, slots=True)
class Definition:
    """One device."""

    id: DeviceId
    protocol: str
    config: Mapping[str, Any]
    properties: Mapping[str, Property]
    #: The properties each method may be called upon.
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    report_state: bool = False
    state_cycle: float = DEFAULT_CYCLE
    faults: tuple[str, ...] = field(default=(), compare=False)


def definition_of(device: api.Device, model: api.DeviceModel) -> Definition:
    """The device with its model's defaults; what the device itself says wins."""
    spec, faults = device.spec, list[str]()
    protocol = spec.protocol or api.ProtocolConfig()
    report = spec.state_report or api.StateReport(device.status.report_to_cloud, device.status.report_cycle)
    properties = _properties(spec, model, faults)
    return Definition(
        id=DeviceId(device.metadata.namespace or "default", device.metadata.name),
        protocol=protocol.protocol_name or model.spec.protocol,
        config=plain({**(model.spec.protocol_config_data or {}), **(protocol.config_data or {})}),
        properties=properties,
        methods=_methods(spec, properties, faults),
        report_state=report.report_to_cloud,
        state_cycle=_cycle(report.report_cycle),
        faults=tuple(faults),
    )


def plain(value: Any) -> Any:
    """Configuration as drivers get it: a whole number is an int, whichever way it came."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def _properties(spec: api.DeviceSpec, model: api.DeviceModel, faults: list[str]) -> dict[str, Property]:
    modelled = {item.name: item for item in model.spec.properties or ()}
    found: dict[str, Property] = {}
    for item in spec.properties or ():
        if item.name not in modelled:
            known = ", ".join(modelled) or "none"
            faults.append(f"property {item.name!r} is not in model {model.metadata.name!r}; it has: {known}")
        elif (visitor := _visitor(item, modelled[item.name], faults)) is not None:
            found[item.name] = _property(item, visitor, faults)
    return found


def _methods(spec: api.DeviceSpec, properties: Mapping[str, Property], faults: list[str]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for method in spec.methods or ():
        names = method.property_names or ()
        for name in names:
            if name not in properties:
                faults.append(f"method {method.name!r} names property {name!r}, which the device does not have")
        found[method.name] = found.get(method.name, ()) + tuple(name for name in names if name in properties)
    return found


def _visitor(item: api.DeviceProperty, modelled: api.ModelProperty, faults: list[str]) -> Visitor | None:
    default, own = modelled.visitors or api.ProtocolConfig(), item.visitors or api.ProtocolConfig()
    try:
        return Visitor(
            property=item.name,
            type=_type(modelled),
            config=plain({**(default.config_data or {}), **(own.config_data or {})}),
            unit=modelled.unit,
            writable=modelled.access_mode != api.AccessMode.READ_ONLY,
            minimum=values.limit(modelled.minimum, "minimum"),
            maximum=values.limit(modelled.maximum, "maximum"),
        )
    except ValueError as error:
        faults.append(f"property {item.name!r}: {error}")
        return None


def _type(modelled: api.ModelProperty) -> api.PropertyType:
    try:
        return api.PropertyType(modelled.type.upper())
    except ValueError:
        known = ", ".join(api.PropertyType)
        raise ValueError(f"its type {modelled.type!r} is none of {known}") from None


def _property(item: api.DeviceProperty, visitor: Visitor, faults: list[str]) -> Property:
    text = item.desired.value if item.desired else ""
    desired: Value | None = None
    try:
        if text and visitor.writable:
            desired = values.wanted(visitor, text)
        elif text:
            faults.append(f"property {item.name!r} is ReadOnly; its desired value is not written")
    except ValueError as error:
        faults.append(str(error))
    collect = _cycle(item.collect_cycle)
    return Property(
        visitor,
        desired_text=text if desired is not None else None,
        desired=desired,
        collect_cycle=collect,
        report_cycle=_cycle(item.report_cycle, collect),
        report_to_cloud=item.report_to_cloud,
        deadband=_deadband(visitor, faults),
        push=item.push_method,
        anomaly_detection=plain(item.push_method.anomaly_detection) if item.push_method else None,
    )


def _deadband(visitor: Visitor, faults: list[str]) -> float:
    told = visitor.config.get("deadband", 0)
    if isinstance(told, int | float) and told >= 0:
        return float(told)
    faults.append(f"property {visitor.property!r}: deadband {told!r} is no number above 0")
    return 0.0


def _cycle(millis: int, default: float = DEFAULT_CYCLE) -> float:
    return max(SHORTEST_CYCLE, millis / 1000) if millis > 0 else default
