"""The site's process as the command line sees it: one per data folder, found by a locked pid file.

The lock is the truth: a pid file nobody holds is a leftover of a crash, and no foreign process can be
mistaken for ours.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PID_FILE = "edgesite.pid"


class AlreadyRunning(Exception):
    """Another process holds this data folder; the text names it."""


@contextmanager
def hold(data: Path) -> Iterator[None]:
    """Own the data folder for as long as the block runs; raises AlreadyRunning."""
    path = data / PID_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(f"the site in {data} is already running as process {_read(path)}") from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def running(data: Path) -> int | None:
    """The pid of the process that holds the data folder, if one does."""
    path = data / PID_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path)
    finally:
        os.close(descriptor)
    return None


def _read(path: Path) -> int | None:
    text = path.read_text().strip()
    return int(text) if text.isdigit() else None


def detach(arguments: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    """Start the site again as a process of its own session that outlives this one; its output goes to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own interpreter with our own arguments
            [sys.executable, "-m", "edgehive", "edgesite", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            close_fds=True,
        )


def stop(data: Path, pid: int, timeout: float, tick: Callable[[], None]) -> bool:
    """Ask the process to end and wait; True when it has gone."""
    os.kill(pid, signal.SIGTERM)
    for _ in range(int(timeout / 0.05)):
        if running(data) != pid:
            return True
        tick()
        time.sleep(0.05)
    return False
