"""The driver of the devices' benchmark, run by `mapper run`: what it reads is the time, and it tells of every write.

A reading is the microsecond at which it was taken, so whoever sees it knows its age. A value that is written is told to
UDP port `port` of the device's configuration, as `<value> <microsecond>`.
"""

import socket
import time
from collections.abc import Mapping
from typing import Any

from edgehive.mapper import Value, Visitor

_SOCKET = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def microsecond() -> int:
    """Of the machine's clock, which all its processes share."""
    return time.time_ns() // 1000


class Stamping:
    """One device."""

    protocol = "stamping"

    async def open(self, config: Mapping[str, Any]) -> None:
        self._port = int(config.get("port", 0))
        self._written: dict[str, Value] = {}

    async def read(self, visitor: Visitor) -> Value:
        return self._written.get(visitor.property, 0) if visitor.writable else microsecond()

    async def write(self, visitor: Visitor, value: Value) -> None:
        assert isinstance(value, int)
        _SOCKET.sendto(f"{value} {microsecond()}".encode(), ("127.0.0.1", self._port))
        self._written[visitor.property] = value

    async def close(self) -> None:
        """Nothing is open."""
