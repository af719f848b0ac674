"""What a server process costs: its processor time and its memory, read from /proc, with its child processes.

A fleet reads it before and after each scenario. The process has to be on this machine, in this process namespace.
"""

import os
from pathlib import Path


class NoSuchProcess(Exception):
    """The process to be measured is not there; the text says which."""


class Meter:
    """Of one process and those below it (cloudcore signs certificates in a process of its own)."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tick = os.sysconf("SC_CLK_TCK")
        self._page = os.sysconf("SC_PAGE_SIZE")
        self.cpu()

    def cpu(self) -> float:
        """Seconds used so far."""
        return sum(self._ticks(pid) for pid in self._family()) / self._tick

    def resident(self) -> int:
        """Bytes in memory now."""
        return sum(int(_read(pid, "statm").split()[1]) for pid in self._family()) * self._page

    def _ticks(self, pid: int) -> int:
        # The name in parentheses may hold anything. Fields 14 to 17: user and system time, of itself and of children
        # that have ended.
        return sum(map(int, _read(pid, "stat").rpartition(")")[2].split()[11:15]))

    def _family(self) -> list[int]:
        found, unseen = [], [self._pid]
        while unseen:
            pid = unseen.pop()
            found.append(pid)
            unseen += _children(pid)
        return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise NoSuchProcess(f"the server process {pid} cannot be measured: {error.strerror}") from error
