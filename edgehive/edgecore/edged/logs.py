"""Container log files in CRI's format: reading (tail, since, follow, limit) and rotation.

For `kubelet_server.py` and edged's housekeeping. The runtime writes the files, line by line
`<time> <stdout|stderr> <F|P> <text>`; P is a part of a longer line. Nothing is ever held whole in memory.
Go: pkg/kubelet/kuberuntime/logs, pkg/kubelet/logs/container_log_manager.go
"""

import asyncio
import gzip
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from edgehive.edgecore.edged.cri import CriClient
from edgehive.kit.clock import Clock, parse_rfc3339

_BLOCK = 64 * 1024
#: No runtime writes lines near this; what is longer is damage, handed on in pieces.
_MAX_LINE = 1024 * 1024
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class LogFile:
    """One container attempt's log; `running` tells whether more may come."""

    path: Path
    running: Callable[[], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class LogOptions:
    """v1.PodLogOptions, `tail` and `limit_bytes` None for all."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    stream: str = "All"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the file; `whole` False marks a part whose rest follows."""

    time: bytes
    stream: bytes
    whole: bool
    text: bytes


def parse_line(raw: bytes) -> LogLine | None:
    """A line without its newline; None when it is not of the format."""
    fields = raw.split(b" ", 3)
    if len(fields) < 3 or fields[1] not in (b"stdout", b"stderr"):
        return None
    text = fields[3] if len(fields) == 4 else b""
    return LogLine(fields[0], fields[1], whole=fields[2].split(b":")[0] != b"P", text=text)


class LineFormatter:
    """Turns raw lines into what a reader sees. Remembers whether it is inside a line that came in parts."""

    def __init__(self, options: LogOptions) -> None:
        self._since = options.since
        self._timestamps = options.timestamps
        self._stream = b"" if options.stream == "All" else options.stream.lower().encode()
        #: stream -> whether the line in parts that it is inside of is shown; absent between lines
        self._inside: dict[bytes, bool] = {}

    def format(self, raw: bytes) -> bytes:
        """The bytes to show, none when the line is filtered out or damaged."""
        line = parse_line(raw)
        if line is None or (self._stream and line.stream != self._stream):
            return b""
        continues = line.stream in self._inside
        shown = self._inside.pop(line.stream) if continues else self._recent(line)
        if not line.whole:
            self._inside[line.stream] = shown
        if not shown:
            return b""
        head = line.time + b" " if self._timestamps and not continues else b""
        return head + line.text + (b"\n" if line.whole else b"")

    def _recent(self, line: LogLine) -> bool:
        if self._since is None:
            return True
        try:
            recent = parse_rfc3339(line.time.decode("ascii", "replace")) >= self._since
        except ValueError:
            return False
        if recent:
            # Lines are in order: after the first recent one there is nothing left to compare.
            self._since = None
        return recent


async def read_log(file: LogFile, options: LogOptions) -> AsyncIterator[bytes]:
    """The log as a reader sees it, in pieces of bounded size; with `follow` until the container has ended."""
    left = options.limit_bytes
    async for piece in _formatted(file, options):
        if left is None:
            yield piece
            continue
        if left <= 0:
            return
        yield piece[:left]
        left -= len(piece)


async def _formatted(file: LogFile, options: LogOptions) -> AsyncIterator[bytes]:
    formatter = LineFormatter(options)
    start = await asyncio.to_thread(_tail_offset, file.path, options.tail)
    while True:
        source = await asyncio.to_thread(_open_at, file.path, start)
        if source is None:
            if not options.follow or not await file.running():
                return
            await asyncio.sleep(_POLL_SECONDS)
            continue
        try:
            async for raw in _lines(source, file, follow=options.follow):
                piece = formatter.format(raw)
                if piece:
                    yield piece
            replaced = await asyncio.to_thread(_replaced, source, file.path)
        finally:
            source.close()
        if not options.follow or not replaced or not (await file.running() or file.path.exists()):
            return
        start = 0


async def _lines(source: BinaryIO, file: LogFile, *, follow: bool) -> AsyncIterator[bytes]:
    """Complete lines of one open file; returns at its end, with `follow` when it was rotated or the container ended."""
    rest = b""
    last_look = False
    while True:
        block = await asyncio.to_thread(source.read, _BLOCK)
        if block:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line
            if len(rest) > _MAX_LINE:
                yield rest
                rest = b""
            continue
        if not follow or last_look:
            if rest:
                yield rest
            return
        # What was written between the last read and the rotation (or the end) is read by one more look.
        last_look = not await file.running() or await asyncio.to_thread(_replaced, source, file.path)
        if not last_look:
            await asyncio.sleep(_POLL_SECONDS)


def _open_at(path: Path, offset: int) -> BinaryIO | None:
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return None
    source.seek(offset)
    return source


def _replaced(source: BinaryIO, path: Path) -> bool:
    """The file was rotated away: the path now names another one (or none yet)."""
    try:
        now = path.stat()
    except FileNotFoundError:
        return True
    return now.st_ino != os.fstat(source.fileno()).st_ino


def _tail_offset(path: Path, count: int | None) -> int:
    """Where the last `count` whole lines begin; parts of one line count once."""
    if count is None:
        return 0
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if count <= 0:
        return size
    seen = 0
    first = True
    with path.open("rb") as source:
        for offset, raw in _backwards(source, size):
            line = parse_line(raw)
            ends_a_line = line is None or line.whole
            seen += ends_a_line or first
            first = False
            if seen > count:
                return offset + len(raw) + 1
    return 0


def _backwards(source: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from the last line to the first."""
    rest = b""
    position = size
    at_end = True
    while position > 0:
        start = max(0, position - _BLOCK)
        source.seek(start)
        block = source.read(position - start) + rest
        if at_end and block.endswith(b"\n"):
            block = block[:-1]
        at_end = False
        rest, *lines = block.split(b"\n")
        end = start + len(block)
        for line in reversed(lines):
            yield end - len(line), line
            end -= len(line) + 1
        position = start
    if rest:
        yield 0, rest


# --- rotation ---------------------------------------------------------------------------------------------


class LogRotation:
    """Keeps each container's log below `max_size` bytes in `max_files` files, the older ones compressed."""

    def __init__(self, cri: CriClient, clock: Clock, *, max_size: int = 10 * 1024 * 1024, max_files: int = 5) -> None:
        if max_files < 2:
            raise ValueError(f"containerLogMaxFiles is {max_files}: it must be at least 2")
        self._cri = cri
        self._clock = clock
        self._max_size = max_size
        self._max_files = max_files

    async def rotate(self, container_id: str, path: Path) -> bool:
        """Rotate a running container's log if it is too large; whether it was. Raises RuntimeRefused."""
        if await asyncio.to_thread(_size, path) < self._max_size:
            return False
        await asyncio.to_thread(self._make_room, path)
        aside = path.with_name(f"{path.name}.{self._clock.now():%Y%m%d-%H%M%S}")
        await asyncio.to_thread(path.rename, aside)
        try:
            await self._cri.reopen_container_log(container_id)
        except BaseException:
            # The runtime still writes to the renamed file: give it its name back, so nothing is lost to readers.
            await asyncio.to_thread(aside.rename, path)
            raise
        return True

    def _make_room(self, path: Path) -> None:
        """Compress all rotated files and remove the oldest beyond the count, the new one and the live one counted."""
        for old in rotated(path):
            if old.suffix != ".gz":
                _compress(old)
        kept = self._max_files - 2
        files = rotated(path)
        for old in files[: len(files) - kept]:
            old.unlink(missing_ok=True)


def rotated(path: Path) -> list[Path]:
    """The rotated files of a log, oldest first."""
    return sorted(item for item in path.parent.glob(f"{path.name}.*") if item.suffix != ".tmp")


def remove_logs(path: Path) -> None:
    """Remove a log with everything rotated from it."""
    for item in (path, *rotated(path)):
        with suppress(FileNotFoundError):
            item.unlink()


def _compress(path: Path) -> None:
    scratch = path.with_name(f"{path.name}.tmp")
    with path.open("rb") as source, gzip.open(scratch, "wb", compresslevel=6) as target:
        shutil.copyfileobj(source, target)
    scratch.rename(path.with_name(f"{path.name}.gz"))
    path.unlink()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
