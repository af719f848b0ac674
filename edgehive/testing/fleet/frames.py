"""WebSocket frames as a hub's client sends and receives them. Pure: bytes in, bytes out.

Only what the hub link needs: whole text frames out, data and control frames in; no extensions.
"""

import struct
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL, _MASKED = 0x80, 0x80
#: RFC 6455 wants a client's frames masked against proxies that read them wrongly. The link is TLS: nobody between
#: reads it, and zero as the mask leaves the bytes as they are.
_ZERO_MASK = b"\0\0\0\0"


class BrokenFrame(Exception):
    """The other side sent what is no frame of a server."""


class Frame(NamedTuple):
    """A frame's place in the buffer it was found in."""

    opcode: int
    final: bool
    start: int
    end: int


def text(payload: bytes) -> bytes:
    """A whole text message."""
    return _frame(TEXT, payload)


def pong(payload: bytes) -> bytes:
    return _frame(PONG, payload)


def _frame(opcode: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", _FINAL | opcode, _MASKED | size)
    elif size < 65536:
        head = struct.pack("!BBH", _FINAL | opcode, _MASKED | 126, size)
    else:
        head = struct.pack("!BBQ", _FINAL | opcode, _MASKED | 127, size)
    return b"".join((head, _ZERO_MASK, payload))


def find(buffer: bytes | bytearray, at: int, limit: int) -> Frame | None:
    """The frame that begins at `at`; None while it is not whole. Raises BrokenFrame."""
    if len(buffer) < at + 2:
        return None
    first, second = buffer[at], buffer[at + 1]
    if second & _MASKED or first & 0x70:
        raise BrokenFrame("a server's frame is neither masked nor extended")
    size, start = second, at + 2
    if size == 126:
        start += 2
    elif size == 127:
        start += 8
    if len(buffer) < start:
        return None
    if size >= 126:
        size = int.from_bytes(buffer[at + 2 : start])
    if size > limit:
        raise BrokenFrame(f"a frame of {size} bytes; at most {limit} are accepted")
    end = start + size
    return Frame(first & 0x0F, bool(first & _FINAL), start, end) if len(buffer) >= end else None
