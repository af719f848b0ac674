"""Frames of the tunnel that carries logs, exec, attach, port-forward and metrics between cloudstream and edgestream.

A frame is one WebSocket text message whose payload is bytes: connect id and type as uvarints, then data. A connect
frame holds a request as Go's `url.URL` and header map make JSON of it. Pure; nothing is allocated from a length that
the peer names.

Types 7 and 8 are ours alone. Only peers that have told each other so use them (`HELLO_HEADER` on the upgrade, answered
by a CREDIT frame for id 0); a stock peer would log and drop them. Port-forward needs no type of its own: a stock edge
dials whatever path an exec connect names and relays what comes.

Go: pkg/stream/{message,tunnel,edgedexecconnection,edgedlogconnection}.go
"""

import re
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

import msgspec

from edgehive.wire.link import ProtocolError

#: Go reads no more of one frame's data.
MAX_DATA = 1024 * 1024
MAX_FRAME = MAX_DATA + 20
#: A request without a body: a line and headers.
MAX_CONNECT = 64 * 1024

CONNECT_PATH = "/v1/kubeedge/connect"
NODE_HEADER = "SessionHostNameOverride"
ADDRESS_HEADER = "SessionInternalIP"
PING = b"ping you"
#: An edge that understands CREDIT and HEAD says so when it connects.
HELLO_HEADER = "Edgehive-Tunnel"
HELLO_VERSION = "1"

#: What a stock cloud writes into every request; the edge dials its own kubelet whatever stands there.
KUBELET_HOST = "127.0.0.1:10350"


class FrameType(IntEnum):
    """What a frame does to the connection whose id it carries."""

    LOGS = 0
    EXEC = 1
    METRICS = 2
    DATA = 3
    REMOVE = 4
    CLOSE_TUNNEL = 5
    ATTACH = 6
    #: Data: a uvarint, how many bytes more the peer may send; for id 0 the answer to the hello.
    CREDIT = 7
    #: Data: `Head` as JSON, before the first data of logs and metrics.
    HEAD = 8


#: Connects whose answer is a body, and those that are a byte stream both ways, HTTP head included.
BODY_TYPES = frozenset({FrameType.LOGS, FrameType.METRICS})
STREAM_TYPES = frozenset({FrameType.EXEC, FrameType.ATTACH})


class Frame(NamedTuple):
    """One message. `type` is a plain number where it is none of ours."""

    connection: int
    type: int
    data: bytes


def encode(connection: int, type: int, data: bytes = b"") -> bytes:
    return uvarint(connection) + uvarint(type) + data


def decode(payload: bytes) -> Frame:
    """Raises ProtocolError."""
    if len(payload) > MAX_FRAME:
        raise ProtocolError(f"a tunnel frame of {len(payload)} bytes; {MAX_FRAME} are allowed")
    connection, start = read_uvarint(payload, 0)
    type, start = read_uvarint(payload, start)
    return Frame(connection, type, payload[start:])


