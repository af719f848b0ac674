"""Checks of the seven calls: devices and models come, change and go."""

import asyncio
from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue
from grpclib.exceptions import GRPCError

from edgehive.mapper.conformance.bench import Bench, Broken
from edgehive.mapper.conformance.edge import CALLS, Caller
from edgehive.mapper.conformance.kit import check
from edgehive.protos import dmi_pb2 as dmi

DEVICES, MODELS, CALLING = "devices", "models", "calls"


@check(DEVICES, "RegisterDevice answers with the device's name")
async def _(bench: Bench) -> None:
    device = bench.device()
    answer = await bench.add(device)
    # Go's mappers leave the namespace out.
    if answer.deviceName != device.name or answer.deviceNamespace not in ("", device.namespace):
        raise Broken(f"the answer names {answer.deviceNamespace!r}/{answer.deviceName!r}")


@check(DEVICES, "a registered device is reported")
async def _(bench: Bench) -> None:
    await bench.alive()


@check(DEVICES, "every property of it is reported")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    for name in bench.definition.properties:
        await bench.first_report(device, name)


@check(DEVICES, "a device registered twice is taken twice")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.add(device)
    await bench.first_report(device)


@check(DEVICES, "a device registered twice is gone when it is removed once")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.add(device)
    await bench.first_report(device)
    await bench.remove(device)
    await bench.silence(device)


@check(DEVICES, "RegisterDevice without a device is refused")
async def _(bench: Bench) -> None:
    await bench.refused("RegisterDevice", dmi.RegisterDeviceRequest())
    await bench.alive()


@check(DEVICES, "a device without a name is refused")
async def _(bench: Bench) -> None:
    device = bench.device()
    device.name = ""
    await bench.refused("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()


@check(DEVICES, "a device of another protocol is not served")
async def _(bench: Bench) -> None:
    device = bench.device()
    device.spec.protocol.protocolName = "no-such-protocol"
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.silence(device, grace=0)


@check(DEVICES, "a device whose model is missing is no harm")
async def _(bench: Bench) -> None:
    device = bench.device(model="conformance-missing")
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.remove(device)


@check(DEVICES, "a device begins when its model comes after it")
async def _(bench: Bench) -> None:
    device = bench.device(model="conformance-late")
    taken = await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.call("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=bench.model("conformance-late")))
    if not taken:
        await bench.add(device)
    await bench.first_report(device)
    await bench.remove(device)


@check(DEVICES, "a device without properties is no harm")
async def _(bench: Bench) -> None:
    device = bench.device()
    del device.spec.properties[:]
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.remove(device)


@check(DEVICES, "a property the model does not have leaves the others alone")
async def _(bench: Bench) -> None:
    device = bench.device()
    device.spec.properties.add(name="conformance-unknown", collectCycle=100, reportToCloud=True)
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.first_report(device, bench.any_property().name)
    await bench.remove(device)


@check(DEVICES, "configuration wrapped in a type nobody knows is no harm")
async def _(bench: Bench) -> None:
    device = bench.device()
    device.spec.protocol.configData.data["conformance"].type_url = "type.googleapis.com/no.such.Type"
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.remove(device)


@check(DEVICES, "negative cycles are no harm")
async def _(bench: Bench) -> None:
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=bench.device(cycle=-1)))
    await bench.alive()


@check(DEVICES, "a name with dots is served")
async def _(bench: Bench) -> None:
    device = bench.device("conformance.with.dots")
    await bench.add(device)
    await bench.first_report(device)


@check(DEVICES, "a name of 253 characters is served")
async def _(bench: Bench) -> None:
    device = bench.device("c" * 253)
    await bench.add(device)
    await bench.first_report(device)


@check(DEVICES, "a name in Unicode is no harm")
async def _(bench: Bench) -> None:
    device = bench.device("温度计-1")
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.remove(device)


