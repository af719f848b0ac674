"""`Message`: what travels between modules and, as JSON text, between cloud and edge.

Immutable, so modules may share it. `content` is the raw JSON of whatever the sender put in; hubs pass it on
untouched and only the module that cares decodes it with `read`. Times are Unix milliseconds.

Go: staging/src/github.com/kubeedge/beehive/pkg/core/model/message.go
"""

import uuid
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

NULL = msgspec.Raw(b"null")
_encoder = msgspec.json.Encoder()


class Header(msgspec.Struct, frozen=True, omit_defaults=True, rename={"id": "msg_id", "parent_id": "parent_msg_id"}):
    """Who this message is, and which one it answers."""

    id: str
    timestamp: int
    parent_id: str = ""
    resourceversion: str = ""
    sync: bool = False
    type: str = ""


class Route(msgspec.Struct, frozen=True, omit_defaults=True):
    """From whom, for which group, doing what to which resource."""

    source: str = ""
    destination: str = ""
    group: str = ""
    operation: str = ""
    resource: str = ""


class Message(msgspec.Struct, frozen=True):
    """One message; build it with `Message.of` and `reply`, never field by field."""

    header: Header
    route: Route
    content: msgspec.Raw = NULL

    @classmethod
    def of(
        cls,
        *,
        source: str,
        group: str,
        operation: str,
        resource: str,
        content: Any = None,
        timestamp: int,
        parent_id: str = "",
        resource_version: str = "",
        id: str = "",
    ) -> "Message":
        """A new message. `content`: msgspec.Raw is passed through, anything else is encoded as JSON."""
        return cls(
            Header(id or str(uuid.uuid4()), timestamp, parent_id, resource_version),
            Route(source=source, group=group, operation=operation, resource=resource),
            raw(content),
        )

    def reply(
        self,
        content: Any,
        *,
        timestamp: int,
        operation: str = "response",
        source: str = "",
        group: str = "",
        resource: str = "",
        resource_version: str = "",
    ) -> "Message":
        """The answer: new id, this message as parent, the route of the request unless told otherwise."""
        route = self.route
        return Message.of(
            source=source or route.source,
            group=group or route.group,
            operation=operation,
            resource=resource or route.resource,
            content=content,
            timestamp=timestamp,
            parent_id=self.header.id,
            resource_version=resource_version,
        )

    @property
    def id(self) -> str:
        return self.header.id

    def read(self, type: type[T]) -> T:
        """Decode the content; raises msgspec.ValidationError naming what is wrong."""
        return msgspec.json.decode(self.content, type=type)

    def content_bytes(self) -> bytes:
        """What a Go receiver gets: a JSON string's text, or the JSON of anything else."""
        data = bytes(self.content)
        if data[:1] == b'"':
            text: str = msgspec.json.decode(data, type=str)
            return text.encode()
        return data

    def with_route(self, **changes: str) -> "Message":
        return Message(self.header, msgspec.structs.replace(self.route, **changes), self.content)

    def with_header(self, **changes: Any) -> "Message":
        return Message(msgspec.structs.replace(self.header, **changes), self.route, self.content)


def raw(content: Any) -> msgspec.Raw:
    """Encode content once; Raw passes through."""
    if isinstance(content, msgspec.Raw):
        return content
    if content is None:
        return NULL
    return msgspec.Raw(_encoder.encode(content))
