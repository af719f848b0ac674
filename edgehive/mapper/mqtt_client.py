"""One MQTT connection for pushing readings: made when the first is pushed, remade after a loss. Needs gmqtt."""

import asyncio
import logging
import secrets
import ssl
from typing import Any
from urllib.parse import urlsplit

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError

_quiet = logging.getLogger("edgehive.mapper.gmqtt")
_quiet.setLevel(logging.CRITICAL)
for _name in ("gmqtt.mqtt.protocol", "gmqtt.mqtt.utils", "gmqtt.mqtt.package"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CONNECT_SECONDS = 8.0


class MqttFailed(Exception):
    """There is no connection to the broker."""


class MqttClient:
    """`address` is a broker's, as `tcp://host:1883`, `ssl://host:8883` or `host:1883`."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._client: gmqtt.Client | None = None

    async def publish(self, topic: str, payload: bytes, qos: int, retained: bool) -> None:
        """Hand it to the connection, which repeats it while it stands if the QoS says so; raises MqttFailed."""
        client = self._client
        if client is None or not client.is_connected:
            client = self._client = await self._connect()
        client.publish(topic, payload, qos=min(max(qos, 0), 2), retain=retained)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.disconnect()

    async def _connect(self) -> gmqtt.Client:
        await self.close()
        place = urlsplit(self._address if "://" in self._address else f"tcp://{self._address}")
        client = gmqtt.Client(f"mapper-{secrets.token_hex(6)}", clean_session=True, logger=_quiet)
        client.set_config({"reconnect_retries": 0})
        if not place.hostname:
            raise MqttFailed(f"address {self._address!r} names no broker; write it as tcp://host:1883")
        secure = place.scheme in ("ssl", "tls", "mqtts", "tcps")
        options: dict[str, Any] = {"ssl": ssl.create_default_context()} if secure else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    place.hostname, place.port or (8883 if secure else 1883), version=MQTTv311, keepalive=30, **options
                )
        except (OSError, TimeoutError, MQTTConnectError) as error:
            raise MqttFailed(str(error) or "no answer in time") from error
        return client
