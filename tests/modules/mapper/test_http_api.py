"""A mapper's HTTP interface, asked as an application asks a Go mapper's."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientError, ClientSession, TCPConnector
from mapper_rig import CLOCK, FakeEdge, device, model

from edgehive.kit import tls
from edgehive.kit.fatal import Fatal
from edgehive.kit.ssl_contexts import client_context
from edgehive.mapper.devices import Devices
from edgehive.mapper.http_api import HttpApi
from edgehive.mapper.http_door import HttpDoor
from edgehive.mappers.virtual import Virtual

PROPERTIES = [
    {"name": "target", "type": "FLOAT", "accessMode": "ReadWrite", "maximum": "30", "unit": "°C"},
    {"name": "room", "type": "STRING", "accessMode": "ReadWrite"},
]
BASE = {"apiVersion": "v1", "statusCode": 200, "timeStamp": "2026-01-02T03:04:05Z"}


@asynccontextmanager
async def serving(door: HttpDoor, **spec: Any) -> AsyncIterator[HttpApi]:
    devices = Devices(Virtual, "virtual", FakeEdge(), CLOCK)
    devices.put_model(model(*PROPERTIES))
    own = {"name": "target", "collectCycle": 20, "visitors": {"configData": {"initial": 21.5}}}
    methods = [{"name": "heat", "propertyNames": ["target"]}, {"name": "name", "propertyNames": ["room"]}]
    devices.put(device(own, {"name": "room", "collectCycle": 20}, methods=methods, **spec))
    api = HttpApi(devices, CLOCK, door, patience=1)
    try:
        async with api.serving():
            yield api
    finally:
        await devices.close()


@pytest.fixture
async def ask() -> AsyncIterator[Any]:
    """GET: the status and the body, as JSON where it is."""
    async with serving(HttpDoor("127.0.0.1", 0)) as api, ClientSession() as session:
        assert api.bound is not None
        root = f"http://127.0.0.1:{api.bound[1]}/api/v1"

        async def get(path: str) -> tuple[int, Any]:
            async with session.get(f"{root}{path}", headers={"X-Correlation-ID": "7"}) as answer:
                assert answer.headers["X-Correlation-ID"] == "7"
                is_json = answer.content_type == "application/json"
                return answer.status, await (answer.json() if is_json else answer.text())

        while "is being opened" in str((await get("/device/default/d/target"))[1]):
            pass
        yield get


async def test_it_answers_a_ping(ask: Any) -> None:
    assert await ask("/ping") == (200, BASE | {"Message": "This is v1 API, the server is running normally."})


async def test_a_property_is_read_from_the_device_now(ask: Any) -> None:
    data = {
        "DeviceName": "d",
        "PropertyName": "target",
        "Namespace": "default",
        "Value": "21.5",
        "Type": "float",
        "TimeStamp": 1767323045000,
    }
    assert await ask("/device/default/d/target") == (200, BASE | {"Data": data})


async def test_the_methods_of_a_device_are_listed_with_their_parameters(ask: Any) -> None:
    place = "/api/v1/devicemethod/default/d"
    methods = [
        {
            "Name": "heat",
            "Path": f"{place}/heat/{{propertyName}}/{{data}}",
            "Parameters": [{"PropertyName": "target", "ValueType": "float"}],
        },
        {
            "Name": "name",
            "Path": f"{place}/name/{{propertyName}}/{{data}}",
            "Parameters": [{"PropertyName": "room", "ValueType": "string"}],
        },
    ]
    assert await ask("/devicemethod/default/d") == (200, BASE | {"Data": {"Methods": methods}})


async def test_a_method_is_called(ask: Any) -> None:
    message = "Write data 25 to device default/d successfully."
    assert await ask("/devicemethod/default/d/heat/target/25") == (200, BASE | {"Message": message})
    assert (await ask("/device/default/d/target"))[1]["Data"]["Value"] == "25.0"


async def test_a_value_may_have_any_letters(ask: Any) -> None:
    status, _ = await ask("/devicemethod/default/d/name/room/K%C3%BCche%2F2")
    assert status == 200
    assert (await ask("/device/default/d/room"))[1]["Data"]["Value"] == "Küche/2"


async def test_the_model_of_a_device_is_shown(ask: Any) -> None:
    target = {"name": "target", "dataType": "FLOAT", "accessMode": "ReadWrite", "maximum": "30", "unit": "°C"}
    room = {"name": "room", "dataType": "STRING", "accessMode": "ReadWrite"}
    shown = {"id": "default/m", "name": "m", "namespace": "default", "properties": [target, room]}
    assert await ask("/meta/model/default/d") == (200, BASE | shown)


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/device/default/x/target", 404, "Get device data error: device default/x is not here"),
        ("/device/default/d/x", 404, "device default/d has no property 'x'; it has: target, room"),
        ("/devicemethod/default/x", 404, "Get device method error: device default/x is not here"),
        ("/devicemethod/default/d/x/target/1", 404, "device default/d has no method 'x'; it has: heat, name"),
        ("/devicemethod/default/d/heat/room/1", 404, "method 'heat' of device default/d has no property 'room'"),
        (
            "/devicemethod/default/d/heat/target/hot",
            400,
            "Write device data error: property 'target': value 'hot' is no",
        ),
        ("/devicemethod/default/d/heat/target/31", 400, "property 'target': value '31' is above the maximum 30"),
        ("/meta/model/default/x", 404, "Get device error: device default/x or its model is not here"),
        ("/database/default/d", 503, "The database is not enabled. Please configure mapper and try again"),
    ],
)
async def test_what_cannot_be_done_is_said_in_one_sentence(ask: Any, path: str, status: int, text: str) -> None:
    told, said = await ask(path)
    assert told == status
    assert text in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Origin", "http://evil.example", 403),
        ("Sec-Fetch-Site", "cross-site", 403),
        ("Sec-Fetch-Site", "none", 200),
        ("Host", "evil.example:7777", 403),
        ("Host", "evil.example", 403),
        ("Host", "[::1]:7777", 200),
        ("Host", "127.0.0.1", 200),
    ],
)
async def test_no_web_page_calls_a_method(header: str, value: str, status: int) -> None:
    async with serving(HttpDoor("127.0.0.1", 0)) as api, ClientSession() as session:
        assert api.bound is not None
        url = f"http://127.0.0.1:{api.bound[1]}/api/v1/ping"
        async with session.get(url, headers={header: value}) as answer:
            assert answer.status == status, await answer.text()
            assert status == 200 or "answers programs" in await answer.text()


async def test_a_device_that_is_away_is_no_wait_for_ever() -> None:
    door = HttpDoor("127.0.0.1", 0)
    hanging = {"protocolName": "virtual", "configData": {"hanging": True}}
    async with serving(door, protocol=hanging) as api, ClientSession() as session:
        assert api.bound is not None
        async with session.get(f"http://127.0.0.1:{api.bound[1]}/api/v1/device/default/d/target") as answer:
            assert answer.status == 500
            assert "Get device data error: the device" in await answer.text()


async def test_with_a_client_ca_only_its_certificates_are_admitted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca = tls.self_signed_ca("devices", now, timedelta(days=1))
    pair = tls.issue(
        ca, common_name="mapper", names=["127.0.0.1"], usages=(tls.SERVER_AUTH, tls.CLIENT_AUTH), now=now,
        lifetime=timedelta(days=1),
    )  # fmt: skip
    files = {"ca.pem": ca.certificate_pem, "cert.pem": pair.certificate_pem, "key.pem": pair.key_pem}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    cert, key, trusted = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    door = HttpDoor.parse("0", cert, key, trusted)
    assert door is not None
    known, stranger = client_context(trusted, certificate=cert, key=key), client_context(trusted)
    async with serving(door) as api:
        assert api.bound is not None
        url = f"https://127.0.0.1:{api.bound[1]}/api/v1/ping"
        async with ClientSession(connector=TCPConnector(ssl=known)) as session, session.get(url) as answer:
            assert answer.status == 200
        async with ClientSession(connector=TCPConnector(ssl=stranger)) as session:
            with pytest.raises((ClientError, OSError)):
                await session.get(url)


async def test_a_door_that_is_taken_is_said() -> None:
    async with serving(HttpDoor("127.0.0.1", 0)) as api:
        assert api.bound is not None
        with pytest.raises(Fatal, match=str(api.bound[1])):
            async with serving(HttpDoor("127.0.0.1", api.bound[1])):
                pass


@pytest.mark.parametrize(
    ("text", "host", "is_open"),
    [
        ("7777", "127.0.0.1", False),
        ("0.0.0.0:7777", "0.0.0.0", True),
        ("[::1]:7777", "::1", False),
        ("localhost:7777", "localhost", False),
    ],
)
def test_a_port_alone_is_for_this_machine(text: str, host: str, is_open: bool) -> None:
    door = HttpDoor.parse(text)
    assert door is not None
    assert (door.host, door.port, door.is_open_to_others) == (host, 7777, is_open)


def test_a_door_that_makes_no_sense_is_said() -> None:
    with pytest.raises(ValueError, match=r"--http 'seven' is not \[HOST:\]PORT"):
        HttpDoor.parse("seven")
    with pytest.raises(ValueError, match="TLS needs both --http-cert and --http-key"):
        HttpDoor.parse("7777", Path("cert.pem"))
    with pytest.raises(ValueError, match="need --http"):
        HttpDoor.parse("", Path("cert.pem"), Path("key.pem"))
    door = HttpDoor.parse("7777", Path("/nowhere/cert.pem"), Path("/nowhere/key.pem"))
    assert door is not None
    with pytest.raises(ValueError, match="the certificate, key or CA of --http cannot be used"):
        door.tls()
