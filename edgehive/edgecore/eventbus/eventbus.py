"""eventbus: MQTT on the node, to devicetwin and to the cloud, and back.

What is published about devices and nodes goes to devicetwin, everything else heard goes to the cloud, where rules wait
for it. Rules also subscribe to further topics, which are rows here and stay subscribed over restarts of either side.
It judges no content and keeps no device.

Go: edge/pkg/eventbus
"""

import asyncio
import logging
import sqlite3
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from edgehive.api.config.broker_address import Address
from edgehive.api.config.edgecore import EventBus as Config
from edgehive.beehive.bus import Bus, MailboxFull, NoSuchModule
from edgehive.beehive.message import Message
from edgehive.beehive.module import Ready
from edgehive.edgecore.eventbus.broker import Broker, Certificate
from edgehive.edgecore.eventbus.client import Account, BrokerClient, Publication
from edgehive.kit import metrics
from edgehive.kit.clock import Clock, unix_millis
from edgehive.kit.sqlite import Database, DatabaseError
from edgehive.wire import topics
from edgehive.wire.names import EdgeModule, Group, Operation, Source
from edgehive.wire.payloads import read_connection_notice

log = logging.getLogger("edgehive.eventbus")

#: Topics rules may subscribe to at once.
RULE_LIMIT = 10_000
#: wire: operations of 2019; what else comes is Go's of today.
_MESSAGE, _GET_RESULT, _AUTH_INFO = "message", "get_result", "auth_info"


class _Said(msgspec.Struct):
    """wire: content of the operation `message`."""

    message: dict[str, msgspec.Raw]