def uvarint(number: int) -> bytes:
    """Little-endian groups of seven bits, the last without its high bit."""
    if number < 0x80:
        return bytes((number,))
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def read_uvarint(payload: bytes, start: int) -> tuple[int, int]:
    """A number of at most 64 bits and where it ends; raises ProtocolError."""
    number = 0
    for index, byte in enumerate(payload[start : start + 10]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if number >> 64:
                break
            return number, start + index + 1
    raise ProtocolError("a tunnel frame does not begin with two uvarints")


# --- connect requests ---


class Url(msgspec.Struct, omit_defaults=False):
    """Go's `url.URL`; fields in the order Go writes them."""

    scheme: str = msgspec.field(default="http", name="Scheme")
    opaque: str = msgspec.field(default="", name="Opaque")
    user: msgspec.Raw | None = msgspec.field(default=None, name="User")
    host: str = msgspec.field(default=KUBELET_HOST, name="Host")
    path: str = msgspec.field(default="", name="Path")
    fragment: str = msgspec.field(default="", name="Fragment")
    raw_query: str = msgspec.field(default="", name="RawQuery")
    raw_path: str = msgspec.field(default="", name="RawPath")
    raw_fragment: str = msgspec.field(default="", name="RawFragment")
    force_query: bool = msgspec.field(default=False, name="ForceQuery")
    omit_host: bool = msgspec.field(default=False, name="OmitHost")

    @property
    def target(self) -> str:
        """Path and query as a request line has them."""
        raw_fits = self.raw_path and _PLAIN_PATH.fullmatch(self.raw_path) and unquote(self.raw_path) == self.path
        path = self.raw_path if raw_fits else quote(self.path, safe=_PATH_SAFE)
        return (path or "/") + ("?" + self.raw_query if self.raw_query or self.force_query else "")


class Connect(msgspec.Struct, omit_defaults=True):
    """What the edge is to ask its kubelet. Logs and metrics are always GET and carry no method."""

    id: int = msgspec.field(name="MessID")
    url: Url
    header: dict[str, list[str]] | None
    method: str = ""


class Head(msgspec.Struct):
    """Status and content type of an answer."""

    status: int
    content_type: str = ""


#: What Go leaves as it is in a path.
_PATH_SAFE = "$&+,/:;=@-_.~"
_PLAIN_PATH = re.compile(r"/[!-~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Go escapes these for HTML's sake.
_HTML = tuple((character.encode(), rb"\u%04x" % ord(character)) for character in "&<>\u2028\u2029")


def url_of(target: str) -> Url:
    """Path and query of a request line as Go parses them."""
    raw, question, query = target.partition("?")
    path = unquote(raw)
    return Url(
        path=path,
        raw_query=query,
        raw_path="" if quote(path, safe=_PATH_SAFE) == raw else raw,
        force_query=bool(question) and not query,
    )


def canonical(name: str) -> str:
    """A header's name as Go spells it."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.split("-"))


def encode_connect(connect: Connect) -> bytes:
    """JSON as Go writes it."""
    header = {name: connect.header[name] for name in sorted(connect.header)} if connect.header else connect.header
    text = msgspec.json.encode(msgspec.structs.replace(connect, header=header))
    for plain, escaped in _HTML:
        text = text.replace(plain, escaped)
    return text


def decode_connect(data: bytes) -> Connect:
    """A request that may go onto a connection as it is; raises ProtocolError."""
    if len(data) > MAX_CONNECT:
        raise ProtocolError(f"a connect request of {len(data)} bytes; {MAX_CONNECT} are allowed")
    try:
        connect = _connects.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a connect request that cannot be read: {error}") from error
    _demand_one_line(connect)
    return connect


def _demand_one_line(connect: Connect) -> None:
    """Nothing in it may break out of its place in a request's head."""
    if not re.fullmatch(r"/[!-~]*", connect.url.target):
        raise ProtocolError("a connect request whose path or query is no part of a request line")
    if not re.fullmatch(r"[A-Z]*", connect.method):
        raise ProtocolError("a connect request whose method is no word")
    for name, values in (connect.header or {}).items():
        if not _HEADER_NAME.fullmatch(name) or any(re.search(r"[\r\n\0]", value) for value in values):
            raise ProtocolError("a connect request with a header that is none")


_connects = msgspec.json.Decoder(Connect)
_heads = msgspec.json.Decoder(Head)


def encode_head(head: Head) -> bytes:
    return msgspec.json.encode(head)


def decode_head(data: bytes) -> Head:
    """Raises ProtocolError."""
    try:
        head = _heads.decode(data[:MAX_CONNECT])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a head frame that cannot be read: {error}") from error
    if not 200 <= head.status <= 599 or re.search(r"[\r\n\0]", head.content_type):
        raise ProtocolError(f"a head frame with status {head.status}, which is none for an answer")
    return head
