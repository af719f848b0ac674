"""`edgehive devices set`: a desired value, checked against the model before it is written, and nothing else changed."""

from typing import Any, TypeVar

import msgspec

from edgehive.api.device_faults import value_fault
from edgehive.api.devices import AccessMode, Device, DeviceModel, ModelProperty
from edgehive.api.document import Document
from edgehive.api.registry import DEVICE_MODELS, DEVICES
from edgehive.devices_view.choice import Scope, Unusable, no_property, one_device
from edgehive.devices_view.rows import NUMBERS, shown
from edgehive.devices_view.source import listed
from edgehive.kube.client import Client, PatchType
from edgehive.kube.errors import ApiError, Conflict, NotFound

T = TypeVar("T")

#: How often it is tried again because something else of the device was changed meanwhile.
ATTEMPTS = 5


async def set_desired(client: Client, namespace: str, name: str, property: str, value: str) -> str:
    """Write it; gives the sentence to say. An empty value takes the desired one away. Raises Unusable."""
    before: str | None = None
    for attempt in range(ATTEMPTS):
        device = await _device(client, namespace, name)
        described = await _described(client, device, property)
        wanted = value.strip() if described.type in NUMBERS else value
        _check(described, wanted)
        present = _present(device, property)
        if attempt and present != before:
            raise Unusable(f"somebody else set {property!r} to {shown(present)!r} meanwhile; look, and set it again")
        before, unit = present, f" {shown(described.unit)}" if described.unit and wanted else ""
        if present == wanted:
            return f"{namespace}/{name}: {property} is desired to be {shown(wanted) or 'nothing'}{unit} already"
        if await _write(client, device, property, wanted):
            change = f"shall be {shown(wanted)}{unit}" if wanted else "is no longer desired to be anything"
            return f"{namespace}/{name}: {property} {change}"
    raise Unusable(f"device {name!r} is changed all the time; nothing was written, try again")


async def _device(client: Client, namespace: str, name: str) -> Document:
    try:
        return await client.get(DEVICES, name, namespace)
    except NotFound:
        scope = Scope(namespace)
        one_device(await listed(client, scope), name, scope)
        raise Unusable(f"device {name!r} was made just now; try again") from None
    except ApiError as error:
        raise Unusable(f"cannot read device {name!r}: {error}") from None


async def _described(client: Client, document: Document, property: str) -> ModelProperty:
    """What the model says of the property, after a look whether the device has it."""
    meta = document.meta
    device = _read(document, Device)
    names = [one.name for one in device.spec.properties or ()]
    if property not in names:
        raise no_property(meta.name, property, names)
    model_name = device.spec.model_name
    if not model_name:
        raise Unusable(f"device {meta.name!r} names no device model to check the value by: give it a deviceModelRef")
    try:
        model = _read(await client.get(DEVICE_MODELS, model_name, meta.namespace), DeviceModel)
    except NotFound:
        raise Unusable(
            f"device model {shown(model_name)!r} of device {meta.name!r} is absent, so that the value cannot be "
            "checked: create the model first"
        ) from None
    except ApiError as error:
        raise Unusable(f"cannot read device model {shown(model_name)!r}: {error}") from None
    for one in model.spec.properties or ():
        if one.name == property:
            return one
    raise Unusable(f"device model {shown(model_name)!r} does not describe property {property!r}: add it there first")


def _check(described: ModelProperty, value: str) -> None:
    if described.access_mode == AccessMode.READ_ONLY:
        raise Unusable(f"property {described.name!r} is ReadOnly in the device's model; it cannot be set")
    if value and (fault := value_fault(described, value)):
        raise Unusable(f"property {described.name!r}: the value {fault}")


def _present(document: Document, property: str) -> str:
    for one in _read(document, Device).spec.properties or ():
        if one.name == property:
            return one.desired.value if one.desired is not None else ""
    return ""


async def _write(client: Client, document: Document, property: str, value: str) -> bool:
    """False when the device was changed since it was read."""
    meta = document.meta
    properties = [_changed(one, property, value) for one in document.to_dict()["spec"]["properties"]]
    patch = {"metadata": {"resourceVersion": meta.resource_version}, "spec": {"properties": properties}}
    try:
        await client.patch(DEVICES, meta.name, patch, meta.namespace, type=PatchType.MERGE)
    except Conflict:
        return False
    except ApiError as error:
        raise Unusable(f"device {meta.name!r} was not changed: {error}") from None
    return True


def _changed(one: dict[str, Any], property: str, value: str) -> dict[str, Any]:
    if one.get("name") != property:
        return one
    if value:
        return one | {"desired": (one.get("desired") or {}) | {"value": value}}
    return {key: item for key, item in one.items() if key != "desired"}


def _read(document: Document, lens: type[T]) -> T:
    try:
        return document.read(lens)
    except msgspec.DecodeError as error:
        raise Unusable(f"{lens.__name__} {document.meta.name!r} cannot be read: {shown(str(error), 200)}") from None
