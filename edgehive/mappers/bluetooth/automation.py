"""Actions, schedules and the watcher of one device at work. It outlives connections: a schedule that was interrupted
goes on with what is left of it when the device is back, and topics are heard meanwhile.

An action of a property that can be written writes what is desired, or else the visitor's `defaultValue`; one of a
property that cannot be written reads it. Actions that are to be performed immediately are so at each
connection, as a device that was switched off has forgotten what it was told.

Go: mappers/bluetooth_mapper/{scheduler,watcher,action_manager} (until 1.7)
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from edgehive.kit.clock import Clock, SystemClock, unix_millis
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import Value, Visitor
from edgehive.mapper.values import exact
from edgehive.mappers.bluetooth.conversion import Place, converter_of, data_of, listed, place_of, uuid_of
from edgehive.mappers.bluetooth.gatt import Gatt
from edgehive.mappers.bluetooth.radio import said
from edgehive.mappers.bluetooth.rules import (
    Action,
    Operation,
    Schedule,
    actions_of,
    broker_of,
    names_of,
    rules_of,
    schedules_of,
    watched_of,
    written_by,
)
from edgehive.mappers.bluetooth.topics import PREFIX, RuntimeTopics, require_id

log = logging.getLogger("edgehive.mapper")

#: Seconds one action may take.
DEADLINE = 10.0
#: Seconds it goes on without a device that opens it again: more than the longest pause between two attempts.
LINGER = 120.0
#: Actions, and schedules, of one device: messages bring more and more.
KEPT_LIMIT = 1024
T = TypeVar("T")


class Automation:
    """Get one by `of`; `device` is namespace/name, `config` its configuration with that of its `configFile`."""

    #: By device.
    kept: ClassVar[dict[str, "Automation"]] = {}

    def __init__(self, device: str, config: Mapping[str, Any], clock: Clock) -> None:
        self.config = config
        self._device = device
        self._id = str(config.get("deviceID") or device.rpartition("/")[2])
        self._clock = clock
        self._rules = rules_of(config)
        broker = broker_of(config)
        if broker:
            require_id(self._id)
        self._topics = RuntimeTopics(broker, self._id, self._obey) if broker else None
        self._visitors: dict[str, Visitor] = {}
        self._desired: dict[str, Value] = {}
        self._gatt: Gatt | None = None
        self._connected = asyncio.Event()
        self._users = 0
        self._ending: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[str, asyncio.Task[None]] = {}

    @classmethod
    def of(cls, device: str, config: Mapping[str, Any], clock: Clock | None = None) -> "Automation":
        """The device's, with what it was told at its topics if its configuration is the same; raises ValueError."""
        found = cls.kept.get(device)
        if found is None or found.config != config:
            new = cls(device, config, clock or SystemClock())
            new._require_own_topics()
            if found is not None:
                found.end()
            found = cls.kept[device] = new
            found._work = spawn(found._run(), name=f"{device} automation")
        found._hold()
        return found

    def _hold(self) -> None:
        self._users += 1
        if self._ending is not None:
            self._ending.cancel()

    def _require_own_topics(self) -> None:
        if self._topics is None:
            return
        for other in self.kept.values():
            if other._device != self._device and other._id == self._id and other._topics is not None:
                raise ValueError(
                    f"its topics {PREFIX}{self._id}/... are those of {other._device}, too; give it another deviceID"
                )

    def release(self) -> None:
        """The device is closed, and may be opened again."""
        self._users -= 1
        if not self._users:
            self._ending = asyncio.get_running_loop().call_later(LINGER, self.end)

    def end(self) -> None:
        """Stop soon."""
        self._forget()
        if self._work is not None:
            self._work.cancel()

    async def close(self) -> None:
        """Stop."""
        self._forget()
        await cancel_and_join(self._work)

    async def attach(self, gatt: Gatt) -> None:
        """The device is there: it gets its immediate actions, then schedules go on. Raises ConnectionError."""
        await self._perform_all(gatt, [item for item in self._rules.actions.values() if item.perform_immediately])
        self._gatt = gatt
        self._connected.set()

    def detach(self) -> None:
        """The device is lost, or closed."""
        self._gatt = None
        self._connected.clear()

    def learn(self, visitor: Visitor) -> None:
        """The device has this property."""
        self._visitors[visitor.property.casefold()] = visitor

    async def desire(self, gatt: Gatt, visitor: Visitor, value: Value) -> bool:
        """Perform the actions of a watched property; False: it is not watched. Raises ValueError or OSError."""
        self._desired[visitor.property.casefold()] = value
        watched = self._rules.watched.get(visitor.property.casefold())
        if watched is None:
            return False
        for name in watched.actions:
            await self._perform(gatt, self._rules.action(name, f"watcher of {watched.property!r}"))
        return True

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if self._topics is not None:
                    self._tasks.create_task(self._topics.run(), name=f"{self._device} topics")
                for schedule in self._rules.schedules.values():
                    self._start(schedule)
                await asyncio.Event().wait()
        finally:
            self._forget()

    def _forget(self) -> None:
        if self.kept.get(self._device) is self:
            del self.kept[self._device]

    # What is told at the topics

    async def _obey(self, command: str, told: Any) -> None:
        """Raises ValueError, and has changed nothing then."""
        if command == "watcher/create":
            self._rules.watched = watched_of(told, self._rules)
        elif command == "action-manager/create":
            await self._create_actions(told)
        elif command == "action-manager/delete":
            _delete(self._rules.actions, told, "action")
        elif command == "scheduler/create":
            schedules = schedules_of(told, self._rules)
            _add(self._rules.schedules, schedules, "schedules")
            for schedule in schedules.values():
                self._start(schedule)
        else:
            for key in _delete(self._rules.schedules, told, "schedule"):
                self._running.pop(key).cancel()
        log.info("%s: %s is done", self._device, command)

    async def _create_actions(self, told: Any) -> None:
        actions = actions_of(told)
        _add(self._rules.actions, actions, "actions")
        gatt = self._gatt
        if gatt is None:
            return
        try:
            await self._perform_all(gatt, [item for item in actions.values() if item.perform_immediately])
        except ConnectionError:
            self._is_lost(gatt)

    # Schedules

    def _start(self, schedule: Schedule) -> None:
        """In the place of the one with its name, from the beginning."""
        assert self._tasks is not None
        key = schedule.name.casefold()
        if key in self._running:
            self._running[key].cancel()
        self._running[key] = self._tasks.create_task(self._keep(schedule), name=f"{self._device} {schedule.name}")

    async def _keep(self, schedule: Schedule) -> None:
        loop = asyncio.get_running_loop()
        due, rounds = loop.time(), 0
        while not schedule.occurrence_limit or rounds < schedule.occurrence_limit:
            await asyncio.sleep(due - loop.time())
            for name in schedule.actions:
                await self._perform_scheduled(schedule, name)
            rounds += 1
            # Rounds that were missed are not made up for in a hurry.
            due = max(due + schedule.seconds, loop.time())
        log.info("%s: schedule %s is through with %d rounds", self._device, schedule.name, rounds)

    async def _perform_scheduled(self, schedule: Schedule, name: str) -> None:
        """Once, and when the device is lost meanwhile, again after it is back."""
        while True:
            await self._connected.wait()
            gatt = self._gatt
            if gatt is None:
                continue
            result, fault = "", ""
            try:
                result = await self._perform(gatt, self._rules.action(name, f"schedule {schedule.name!r}"))
            except Exception as error:  # whatever the device or bleak comes up with is this action's failure
                if not gatt.is_connected:
                    self._is_lost(gatt)
                    continue
                fault = said(error)
            self._tell(name, result, fault)
            return

    def _is_lost(self, gatt: Gatt) -> None:
        """The mapper will find out, too, and open the device again."""
        if self._gatt is gatt:
            self.detach()

    def _tell(self, name: str, result: str, fault: str) -> None:
        told = {"EventName": name, "TimeStamp": unix_millis(self._clock.now()), "EventResult": result}
        if fault:
            told["EventError"] = fault
            log.warning("%s: action %s: %s", self._device, name, fault)
        if self._topics is not None:
            self._topics.say("scheduler/result", told)

    # Actions

    async def _perform_all(self, gatt: Gatt, actions: list[Action]) -> None:
        """Each, also after one failed; raises ConnectionError when the device is lost."""
        for action in actions:
            try:
                await self._perform(gatt, action)
            except Exception as error:  # as above
                if not gatt.is_connected:
                    raise ConnectionError(said(error)) from error
                log.warning("%s: action %s: %s", self._device, action.name, said(error))
                if self._topics is not None:
                    self._topics.say("error", {"action": action.name, "error": said(error)})

    async def _perform(self, gatt: Gatt, action: Action) -> str:
        """What was read or written, as text; raises ValueError or OSError."""
        try:
            async with asyncio.timeout(DEADLINE):
                if action.operation is not None:
                    return await _operate(gatt, action.operation)
                visitor = self._visitor(action.property)
                if visitor.writable:
                    desired = self._desired.get(visitor.property.casefold())
                    data = data_of(visitor, _default(visitor) if desired is None else desired)
                    await gatt.write(place_of(visitor.config), data)
                    return _text(data)
                return _reading(visitor, await gatt.read(place_of(visitor.config)))
        except TimeoutError:
            raise ValueError(f"the device did not answer within {DEADLINE:g} s") from None

    def _visitor(self, name: str) -> Visitor:
        found = self._visitors.get(name.casefold())
        if found is None:
            known = listed([item.property for item in self._visitors.values()])
            raise ValueError(f"the device has no property {name!r}; it has: {known}")
        return found


