"""Server-side tables: what `kubectl get` prints. Pure.

Built-in kinds have printers; custom resources the columns of their definition; any other kind NAME and AGE.

Go: k8s.io/kubernetes/pkg/printers/tablegenerator.go, apiextensions-apiserver/pkg/registry/customresource/tableconvertor
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from edgehive.api.document import Document
from edgehive.api.registry import ApiResource
from edgehive.kube.errors import qualified
from edgehive.kube.server import jsonpath
from edgehive.kube.server.cells import Json, age, part, since
from edgehive.kube.server.pod_cells import pod_row_conditions
from edgehive.kube.server.printers import PRINTERS, Printer

_API_VERSION: Final = "meta.k8s.io/v1"
_CREATED_PATH: Final = ".metadata.creationTimestamp"
_DEFAULT_COLUMNS: Final[tuple[Json, ...]] = ({"name": "Age", "type": "date", "jsonPath": _CREATED_PATH},)


def table(
    resource: ApiResource,
    documents: Iterable[Document | Json],
    now: datetime,
    *,
    include_object: str = "Metadata",
    columns: Sequence[Json] | None = None,
    metadata: Json | None = None,
    with_columns: bool = True,
) -> dict[str, Any]:
    """A `meta.k8s.io/v1` Table. `columns` are a CRD version's additionalPrinterColumns, None for built-in kinds."""
    printer = PRINTERS.get(qualified(resource.plural, resource.group)) if columns is None else None
    if printer is not None:
        definitions, row = _definitions(printer), printer.row
    else:
        shown = columns or _DEFAULT_COLUMNS
        definitions, row = [_definition("Name", "string", 0), *map(_custom_definition, shown)], _custom_row(shown)
    body: dict[str, Any] = {"kind": "Table", "apiVersion": _API_VERSION, "metadata": dict(metadata or {})}
    body["columnDefinitions"] = definitions if with_columns else []
    body["rows"] = [_row(resource, row, _plain(item), now, include_object) for item in documents]
    return body


def _plain(item: Document | Json) -> Json:
    return item.to_dict() if isinstance(item, Document) else item


def _row(
    resource: ApiResource, cells: Callable[[Json, datetime], list[Any]], obj: Json, now: datetime, include: str
) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": cells(obj, now)}
    if resource.kind == "Pod" and (marks := pod_row_conditions(obj)):
        row["conditions"] = marks
    if include == "Object":
        row["object"] = dict(obj)
    elif include != "None":
        row["object"] = partial_metadata(obj)
    else:
        row["object"] = None
    return row


def partial_metadata(obj: Json) -> dict[str, Any]:
    """An object's `PartialObjectMetadata`."""
    return {"kind": "PartialObjectMetadata", "apiVersion": _API_VERSION, "metadata": part(obj, "metadata")}


def _definition(name: str, kind: str, priority: int, form: str = "", description: str = "") -> dict[str, Any]:
    form = "name" if name == "Name" else form
    return {"name": name, "type": kind, "format": form, "description": description or name, "priority": priority}


def _definitions(printer: Printer) -> list[dict[str, Any]]:
    found = []
    for text in printer.columns:
        name, _, kind = text.removesuffix("*").partition(":")
        found.append(_definition(name, kind or "string", int(text.endswith("*"))))
    return found


def _custom_definition(column: Json) -> dict[str, Any]:
    return _definition(
        str(column.get("name", "")),
        str(column.get("type", "string")),
        int(column.get("priority") or 0),
        str(column.get("format") or ""),
        str(column.get("description") or ""),
    )


def _custom_row(columns: Sequence[Json]) -> Callable[[Json, datetime], list[Any]]:
    def row(obj: Json, now: datetime) -> list[Any]:
        return [part(obj, "metadata").get("name", ""), *(_custom_cell(column, obj, now) for column in columns)]

    return row


def _custom_cell(column: Json, obj: Json, now: datetime) -> Any:
    path = str(column.get("jsonPath", ""))
    if path == _CREATED_PATH:
        return age(obj, now)
    try:
        found = jsonpath.find(obj, path)
    except ValueError:
        return None
    if not found or found[0] is None:
        return None
    value, kind = found[0], column.get("type", "string")
    if kind == "date":
        return since(value, now)
    if kind == "string":
        return _text(value)
    wanted = {"integer": int, "number": int | float, "boolean": bool}.get(str(kind), object)
    return value if isinstance(value, wanted) else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
