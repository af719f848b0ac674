"""Answers as bytes: objects, lists, tables, partial metadata, watch lines, Status. Pure.

Stored objects go out as the bytes they are kept in; nothing is decoded that need not be.

Go: k8s.io/apiserver/pkg/endpoints/handlers/response.go
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
import yaml

from edgehive.api.document import Document
from edgehive.kube.client import EventType, WatchEvent
from edgehive.kube.server import tables
from edgehive.kube.server.catalog import Served
from edgehive.kube.server.negotiation import YAML, Representation, View
from edgehive.kube.server.options import Page

Json = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_META = "meta.k8s.io/v1"


def render(value: Any, wanted: Representation) -> bytes:
    """A decoded value in the media type asked for."""
    if wanted.media_type == YAML:
        return yaml.safe_dump(msgspec.to_builtins(value), sort_keys=True, allow_unicode=True).encode()
    return _encode(value)


class Renderer:
    """Turns one resource's objects into what the client asked for."""

    def __init__(self, served: Served, wanted: Representation, now: datetime, include_object: str) -> None:
        self._served = served
        self._wanted = wanted
        self._now = now
        self._include_object = include_object or "Metadata"
        self._header_sent = False

    def one(self, document: Document) -> bytes:
        view = self._wanted.view
        if view is View.TABLE and document.kind == self._served.resource.kind:
            return self._table([document], {"resourceVersion": document.meta.resource_version})
        if view is View.METADATA:
            return render(_partial(document), self._wanted)
        return document.raw if self._wanted.media_type != YAML else render(document.to_dict(), self._wanted)

    def page(self, page: Page) -> bytes:
        row, documents = self._served.resource, [item.document for item in page.items]
        metadata: Json = {"resourceVersion": str(page.revision)}
        if page.continue_token:
            metadata["continue"] = page.continue_token
        if page.remaining is not None:
            metadata["remainingItemCount"] = page.remaining
        if self._wanted.view is View.TABLE:
            return self._table(documents, metadata)
        if self._wanted.view is View.METADATA_LIST:
            items = [_partial(document) for document in documents]
            body = {"kind": "PartialObjectMetadataList", "apiVersion": _META, "metadata": metadata, "items": items}
            return render(body, self._wanted)
        head = {"kind": row.list_kind_name, "apiVersion": row.api_version, "metadata": metadata}
        if self._wanted.media_type == YAML:
            return render(head | {"items": [document.to_dict() for document in documents]}, self._wanted)
        return _encode(head)[:-1] + b',"items":[' + b",".join(document.raw for document in documents) + b"]}"

    def event(self, event: WatchEvent) -> bytes:
        """One line of a watch."""
        raw = event.object.raw
        if event.type is not EventType.BOOKMARK:
            if self._wanted.view is View.TABLE:
                raw = self._event_table(event.object)
            elif self._wanted.view in (View.METADATA, View.METADATA_LIST):
                raw = _encode(_partial(event.object))
        return b'{"type":"%s","object":%s}\n' % (event.type.value.encode(), raw)

    def _event_table(self, document: Document) -> bytes:
        """A table of one row; only the first says what the columns are."""
        metadata = {"resourceVersion": document.meta.resource_version}
        body = self._table_body([document], metadata, with_columns=not self._header_sent)
        self._header_sent = True
        return _encode(body)

    def _table(self, documents: Sequence[Document], metadata: Json) -> bytes:
        return render(self._table_body(documents, metadata), self._wanted)

    def _table_body(self, documents: Sequence[Document], metadata: Json, *, with_columns: bool = True) -> Json:
        custom = self._served.custom
        return tables.table(
            self._served.resource,
            documents,
            self._now,
            include_object=self._include_object,
            columns=custom.columns if custom is not None else None,
            metadata=metadata,
            with_columns=with_columns,
        )


def _partial(document: Document) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": document.to_dict()["metadata"]}


def error_line(status: Json) -> bytes:
    """How a watch says that it cannot go on."""
    return b'{"type":"ERROR","object":%s}\n' % _encode(status)