def _add(items: dict[str, T], new: Mapping[str, T], what: str) -> None:
    """Raises ValueError, and adds nothing, where they would be too many."""
    count = len(items.keys() | new.keys())
    if count > KEPT_LIMIT:
        raise ValueError(f"there would be {count} {what}, and the limit is {KEPT_LIMIT}; delete some first")
    items.update(new)


def _delete(items: dict[str, Any], told: Any, what: str) -> list[str]:
    """The keys that were; raises ValueError, and deletes nothing, where one is not there."""
    names = names_of(told)
    for name in names:
        if name.casefold() not in items:
            raise ValueError(
                f"there is no {what} {name!r}; there are: {listed([item.name for item in items.values()])}"
            )
    keys = list(dict.fromkeys(name.casefold() for name in names))
    for key in keys:
        del items[key]
    return keys


async def _operate(gatt: Gatt, operation: Operation) -> str:
    place, data = Place(uuid_of(operation.characteristic_uuid, "characteristic-uuid")), written_by(operation)
    if data is None:
        return _text(await gatt.read(place))
    await gatt.write(place, data)
    return _text(data)


def _default(visitor: Visitor) -> Value:
    told = visitor.config.get("defaultValue")
    if told is None:
        raise ValueError(f"property {visitor.property!r} has no defaultValue in its visitor that could be written")
    try:
        return exact(visitor.type, told)
    except ValueError as error:
        raise ValueError(f"the defaultValue of property {visitor.property!r} {error}") from None


def _reading(visitor: Visitor, data: bytes) -> str:
    """As the 2019 mapper wrote it: a number with six digits behind the point, or the bytes as text."""
    converter = converter_of(visitor.config)
    return _text(data) if converter is None else f"{converter.number(data):f}"


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
