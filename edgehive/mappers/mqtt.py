"""Devices that publish to an MQTT broker. Needs gmqtt (`edgehive[mapper]`).

device   address           tcp://host:1883 or ssl://host:8883, whose certificate is verified
         userName, passwordFile
visitor  topic             where the device publishes; a value is what came last
         field             the value in a JSON payload: temperature.inside; without it the whole payload
         commandTopic      where a desired value is published
         body              what is published, with {value} in it; without it the plain value
         staleAfter        milliseconds after which a value that nobody repeated counts as lost (never)
"""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError

from edgehive.mapper import Value, Visitor, run
from edgehive.mappers.json_fields import filled, value_in

_quiet = logging.getLogger("edgehive.mappers.gmqtt")
_quiet.setLevel(logging.CRITICAL)
for _name in ("gmqtt.mqtt.protocol", "gmqtt.mqtt.utils", "gmqtt.mqtt.package"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

#: Seconds to wait for a topic's first publication, as a retained one comes at once; bytes of one that are kept.
FIRST, PAYLOAD_LIMIT = 2.0, 1024 * 1024


class Mqtt:
    """One device, with a connection of its own."""

    protocol = "mqtt"

    def __init__(self) -> None:
        self._client: gmqtt.Client | None = None
        self._last: dict[str, tuple[float, bytes]] = {}
        self._topics: set[str] = set()
        self._came = asyncio.Event()

    async def open(self, config: Mapping[str, Any]) -> None:
        address = str(config.get("address", ""))
        place = urlsplit(address)
        if place.scheme not in ("tcp", "ssl") or not place.hostname:
            raise ValueError(f"address {address!r} is no broker's like tcp://host:1883")
        client = gmqtt.Client(f"mapper-{secrets.token_hex(6)}", clean_session=True, logger=_quiet)
        client.set_config({"reconnect_retries": 0})
        if "userName" in config:
            client.set_auth_credentials(str(config["userName"]), _password(config))
        client.on_message = self._heard
        secure: Any = ssl.create_default_context() if place.scheme == "ssl" else False
        port = place.port or (8883 if secure else 1883)
        self._client = client
        try:
            await client.connect(place.hostname, port, ssl=secure, keepalive=30, version=MQTTv311)
        except MQTTConnectError as error:
            raise ConnectionError(f"the broker refuses: {error}") from error

    async def read(self, visitor: Visitor) -> Value:
        client, topic = self._connected(), str(visitor.config.get("topic", ""))
        if not topic or "#" in topic or "+" in topic:
            raise ValueError(f"topic {topic!r} is empty or has wildcards")
        if topic not in self._topics:
            self._topics.add(topic)
            client.subscribe(topic, qos=1)
        await self._first(topic)
        if topic not in self._last:
            raise ValueError(f"nothing was published to {topic} yet")
        at, payload = self._last[topic]
        limit = visitor.config.get("staleAfter")
        if limit and asyncio.get_running_loop().time() - at > limit / 1000:
            raise ValueError(f"nothing was published to {topic} for more than {limit:g} ms")
        return value_in(payload, str(visitor.config.get("field", "")))

    async def write(self, visitor: Visitor, value: Value) -> None:
        topic = str(visitor.config.get("commandTopic", ""))
        if not topic:
            raise ValueError("the visitor has no commandTopic to publish to")
        self._connected().publish(topic, filled(str(visitor.config.get("body", "")), value), qos=1)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.is_connected:
            await client.disconnect()

    def _connected(self) -> gmqtt.Client:
        if self._client is None or not self._client.is_connected:
            raise ConnectionError("the broker is gone")
        return self._client

    async def _first(self, topic: str) -> None:
        try:
            async with asyncio.timeout(FIRST):
                while topic not in self._last:
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            return

    def _heard(self, _client: Any, topic: str, payload: bytes, _qos: int, _properties: Any) -> int:
        if topic in self._topics and len(payload) <= PAYLOAD_LIMIT:
            self._last[topic] = asyncio.get_running_loop().time(), bytes(payload)
            self._came.set()
        return 0


def _password(config: Mapping[str, Any]) -> str:
    try:
        return Path(str(config["passwordFile"])).read_text().strip() if "passwordFile" in config else ""
    except OSError as error:
        raise ValueError(f"passwordFile {config['passwordFile']} cannot be read: {error.strerror}") from error


if __name__ == "__main__":
    run(Mqtt)
