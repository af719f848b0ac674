"""An MQTT broker that is not ours, and an application at a broker: for tests and benches of everything on MQTT."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv311

from edgehive.edgecore.eventbus.broker import find


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def mosquitto(folder: Path, port: int, *lines: str) -> Iterator[None]:
    """A broker on a port of this machine; `lines` are added to its configuration."""
    folder.mkdir(exist_ok=True)
    configuration = folder / "mosquitto.conf"
    configuration.write_text(
        "\n".join([f"listener {port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true", "user root", *lines])
        + "\n"
    )
    process = subprocess.Popen(  # noqa: S603
        [find(), "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


class Application:
    """Somebody else at a broker."""

    def __init__(self, client: gmqtt.Client) -> None:
        self.client = client
        self.heard: asyncio.Queue[tuple[str, bytes, int, bool]] = asyncio.Queue()
        client.on_message = self._hear

    def _hear(self, _client: Any, topic: str, payload: bytes, qos: int, properties: dict[str, Any]) -> int:
        self.heard.put_nowait((topic, bytes(payload), qos, bool(properties["retain"])))
        return 0

    async def hear(self) -> tuple[str, bytes, int, bool]:
        async with asyncio.timeout(10):
            return await self.heard.get()

    async def subscribe(self, topic: str, qos: int = 2) -> None:
        granted = asyncio.Event()
        self.client.on_subscribe = lambda *_: granted.set()
        self.client.subscribe(topic, qos=qos)
        async with asyncio.timeout(10):
            await granted.wait()

    def publish(self, topic: str, payload: str | bytes, qos: int = 1, retain: bool = False) -> None:
        self.client.publish(topic, payload, qos=qos, retain=retain)


@asynccontextmanager
async def application(
    port: int, *, credentials: tuple[str, str] | None = None, tls: Any = False
) -> AsyncIterator[Application]:
    async with asyncio.timeout(20):
        while True:
            client = gmqtt.Client("application", clean_session=True)
            client.set_config({"reconnect_retries": -2})
            if credentials:
                client.set_auth_credentials(*credentials)
            try:
                await client.connect("127.0.0.1", port, ssl=tls, version=MQTTv311)
                break
            except OSError:
                await asyncio.sleep(0.02)
    try:
        yield Application(client)
    finally:
        await client.disconnect()
