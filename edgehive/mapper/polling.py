"""The conversation with one device: open, read at each property's cycle, write what is desired, open again when lost.

Between two of those, what is asked of it now: a reading, or a method (`calls.py`).

One task per device runs this, and every call has a deadline, so a dead device slows no other. A desired value that
cannot be written is tried again with growing pauses until it is written or another one is desired; after a device was
lost, what is desired is compared with what it has and written where they differ.
"""

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from edgehive.kit.backoff import Backoff
from edgehive.kit.tasks import is_cancelled
from edgehive.mapper import values
from edgehive.mapper.calls import CALLS_WAITING, BadValue, Call, CallFailed
from edgehive.mapper.definition import Definition, Property
from edgehive.mapper.driver import CallsMethods, DetectsAnomalies, Driver, Prepares, Value, Visitor

log = logging.getLogger("edgehive.mapper")

#: Seconds a driver has for one call.
DEADLINE = 10.0
PATIENT = Backoff(first=0.5, factor=2.0, limit=30.0, jitter=0.2)
#: Seconds: what is due that soon is due.
TICK = 0.001
T = TypeVar("T")


class State(StrEnum):
    """How a device is, in the words of Go's mappers."""

    ONLINE = "online"
    OFFLINE = "offline"
    #: It answers, but some property cannot be read or written.
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


class Listener(Protocol):
    """Who hears what a device says."""

    def has_value(self, visitor: Visitor, value: Value) -> None: ...

    def was_written(self, visitor: Visitor, text: str) -> None: ...

    def has_state(self, state: State, faults: Mapping[str, str]) -> None:
        """`faults`: by property, "" for the device as a whole."""
        ...


class Lost(Exception):
    """The device must be opened again."""


class Failed(Exception):
    """One property could not be read or written."""


@dataclass(slots=True, eq=False)
class _Wish:
    """A desired value on its way to the device."""

    attempt: int = 0
    not_before: float = 0.0


