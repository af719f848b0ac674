"""What a CustomResourceDefinition must be: its names, its versions, and a structural schema for each. Pure.

What all versions share is spoken of as if it stood once above them, as Kubernetes does.

Go: apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go, .../apiserver/schema/validation.go
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Final

from edgehive.api.meta import StatusCause
from edgehive.kube.server import formats, schema
from edgehive.kube.server.crd_names import is_established
from edgehive.kube.server.field_errors import FieldErrors, dns_1035, subdomain

Json = Mapping[str, Any]

_REFUSED: Final = ("$ref", "definitions", "dependencies", "deprecated", "discriminator", "id", "patternProperties",
                   "readOnly", "writeOnly", "xml")  # fmt: skip
_COLUMNS: Final = ("boolean", "date", "integer", "number", "string")
_COLUMN_TYPES: Final = f"must be one of {','.join(_COLUMNS)}"
_LIST_TYPES: Final = ("atomic", "set", "map")
_APPROVAL: Final = "api-approved.kubernetes.io"
_PROTECTED: Final = re.compile(r"(.*\.)?(k8s|kubernetes)\.io")
#: What Python's parser calls mistakes that Go's knows too; their dialects differ in much else.
_BROKEN: Final = (
    "nothing to repeat",
    "unbalanced parenthesis",
    "unterminated character set",
    "unterminated subpattern",
)
_METADATA: Final = "must not specify anything other than name and generateName, but metadata is implicitly specified"


def validate_definition(crd: Json, old: Json | None) -> list[StatusCause]:
    """Every reason to refuse a definition, or a change of one."""
    errors, spec = FieldErrors(), crd.get("spec") or {}
    names = spec.get("names") or {}
    wanted = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if old is None and crd["metadata"].get("name") != wanted:
        errors.invalid("metadata.name", crd["metadata"].get("name", ""), 'must be spec.names.plural+"."+spec.group')
    _check_group(errors, crd, spec.get("group") or "")
    errors.one_of("spec.scope", spec.get("scope"), ("Cluster", "Namespaced"))
    _check_versions(errors, spec.get("versions") or [])
    _check_names(errors, names)
    if old is not None:
        _check_fixed(errors, old, spec)
    return errors.causes


def _check_group(errors: FieldErrors, crd: Json, group: str) -> None:
    if not group:
        errors.required("spec.group")
    elif wrong := subdomain(group):
        errors.invalid("spec.group", group, ",".join(wrong))
    elif "." not in group:
        errors.invalid("spec.group", group, "should be a domain with at least one dot")
    annotations = crd["metadata"].get("annotations") or {}
    if _PROTECTED.fullmatch(group) and not annotations.get(_APPROVAL):
        text = (f'protected groups must have approval annotation "{_APPROVAL}", see '
                "https://github.com/kubernetes/enhancements/pull/1111")  # fmt: skip
        errors.required(f"metadata.annotations[{_APPROVAL}]", text)


def _check_names(errors: FieldErrors, names: Json) -> None:
    for field in ("plural", "singular", "kind", "listKind"):
        if not names.get(field):
            errors.required(f"spec.names.{field}")
    for field in ("plural", "singular"):
        _check_word(errors, f"spec.names.{field}", names.get(field) or "")
    for field in ("kind", "listKind"):
        kind = names.get(field) or ""
        if kind and (wrong := dns_1035(kind.lower())):
            text = f"may have mixed case, but should otherwise match: {','.join(wrong)}"
            errors.invalid(f"spec.names.{field}", kind, text)
    for field in ("shortNames", "categories"):
        for index, name in enumerate(names.get(field) or ()):
            _check_word(errors, f"spec.names.{field}[{index}]", name)
    if names.get("kind") and names["kind"] == names.get("listKind"):
        errors.invalid("spec.names.listKind", names["kind"], "kind and listKind may not be the same")


def _check_word(errors: FieldErrors, path: str, word: str) -> None:
    if word and (wrong := dns_1035(word)):
        errors.invalid(path, word, ",".join(wrong))


def _check_fixed(errors: FieldErrors, old: Json, spec: Json) -> None:
    before = old.get("spec") or {}
    names, names_before = spec.get("names") or {}, before.get("names") or {}
    if is_established(old):
        errors.immutable("spec.scope", before.get("scope"), spec.get("scope"))
        errors.immutable("spec.names.kind", names_before.get("kind"), names.get("kind"))
    errors.immutable("spec.group", before.get("group"), spec.get("group"))
    errors.immutable("spec.names.plural", names_before.get("plural"), names.get("plural"))


# ---------------------------------------------------------------- versions


def _check_versions(errors: FieldErrors, versions: list[Json]) -> None:
    for index, version in enumerate(versions):
        _check_word(errors, f"spec.versions[{index}].name", version.get("name") or "")
    for path, one in _shared(versions, "subresources", "spec.subresources"):
        _check_scale(errors, f"{path}.scale", one.get("scale"))
    for path, one in _shared(versions, "additionalPrinterColumns", "spec.additionalPrinterColumns"):
        for index, column in enumerate(one):
            _check_column(errors, f"{path}[{index}]", column)
    found = [version.get("name") for version in versions]
    if len(set(found)) != len(found):
        errors.invalid("spec.versions", versions, "must contain unique version names")
    if sum(bool(version.get("storage")) for version in versions) != 1:
        errors.invalid("spec.versions", versions, "must have exactly one version marked as storage version")
    for index, version in enumerate(versions):
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            errors.required(f"spec.versions[{index}].schema.openAPIV3Schema")
    for path, one in _shared(versions, "schema", "spec.validation"):
        if one.get("openAPIV3Schema"):
            errors.causes += check_schema(one["openAPIV3Schema"], f"{path}.openAPIV3Schema")


def _shared(versions: list[Json], field: str, above: str) -> Iterator[tuple[str, Any]]:
    """The place and value of a field in each version, or once when all are the same."""
    given = [version.get(field) for version in versions]
    if given and given[0] and all(one == given[0] for one in given):
        yield above, given[0]
        return
    for index, one in enumerate(given):
        if one:
            yield f"spec.versions[{index}].{field}", one


def _check_scale(errors: FieldErrors, path: str, scale: Json | None) -> None:
    if scale is None:
        return
    for field, below in (("specReplicasPath", (".spec.",)), ("statusReplicasPath", (".status.",)),
                         ("labelSelectorPath", (".spec.", ".status."))):  # fmt: skip
        at, value = f"{path}.{field}", scale.get(field) or ""
        if not value:
            if field != "labelSelectorPath":
                errors.required(at)
        elif not value.startswith("."):
            errors.invalid(at, value, "must be a simple json path starting with .")
        elif not value.startswith(below):
            places = [place.strip(".") for place in below]
            listed = f".{places[0]}" if len(places) == 1 else f"either .{places[0]} or .{places[1]}"
            errors.invalid(at, value, f"should be a json path under {listed}")


def _check_column(errors: FieldErrors, path: str, column: Json) -> None:
    if not column.get("name"):
        errors.required(f"{path}.name")
    kind, place = column.get("type") or "", column.get("jsonPath") or ""
    if not kind:
        errors.required(f"{path}.type", _COLUMN_TYPES)
    elif kind not in _COLUMNS:
        errors.invalid(f"{path}.type", kind, _COLUMN_TYPES)
    if not place:
        errors.required(f"{path}.JSONPath")
    elif not place.startswith("."):
        errors.invalid(f"{path}.JSONPath", place, "must be a simple json path starting with .")


# ---------------------------------------------------------------- schemas


def check_schema(root: Json, path: str) -> list[StatusCause]:
    """Why a schema is not structural; none when it is."""
    errors = FieldErrors()
    if root.get("type") != "object":
        errors.invalid(f"{path}.type", root.get("type", ""), "must be object at the root")
    metadata = (root.get("properties") or {}).get("metadata")
    if metadata is not None and not _is_plain(metadata):
        errors.forbidden(f"{path}.properties[metadata]", _METADATA)
    _check_node(errors, root, path)
    return errors.causes


def _is_plain(metadata: Json) -> bool:
    """Kubernetes knows what metadata are; only the name may be narrowed."""
    return set(metadata) <= {"type", "properties", "description"} and set(metadata.get("properties") or ()) <= {
        "name", "generateName",
    }  # fmt: skip


def _check_node(errors: FieldErrors, node: Json, path: str) -> None:
    for word in _REFUSED:
        if node.get(word) is not None:
            errors.forbidden(f"{path}.{word}", f"{word} is not supported")
    kind = node.get("type")
    if kind and kind not in schema.TYPES:
        errors.one_of(f"{path}.type", kind, schema.TYPES)
    elif not kind and not node.get(schema.INT_OR_STRING) and not node.get(schema.PRESERVE):
        errors.required(f"{path}.type", "must not be empty for specified object fields")
    properties, extra = node.get("properties") or {}, node.get("additionalProperties")
    if properties and extra:
        errors.forbidden(f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive")
    if kind == "array" and not node.get("items"):
        errors.required(f"{path}.items", "must be specified")
    _check_list_type(errors, node, path)
    _check_pattern(errors, node.get("pattern") or "", f"{path}.pattern")
    _check_default(errors, node, f"{path}.default")
    for name, below in properties.items():
        _check_node(errors, below, f"{path}.properties[{name}]")
    for word in ("items", "additionalProperties"):
        if isinstance(node.get(word), Mapping):
            _check_node(errors, node[word], f"{path}.{word}")


def _check_list_type(errors: FieldErrors, node: Json, path: str) -> None:
    kind = node.get("x-kubernetes-list-type")
    if kind is None:
        return
    if kind not in _LIST_TYPES:
        errors.not_supported(f"{path}.x-kubernetes-list-type", kind, _LIST_TYPES)
    if kind != "map":
        return
    if not node.get("x-kubernetes-list-map-keys"):
        text = "must not be empty if x-kubernetes-list-type is map"
        errors.required(f"{path}.x-kubernetes-list-map-keys", text)
    items = node.get("items") or {}
    if items.get("type", "object") != "object":
        text = "must be object if parent array's x-kubernetes-list-type is map"
        errors.invalid(f"{path}.items.type", items["type"], text)


def _check_pattern(errors: FieldErrors, pattern: str, path: str) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(pattern)
    except re.error as error:
        if any(words in error.msg for words in _BROKEN):
            errors.invalid(path, pattern, f"must be a valid regular expression, but isn't: {error.msg}")


def _check_default(errors: FieldErrors, node: Json, path: str) -> None:
    if node.get("default") is not None:
        for cause in schema.validate(node, node["default"]):
            errors.causes.append(StatusCause(cause.reason, cause.message, path))


def unknown_formats(crd: Json) -> list[str]:
    """What the author of a CRD is told: formats that ask for nothing here."""
    versions = (crd.get("spec") or {}).get("versions") or ()
    schemas = [(version.get("schema") or {}).get("openAPIV3Schema") or {} for version in versions]
    names = dict.fromkeys(name for one in schemas for name in _unknown_formats(one))
    return [f'unrecognized format "{name}"' for name in names]


def _unknown_formats(node: Json) -> Iterator[str]:
    name = node.get("format")
    if name and not formats.is_known(name, node.get("type") or ""):
        yield name
    for one in (*(node.get("properties") or {}).values(), node.get("items"), node.get("additionalProperties")):
        if isinstance(one, Mapping):
            yield from _unknown_formats(one)
