"""How a reading is pushed over HTTP and MQTT, to OpenTelemetry and into the databases the API names.

Bodies, tables and keys are those of Go's mappers, so what reads them goes on working; times are UTC. Credentials come
from the environment under Go's names (TOKEN, USERNAME, PASSWORD) and are read when a target is made. MySQL needs the
`aiomysql` package; without it its target says so at every attempt and nothing else suffers.

Go: staging/src/github.com/kubeedge/mapper-framework/_template/mapper/data
"""

import asyncio
import base64
import os
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from edgehive.api import devices as api
from edgehive.mapper.driver import Value
from edgehive.wire.devices import DeviceId

if TYPE_CHECKING:
    from aiohttp import ClientSession

#: Bytes of an answer that are read, and shown in an error.
ANSWER_LIMIT, SHOWN = 64 * 1024, 200


class PushFailed(Exception):
    """A target did not take a reading."""


class Sample(NamedTuple):
    """One reading."""

    device: DeviceId
    name: str
    text: str
    value: Value
    type: str
    millis: int

    @property
    def time(self) -> str:
        """Go's form of it."""
        return datetime.fromtimestamp(self.millis // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


class Target(Protocol):
    """One property's destination; errors of `push` are PushFailed, OSError or EOFError."""

    name: str

    async def push(self, sample: Sample) -> None: ...

    async def close(self) -> None: ...


def targets_of(method: api.PushMethod) -> list[Target]:
    """What a property's pushMethod names."""
    found: list[Target] = []
    if method.http:
        found.append(_Http(method.http))
    if method.mqtt:
        found.append(_Mqtt(method.mqtt))
    if method.otel:
        found.append(_Otel(method.otel))
    database = method.db_method
    if database and database.influxdb2:
        found.append(_Influx(database.influxdb2))
    if database and database.redis:
        found.append(_Redis(database.redis.client or api.RedisClient()))
    if database and database.tdengine:
        found.append(_Tdengine(database.tdengine.client or api.TdengineClient()))
    if database and database.mysql:
        found.append(_Mysql(database.mysql.client or api.MysqlClient()))
    return found


class _Web:
    """A target behind HTTP: one session, made when it is needed."""

    def __init__(self, name: str, timeout: float = 10.0) -> None:
        self.name = name
        self._timeout = timeout
        self._session: ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _post(self, url: str, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> bytes:
        from aiohttp import ClientError, ClientSession, ClientTimeout

        if self._session is None:
            self._session = ClientSession(timeout=ClientTimeout(total=self._timeout))
        headers = {"Content-Type": content_type, **(headers or {})}
        try:
            async with self._session.post(url, data=body, headers=headers) as answer:
                text = await answer.content.read(ANSWER_LIMIT)
                if answer.status >= 300:
                    raise PushFailed(f"HTTP {answer.status} {text[:SHOWN].decode(errors='replace')}".strip())
                return text
        except (ClientError, ValueError) as error:
            raise PushFailed(str(error) or type(error).__name__) from error


class _Http(_Web):
    def __init__(self, config: api.PushHttp) -> None:
        host = config.host_name if "://" in config.host_name else f"http://{config.host_name}"
        path = "/" + config.request_path.lstrip("/")
        self._url = f"{host}:{config.port}{path}" if config.port else f"{host}{path}"
        super().__init__(self._url, config.timeout / 1000 if config.timeout else 10.0)

    async def push(self, sample: Sample) -> None:
        body = urlencode({sample.name: sample.text, "time": sample.time})
        await self._post(self._url, body.encode(), "application/x-www-form-urlencoded")


class _Otel(_Web):
    """OTLP over HTTP in its JSON form: one gauge."""

    def __init__(self, config: api.PushOtel) -> None:
        super().__init__(config.endpoint_url)

    async def push(self, sample: Sample) -> None:
        number: dict[str, Any] = {"timeUnixNano": str(sample.millis * 1_000_000)}
        if not isinstance(sample.value, int | float):
            return  # a gauge is a number
        number["asDouble"] = float(sample.value)
        metric = {"name": sample.name, "gauge": {"dataPoints": [number]}}
        device = {"key": "device.id", "value": {"stringValue": str(sample.device)}}
        scope = {"scope": {"name": "edgehive.mapper"}, "metrics": [metric]}
        body = {"resourceMetrics": [{"resource": {"attributes": [device]}, "scopeMetrics": [scope]}]}
        await self._post(self.name, msgspec.json.encode(body), "application/json")


class _Influx(_Web):
    """InfluxDB 2's line protocol. The value is a string field, as Go's mappers write it."""

    def __init__(self, config: api.PushInflux) -> None:
        client, self._data = config.client or api.InfluxClient(), config.data or api.InfluxData()
        query = urlencode({"org": client.org, "bucket": client.bucket, "precision": "ms"})
        super().__init__(f"{client.url.rstrip('/')}/api/v2/write?{query}")
        self._headers = {"Authorization": f"Token {os.environ.get('TOKEN', '')}"}

    async def push(self, sample: Sample) -> None:
        tags = "".join(f",{_key(name)}={_key(text)}" for name, text in sorted((self._data.tag or {}).items()))
        text = sample.text.replace("\\", "\\\\").replace('"', '\\"')
        measurement, field = (
            _key(self._data.measurement or str(sample.device)),
            _key(self._data.field_key or sample.name),
        )
        line = f'{measurement}{tags} {field}="{text}" {sample.millis}'
        await self._post(self.name, line.encode(), "text/plain; charset=utf-8", self._headers)


class _Tdengine(_Web):
    """TDengine's REST interface: a super-table per device, a table per property."""

    def __init__(self, config: api.TdengineClient) -> None:
        self._url = f"http://{config.addr}/rest/sql/{quote(config.db_name, safe='')}"
        super().__init__(self._url)
        user, password = os.environ.get("USERNAME", "root"), os.environ.get("PASSWORD", "taosdata")
        word = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {word}"}
        self._is_made = False

    async def push(self, sample: Sample) -> None:
        # TDengine has no names with slashes, dots or hyphens.
        device, name = (_identifier(text) for text in (str(sample.device), sample.name))
        if not self._is_made:
            await self._sql(
                f"CREATE STABLE IF NOT EXISTS {device} (ts timestamp, deviceid binary(64), propertyname binary(64), "
                "data binary(64), type binary(64)) TAGS (location binary(64))"
            )
            self._is_made = True
        cells = sample.time, str(sample.device), sample.name, sample.text, sample.type
        row = ", ".join(_sql_text(item) for item in cells)
        # Names are letters, digits and underscores, texts are quoted.
        insert = f"INSERT INTO {device}_{name} USING {device} TAGS ({_sql_text(name)}) VALUES ({row})"  # noqa: S608
        await self._sql(insert)

    async def _sql(self, statement: str) -> None:
        answer = await self._post(self._url, statement.encode(), "text/plain", self._headers)
        try:
            told = msgspec.json.decode(answer, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise PushFailed(f"{self.name} does not answer as TDengine does: {error}") from error
        if told.get("code"):
            raise PushFailed(f"TDengine refuses: {str(told.get('desc', told['code']))[:SHOWN]}")


class _Redis:
    """A sorted set per device, scored by time."""

    def __init__(self, config: api.RedisClient) -> None:
        self.name = f"redis {config.addr}"
        self._config = config
        self._password = os.environ.get("PASSWORD", "")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def push(self, sample: Sample) -> None:
        member = msgspec.json.encode(
            {
                "DeviceName": sample.device.name,
                "PropertyName": sample.name,
                "Namespace": sample.device.namespace,
                "Value": sample.text,
                "Type": sample.type,
                "TimeStamp": sample.millis,
            }
        )
        try:
            if self._streams is None:
                await self._connect()
            await self._say(b"ZADD", sample.device.name.encode(), str(sample.millis).encode(), member)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    async def _connect(self) -> None:
        host, _, port = self._config.addr.rpartition(":")
        if not host or not port.isdecimal():
            raise PushFailed(f"addr {self._config.addr!r} is not <host>:<port>")
        self._streams = await asyncio.open_connection(host.strip("[]"), int(port), limit=ANSWER_LIMIT)
        if self._password:
            await self._say(b"AUTH", self._password.encode())
        if self._config.db:
            await self._say(b"SELECT", str(self._config.db).encode())

    async def _say(self, *words: bytes) -> None:
        assert self._streams is not None
        reader, writer = self._streams
        writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        await writer.drain()
        answer = await reader.readuntil(b"\r\n")
        if answer.startswith(b"-"):
            raise PushFailed(answer[1 : SHOWN + 1].decode(errors="replace").strip())


class _Mqtt:
    """One connection, kept; the text is Go's."""

    def __init__(self, config: api.PushMqtt) -> None:
        self.name = f"mqtt {config.address} {config.topic}"
        self._config = config
        self._client: Any = None

    async def push(self, sample: Sample) -> None:
        from edgehive.mapper.mqtt_client import MqttClient, MqttFailed

        if self._client is None:
            self._client = MqttClient(self._config.address)
        body = f"time is {sample.time}  {self._config.topic}: {sample.text}"
        try:
            await self._client.publish(self._config.topic, body.encode(), self._config.qos, self._config.retained)
        except MqttFailed as error:
            raise PushFailed(str(error)) from error

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


class _Mysql:
    """A table per property."""

    def __init__(self, config: api.MysqlClient) -> None:
        self.name = f"mysql {config.addr}/{config.database}"
        self._config = config
        self._password = os.environ.get("PASSWORD", "")
        self._connection: Any = None
        self._is_made = False

    async def push(self, sample: Sample) -> None:
        connection = self._connection = self._connection or await self._connect()
        table = f"{sample.device}/{sample.name}"
        # The library takes a % for a place of a value.
        quoted = f"`{table.replace('`', '``').replace('%', '%%')}`"
        try:
            async with connection.cursor() as cursor:
                if not self._is_made:
                    await self._make(cursor, table, quoted)
                    self._is_made = True
                insert = f"INSERT INTO {quoted} (ts, field) VALUES (%s, %s)"  # noqa: S608 - the name is quoted above
                await cursor.execute(insert, (sample.time, sample.text))
        except Exception as error:  # the library's errors have no root that can be named without importing it
            await self.close()
            raise PushFailed(f"MySQL: {error}") from error

    async def _make(self, cursor: Any, table: str, quoted: str) -> None:
        """The table, once: of one that is there already the library would warn each time."""
        here = "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s"
        await cursor.execute(here, (table,))
        if await cursor.fetchone() is None:
            columns = "(id INT AUTO_INCREMENT PRIMARY KEY, ts DATETIME NOT NULL, field TEXT)"
            await cursor.execute(f"CREATE TABLE IF NOT EXISTS {quoted} {columns}", ())

    async def close(self) -> None:
        connection, self._connection, self._is_made = self._connection, None, False
        if connection is not None:
            connection.close()

    async def _connect(self) -> Any:
        try:
            library = import_module("aiomysql")
        except ImportError:
            raise PushFailed("pushing into MySQL needs a package: pip install aiomysql") from None
        place = urlsplit(f"//{self._config.addr}")
        try:
            return await library.connect(
                host=place.hostname or "127.0.0.1",
                port=place.port or 3306,
                user=self._config.user_name,
                password=self._password,
                db=self._config.database,
                charset="utf8mb4",
                autocommit=True,
            )
        except Exception as error:
            raise PushFailed(f"MySQL: {error}") from error


def _key(text: str) -> str:
    """A name in the line protocol."""
    for letter in "\\, =":
        text = text.replace(letter, f"\\{letter}")
    return text


def _identifier(text: str) -> str:
    name = "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in text)
    return name if name[:1].isalpha() else f"t_{name}"


def _sql_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
