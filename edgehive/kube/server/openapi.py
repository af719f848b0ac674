"""OpenAPI v3 documents, made from the field table and the CRDs' schemas when someone asks. Pure.

They say what clients need: kinds, fields, merge keys, and that the server validates fields itself. They hold no
descriptions.

Go: k8s.io/kube-openapi/pkg/handler3
"""

import hashlib
from typing import Any

import msgspec

from edgehive.kube import fields
from edgehive.kube.fields import Field
from edgehive.kube.server.catalog import Catalog, Served

Json = dict[str, Any]

_SCALARS: dict[str, Json] = {
    "string": {"type": "string"},
    "bytes": {"type": "string", "format": "byte"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "float32": {"type": "number", "format": "float"},
    "float64": {"type": "number", "format": "double"},
    fields.TIME: {"type": "string", "format": "date-time"},
    fields.MICRO_TIME: {"type": "string", "format": "date-time"},
    fields.DURATION: {"type": "string"},
    fields.FIELDS_V1: {"type": "object"},
    fields.QUANTITY: {"oneOf": [{"type": "string"}, {"type": "number"}]},
    fields.INT_OR_STRING: {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    fields.RAW_EXTENSION: {"type": "object"},
}
_OBJECT_META = "k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta"
_REF = "#/components/schemas/"


def _query(name: str, kind: str = "string") -> Json:
    return {"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": True}}


_WRITE = [_query("dryRun"), _query("fieldManager"), _query("fieldValidation"), _query("pretty")]
_VERBS = (
    ("get", "get", "get", False), ("get", "list", "list", True), ("post", "create", "post", True),
    ("put", "update", "put", False), ("patch", "patch", "patch", False), ("delete", "delete", "delete", False),
    ("delete", "deletecollection", "deletecollection", True),
)  # fmt: skip


class OpenApi:
    """Documents by path (`api/v1`, `apis/apps/v1`), encoded once per state of the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._epoch = -1
        self._documents: dict[str, bytes] = {}

    def index(self) -> Json:
        """`GET /openapi/v3`."""
        paths = {}
        for group, versions in self._catalog.groups().items():
            for version in versions:
                path = f"apis/{group}/{version}" if group else f"api/{version}"
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={self._hash(versions[version])}"}
        return {"paths": paths}

    def document(self, path: str) -> bytes | None:
        """One group version's document."""
        if self._epoch != self._catalog.epoch:
            self._documents.clear()
            self._epoch = self._catalog.epoch
        if path not in self._documents:
            served = self._served(path)
            if not served:
                return None
            self._documents[path] = msgspec.json.encode(_document(served))
        return self._documents[path]

    def _served(self, path: str) -> list[Served]:
        kind, _, rest = path.partition("/")
        group, _, version = rest.rpartition("/")
        if (kind == "api") != (group == ""):
            return []
        return self._catalog.groups().get(group, {}).get(version, [])

    def _hash(self, served: list[Served]) -> str:
        """Changes when the document would."""
        parts: list[Any] = [[item.resource.plural, item.custom.schema if item.custom else None] for item in served]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32].upper()


def _document(served: list[Served]) -> Json:
    schemas = _Schemas()
    paths: Json = {}
    for item in served:
        name = schemas.add_kind(item)
        _add_paths(paths, item, name)
    version = served[0].resource.api_version
    return {
        "openapi": "3.0.0",
        "info": {"title": f"Kubernetes {version}", "version": "v1.32.0"},
        "paths": paths,
        "components": {"schemas": schemas.found},
    }


def _add_paths(paths: Json, served: Served, schema: str) -> None:
    row = served.resource
    collection = row.path("{namespace}" if row.namespaced else "")
    places = {True: paths.setdefault(collection, {}), False: paths.setdefault(f"{collection}/{{name}}", {})}
    for method, verb, action, on_collection in _VERBS:
        if verb in row.verbs:
            places[on_collection][method] = _operation(served, schema, method, action)
    for place, parameters in ((collection, []), (f"{collection}/{{name}}", ["name"])):
        names = [*parameters, *(["namespace"] if row.namespaced else [])]
        paths[place]["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]


def _operation(served: Served, schema: str, method: str, action: str) -> Json:
    row = served.resource
    content = {"application/json": {"schema": {"$ref": _REF + schema}}}
    operation: Json = {
        "responses": {"200": {"description": "OK", "content": content}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": _gvk(served),
    }
    if method in ("post", "put", "patch"):
        operation["parameters"] = [*_WRITE, _query("force", "boolean")] if method == "patch" else _WRITE
        operation["requestBody"] = {"content": content}
    operation["operationId"] = f"{action}{row.group}{row.version}{row.kind}"
    return operation


def _gvk(served: Served) -> Json:
    row = served.resource
    return {"group": row.group, "version": row.version, "kind": row.kind}


class _Schemas:
    """Component schemas, gathered as they are referred to."""

    def __init__(self) -> None:
        self.found: Json = {}

    def add_kind(self, served: Served) -> str:
        row = served.resource
        info = fields.type_of(row.api_version, row.kind) if served.custom is None else None
        if info is not None:
            name = self._named(info.name)
        else:
            domain = ".".join(reversed(row.group.split(".")))
            name = f"{domain}.{row.version}.{row.kind}"
            self.found[name] = self._custom(served)
        self.found[name]["x-kubernetes-group-version-kind"] = [_gvk(served)]
        return name

    def _custom(self, served: Served) -> Json:
        schema = served.custom.schema if served.custom else None
        body: Json = dict(schema or {"type": "object", "x-kubernetes-preserve-unknown-fields": True})
        own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"},
               "metadata": {"$ref": _REF + self._named(_OBJECT_META)}}  # fmt: skip
        return body | {"properties": {**(body.get("properties") or {}), **own}}

    def _named(self, type_name: str) -> str:
        """Make sure a type is described; its component name."""
        name = _component(type_name)
        if name not in self.found:
            self.found[name] = {"type": "object"}
            info = fields.type_named(type_name)
            if info is not None:
                properties = {key: self._field(field) for key, field in info.by_name.items()}
                self.found[name]["properties"] = properties
        return name

    def _field(self, field: Field) -> Json:
        schema = self._type(field.type)
        if "allOf" not in schema and "$ref" in schema:
            schema = {"allOf": [schema]}
        if field.strategies:
            schema["x-kubernetes-patch-strategy"] = field.strategies
        if field.merge_key:
            schema["x-kubernetes-patch-merge-key"] = field.merge_key
        return schema

    def _type(self, type_name: str) -> Json:
        container, inner = fields.container_of(type_name)
        if container in ("list", "items"):
            return {"type": "array", "items": self._type(inner)}
        if container == "map":
            return {"type": "object", "additionalProperties": self._type(inner)}
        if inner in _SCALARS:
            return dict(_SCALARS[inner])
        return {"$ref": _REF + self._named(inner)}


def _component(type_name: str) -> str:
    """`k8s.io/api/core/v1.Pod` to `io.k8s.api.core.v1.Pod`."""
    host, _, path = type_name.partition("/")
    return ".".join([*reversed(host.split(".")), *path.split("/")])
