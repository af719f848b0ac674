"""Reads the head of one HTTP/1.1 request and writes its answer. Pure: bytes in, bytes out.

For doors that take one request per connection (`kit.exchange`). Stricter than HTTP allows: what may be understood in
two ways is refused, and bodies have a length.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus

#: A head is some hundred bytes; the longest holds an expired certificate and a proof.
MAX_HEAD = 32 * 1024

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BROKEN = re.compile(rb"[\x00\r\n]")


class BadRequest(Exception):
    """What came is no request, or one that may mean two things; the text says why."""


class Headers(Mapping[str, str]):
    """Header values by name, whatever its case; of several of one name the first."""

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its body, which is `length` bytes long."""

    method: str
    target: str
    headers: Headers
    length: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def find_end(data: bytes | bytearray) -> int:
    """Where the body begins; 0 while the head is not whole. Raises BadRequest for one without an end."""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    if end < 0 and len(data) >= MAX_HEAD:
        raise BadRequest(f"its head is longer than {MAX_HEAD} bytes")
    return end + 4 if end >= 0 else 0


def parse_head(data: bytes) -> Head:
    """The head that ends where `find_end` says; raises BadRequest."""
    first, *lines = data[:-4].split(b"\r\n")
    parts = first.decode("latin-1").split(" ")
    if len(parts) != 3 or _NAME.fullmatch(parts[0]) is None or parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise BadRequest(f"it begins with {first[:80]!r}")
    if not parts[1].startswith("/") or not parts[1].isascii() or not parts[1].isprintable():
        raise BadRequest(f"its target is {parts[1][:80]!r}")
    values: dict[str, str] = {}
    for line in lines:
        name, value = _field(line)
        if name in values and name in ("host", "content-length"):
            raise BadRequest(f"it has two headers {name}")
        values.setdefault(name, value)
    return Head(parts[0], parts[1], Headers(values), _length(values))


def _field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    text = name.decode("latin-1")
    if not colon or _NAME.fullmatch(text) is None or _BROKEN.search(value):
        raise BadRequest(f"{line[:80]!r} is no header")
    return text.lower(), value.strip(b" \t").decode("utf-8", "surrogateescape")


def _length(values: Mapping[str, str]) -> int:
    if "transfer-encoding" in values:
        raise BadRequest("its body has no length: send Content-Length and no Transfer-Encoding")
    text = values.get("content-length", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise BadRequest(f"its length is {text[:80]!r}")
    return int(text)


def answer(
    status: int, body: bytes = b"", *, content_type: str = "text/plain; charset=utf-8", headers: Mapping[str, str] = {}
) -> bytes:
    """A whole answer, after which the connection ends."""
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *(f"{name}: {_one_line(value)}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _one_line(value: str) -> str:
    """A sentence may quote what somebody sent."""
    if value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "?" for letter in value)
