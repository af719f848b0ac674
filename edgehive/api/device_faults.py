"""What is wrong with a device, a model or a value, in sentences that name the mend. Pure.

Nothing is held back for it: what a stock cloud would send is sent, and the owner is told.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet

from edgehive.api.devices import (
    AccessMode,
    Device,
    DeviceMethod,
    DeviceModel,
    DeviceProperty,
    ModelProperty,
    PropertyType,
)

#: Of one value as text: a thousand of them still fit into one object of the API.
VALUE_LIMIT = 64 * 1024
#: What Go's device twin takes as the name of a property.
_SPEAKABLE = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}")
_NUMBER_LIMIT = 400
_SHOWN = 60


def faults_of(device: Device, model: DeviceModel | None) -> Iterator[str]:
    """The faults of a device's own properties and of what its model says about them."""
    properties = device.spec.properties or []
    for name, count in Counter(one.name for one in properties).items():
        if count > 1:
            yield f"property {name!r} is there {count} times; the first counts, give the others names of their own"
        if not name:
            yield "a property has no name"
        elif not _SPEAKABLE.fullmatch(name):
            yield (
                f"property {shown(name)} has a name that edges refuse in reports; "
                "use letters, digits and - _ . , : / @ #, 128 at most"
            )
    known = {one.name: one for one in (model.spec.properties or ())} if model is not None else None
    for one in properties:
        yield from _property_faults(one, known, device.spec.model_name)
    for method in device.spec.methods or ():
        yield from _method_faults(method, {one.name for one in properties})


def _property_faults(one: DeviceProperty, known: Mapping[str, ModelProperty] | None, model: str) -> Iterator[str]:
    if known is not None and one.name not in known:
        yield f"property {shown(one.name)} is not in device model {model!r}"
    desired = one.desired.value if one.desired is not None else ""
    if not desired:
        return
    described = known.get(one.name) if known is not None else None
    if described is not None and described.access_mode == AccessMode.READ_ONLY:
        yield f"property {shown(one.name)} is ReadOnly in the model and has a desired value; take it away"
    if fault := value_fault(described, desired):
        yield f"property {shown(one.name)}: its desired value {fault}"


def _method_faults(method: DeviceMethod, properties: AbstractSet[str]) -> Iterator[str]:
    if not method.name:
        yield "a method has no name"
    for name in method.property_names or ():
        if name not in properties:
            yield f"method {shown(method.name)} names property {shown(name)}, which the device does not have"


def value_fault(described: ModelProperty | None, value: str) -> str:
    """What is wrong with a value of a property the model describes so; "" when nothing is."""
    if len(value) > VALUE_LIMIT:
        return f"has {len(value)} characters; {VALUE_LIMIT} are the limit"
    if described is None:
        return ""
    if described.type == PropertyType.BOOLEAN and value.lower() not in ("true", "false"):
        return f"{shown(value)} is no BOOLEAN; write true or false"
    if described.type not in (PropertyType.INT, PropertyType.FLOAT, PropertyType.DOUBLE):
        return ""
    number = _number(described.type, value)
    if number is None:
        return f"{shown(value)} is no {described.type}"
    return _range_fault(described, number, value)


def _range_fault(described: ModelProperty, number: float | int, value: str) -> str:
    unit = f" {described.unit}" if described.unit else ""
    for limit, name in ((described.minimum, "minimum"), (described.maximum, "maximum")):
        bound = _number(described.type, limit) if limit else number
        if bound is None:
            return f"cannot be judged: the model's {name} {shown(limit)} is no {described.type}"
        if number < bound and name == "minimum":
            return f"{shown(value)} is below the minimum {limit}{unit}"
        if number > bound and name == "maximum":
            return f"{shown(value)} is above the maximum {limit}{unit}"
    return ""


def _number(type: str, text: str) -> float | int | None:
    # Longer ones are no 64-bit number, and Python refuses to read very long ones; `_` is its own spelling.
    if len(text) > _NUMBER_LIMIT or "_" in text:
        return None
    try:
        if type == PropertyType.INT:
            number = int(text)
            return number if -(2**63) <= number < 2**63 else None
        found = float(text)
    except ValueError:
        return None
    return None if math.isnan(found) else found


def shown(text: str) -> str:
    """A text of unknown length for a sentence."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
