"""One broker as eventbus uses it: always subscribed, published to while it is there, read no faster than asked.

Two MQTT clients, as the Go edge has them: one hears, one speaks, each under its own id, with clean sessions, so that a
broker keeps nothing for a node that is gone. After a loss it connects again, subscribes to everything again and, by QoS
1 and 2, publishes again what was not acknowledged: it may come twice, and is not lost.

Go: edge/pkg/eventbus/mqtt/client.go
"""

import asyncio
import logging
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gmqtt
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.mqtt.handler import MQTTConnectError
from gmqtt.storage import PersistentStorage

from edgehive.api.config.broker_address import Address
from edgehive.edgecore.eventbus.broker import MESSAGE_LIMIT
from edgehive.kit.backoff import Backoff

log = logging.getLogger("edgehive.eventbus")
#: What gmqtt says of each packet and each loss is said here once, in our words.
_quiet = logging.getLogger("edgehive.eventbus.gmqtt")
_quiet.setLevel(logging.CRITICAL)
for _name in ("gmqtt.mqtt.protocol", "gmqtt.mqtt.utils", "gmqtt.mqtt.package"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS = 30
RECONNECT = Backoff(first=0.5, factor=2.0, limit=15.0, jitter=0.3)
#: Publications kept while the broker is away or slow; older ones make room. Unacknowledged at once: as many.
HELD_LIMIT = 1024
#: Bytes that may wait in the socket's buffer before publications are held back.
BUFFER_LIMIT = 1024 * 1024
#: Publications heard and not yet taken; beyond, the broker is read no further until half of them are.
INBOUND_LIMIT = 2048


#: wire: from here on a broker's answer to a subscription is no.
_REFUSED = 128


@dataclass(frozen=True, slots=True)
class Account:
    """Who we are to a broker. Empty ids are made up, as the Go edge does."""

    sub_id: str = ""
    pub_id: str = ""
    username: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    payload: bytes


class _Unacknowledged(PersistentStorage):  # type: ignore[misc]
    """Publications on their way, by packet number: gmqtt says which are sent and which the broker has."""

    def __init__(self, acknowledged: Callable[[], None]) -> None:
        super().__init__()
        self._acknowledged = acknowledged
        #: What is being published now.
        self.sending: Publication | None = None

    def push_message(self, mid: int, _packet: bytes) -> None:
        # By QoS 2 the second half of the exchange comes with the same number.
        self._messages.setdefault(mid, self.sending)

    def remove_message_by_mid(self, mid: int) -> None:
        super().remove_message_by_mid(mid)
        self._acknowledged()

    def __len__(self) -> int:
        return len(self._messages)

    def __bool__(self) -> bool:
        return True

    def take_all(self) -> list[Publication]:
        """In the order they were sent."""
        publications = list(self._messages.values())
        self._messages.clear()
        return publications


class BrokerClient:
    """`topics` names all subscriptions, at any time; `dropped` counts publications that made room for others."""

    def __init__(
        self,
        address: Address,
        account: Account,
        topics: Callable[[], Iterable[str]],
        *,
        qos: int,
        retain: bool,
        dropped: Callable[[], None],
    ) -> None:
        self._address = address
        self._account = account
        self._topics = topics
        self._qos = qos
        self._retain = retain
        self._dropped = dropped
        self._held: deque[Publication] = deque()
        self._unacknowledged = _Unacknowledged(self._send_held)
        self._inbound: deque[Publication] = deque()
        self._arrived = asyncio.Event()
        self._paused = False
        self._hearing: gmqtt.Client | None = None
        self._speaking: gmqtt.Client | None = None
        #: Set while both clients are connected and everything is subscribed.
        self.connected = asyncio.Event()

    async def run(self) -> None:
        """Stay connected until cancelled."""
        attempt, said = 0, ""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._session()
            except (OSError, TimeoutError, MQTTConnectError, ssl.SSLError) as error:
                text = str(error) or "no answer in time"
                if text != said:
                    log.warning("no connection to the broker %s: %s", self._address, text)
                    said = text
            else:
                said = ""
            attempt = attempt + 1 if loop.time() - started < CONNECT_SECONDS else 0
            await asyncio.sleep(RECONNECT.delay(attempt))

    async def _session(self) -> None:
        lost = asyncio.Event()
        number = secrets.randbelow(10**10)
        hearing = self._client(self._account.sub_id or f"hub-client-sub-{number:010}", lost)
        speaking = self._client(self._account.pub_id or f"hub-client-pub-{number:010}", lost, self._unacknowledged)
        hearing.on_message = self._heard
        try:
            for client in (hearing, speaking):
                await self._connect(client)
            self._hearing, self._speaking = hearing, speaking
            await self._subscribe_all(hearing, lost)
            self.connected.set()
            log.info("connected to the broker %s", self._address)
            self._send_held()
            while not lost.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.2 if self._held else None):
                        await lost.wait()
                self._send_held()
            log.warning("the broker %s is gone", self._address)
        finally:
            self.connected.clear()
            self._hearing = self._speaking = None
            self._paused = False
            self._take_back()
            for client in (hearing, speaking):
                await _end(client)

    async def _subscribe_all(self, hearing: gmqtt.Client, lost: asyncio.Event) -> None:
        """Until the broker has acknowledged each: what is published from then on is heard."""
        wanted: dict[int, str] = {}
        done = asyncio.Event()

        def acknowledged(_client: gmqtt.Client, number: int, granted: tuple[int, ...], _properties: Any) -> None:
            topic = wanted.pop(number, "")
            if topic and max(granted, default=_REFUSED) >= _REFUSED:
                log.error("the broker %s does not let this node hear %s", self._address, topic)
            if not wanted:
                done.set()

        hearing.on_subscribe = acknowledged
        wanted |= {hearing.subscribe(topic, qos=self._qos): topic for topic in self._topics()}
        async with asyncio.timeout(CONNECT_SECONDS), asyncio.TaskGroup() as either:
            waits = [either.create_task(event.wait()) for event in (done, lost)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()

    def _client(self, id: str, lost: asyncio.Event, storage: PersistentStorage | None = None) -> gmqtt.Client:
        client = gmqtt.Client(id, clean_session=True, logger=_quiet, persistent_storage=storage)
        # Connecting again is ours: gmqtt would keep the session and forget what was subscribed meanwhile.
        client.set_config({"reconnect_retries": -2, "reconnect_delay": 0})
        if self._account.username:
            client.set_auth_credentials(self._account.username, self._account.password)
        client.on_disconnect = lambda *_: lost.set()
        return client

    async def _connect(self, client: gmqtt.Client) -> None:
        secure: Any = self._account.tls if self._account.tls is not None else self._address.secure
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                self._address.host, self._address.port, ssl=secure, keepalive=KEEPALIVE_SECONDS, version=MQTTv311
            )
        _limit_packets(client)

    # Out

    def publish(self, publication: Publication) -> None:
        """Now, or when the broker is there again."""
        if not self._held and self._send(publication):
            return
        self._held.append(publication)
        self._make_room()

    def _make_room(self) -> None:
        while len(self._held) > HELD_LIMIT:
            self._held.popleft()
            self._dropped()

    def _take_back(self) -> None:
        """The connection is over: what it had not acknowledged goes first in the next."""
        self._held.extendleft(reversed(self._unacknowledged.take_all()))
        self._make_room()

    def _send_held(self) -> None:
        while self._held and self._send(self._held[0]):
            self._held.popleft()

    def _send(self, publication: Publication) -> bool:
        client = self._speaking
        if client is None or not client.is_connected or _transport(client).get_write_buffer_size() > BUFFER_LIMIT:
            return False
        if len(self._unacknowledged) >= HELD_LIMIT:
            return False
        self._unacknowledged.sending = publication
        try:
            client.publish(publication.topic, publication.payload, qos=self._qos, retain=self._retain)
        except OverflowError:
            return False  # all packet ids wait for the broker
        return True

    def subscribe(self, topic: str) -> None:
        if self._hearing is not None and self._hearing.is_connected:
            self._hearing.subscribe(topic, qos=self._qos)

    def unsubscribe(self, topic: str) -> None:
        if self._hearing is not None and self._hearing.is_connected:
            self._hearing.unsubscribe(topic)

    # In

    async def receive(self) -> Publication:
        """The next publication of somebody else."""
        while not self._inbound:
            self._arrived.clear()
            await self._arrived.wait()
        publication = self._inbound.popleft()
        if self._paused and len(self._inbound) < INBOUND_LIMIT // 2 and self._hearing is not None:
            self._paused = False
            _transport(self._hearing).resume_reading()
        return publication

    def _heard(self, client: gmqtt.Client, topic: str, payload: bytes, _qos: int, _properties: Any) -> int:
        self._inbound.append(Publication(topic, bytes(payload)))
        self._arrived.set()
        if len(self._inbound) >= INBOUND_LIMIT and not self._paused and client is self._hearing:
            self._paused = True
            _transport(client).pause_reading()
        return 0


def _transport(client: gmqtt.Client) -> asyncio.Transport:
    """gmqtt has no flow control of its own."""
    transport: asyncio.Transport = client._connection._transport
    return transport


def _limit_packets(client: gmqtt.Client) -> None:
    """gmqtt gathers a packet of any size; a larger one than any broker of ours passes on ends the connection."""
    protocol = client._connection._protocol
    read = protocol._read_packet

    def read_bounded(data: bytes) -> int:
        parsed: int = read(data)
        if len(data) - max(parsed, 0) > 2 * MESSAGE_LIMIT:
            log.error("a publication of more than %d bytes was refused", 2 * MESSAGE_LIMIT)
            _transport(client).abort()
        return parsed

    protocol._read_packet = read_bounded


async def _end(client: gmqtt.Client) -> None:
    with suppress(OSError, TimeoutError, AttributeError):
        async with asyncio.timeout(2.0):
            await client.disconnect()
    connection = client._connection
    if connection is not None:
        connection._transport.abort()
        if connection._keep_connection_callback is not None:
            connection._keep_connection_callback.cancel()
