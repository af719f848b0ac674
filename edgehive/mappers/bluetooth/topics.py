"""The runtime topics of one device, as the 2019 mapper had them: messages there change what happens by itself.

    $ke/device/bluetooth-mapper/<id>/...
        watcher/create          the watcher, in the place of the one there was
        action-manager/create   a list of actions, new ones or others by the same names
        action-manager/delete   a list of {name}
        scheduler/create        a list of schedules, likewise; they start at once
        scheduler/delete        a list of {name}
        scheduler/result        from us: EventName, TimeStamp, EventResult, and EventError if it failed
        error                   from us: why a message was refused as a whole, or an action failed

What we say while the broker is away waits, up to a limit.

Go: mappers/bluetooth_mapper/controller/controller.go (until 1.7)
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from edgehive.kit.backoff import Backoff
from edgehive.kit.mailbox import Mailbox, Policy
from edgehive.mapper.mqtt_client import MqttClient, MqttFailed
from edgehive.mappers.bluetooth.conversion import shown

log = logging.getLogger("edgehive.mapper")

PREFIX = "$ke/device/bluetooth-mapper/"
COMMANDS = (
    "watcher/create",
    "action-manager/create",
    "action-manager/delete",
    "scheduler/create",
    "scheduler/delete",
)
#: Bytes of a message that is obeyed; messages that wait to be; results kept while the broker is away.
MESSAGE_LIMIT, COMMANDS_WAITING, RESULTS_KEPT = 256 * 1024, 64, 1000
ID_LIMIT = 253
PATIENT = Backoff(first=0.5, factor=2.0, limit=15.0, jitter=0.3)


class RuntimeTopics:
    """`obey` is awaited for each command, one after the other, and raises ValueError where it cannot be."""

    def __init__(self, broker: str, id: str, obey: Callable[[str, Any], Awaitable[None]]) -> None:
        self._broker = broker
        self._prefix = f"{PREFIX}{id}/"
        self._obey = obey
        self._commands: Mailbox[tuple[str, bytes]] = Mailbox("commands", size=COMMANDS_WAITING, policy=Policy.REFUSE)
        self._said: Mailbox[tuple[str, bytes]] = Mailbox("results", size=RESULTS_KEPT, policy=Policy.DROP_OLDEST)
        #: By command. A broker says it again at each connection.
        self._retained: dict[str, bytes] = {}
        topics = [self._prefix + command for command in COMMANDS]
        self._client = MqttClient(broker, topics=topics, heard=self._heard)

    def say(self, what: str, told: dict[str, Any]) -> None:
        """Publish to `…/<id>/<what>`, now or when the broker is back."""
        self._said.put_nowait((self._prefix + what, msgspec.json.encode(told)))

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._listen(), name=f"{self._prefix} listening")
                tasks.create_task(self._obey_all(), name=f"{self._prefix} obeying")
                tasks.create_task(self._publish_all(), name=f"{self._prefix} publishing")
        finally:
            await self._client.close()

    async def _listen(self) -> None:
        attempt, why = 0, ""
        while True:
            try:
                await self._client.listen()
                attempt, why = 0, ""
            except MqttFailed as error:
                attempt += 1
                if str(error) != why:
                    why = str(error)
                    log.warning("%s: no connection to the broker %s: %s", self._prefix, self._broker, why)
            await asyncio.sleep(PATIENT.delay(attempt))

    async def _publish_all(self) -> None:
        async for topic, payload in self._said:
            attempt = 0
            while True:
                try:
                    await self._client.publish(topic, payload, qos=1, retained=False)
                    break
                except MqttFailed:
                    await asyncio.sleep(PATIENT.delay(attempt))
                    attempt += 1

    def _heard(self, topic: str, payload: bytes, retained: bool) -> None:
        command = topic.removeprefix(self._prefix)
        if retained and self._retained.get(command) == payload:
            return
        if len(payload) > MESSAGE_LIMIT:
            self._refuse(command, f"the message has {len(payload)} bytes; the limit is {MESSAGE_LIMIT}")
        elif len(self._commands) >= COMMANDS_WAITING:
            self._refuse(command, f"{COMMANDS_WAITING} messages wait already; publish it again later")
        else:
            self._commands.put_nowait((command, payload))
            if retained:
                self._retained[command] = payload

    async def _obey_all(self) -> None:
        async for command, payload in self._commands:
            try:
                await self._obey(command, msgspec.json.decode(payload))
            except msgspec.DecodeError as error:
                self._refuse(command, f"the message is no JSON: {error}")
            except RecursionError:
                self._refuse(command, "the message has lists in lists without end")
            except ValueError as error:
                self._refuse(command, str(error))

    def _refuse(self, command: str, why: str) -> None:
        log.warning("%s%s: %s", self._prefix, command, why)
        self.say("error", {"topic": self._prefix + command, "error": why})


def require_id(id: str) -> None:
    """Raises ValueError where it cannot be part of a topic."""
    if not id or len(id) > ID_LIMIT or any(letter in id for letter in "+#\0"):
        raise ValueError(
            f"deviceID {shown(id)} cannot be part of the topics {PREFIX}<deviceID>/...: give the device's name"
        )
