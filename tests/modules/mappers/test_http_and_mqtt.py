"""The HTTP driver against a server, and the MQTT driver against mosquitto."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gmqtt
import pytest
from aiohttp import web

from edgehive.api.devices import PropertyType
from edgehive.mapper import Value, Visitor
from edgehive.mappers.http import Http
from edgehive.mappers.json_fields import filled, value_in
from edgehive.mappers.mqtt import Mqtt


def at(type: str = "FLOAT", **config: Any) -> Visitor:
    return Visitor("p", PropertyType(type), config, writable=True)


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        (b"21.5\n", "", "21.5"),
        (b'{"a": {"b": [1, {"c": true}]}}', "a.b.1.c", True),
        (b"[3]", "0", 3),
    ],
)
def test_a_field_of_an_answer_is_found(body: bytes, field: str, value: Value) -> None:
    assert value_in(body, field) == value


@pytest.mark.parametrize(
    ("body", "field", "why"),
    [
        (b"<html>", "a", "no JSON"),
        (b'{"a": 1}', "b", "no field 'b'"),
        (b'{"a": [1]}', "a.4", "no field 'a.4': '4' is not there"),
        (b'{"a": {}}', "a", "is dict, not a single value"),
    ],
)
def test_an_answer_without_the_field_is_told(body: bytes, field: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        value_in(body, field)


def test_a_text_is_quoted_where_it_is_filled_in_so_that_it_breaks_nothing() -> None:
    assert filled('{"label": {value}}', 'a"b') == b'{"label": "a\\"b"}'
    assert filled("", 'a"b') == b'a"b'
    assert filled("", True) == b"true"


class Fan:
    """A device that speaks HTTP."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"speed": 2, "air": {"temperature": 21.5}}
        self.url = ""
        self.authorization = ""

    async def read(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization", "")
        return web.json_response(self.state)

    async def write(self, request: web.Request) -> web.Response:
        self.state |= await request.json()
        return web.Response(status=204)


@pytest.fixture
async def fan() -> AsyncIterator[Fan]:
    fan, application = Fan(), web.Application()
    application.add_routes([web.get("/state", fan.read), web.put("/state", fan.write)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    fan.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fan
    await runner.cleanup()


async def test_http_is_read_and_written(fan: Fan, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    driver = Http()
    await driver.open({"url": fan.url, "tokenFile": str(tmp_path / "token")})
    assert await driver.read(at(path="/state", field="air.temperature")) == 21.5
    assert fan.authorization == "Bearer secret"
    await driver.write(at("INT", path="/state", body='{"speed": {value}}'), 3)
    assert await driver.read(at("INT", path="/state", field="speed")) == 3
    with pytest.raises(ValueError, match="GET /nowhere: HTTP 404"):
        await driver.read(at(path="/nowhere"))
    with pytest.raises(ValueError, match="path 'state' does not begin with a slash"):
        await driver.read(at(path="state"))
    with pytest.raises(ValueError, match="writeMethod 'EAT' is none of PUT"):
        await driver.write(at(path="/state", writeMethod="eat"), 1.0)
    await driver.close()


async def test_http_reads_a_long_answer_to_its_end(fan: Fan) -> None:
    fan.state = {"log": "x" * 500_000, "speed": 4}
    driver = Http()
    await driver.open({"url": fan.url})
    assert await driver.read(at("INT", path="/state", field="speed")) == 4
    await driver.close()


async def test_http_of_a_device_that_is_away_is_told_as_lost() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = Http()
    await driver.open({"url": f"http://127.0.0.1:{port}"})
    with pytest.raises(ConnectionError):
        await driver.read(at(path="/state"))
    await driver.close()
    with pytest.raises(ValueError, match="is no address like"):
        await Http().open({"url": "ftp://x"})


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is needed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(program, "-p", str(port), stdout=quiet, stderr=quiet)
    async with asyncio.timeout(20):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except OSError:
                await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
    yield port
    if process.returncode is None:
        process.kill()
    await process.wait()


async def test_mqtt_is_read_and_written(broker: int) -> None:
    device, heard = gmqtt.Client("device"), asyncio.get_running_loop().create_future()
    device.on_message = lambda c, topic, payload, q, p: heard.set_result((topic, bytes(payload))) or 0
    await device.connect("127.0.0.1", broker)
    device.subscribe("fan/set", qos=1)
    device.publish("fan/state", b'{"speed": 2}', qos=1, retain=True)
    driver = Mqtt()
    await driver.open({"address": f"tcp://127.0.0.1:{broker}"})
    speed = at("INT", topic="fan/state", field="speed", commandTopic="fan/set", body='{"speed": {value}}')
    assert await driver.read(speed) == 2
    device.publish("fan/state", b'{"speed": 3}', qos=1)
    async with asyncio.timeout(10):
        while await driver.read(speed) != 3:
            await asyncio.sleep(0.01)
        await driver.write(speed, 1)
        assert await heard == ("fan/set", b'{"speed": 1}')
    with pytest.raises(ValueError, match="has wildcards"):
        await driver.read(at(topic="fan/#"))
    with pytest.raises(ValueError, match="no commandTopic"):
        await driver.write(at(topic="fan/state"), 1.0)
    await asyncio.sleep(0.01)
    with pytest.raises(ValueError, match="nothing was published to fan/state for more than 1 ms"):
        await driver.read(at(topic="fan/state", staleAfter=1))
    await driver.close()
    with pytest.raises(ConnectionError, match="the broker is gone"):
        await driver.read(speed)
    await device.disconnect()


async def test_mqtt_without_a_broker_is_told() -> None:
    with pytest.raises(ValueError, match="is no broker's like tcp://host:1883"):
        await Mqtt().open({"address": "localhost"})
