"""An object as it crosses the system: the JSON bytes it arrived as, read through typed lenses.

Everyone uses it: stores, clients, informers, flows. It never encodes a lens back, since a lens names only
the fields we read and would lose the rest; a change is a patch, or a fresh `to_dict()` copy written whole.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from edgehive.api.meta import ObjectMeta

T = TypeVar("T")


class _Envelope(msgspec.Struct, rename={"api_version": "apiVersion"}, frozen=True):
    kind: str = ""
    api_version: str = ""
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)


_envelope_decoder = msgspec.json.Decoder(_Envelope)
_encoder = msgspec.json.Encoder()


class Document:
    """One versioned object. Immutable: share it freely."""

    __slots__ = ("_envelope", "raw")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._envelope: _Envelope | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Document":
        """Encode a plain JSON mapping (the caller may go on changing its own copy)."""
        return cls(_encoder.encode(data))

    @property
    def envelope(self) -> _Envelope:
        """kind, apiVersion and metadata; raises msgspec.ValidationError when they are not of the right shape."""
        if self._envelope is None:
            self._envelope = _envelope_decoder.decode(self.raw)
        return self._envelope

    @property
    def meta(self) -> ObjectMeta:
        return self.envelope.metadata

    @property
    def kind(self) -> str:
        return self.envelope.kind

    @property
    def api_version(self) -> str:
        return self.envelope.api_version

    def read(self, lens: type[T]) -> T:
        """A typed, read-only view; raises msgspec.ValidationError naming the field that is wrong."""
        return msgspec.json.decode(self.raw, type=lens)

    def to_dict(self) -> dict[str, Any]:
        """A fresh, mutable copy of the whole object."""
        decoded: dict[str, Any] = msgspec.json.decode(self.raw)
        return decoded

    def __repr__(self) -> str:
        meta = self.meta
        return f"<{self.kind or 'Document'} {meta.namespace}/{meta.name} rv={meta.resource_version}>"
