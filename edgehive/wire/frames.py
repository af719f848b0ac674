"""WebSocket frames as a hub and its edges send them. Pure: bytes in, bytes out.

Only what the hub link needs: whole text frames out, data and control frames in; no extensions. What a client sends is
masked, what a server sends is not.

Go: vendor/github.com/gorilla/websocket/conn.go
"""

import struct
from typing import NamedTuple

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
#: Close codes.
NORMAL, PROTOCOL_ERROR, TOO_LARGE = 1000, 1002, 1009
_FINAL, _MASKED = 0x80, 0x80
_KNOWN = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_MAX_CONTROL = 125
#: RFC 6455 wants a client's frames masked against proxies that read them wrongly. Under TLS nobody between reads them,
#: and zero as the mask leaves the bytes as they are.
_ZERO_MASK = b"\0\0\0\0"


class BrokenFrame(Exception):
    """The other side sent what is no frame of its role; `code` is what to close with."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class Frame(NamedTuple):
    """A frame's place in the buffer it was found in; a client's mask stands right before its payload."""

    opcode: int
    final: bool
    start: int
    end: int


def server_frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame as a server writes it."""
    return _head(opcode, len(payload), 0) + payload


def client_frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame as a client writes it, for a line that is encrypted."""
    return b"".join((_head(opcode, len(payload), _MASKED), _ZERO_MASK, payload))


def close_payload(code: int, reason: str) -> bytes:
    # A close frame holds 123 bytes of reason.
    return struct.pack("!H", code) + reason.encode()[:120]


def close_reason(payload: bytes) -> str:
    return payload[2:].decode(errors="replace")


def _head(opcode: int, size: int, masked: int) -> bytes:
    if size < 126:
        return struct.pack("!BB", _FINAL | opcode, masked | size)
    if size < 65536:
        return struct.pack("!BBH", _FINAL | opcode, masked | 126, size)
    return struct.pack("!BBQ", _FINAL | opcode, masked | 127, size)


def find(buffer: bytes | bytearray, at: int, limit: int, *, masked: bool) -> Frame | None:
    """The frame that begins at `at`; None while it is not whole. Raises BrokenFrame."""
    if len(buffer) < at + 2:
        return None
    first, second = buffer[at], buffer[at + 1]
    opcode, size, start = first & 0x0F, second & 0x7F, at + 2
    _check(first, second, masked)
    if size == 126:
        start += 2
    elif size == 127:
        start += 8
    if len(buffer) < start:
        return None
    if size >= 126:
        size = int.from_bytes(buffer[at + 2 : start])
    if size > limit:
        raise BrokenFrame(f"a frame of {size} bytes; the largest accepted size is {limit}", TOO_LARGE)
    start += 4 if masked else 0
    end = start + size
    return Frame(opcode, bool(first & _FINAL), start, end) if len(buffer) >= end else None


def _check(first: int, second: int, masked: bool) -> None:
    if bool(second & _MASKED) is not masked:
        raise BrokenFrame("a client's frame has to be masked" if masked else "a server's frame may not be masked")
    if first & 0x70:
        raise BrokenFrame("no extension was agreed upon, yet a frame uses one")
    if first & 0x0F not in _KNOWN:
        raise BrokenFrame(f"opcode {first & 0x0F} means nothing")
    if first & 0x08 and (second & 0x7F > _MAX_CONTROL or not first & _FINAL):
        raise BrokenFrame("a control frame may be neither long nor in parts")


def payload_of(buffer: bytes | bytearray, frame: Frame) -> bytes:
    """A server frame's payload."""
    return bytes(buffer[frame.start : frame.end])


def unmasked(buffer: bytes | bytearray, frame: Frame) -> bytes:
    """A client frame's payload."""
    start, end = frame.start, frame.end
    mask, payload = bytes(buffer[start - 4 : start]), bytes(buffer[start:end])
    size = end - start
    if mask == _ZERO_MASK or not size:
        return payload
    # One exclusive-or over the whole: the quickest there is without a loop over bytes.
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")
