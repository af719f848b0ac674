"""Readings pushed past the edge: what each kind of target gets, and what happens while it is away."""

import asyncio
import base64
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType

import msgspec
import pytest
from aiohttp import web
from mapper_rig import CLOCK, define

from edgehive.api import devices as api
from edgehive.api.devices import PropertyType
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Visitor
from edgehive.mapper.mqtt_client import MqttClient
from edgehive.mapper.push import Pushes
from edgehive.mapper.push_targets import PushFailed, Sample, targets_of
from edgehive.wire.devices import DeviceId

SAMPLE = Sample(DeviceId("default", "boiler-1"), "temp", "21.5", 21.5, "float", 1767323045678)
TIME = "2026-01-02 03:04:05"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Web:
    """A server that remembers requests and answers as told."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[tuple[web.Request, str]] = []
        self.status = 200
        self.answer = "{}"

    async def handle(self, request: web.Request) -> web.Response:
        self.seen.append((request, await request.text()))
        return web.Response(status=self.status, text=self.answer)


@pytest.fixture
async def server() -> AsyncIterator[Web]:
    server, application = Web(), web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


async def push(method: api.PushMethod, *samples: Sample) -> None:
    (target,) = targets_of(method)
    try:
        for sample in samples or (SAMPLE,):
            await target.push(sample)
    finally:
        await target.close()


@pytest.mark.parametrize("scheme", ["", "http://"])
async def test_http_gets_a_form(server: Web, scheme: str) -> None:
    await push(api.PushMethod(http=api.PushHttp(f"{scheme}127.0.0.1", server.port, "/in", 1000)))
    request, body = server.seen[0]
    assert (request.method, request.path) == ("POST", "/in")
    assert body == "temp=21.5&time=2026-01-02+03%3A04%3A05"


async def test_an_error_is_told_with_what_the_server_says(server: Web) -> None:
    server.status, server.answer = 503, "full"
    with pytest.raises(PushFailed, match="HTTP 503 full"):
        await push(api.PushMethod(http=api.PushHttp("127.0.0.1", server.port, "/", 1000)))


async def test_influx_gets_the_line_protocol(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    client = api.InfluxClient(f"http://127.0.0.1:{server.port}", "my org", "b")
    data = api.InfluxData("boilers", {"room": "a b"}, "value")
    text = SAMPLE._replace(text='say "hi"')
    await push(api.PushMethod(db_method=api.PushDatabase(influxdb2=api.PushInflux(client, data))), text)
    request, body = server.seen[0]
    assert request.path == "/api/v2/write"
    assert dict(request.query) == {"org": "my org", "bucket": "b", "precision": "ms"}
    assert request.headers["Authorization"] == "Token secret"
    assert body == 'boilers,room=a\\ b value="say \\"hi\\"" 1767323045678'


async def test_tdengine_gets_a_table_and_rows_with_texts_quoted(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERNAME", "u")
    monkeypatch.setenv("PASSWORD", "p")
    server.answer = '{"code": 0}'
    client = api.TdengineClient(f"127.0.0.1:{server.port}", "plant")
    method = api.PushMethod(db_method=api.PushDatabase(tdengine=api.PushTdengine(client)))
    await push(method, SAMPLE, SAMPLE._replace(text="it's"))
    assert [request.path for request, _ in server.seen] == ["/rest/sql/plant"] * 3
    assert server.seen[0][0].headers["Authorization"] == "Basic " + base64.b64encode(b"u:p").decode()
    statements = [body for _, body in server.seen]
    assert statements[0].startswith("CREATE STABLE IF NOT EXISTS default_boiler_1 (ts timestamp")
    assert statements[1] == (
        "INSERT INTO default_boiler_1_temp USING default_boiler_1 TAGS ('temp') "
        f"VALUES ('{TIME}', 'default/boiler-1', 'temp', '21.5', 'float')"
    )
    assert "'it\\'s'" in statements[2]


async def test_tdengine_that_refuses_is_told(server: Web) -> None:
    server.answer = '{"code": 855, "desc": "Authentication failure"}'
    client = api.TdengineClient(f"127.0.0.1:{server.port}", "plant")
    with pytest.raises(PushFailed, match="TDengine refuses: Authentication failure"):
        await push(api.PushMethod(db_method=api.PushDatabase(tdengine=api.PushTdengine(client))))


async def test_opentelemetry_gets_a_gauge_of_a_number_and_nothing_of_a_text(server: Web) -> None:
    method = api.PushMethod(otel=api.PushOtel(f"http://127.0.0.1:{server.port}/v1/metrics"))
    await push(method, SAMPLE, SAMPLE._replace(value="on"))
    ((_, body),) = server.seen
    assert '"name":"temp","gauge":{"dataPoints":[{"timeUnixNano":"1767323045678000000","asDouble":21.5}]}' in body
    assert '"key":"device.id","value":{"stringValue":"default/boiler-1"}' in body


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[int]:
    served: set[asyncio.Task[None]] = set()

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(whole, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.gather(*served)
        await server.wait_closed()


async def test_redis_gets_a_sorted_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    commands: list[list[bytes]] = []

    async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            words = []
            for _ in range(int(head[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            commands.append(words)
            writer.write(b":1\r\n" if words[0] == b"ZADD" else b"+OK\r\n")

    async with listening(redis) as port:
        client = api.RedisClient(f"127.0.0.1:{port}", 2)
        await push(api.PushMethod(db_method=api.PushDatabase(redis=api.PushRedis(client))), SAMPLE, SAMPLE)
        await asyncio.sleep(0)
    assert [words[0] for words in commands] == [b"AUTH", b"SELECT", b"ZADD", b"ZADD"]
    assert commands[2][:3] == [b"ZADD", b"boiler-1", b"1767323045678"]
    # As Go writes a structure that names no keys.
    assert msgspec.json.decode(commands[2][3]) == {
        "DeviceName": "boiler-1",
        "PropertyName": "temp",
        "Namespace": "default",
        "Value": "21.5",
        "Type": "float",
        "TimeStamp": 1767323045678,
    }


async def test_redis_that_refuses_is_told() -> None:
    async def redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"-NOAUTH Authentication required.\r\n")

    async with listening(redis) as port:
        client = api.RedisClient(f"127.0.0.1:{port}")
        with pytest.raises(PushFailed, match="NOAUTH Authentication required"):
            await push(api.PushMethod(db_method=api.PushDatabase(redis=api.PushRedis(client))))


async def test_mysql_without_its_package_says_which_one() -> None:
    client = api.MysqlClient("127.0.0.1:3306", "d", "u")
    method = api.PushMethod(db_method=api.PushDatabase(mysql=api.PushMysql(client)))
    with pytest.raises(PushFailed, match="pip install aiomysql"):
        await push(method)


class FakeMysql(ModuleType):
    """The library, as far as it is used, with tables in memory. Tried against MariaDB 10.11 it does the same."""

    def __init__(self) -> None:
        super().__init__("aiomysql")
        self.tables: dict[str, list[tuple[object, ...]]] = {}
        self.connections: list[dict[str, object]] = []
        self.error: Exception | None = None
        self.found: object = None

    async def connect(self, **settings: object) -> "FakeMysql":
        self.connections.append(settings)
        return self

    @asynccontextmanager
    async def cursor(self) -> AsyncIterator["FakeMysql"]:
        yield self

    async def execute(self, statement: str, values: tuple[object, ...]) -> None:
        if self.error:
            raise self.error
        if "information_schema" in statement:
            self.found = (1,) if values[0] in self.tables else None
            return
        name = re.search(r"`((?:[^`]|``)+)`", statement)
        assert name is not None
        table = name[1].replace("``", "`").replace("%%", "%")
        if statement.startswith("CREATE"):
            assert table not in self.tables, "a library that warns each time"
            self.tables[table] = []
        else:
            self.tables[table].append(values)

    async def fetchone(self) -> object:
        return self.found

    def close(self) -> None:
        pass


async def test_mysql_gets_a_table_per_property(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    monkeypatch.setitem(sys.modules, "aiomysql", library := FakeMysql())
    client = api.MysqlClient("db.local:3307", "plant", "edge")
    method = api.PushMethod(db_method=api.PushDatabase(mysql=api.PushMysql(client)))
    odd = SAMPLE._replace(name="100%`", text="\N{GRINNING FACE}")
    await push(method, SAMPLE, SAMPLE)
    await push(method, odd)
    await push(method, SAMPLE)
    assert library.tables == {
        "default/boiler-1/temp": [(TIME, "21.5")] * 3,
        "default/boiler-1/100%`": [(TIME, "\N{GRINNING FACE}")],
    }
    settings = {"host": "db.local", "port": 3307, "user": "edge", "password": "secret", "db": "plant"}
    assert library.connections[0] == settings | {"charset": "utf8mb4", "autocommit": True}
    library.error = RuntimeError("(1045, 'Access denied')")
    with pytest.raises(PushFailed, match=r"MySQL: \(1045, 'Access denied'\)"):
        await push(method)


async def test_mqtt_gets_a_publication() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readexactly(1))[0] == 0x10
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x20\x02\x00\x00")
        assert (await reader.readexactly(1))[0] == 0x31
        heard.set_result(await reader.readexactly((await reader.readexactly(1))[0]))
        await reader.read()

    async with listening(broker) as port:
        (target,) = targets_of(api.PushMethod(mqtt=api.PushMqtt(f"tcp://127.0.0.1:{port}", "plant/t", 0, True)))
        await target.push(SAMPLE)
        assert await heard == b"\x00\x07plant/ttime is 2026-01-02 03:04:05  plant/t: 21.5"
        await target.close()


async def test_a_broker_that_is_not_there_is_told() -> None:
    with pytest.raises(PushFailed, match=re.escape("'' names no broker; write it as tcp://host:1883")):
        await push(api.PushMethod(mqtt=api.PushMqtt("", "t")))


async def test_a_broker_that_says_nothing_is_let_go_of_with_the_device() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    async with listening(enter) as port:
        client = MqttClient(f"127.0.0.1:{port}")
        publishing = spawn(client.publish("t", b"1", 1, False), name="publishing")
        async with asyncio.timeout(10):
            await asked.wait()
            await cancel_and_join(publishing)
            await client.close()
            await left.wait()


async def test_a_target_that_was_away_gets_what_it_missed_in_order(server: Web) -> None:
    server.status = 503
    where = {"http": {"hostName": "127.0.0.1", "port": server.port, "requestPath": "/"}}
    definition = define(({"name": "t"}, {"collectCycle": 10, "reportCycle": 10, "pushMethod": where}))
    pushes = Pushes(definition, CLOCK)
    task = spawn(pushes.run(), name="pushes")
    await asyncio.sleep(0)
    visitor = Visitor("t", PropertyType.FLOAT, {})
    pushes.has_value(visitor, 1.0)
    while not server.seen:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.02)
    pushes.has_value(visitor, 2.0)
    server.status = 200
    while len(server.seen) < 3:
        await asyncio.sleep(0.01)
    await cancel_and_join(task)
    assert [body.partition("&")[0] for _, body in server.seen] == ["t=1.0", "t=1.0", "t=2.0"]
