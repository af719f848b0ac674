"""`mapper dev`: a driver's devices live in the terminal, with no cluster and no edgecore.

On a terminal it draws a table and reads a command line below it; otherwise it prints a line per change and reads
commands from standard input, so that scripts can use it.
"""

import asyncio
import contextlib
import logging
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgehive.kit.clock import SystemClock
from edgehive.kit.tasks import cancel_and_join, spawn
from edgehive.mapper import device_file, values
from edgehive.mapper.calls import CALLS_WAITING, BadValue, CallFailed, NoSuch
from edgehive.mapper.device import Device
from edgehive.mapper.driver import Driver
from edgehive.mapper.polling import DEADLINE
from edgehive.mapper.report import Reading
from edgehive.wire.devices import DeviceId

#: Seconds between two pictures; lines of the log that are shown.
PICTURE, LOG_LINES = 0.2, 8
#: Characters of a command.
LINE_LIMIT = 4096
_COLOURS = {"online": "green", "offline": "red", "unhealthy": "yellow", "unknown": "dim"}
HELP = "NAME=VALUE sets a desired value, NAME= takes it back, METHOD NAME=VALUE calls a method, q and Enter leaves"


@dataclass(slots=True)
class _Row:
    """What is known of a property since the start."""

    text: str = ""
    changes: int = 0


class _NoEdge:
    """Takes every report and tells nobody."""

    async def report(self, device: DeviceId, readings: Sequence[Reading]) -> None:
        pass

    async def report_state(self, device: DeviceId, state: str) -> None:
        pass


