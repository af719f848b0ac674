"""Reads HTTP/1.1 answers off a connection, for `connections`. Pure: bytes in, whole answers out.

Only what API servers send: a length, chunks, or a body up to the end of the connection. Nothing is decompressed,
since nothing compressed is asked for.
"""

from dataclasses import dataclass

#: A head is some hundred bytes.
MAX_HEAD = 64 * 1024
_BODILESS = (204, 304)


class BadAnswer(Exception):
    """What came is no HTTP answer; the text says why."""


class AnswerTooLarge(Exception):
    """The body is larger than the reader takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer. `reusable` says whether another request may follow on its connection."""

    status: int
    head: bytes
    body: bytes
    reusable: bool

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        wanted = name.lower().encode()
        fields = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return [value.strip().decode(errors="replace") for key, _, value in fields if key.strip().lower() == wanted]


class AnswerReader:
    """Takes one answer; `feed` gives it when it is whole."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._head = b""
        self._status = 0
        #: Bytes of the body still to come; None while it is chunked or runs to the end.
        self._length: int | None = None
        self._chunked = False
        self._reusable = False
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def begun(self) -> bool:
        """Whether anything came."""
        return bool(self._head or self._buffer)

    def feed(self, data: bytes) -> Answer | None:
        """Raises BadAnswer or AnswerTooLarge."""
        self._buffer += data
        while not self._head:
            if not self._take_head():
                return None
        if self._chunked:
            return self._whole() if self._take_chunks() else None
        if self._length is None:
            if len(self._buffer) > self._limit:
                raise AnswerTooLarge
            return None
        if len(self._buffer) < self._length:
            return None
        self._parts.append(bytes(self._buffer[: self._length]))
        del self._buffer[: self._length]
        return self._whole()

    def end(self) -> Answer | None:
        """The connection has ended: the answer if that completes it."""
        if not self._head or self._chunked or self._length is not None:
            return None
        self._parts.append(bytes(self._buffer))
        self._buffer.clear()
        return self._whole()

    def _whole(self) -> Answer:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        # Bytes nobody asked for make the connection useless.
        return Answer(self._status, self._head, body, self._reusable and not self._buffer)

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise BadAnswer("its head does not end")
            return False
        head = bytes(self._buffer[:end])
        del self._buffer[: end + 4]
        status = head[9:12]
        if not head.startswith(b"HTTP/1.") or not status.isdigit():
            raise BadAnswer(f"it begins with {head[:40]!r}")
        if status[:1] == b"1":
            return True  # a notice before the answer
        self._head, self._status = head, int(status)
        self._read_framing(head.lower())
        return True

    def _read_framing(self, head: bytes) -> None:
        closing = _value(head, b"connection") == b"close" or head.startswith(b"http/1.0")
        length = _value(head, b"content-length")
        if self._status in _BODILESS:
            self._length = 0
        elif (coding := _value(head, b"transfer-encoding")) is not None:
            if coding != b"chunked":
                raise BadAnswer(f"its transfer encoding is {coding.decode(errors='replace')!r}")
            self._chunked = True
        elif length is not None:
            if not length.isdigit():
                raise BadAnswer(f"its length is {length.decode(errors='replace')!r}")
            self._length = int(length)
            if self._length > self._limit:
                raise AnswerTooLarge
        self._reusable = not closing and (self._chunked or self._length is not None)

    def _take_chunks(self) -> bool:
        """Whether the last chunk has come."""
        buffer, at = self._buffer, 0
        while (line := buffer.find(b"\r\n", at)) >= 0:
            size = _chunk_size(bytes(buffer[at:line]))
            start, end = line + 2, line + 2 + size
            if size == 0:
                # Trailers, if any, end with an empty line.
                plain = buffer[start : start + 2] == b"\r\n"
                last = start - 2 if plain else buffer.find(b"\r\n\r\n", start)
                if last < 0:
                    break
                del buffer[: last + 4]
                return True
            if self._size + size > self._limit:
                raise AnswerTooLarge
            if len(buffer) < end + 2:
                break
            self._size += size
            self._parts.append(bytes(buffer[start:end]))
            at = end + 2
        del buffer[:at]
        return False


def _chunk_size(line: bytes) -> int:
    text = line.partition(b";")[0].strip()
    try:
        size = int(text, 16)
    except ValueError:
        raise BadAnswer(f"a chunk's size is {line[:40]!r}") from None
    if size < 0:
        raise BadAnswer(f"a chunk's size is {line[:40]!r}")
    return size


def _value(head: bytes, name: bytes) -> bytes | None:
    """A header's value in a head of lower-case letters."""
    at = head.find(b"\r\n" + name + b":")
    if at < 0:
        return None
    start = at + len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
