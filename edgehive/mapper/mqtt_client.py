"""One MQTT connection of a mapper: made when something is published or listened to, remade after a loss.

Needs gmqtt.
"""

import asyncio
import logging
import secrets
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

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
    """`address` is a broker's, as `tcp://host:1883`, `ssl://host:8883` or `host:1883`; `heard` gets what is published
    to `topics` while there is a connection, and whether the broker had retained it."""

    def __init__(
        self, address: str, *, topics: Sequence[str] = (), heard: Callable[[str, bytes, bool], None] | None = None
    ) -> None:
        self._address = address
        self._topics = topics
        self._heard = heard
        self._client: gmqtt.Client | None = None
        self._lost = asyncio.Event()
        self._turn = asyncio.Lock()

    async def publish(self, topic: str, payload: bytes, qos: int, retained: bool) -> None:
        """Hand it to the connection, which repeats it while it stands if the QoS says so; raises MqttFailed."""
        client = await self._connected()
        client.publish(topic, payload, qos=min(max(qos, 0), 2), retain=retained)

    async def listen(self) -> None:
        """Return when the connection is lost; raises MqttFailed when there is none."""
        await self._connected()
        await self._lost.wait()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.disconnect()

    async def _connected(self) -> gmqtt.Client:
        async with self._turn:
            if self._client is None or not self._client.is_connected:
                self._client = await self._connect()
            return self._client

    async def _connect(self) -> gmqtt.Client:
        await self.close()
        place, port = _place(self._address)
        client = gmqtt.Client(f"mapper-{secrets.token_hex(6)}", clean_session=True, logger=_quiet)
        # Connecting again is ours: gmqtt would do it once, and forget what was subscribed.
        client.set_config({"reconnect_retries": -2})
        lost = self._lost = asyncio.Event()
        client.on_disconnect = lambda *_: lost.set()
        client.on_message = self._hear
        secure = place.scheme in ("ssl", "tls", "mqtts", "tcps")
        options: dict[str, Any] = {"ssl": ssl.create_default_context()} if secure else {}
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    place.hostname, port or (8883 if secure else 1883), version=MQTTv311, keepalive=30, **options
                )
        except (OSError, MQTTConnectError, UnicodeError) as error:
            await client.disconnect()
            raise MqttFailed(str(error) or "no answer in time") from error
        except asyncio.CancelledError:
            await client.disconnect()
            raise
        for topic in self._topics:
            client.subscribe(topic, qos=1)
        return client

    def _hear(self, _client: Any, topic: str, payload: bytes, _qos: int, properties: dict[str, Any]) -> int:
        if self._heard is not None:
            self._heard(topic, bytes(payload), bool(properties["retain"]))
        return 0


def _place(address: str) -> tuple[SplitResult, int | None]:
    """Raises MqttFailed."""
    try:
        place = urlsplit(address if "://" in address else f"tcp://{address}")
        if place.hostname:
            return place, place.port
    except ValueError:
        pass
    raise MqttFailed(f"address {address[:100]!r} names no broker; write it as tcp://host:1883")