class EventBus:
    """The module `eventbus`."""

    name = str(EdgeModule.EVENT_BUS)
    group = str(Group.BUS)
    needs: tuple[str, ...] = ()

    def __init__(
        self,
        bus: Bus,
        database: Database,
        clock: Clock,
        node: str,
        config: Config,
        *,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._bus = bus
        self._database = database
        self._clock = clock
        self._node = node
        self._config = config
        self._mailbox = bus.register(self.name, self.group)
        self._rules: set[str] = set()
        self._clients: list[BrokerClient] = []
        self._sending = asyncio.Lock()
        registry = registry or CollectorRegistry()
        self._heard = metrics.counter("edgehive_mqtt_heard", "Publications heard.", registry=registry)
        self._dropped = metrics.counter(
            "edgehive_mqtt_dropped", "Publications that reached nobody.", ["direction"], registry=registry
        )

    async def run(self, ready: Ready) -> None:
        self._rules = await self._database.read(_load)
        mode, config = self._config.mqtt_mode, self._config
        self._clients = []
        async with asyncio.TaskGroup() as tasks:
            if mode <= 1:
                internal = Address.parse(config.mqtt_server_internal, "mqttServerInternal")
                tasks.create_task(self._broker(internal).run(), name="mosquitto")
                self._attach(tasks, internal, self._account(internal.secure), config.mqtt_qos)
            if mode >= 1:
                external = Address.parse(config.mqtt_server_external, "mqttServerExternal")
                # wire: a Go edge speaks to an external broker at least by QoS 1 (wire.md §6.6).
                self._attach(
                    tasks,
                    external,
                    self._account(external.secure or config.event_bus_tls.enable),
                    max(1, config.mqtt_qos),
                )
            ready()
            async for message in self._mailbox:
                await self._take(message)

    def _broker(self, address: Address) -> Broker:
        config, tls = self._config, self._config.event_bus_tls
        pair = Certificate(Path(tls.tls_mqtt_cert_file), Path(tls.tls_mqtt_private_key_file))
        return Broker(
            address,
            queue_size=config.mqtt_session_queue_size,
            username=config.mqtt_username,
            password=config.mqtt_password,
            certificate=pair if address.secure else None,
        )

    def _account(self, secure: bool) -> Account:
        config = self._config
        context = None
        if secure:
            from edgehive.edgecore.eventbus.security import context_of

            context = context_of(config.event_bus_tls)
        return Account(
            config.mqtt_sub_client_id, config.mqtt_pub_client_id, config.mqtt_username, config.mqtt_password, context
        )

    def _attach(self, tasks: asyncio.TaskGroup, address: Address, account: Account, qos: int) -> None:
        client = BrokerClient(
            address, account, self._subscriptions, qos=qos, retain=self._config.mqtt_retain,
            dropped=self._dropped.labels("out").inc,
        )  # fmt: skip
        self._clients.append(client)
        tasks.create_task(client.run(), name=f"broker {address}")
        tasks.create_task(self._listen(client), name=f"heard of {address}")

    def _subscriptions(self) -> list[str]:
        return [*topics.SUBSCRIPTIONS, *sorted(topic for topic in self._rules if not _is_covered(topic))]

    # From applications

    async def _listen(self, client: BrokerClient) -> None:
        while True:
            publication = await client.receive()
            self._heard.inc()
            module, message = self._heard_as(publication)
            try:
                await self._bus.send(module, message)
            except (MailboxFull, NoSuchModule) as error:
                self._dropped.labels("in").inc()
                log.warning("what was published on %s is lost: %s", publication.topic[:300], error)

    def _heard_as(self, publication: Publication) -> tuple[str, Message]:
        """devicetwin gets the payload as text, and so does the cloud. wire: JSON holds text alone."""
        text = publication.payload.decode(errors="replace")
        to_twin = topics.is_for_twin(publication.topic)
        message = Message.of(
            source=Source.BUS,
            group=Group.USER,
            operation=Operation.RESPONSE if to_twin else Operation.UPLOAD,
            resource=publication.topic,
            content=text,
            timestamp=unix_millis(self._clock.now()),
        )
        return (EdgeModule.DEVICE_TWIN if to_twin else EdgeModule.EDGE_HUB), message

    # From modules and the cloud

    async def _take(self, message: Message) -> None:
        """One message; what cannot be read is logged and forgotten."""
        if read_connection_notice(message) is not None:
            return
        operation, resource = message.route.operation, message.route.resource
        try:
            if operation in (Operation.SUBSCRIBE, Operation.UNSUBSCRIBE):
                await self._follow(resource, operation == Operation.SUBSCRIBE)
            elif operation == Operation.PUBLISH:
                self._send(resource, message.content_bytes())
            elif operation == _MESSAGE:
                self._publish_nested(message)
            elif (operation, resource) == (_GET_RESULT, _AUTH_INFO):
                self._send(topics.node(self._node, topics.NodeTopic.AUTH_RESULT), bytes(message.content))
            else:
                log.warning("eventbus knows no operation %r of %r", operation, resource[:300])
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            log.error("%s %s is not done: %s", operation, resource[:300], error)

    def _publish_nested(self, message: Message) -> None:
        """wire: topic and payload are one object in the content, and all of it is published."""
        said = message.read(_Said).message
        if "topic" not in said:
            raise ValueError("it names no topic")
        self._send(msgspec.json.decode(said["topic"], type=str), msgspec.json.encode(said))

    def _send(self, topic: str, payload: bytes) -> None:
        if fault := topics.fault_of_topic(topic):
            raise ValueError(f"nobody can publish there: {fault}")
        for client in self._clients:
            client.publish(Publication(topic, payload))

    async def _follow(self, topic: str, wanted: bool) -> None:
        """A rule begins or ends to listen; the row comes first."""
        if fault := topics.fault_of_filter(topic):
            raise ValueError(f"no broker takes this: {fault}")
        if wanted and topic not in self._rules and len(self._rules) >= RULE_LIMIT:
            raise ValueError(f"{RULE_LIMIT} topics are subscribed already")
        try:
            await self._database.write(lambda connection: _keep(connection, topic, wanted))
        except (DatabaseError, sqlite3.Error) as error:
            log.error("the subscription of %s does not outlive this process: %s", topic, error)
        (self._rules.add if wanted else self._rules.discard)(topic)
        if _is_covered(topic):
            return
        for client in self._clients:
            (client.subscribe if wanted else client.unsubscribe)(topic)


def _is_covered(topic: str) -> bool:
    """Heard anyhow; a second subscription would bring each publication twice."""
    return any(topics.matches(filter, topic) for filter in topics.SUBSCRIPTIONS)


def _load(connection: sqlite3.Connection) -> set[str]:
    return {topic for (topic,) in connection.execute("SELECT topic FROM sub_topics")}


def _keep(connection: sqlite3.Connection, topic: str, wanted: bool) -> None:
    if wanted:
        connection.execute("INSERT OR IGNORE INTO sub_topics (topic) VALUES (?)", (topic,))
    else:
        connection.execute("DELETE FROM sub_topics WHERE topic = ?", (topic,))