class Poller:
    """One device."""

    def __init__(
        self, make: Callable[[], Driver], definition: Definition, listener: Listener, *, deadline: float = DEADLINE
    ) -> None:
        self._make = make
        self._definition = definition
        self._listener = listener
        self._deadline = deadline
        self._wake = asyncio.Event()
        self._reopen = False
        self._due: list[tuple[float, str]] = []
        self._wishes: dict[str, _Wish] = {}
        #: None while the device is not open.
        self._calls: deque[Call] | None = None
        self._judged_at: dict[str, float] = {}
        self._faults: dict[str, str] = {}
        self._state = State.UNKNOWN
        self._has_answered = False

    def follow(self, definition: Definition) -> None:
        """Work by a newer definition from now on; the device is opened anew only if the way to it changed."""
        old, self._definition = self._definition, definition
        self._reopen |= (old.config, old.protocol) != (definition.config, definition.protocol)
        for name, item in definition.properties.items():
            before = old.properties.get(name)
            if item.desired is not None and (before is None or before.desired_text != item.desired_text):
                self._wishes[name] = _Wish()
        for name in [name for name in self._wishes if not self._is_wished(name)]:
            del self._wishes[name]
            self._cleared(f"{name} (desired)")
        for name in old.properties.keys() - definition.properties.keys():
            self._cleared(name)
        for name, item in old.properties.items():
            if name not in definition.properties or definition.properties[name].push != item.push:
                self._cleared(f"{name} (anomaly)")
                self._judged_at.pop(name, None)
        self._schedule({name for name, item in definition.properties.items() if item != old.properties.get(name)})
        self._wake.set()

    async def take(self, call: Call) -> Value:
        """Carry it out between readings; the value the property has afterwards. Raises CallFailed."""
        if self._calls is None:
            raise CallFailed(f"the device is {self._state}: {self._faults.get('') or 'it is being opened'}")
        if len(self._calls) >= CALLS_WAITING:
            raise CallFailed(f"{CALLS_WAITING} calls wait for the device already")
        self._calls.append(call)
        self._wake.set()
        return await call.answer

    async def run(self) -> None:
        """Until cancelled."""
        attempt = 0
        while True:
            self._reopen, self._has_answered = False, False
            driver = self._make()
            try:
                await self._open(driver)
                await self._work(driver)
            except (Lost, Failed) as error:
                self._is_lost(str(error))
            finally:
                self._refuse_calls()
                await self._close(driver)
            attempt = 0 if self._has_answered else attempt + 1
            if not self._reopen:
                await self._pause(PATIENT.delay(attempt))

    async def _open(self, driver: Driver) -> None:
        definition = self._definition
        if isinstance(driver, Prepares):
            visitors = [item.visitor for item in definition.properties.values()]
            await self._call("prepare", driver.prepare(str(definition.id), visitors))
        await self._call("open", driver.open(definition.config))

    async def _work(self, driver: Driver) -> None:
        self._cleared("")
        if not self._definition.properties:
            self._settle()
        self._due, self._calls = [], deque()
        self._schedule(set(self._definition.properties))
        self._say_who_judges(driver)
        await self._assert_desired(driver)
        while not self._reopen:
            self._wake.clear()
            if self._calls:
                await self._carry_out(driver, self._calls)
            now = asyncio.get_running_loop().time()
            if (name := self._next_wish(now)) is not None:
                await self._write(driver, name)
            elif self._due and self._due[0][0] <= now + TICK:
                await self._read_next(driver, now)
            elif not self._calls:
                await self._pause(self._until_next(now))

    async def _assert_desired(self, driver: Driver) -> None:
        """Write what is desired and the device does not have, as after its restart."""
        for name, item in list(self._definition.properties.items()):
            if item.desired is None or name in self._wishes:
                continue
            if await self._read(driver, name) != item.desired:
                self._wishes[name] = _Wish()

    # What is due

    def _schedule(self, names: set[str]) -> None:
        now = asyncio.get_running_loop().time()
        kept = [(at, name) for at, name in self._due if name not in names and name in self._definition.properties]
        self._due = kept + [(now, name) for name in self._definition.properties if name in names]
        heapq.heapify(self._due)

    def _next_wish(self, now: float) -> str | None:
        return next((name for name, wish in self._wishes.items() if wish.not_before <= now + TICK), None)

    def _until_next(self, now: float) -> float:
        times = [wish.not_before for wish in self._wishes.values()]
        if self._due:
            times.append(self._due[0][0])
        return max(0.0, min(times) - now) if times else 3600.0

    def _is_wished(self, name: str) -> bool:
        item = self._definition.properties.get(name)
        return item is not None and item.desired is not None

    async def _pause(self, seconds: float) -> None:
        """At most `seconds`; a newer definition ends it."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    # Calls of the driver

    async def _read_next(self, driver: Driver, now: float) -> None:
        at, name = heapq.heappop(self._due)
        cycle = self._definition.properties[name].collect_cycle
        # A cycle that was missed is not made up for.
        heapq.heappush(self._due, (max(at + cycle, now), name))
        await self._read(driver, name)

    async def _read(self, driver: Driver, name: str) -> Value | None:
        """The property's value, which is told too; None when it cannot be read."""
        item = self._definition.properties[name]
        visitor = item.visitor
        try:
            value = _exact(visitor, await self._call(f"read {name}", driver.read(visitor)))
        except Failed as error:
            self._failed(name, str(error))
            return None
        self._has_answered = True
        self._cleared(name)
        self._listener.has_value(visitor, value)
        if item.anomaly_detection is not None and isinstance(driver, DetectsAnomalies):
            await self._judge(driver, item, value)
        self._settle()
        return value

    async def _judge(self, driver: DetectsAnomalies, item: Property, value: Value) -> None:
        """Have the driver look for an anomaly, at most once per report cycle."""
        now, name = asyncio.get_running_loop().time(), item.name
        # Half a collect cycle early is on time: readings come in whole ones.
        if now - self._judged_at.get(name, -1e9) < item.report_cycle - item.collect_cycle / 2:
            return
        self._judged_at[name] = now
        try:
            found = await self._call(f"detect {name}", driver.detect(item.visitor, value, item.anomaly_detection or {}))
        except (Lost, Failed) as error:
            log.warning("%s: %s", self._definition.id, error)
            return
        if found:
            self._failed(f"{name} (anomaly)", f"{name}: {str(found)[:300]}")
        else:
            self._cleared(f"{name} (anomaly)")

    def _say_who_judges(self, driver: Driver) -> None:
        watched = [name for name, item in self._definition.properties.items() if item.anomaly_detection is not None]
        if watched and not isinstance(driver, DetectsAnomalies):
            text = "%s: nobody looks for anomalies in %s: the driver has no method detect"
            log.warning(text, self._definition.id, ", ".join(watched))

    async def _carry_out(self, driver: Driver, calls: deque[Call]) -> None:
        """What was asked first; it stays there until it is answered."""
        call = calls[0]
        item = self._definition.properties.get(call.property)
        if call.answer.done():  # who asked has left
            calls.popleft()
            return
        try:
            if item is None:
                raise Failed(f"the device no longer has property {call.property!r}")
            if call.method and call.value is not None:
                await self._call(f"method {call.method}", _doing(driver, call, item.visitor, call.value))
            value = await self._read(driver, call.property)
            if value is None:
                raise Failed(self._faults.get(call.property, "it cannot be read"))
            call.succeeds(value)
        except BadValue as error:
            call.fails(error)
        except Failed as error:
            call.fails(CallFailed(str(error)))
        calls.popleft()

    def _refuse_calls(self) -> None:
        calls, self._calls = self._calls, None
        for call in calls or ():
            call.fails(CallFailed(self._faults.get("") or "the device is being closed"))

    async def _write(self, driver: Driver, name: str) -> None:
        item, wish = self._definition.properties[name], self._wishes[name]
        assert item.desired is not None
        try:
            await self._call(f"write {name}", driver.write(item.visitor, item.desired))
        except Failed as error:
            wish.not_before = asyncio.get_running_loop().time() + PATIENT.delay(wish.attempt)
            wish.attempt += 1
            self._failed(f"{name} (desired)", str(error))
            self._settle()
            return
        if self._wishes.get(name) is wish:
            del self._wishes[name]
        self._has_answered = True
        self._cleared(f"{name} (desired)")
        self._listener.was_written(item.visitor, item.desired_text or "")
        if name in self._definition.properties:
            await self._read(driver, name)

    async def _call(self, what: str, awaitable: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._deadline) as deadline:
                return await awaitable
        except TimeoutError as error:
            why = f"no answer within {self._deadline:g} s" if deadline.expired() else str(error) or "it timed out"
            raise Lost(f"{what}: {why}") from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise Lost(f"{what}: something the driver waited for was cancelled") from None
        except (OSError, EOFError) as error:
            raise Lost(f"{what}: {error or type(error).__name__}") from error
        except Exception as error:  # whatever a driver raises is a failure of its device, and of nothing else
            text = str(error) or type(error).__name__
            raise Failed(f"{what}: {text[:300]}") from error

    async def _close(self, driver: Driver) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await driver.close()
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            log.warning("%s: close: %s", self._definition.id, str(error) or type(error).__name__)

    # How the device is

    def _failed(self, what: str, fault: str) -> None:
        if self._faults.get(what) != fault:
            log.warning("%s: %s", self._definition.id, fault)
        self._faults[what] = fault
        if self._definition.properties and self._faults.keys() >= self._definition.properties.keys():
            raise Lost(fault)
        self._settle()

    def _cleared(self, what: str) -> None:
        if self._faults.pop(what, None) is not None:
            log.info("%s: %s is well again", self._definition.id, what or "the device")

    def _is_lost(self, fault: str) -> None:
        if self._faults.get("") != fault:
            log.warning("%s: %s; it will be opened again", self._definition.id, fault)
        # What is desired is compared with the device when it is back.
        self._faults = {"": fault}
        self._wishes = {name: _Wish() for name in self._wishes}
        self._becomes(State.OFFLINE)

    def _settle(self) -> None:
        self._becomes(State.UNHEALTHY if self._faults else State.ONLINE)

    def _becomes(self, state: State) -> None:
        self._state = state
        self._listener.has_state(state, self._faults)


def _doing(driver: Driver, call: Call, visitor: Visitor, value: Value) -> Awaitable[None]:
    if isinstance(driver, CallsMethods):
        return driver.call(call.method, visitor, value)
    if not visitor.writable:
        raise BadValue(
            f"property {visitor.property!r} is ReadOnly, and the driver has no `call` that does more with it"
        )
    return driver.write(visitor, value)


def _exact(visitor: Visitor, value: Value) -> Value:
    try:
        return values.exact(visitor.type, value)
    except ValueError as error:
        raise Failed(f"read {visitor.property}: the driver's value {error}") from None