class _LastLines(logging.Handler):
    """What happened lately, for the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Left(Exception):
    """The user is done."""


@dataclass(slots=True)
class Bench:
    """Devices and what the user does to them."""

    devices: dict[str, Device] = field(default_factory=dict)
    rows: dict[tuple[str, str], _Row] = field(default_factory=dict)

    def obey(self, line: str) -> str | Coroutine[Any, Any, str]:
        """Carry out a command; the answer, which a method takes a while to give. Raises Left."""
        line = line.strip()
        if line in ("q", "quit", "exit"):
            raise Left
        if not line or line in ("?", "h", "help"):
            return HELP
        name, equals, text = line.partition("=")
        if not equals:
            return f"{line!r} is no command: {HELP}"
        method, space, target = name.strip().rpartition(" ")
        try:
            device, name = self._property(target)
        except ValueError as error:
            return str(error)
        return (
            _called(device, method.strip(), name, text.strip()) if space else self._desire(device, name, text.strip())
        )

    def _property(self, target: str) -> tuple[Device, str]:
        """Raises ValueError with a sentence."""
        found = [
            (device, name)
            for device in self.devices.values()
            for name in device.definition.properties
            if target in (name, f"{device.definition.id.name}.{name}")
        ]
        if not found:
            known = sorted({name for device in self.devices.values() for name in device.definition.properties})
            raise ValueError(f"there is no property {target!r}; known are {', '.join(known)}")
        if len(found) > 1:
            names = ", ".join(f"{device.definition.id.name}.{name}" for device, name in found)
            raise ValueError(f"several devices have it; say which: {names}")
        return found[0]

    def _desire(self, device: Device, name: str, text: str) -> str:
        item = device.definition.properties[name]
        if not item.visitor.writable:
            return f"{name} is ReadOnly"
        try:
            value = values.wanted(item.visitor, text) if text else None
        except ValueError as error:
            return str(error)
        changed = replace(item, desired_text=text or None, desired=value)
        properties = {**device.definition.properties, name: changed}
        device.follow(replace(device.definition, properties=properties))
        return f"{device.definition.id.name}: {name} shall be {text}" if text else f"{name} is let be"

    def news(self) -> Iterator[tuple[Device, Reading]]:
        """Readings whose text changed since the last call."""
        for id, device in self.devices.items():
            for reading in device.readings():
                row = self.rows.setdefault((id, reading.name), _Row())
                if row.changes == 0 or row.text != reading.text:
                    row.text, row.changes = reading.text, row.changes + 1
                    yield device, reading

    def picture(self, typed: str, answer: str, log: Sequence[str]) -> Group:
        table = Table(expand=True, header_style="bold")
        for title in ("device", "property", "value", "unit", "desired", "type", "changes"):
            table.add_column(title, justify="right" if title in ("value", "changes") else "left")
        for id, device in self.devices.items():
            self._draw(table, id, device)
        lines = Text("\n".join(log), style="dim")
        return Group(table, lines, Text(answer, style="italic"), Text(f"> {typed}▏", style="bold"))

    def _draw(self, table: Table, id: str, device: Device) -> None:
        readings = {item.name: item for item in device.readings()}
        label = Text(f"{device.definition.id.name} ").append(device.state, _COLOURS.get(device.state, ""))
        if fault := device.faults.get(""):
            label.append(f" {fault}", "red")
        for name, item in device.definition.properties.items():
            fault = device.faults.get(name) or device.faults.get(f"{name} (desired)", "")
            reading, row = readings.get(name), self.rows.get((id, name), _Row())
            value = Text(reading.text if reading else "", "dim" if device.state == "offline" else "bold")
            table.add_row(
                label,
                name,
                Text(fault, "red") if fault else value,
                item.visitor.unit,
                self._desired(item.desired_text, reading),
                item.visitor.type.value,
                str(row.changes),
            )
            label = Text("")

    def _desired(self, wanted: str | None, reading: Reading | None) -> Text:
        is_met = reading is not None and reading.observed_desired == wanted
        return Text(wanted or "", "green" if is_met else "yellow")


async def _called(device: Device, method: str, name: str, text: str) -> str:
    try:
        after = await device.call(method, name, text)
    except (NoSuch, BadValue, CallFailed) as error:
        return str(error)
    shown = values.text_of(device.definition.properties[name].visitor.type, after)
    return f"{device.definition.id.name}: {method} was called; {name} is {shown}"


class Workbench:
    """`mapper dev` itself."""

    def __init__(
        self,
        driver: type[Driver],
        path: Path,
        *,
        deadline: float = DEADLINE,
        commands: TextIO = sys.stdin,
        output: TextIO = sys.stdout,
    ) -> None:
        definitions = device_file.read(path, driver.protocol)
        self.bench = Bench(
            {str(item.id): Device(item, driver, _NoEdge(), SystemClock(), deadline=deadline) for item in definitions}
        )
        self._commands = commands
        self._console = Console(file=output, highlight=False)
        self._log = _LastLines()
        self._typed = ""
        self._answer = HELP
        self._is_drawing = False
        self._calling = set[asyncio.Task[None]]()
        self._left = asyncio.Event()

    async def run(self) -> None:
        """Until the user leaves, or standard input ends."""
        logger = logging.getLogger("edgehive.mapper")
        logger.setLevel(logging.INFO)
        is_terminal = self._is_drawing = self._console.is_terminal and self._commands.isatty()
        handler = self._log if is_terminal else logging.StreamHandler(sys.stderr)
        logger.addHandler(handler)
        logger.propagate = False
        running = [spawn(device.run(), name=f"device {id}") for id, device in self.bench.devices.items()]
        try:
            await (self._draw() if is_terminal else self._print())
        finally:
            await cancel_and_join(*running, *self._calling)
            logger.removeHandler(handler)

    # A terminal

    async def _draw(self) -> None:
        live = Live(console=self._console, auto_refresh=False)
        with _keys_at_once(self._commands), self._reading(self._keys), live:
            while not self._left.is_set():
                for _ in self.bench.news():
                    pass  # the rows count it
                live.update(self.bench.picture(self._typed, self._answer, list(self._log.lines)), refresh=True)
                await self._next_picture()

    def _keys(self, text: str) -> None:
        for letter in text or "\x04":
            if letter in "\r\n":
                self._obey(self._typed)
                self._typed = ""
            elif letter in "\x7f\b":
                self._typed = self._typed[:-1]
            elif letter == "\x04":
                self._left.set()
            elif letter.isprintable() and len(self._typed) < LINE_LIMIT:
                self._typed += letter

    # A pipe

    async def _print(self) -> None:
        with self._reading(self._lines):
            while not self._left.is_set():
                for device, reading in self.bench.news():
                    unit = device.definition.properties[reading.name].visitor.unit
                    self._say(f"{device.definition.id.name} {reading.name} = {reading.text} {unit}".rstrip())
                await self._next_picture()

    def _lines(self, text: str) -> None:
        if not text:
            self._left.set()
        *lines, self._typed = (self._typed + text)[-LINE_LIMIT:].split("\n")
        for line in lines:
            self._obey(line)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, soft_wrap=True)

    # Either

    def _obey(self, line: str) -> None:
        try:
            answer = self.bench.obey(line)
        except Left:
            self._left.set()
            return
        if isinstance(answer, str):
            self._answers(answer)
        elif len(self._calling) >= CALLS_WAITING:
            answer.close()
            self._answers("too many calls wait for an answer")
        else:
            self._answer = "..."
            task = spawn(self._answer_later(answer), name="call of a method")
            self._calling.add(task)
            task.add_done_callback(self._calling.discard)

    async def _answer_later(self, answer: Coroutine[Any, Any, str]) -> None:
        self._answers(await answer)

    def _answers(self, text: str) -> None:
        """The picture shows the last answer, a pipe each."""
        self._answer = text
        if not self._is_drawing:
            self._say(text)

    async def _next_picture(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PICTURE):
                await self._left.wait()

    @contextlib.contextmanager
    def _reading(self, take: Callable[[str], None]) -> Iterator[None]:
        """`take` gets what is typed, "" at the end; a file that cannot be waited for (/dev/null) is nobody typing."""
        loop, door = asyncio.get_running_loop(), self._commands.fileno()
        try:
            loop.add_reader(door, lambda: take(os.read(door, LINE_LIMIT).decode(errors="replace")))
        except PermissionError:
            yield
            return
        try:
            yield
        finally:
            loop.remove_reader(door)


@contextlib.contextmanager
def _keys_at_once(stream: TextIO) -> Iterator[None]:
    """Keys come one by one and are not echoed; Ctrl-C still ends us."""
    before = termios.tcgetattr(stream)
    tty.setcbreak(stream)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
