"""One frame of the hub link <-> one `Message`: JSON text as Go writes and reads it. Pure: bytes in, bytes out.

Links call it; nothing else turns a message into bytes. The content stays the raw JSON it arrived as. Frames
as our halves and Go write them take a fast path; a frame with keys in other letter case, unknown keys or
nulls takes a second, tolerant one, since Go reads all of these.

Go: staging/src/github.com/kubeedge/viaduct/pkg/lane (JSON lane)
"""

from typing import Any

import msgspec

from edgehive.beehive.message import NULL, Header, Message, Route
from edgehive.kit.json_depth import MAX_DEPTH, too_deep
from edgehive.wire.link import ProtocolError

#: Larger frames are refused in both directions.
MAX_FRAME = 32 * 1024 * 1024
#: Names, paths and ids are short; only the content may be large.
MAX_FIELD = 8 * 1024


class MessageTooLarge(ValueError):
    """An own message does not fit into a frame; the link is unharmed."""


class _Header(msgspec.Struct, forbid_unknown_fields=True, rename={"id": "msg_id", "parent_id": "parent_msg_id"}):
    id: str = ""
    timestamp: int = 0
    parent_id: str = ""
    resourceversion: str = ""
    sync: bool = False
    type: str = ""


class _Route(msgspec.Struct, forbid_unknown_fields=True):
    source: str = ""
    destination: str = ""
    group: str = ""
    operation: str = ""
    resource: str = ""


class _Frame(msgspec.Struct, forbid_unknown_fields=True):
    header: _Header = msgspec.field(default_factory=_Header)
    route: _Route = msgspec.field(default_factory=_Route)
    content: msgspec.Raw = NULL


_encoder = msgspec.json.Encoder()
_frame_decoder = msgspec.json.Decoder(_Frame)
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode(message: Message) -> bytes:
    """The frame for a message; raises MessageTooLarge."""
    if not bytes(message.content):
        message = Message(message.header, message.route)
    frame = _encoder.encode(message)
    if len(frame) > MAX_FRAME:
        raise MessageTooLarge(
            f"message {message.id} on {message.route.resource!r} is {len(frame)} bytes; a frame holds {MAX_FRAME}"
        )
    return frame


def decode(frame: bytes) -> Message:
    """The message in a frame; raises ProtocolError saying what is wrong with it."""
    if len(frame) > MAX_FRAME:
        raise ProtocolError(f"frame of {len(frame)} bytes; at most {MAX_FRAME} are accepted")
    check_text(frame)
    try:
        message = _message(_frame_decoder.decode(frame))
    except msgspec.ValidationError:
        message = _message(_decode_tolerantly(frame))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"frame is not one JSON document: {error}") from error
    if len(frame) > MAX_FIELD:
        _check_fields(message)
    return message


def _check_fields(message: Message) -> None:
    for part in (message.header, message.route):
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if isinstance(value, str) and len(value) > MAX_FIELD:
                raise ProtocolError(f"field {name} is {len(value)} characters long; at most {MAX_FIELD} are accepted")


def check_text(frame: bytes) -> None:
    """Refuse what is no UTF-8 or is nested too deeply."""
    if not frame.isascii():
        try:
            frame.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"frame is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if too_deep(frame):
        raise ProtocolError(f"frame is nested more than {MAX_DEPTH} levels deep")


def _message(frame: _Frame) -> Message:
    header, route = frame.header, frame.route
    return Message(
        Header(header.id, header.timestamp, header.parent_id, header.resourceversion, header.sync, header.type),
        Route(route.source, route.destination, route.group, route.operation, route.resource),
        frame.content,
    )


def _decode_tolerantly(frame: bytes) -> _Frame:
    """wire: Go matches keys whatever their case, skips unknown ones and reads null as the zero value."""
    try:
        parts = _fold(_object_decoder.decode(frame), {"header", "route", "content"})
        return _Frame(
            header=_fill(_Header, parts.get("header")),
            route=_fill(_Route, parts.get("route")),
            content=parts.get("content", NULL),
        )
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"frame is not a message: {error}") from error


def _fill(struct: type[Any], part: msgspec.Raw | None) -> Any:
    if part is None or part == NULL:
        return struct()
    names = {field.encode_name for field in msgspec.structs.fields(struct)}
    folded = _fold(_object_decoder.decode(part), names)
    given = {name: value for name, value in folded.items() if value != NULL}
    return msgspec.json.decode(_encoder.encode(given), type=struct)


def _fold(given: dict[str, msgspec.Raw], known: set[str]) -> dict[str, msgspec.Raw]:
    """Keep known keys, in whatever case they came; the last one wins."""
    return {key.lower(): value for key, value in given.items() if key.lower() in known}