@check(DEVICES, "one name in two namespaces is two devices")
async def _(bench: Bench) -> None:
    ours = bench.device("conformance-twin")
    theirs = bench.device("conformance-twin", namespace="conformance")
    model = bench.model()
    model.namespace = "conformance"
    await bench.call("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=model))
    await bench.add(ours)
    await bench.add(theirs)
    await bench.first_report(ours)
    await bench.first_report(theirs)
    since = bench.mark()
    await bench.remove(ours)
    await bench.first_report(theirs, since=since)


@check(DEVICES, "twenty devices are served side by side")
async def _(bench: Bench) -> None:
    devices = [bench.device() for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            tasks.create_task(bench.add(device))
    for device in devices:
        await bench.first_report(device)


@check(DEVICES, "a device that is updated goes on")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    since = bench.mark()
    await bench.update(bench.device(device.name, cycle=50))
    await bench.first_report(device, since=since)


@check(DEVICES, "a property that an update adds is reported")
async def _(bench: Bench) -> None:
    left_out = bench.any_property().name
    device = bench.device(leave_out=left_out)
    await bench.add(device)
    await bench.update(bench.device(device.name))
    await bench.first_report(device, left_out)


@check(DEVICES, "a property that an update takes away is not reported any more")
async def _(bench: Bench) -> None:
    left_out = bench.any_property().name
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device, left_out)
    await bench.update(bench.device(device.name, leave_out=left_out))
    await bench.silence(device, left_out)


@check(DEVICES, "properties that an update makes local are not reported any more")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    await bench.update(bench.device(device.name, told=False))
    await bench.silence(device)


@check(DEVICES, "UpdateDevice of a device it does not have is no harm")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.either("UpdateDevice", dmi.UpdateDeviceRequest(device=device))
    await bench.alive()
    await bench.either("RemoveDevice", dmi.RemoveDeviceRequest(deviceName=device.name, deviceNamespace="default"))


@check(DEVICES, "UpdateDevice without a device is refused")
async def _(bench: Bench) -> None:
    await bench.refused("UpdateDevice", dmi.UpdateDeviceRequest())


@check(DEVICES, "a removed device is not reported any more")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    await bench.remove(device)
    await bench.silence(device)


@check(DEVICES, "a device removed twice is no harm")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.remove(device)
    await bench.either("RemoveDevice", dmi.RemoveDeviceRequest(deviceName=device.name, deviceNamespace="default"))
    await bench.alive()


@check(DEVICES, "RemoveDevice of nobody is no harm")
async def _(bench: Bench) -> None:
    await bench.either("RemoveDevice", dmi.RemoveDeviceRequest())
    await bench.alive()


@check(DEVICES, "a device that is removed and comes back is reported anew")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.first_report(device)
    await bench.remove(device)
    await bench.silence(device)
    since = bench.mark()
    await bench.add(device)
    await bench.first_report(device, since=since)


@check(DEVICES, "GetDevice gives the device with its properties")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    found = await bench.get(device)
    names = [item.name for item in found.spec.properties]
    if (found.name, found.namespace) != (device.name, device.namespace) or set(names) != set(
        bench.definition.properties
    ):
        raise Broken(f"it gives {found.namespace}/{found.name} with {', '.join(names) or 'no properties'}")


@check(DEVICES, "GetDevice of a device it does not have is refused")
async def _(bench: Bench) -> None:
    await bench.refused("GetDevice", dmi.GetDeviceRequest(deviceName="nobody", deviceNamespace="default"))


@check(DEVICES, "GetDevice of a removed device is refused")
async def _(bench: Bench) -> None:
    device = bench.device()
    await bench.add(device)
    await bench.remove(device)
    await bench.refused("GetDevice", dmi.GetDeviceRequest(deviceName=device.name, deviceNamespace="default"))


@check(MODELS, "CreateDeviceModel answers with the model's name")
async def _(bench: Bench) -> None:
    answer = await _create(bench, bench.model("conformance-other"))
    if answer.deviceModelName != "conformance-other" or answer.deviceModelNamespace not in ("", "default"):
        raise Broken(f"the answer names {answer.deviceModelNamespace!r}/{answer.deviceModelName!r}")


@check(MODELS, "a model created twice is no harm")
async def _(bench: Bench) -> None:
    await _create(bench, bench.model("conformance-other"))
    await bench.either("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=bench.model("conformance-other")))
    await bench.alive()


@check(MODELS, "CreateDeviceModel without a model is refused")
async def _(bench: Bench) -> None:
    await bench.refused("CreateDeviceModel", dmi.CreateDeviceModelRequest())


@check(MODELS, "a model with a property type nobody knows is no harm")
async def _(bench: Bench) -> None:
    name = bench.any_property().name
    model = bench.model("conformance-strange", **{name: {"type": "COLOUR"}})
    await bench.either("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=model))
    device = bench.device(model="conformance-strange")
    await bench.either("RegisterDevice", dmi.RegisterDeviceRequest(device=device))
    await bench.alive()
    await bench.either("RemoveDevice", dmi.RemoveDeviceRequest(deviceName=device.name, deviceNamespace="default"))


@check(MODELS, "an updated model reaches its devices")
async def _(bench: Bench) -> None:
    item, low, high = bench.writable_number()
    await _create(bench, bench.model("conformance-limits", **{item.name: {"maximum": low}}))
    device = bench.device(model="conformance-limits", desired={item.name: low})
    await bench.add(device)
    await bench.report_where(device, lambda told: float(told.value) == float(low), f"{item.name} = {low}", item.name)
    request = dmi.UpdateDeviceModelRequest(model=bench.model("conformance-limits"))
    await bench.call("UpdateDeviceModel", request)
    await bench.update(bench.device(device.name, model="conformance-limits", desired={item.name: high}))
    await bench.report_where(device, lambda told: float(told.value) == float(high), f"{item.name} = {high}", item.name)


@check(MODELS, "UpdateDeviceModel without a model is refused")
async def _(bench: Bench) -> None:
    await bench.refused("UpdateDeviceModel", dmi.UpdateDeviceModelRequest())


@check(MODELS, "a model nobody uses can be removed")
async def _(bench: Bench) -> None:
    await _create(bench, bench.model("conformance-other"))
    request = dmi.RemoveDeviceModelRequest(modelName="conformance-other", modelNamespace="default")
    await bench.call("RemoveDeviceModel", request)
    await bench.either("RemoveDeviceModel", request)
    await bench.alive()


@check(CALLING, "fifty calls at once are answered")
async def _(bench: Bench) -> None:
    async with asyncio.TaskGroup() as tasks:
        for _ in range(50):
            tasks.create_task(bench.touch())


@check(CALLING, "twenty connections one after another are answered")
async def _(bench: Bench) -> None:
    for _ in range(20):
        caller = Caller(bench.info.address)
        await caller.call("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=bench.model()))
        caller.close()


@check(CALLING, "bytes that are no request are refused")
async def _(bench: Bench) -> None:
    # A length-delimited field that is longer than the message, in the shape of a BytesValue.
    await _refused_raw(bench, "CreateDeviceModel", BytesValue(value=b"\x0a\xff\xff\xff\xff"))
    await bench.alive()


@check(CALLING, "a method nobody knows is refused")
async def _(bench: Bench) -> None:
    await _refused_raw(bench, "MakeCoffee", dmi.GetDeviceRequest())
    await bench.alive()


@check(CALLING, "a request of 8 MB is refused or answered, and the mapper goes on")
async def _(bench: Bench) -> None:
    device = bench.device()
    device.spec.properties[0].desired.value = "x" * 8_000_000
    await bench.either("UpdateDevice", dmi.UpdateDeviceRequest(device=device))
    await bench.alive()
    await bench.either("RemoveDevice", dmi.RemoveDeviceRequest(deviceName=device.name, deviceNamespace="default"))


async def _create(bench: Bench, model: dmi.DeviceModel) -> Any:
    return await bench.call("CreateDeviceModel", dmi.CreateDeviceModelRequest(model=model))


async def _refused_raw(bench: Bench, method: str, request: Any) -> None:
    reply = CALLS[method][1] if method in CALLS else dmi.GetDeviceResponse
    try:
        await bench.send(method, request, type(request), reply)
    except GRPCError:
        return
    raise Broken(f"{method} was answered as if all were well")
