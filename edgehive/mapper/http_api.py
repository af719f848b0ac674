"""A mapper's HTTP interface: read a property now, see a device's methods and call them.

For applications on the node. Paths and JSON are those of Go's mappers; what fails is one sentence with a status that
says whose fault it is, where theirs always say 500.

Go: staging/src/github.com/kubeedge/mapper-framework/pkg/httpserver
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web

from edgehive.api import devices as api
from edgehive.kit.clock import Clock, rfc3339, unix_millis
from edgehive.kit.http import serve
from edgehive.mapper import values
from edgehive.mapper.calls import BadValue, CallFailed, NoSuch, property_of
from edgehive.mapper.device import Device
from edgehive.mapper.devices import Devices
from edgehive.mapper.http_door import HttpDoor
from edgehive.wire.devices import DeviceId

log = logging.getLogger("edgehive.mapper")

VERSION = "v1"
_BASE = f"/api/{VERSION}"
_DEVICE = "{namespace}/{name}"
#: wire: an answer carries it back.
_CORRELATION = "X-Correlation-ID"


class HttpApi:
    """One mapper's. `patience`: seconds a call may wait for its device."""

    def __init__(self, devices: Devices, clock: Clock, door: HttpDoor, *, patience: float) -> None:
        self._devices = devices
        self._clock = clock
        self._door = door
        self._tls = door.tls()
        self._patience = patience
        #: Where it is served, while it is.
        self.bound: tuple[str, int] | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Raises PortInUse."""
        if self._door.is_open_to_others:
            log.warning(
                "whoever reaches %s may call methods of devices; --http-client-ca restricts it", self._door.host
            )
        async with serve(self._application(), host=self._door.host, port=self._door.port, ssl_context=self._tls) as at:
            self.bound = at
            log.info("methods of devices are at %s://%s:%d%s", "https" if self._tls else "http", *at, _BASE)
            yield

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024, middlewares=[self._admit])
        app.router.add_get(f"{_BASE}/ping", self._ping)
        app.router.add_get(f"{_BASE}/device/{_DEVICE}/{{property}}", self._read)
        app.router.add_get(f"{_BASE}/devicemethod/{_DEVICE}", self._methods)
        app.router.add_get(f"{_BASE}/devicemethod/{_DEVICE}/{{method}}/{{property}}/{{data}}", self._call)
        app.router.add_get(f"{_BASE}/meta/model/{_DEVICE}", self._model)
        app.router.add_get(f"{_BASE}/database/{_DEVICE}", self._database)
        return app

    @web.middleware
    async def _admit(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if refusal := self._door.refusal(request.host, request.headers):
            return _text(request, 403, refusal)
        return await handler(request)

    # What is served

    async def _ping(self, request: web.Request) -> web.Response:
        return self._answer(request, {"Message": f"This is {VERSION} API, the server is running normally."})

    async def _read(self, request: web.Request) -> web.Response:
        try:
            device, name = self._device(request), request.match_info["property"]
            async with asyncio.timeout(self._patience):
                value = await device.read_now(name)
            type = property_of(device.definition, name).visitor.type
        except (NoSuch, CallFailed, TimeoutError) as error:
            return _failure(request, "Get device data error", error)
        data = {
            "DeviceName": device.definition.id.name,
            "PropertyName": name,
            "Namespace": device.definition.id.namespace,
            "Value": values.text_of(type, value),
            "Type": type.lower(),
            "TimeStamp": unix_millis(self._clock.now()),
        }
        return self._answer(request, {"Data": data})

    async def _methods(self, request: web.Request) -> web.Response:
        try:
            definition = self._device(request).definition
        except NoSuch as error:
            return _failure(request, "Get device method error", error)
        place = f"{_BASE}/devicemethod/{definition.id}"
        methods = [
            {
                "Name": method,
                "Path": f"{place}/{method}/{{propertyName}}/{{data}}",
                "Parameters": [
                    {"PropertyName": name, "ValueType": definition.properties[name].visitor.type.lower()}
                    for name in names
                ],
            }
            for method, names in definition.methods.items()
        ]
        return self._answer(request, {"Data": {"Methods": methods}})

    async def _call(self, request: web.Request) -> web.Response:
        asked = request.match_info
        try:
            device = self._device(request)
            async with asyncio.timeout(self._patience):
                await device.call(asked["method"], asked["property"], asked["data"])
        except (NoSuch, BadValue, CallFailed, TimeoutError) as error:
            return _failure(request, "Write device data error", error)
        text = f"Write data {asked['data']} to device {device.definition.id} successfully."
        return self._answer(request, {"Message": text})

    async def _model(self, request: web.Request) -> web.Response:
        id = _id(request)
        model = self._devices.model_of(id)
        if model is None:
            return _failure(request, "Get device error", NoSuch(f"device {id} or its model is not here"))
        return self._answer(request, _model_shown(id, model))

    async def _database(self, request: web.Request) -> web.Response:
        return _text(request, 503, "The database is not enabled. Please configure mapper and try again")

    # How

    def _device(self, request: web.Request) -> Device:
        id = _id(request)
        device = self._devices.get(id)
        if device is None:
            raise NoSuch(f"device {id} is not here")
        return device

    def _answer(self, request: web.Request, content: dict[str, Any]) -> web.Response:
        base = {"apiVersion": VERSION, "statusCode": 200, "timeStamp": rfc3339(self._clock.now())}
        body = msgspec.json.encode(base | content)
        return web.Response(body=body, content_type="application/json", headers=_correlation(request))


def _id(request: web.Request) -> DeviceId:
    return DeviceId(request.match_info["namespace"], request.match_info["name"])


def _failure(request: web.Request, what: str, error: Exception) -> web.Response:
    status = 404 if isinstance(error, NoSuch) else 400 if isinstance(error, BadValue) else 500
    return _text(request, status, f"{what}: {str(error) or 'the device does not answer in time'}")


def _text(request: web.Request, status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n", headers=_correlation(request))


def _correlation(request: web.Request) -> dict[str, str]:
    found = request.headers.get(_CORRELATION, "")
    return {_CORRELATION: found} if found else {}


def _model_shown(id: DeviceId, model: api.DeviceModel) -> dict[str, Any]:
    """As Go shows it: what is empty is left out."""
    properties = [
        {
            "name": item.name,
            "dataType": item.type,
            "description": item.description,
            "accessMode": item.access_mode,
            "minimum": item.minimum,
            "maximum": item.maximum,
            "unit": item.unit,
        }
        for item in model.spec.properties or ()
    ]
    shown = {
        "id": f"{id.namespace}/{model.metadata.name}",
        "name": model.metadata.name,
        "namespace": id.namespace,
        "properties": [{key: text for key, text in item.items() if text} for item in properties],
    }
    return {key: value for key, value in shown.items() if value}
