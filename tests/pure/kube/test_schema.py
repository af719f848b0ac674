"""Custom resources are pruned, completed and judged by their structural schema."""

from typing import Any

import pytest

from edgehive.kube.server import schema
from edgehive.kube.server.crd_validation import check_schema

SPEC: dict[str, Any] = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "size": {"type": "integer", "minimum": 1, "maximum": 9, "default": 3},
        "mode": {"type": "string", "enum": ["a", "b"]},
        "port": {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set", "maxItems": 2},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "maybe": {"type": "string", "nullable": True},
        "when": {"type": "string", "format": "date-time"},
    },
}
ROOT = {"type": "object", "properties": {"spec": SPEC, "metadata": {"type": "object"}}}


def test_pruning_keeps_the_envelope_and_what_is_free() -> None:
    obj = {"kind": "T", "metadata": {"x": 1}, "junk": 1, "spec": {"name": "a", "odd": 1, "free": {"any": {"x": 1}}}}
    assert schema.prune(ROOT, obj) == ["junk", "spec.odd"]
    assert obj == {"kind": "T", "metadata": {"x": 1}, "spec": {"name": "a", "free": {"any": {"x": 1}}}}


def test_defaults_fill_levels_that_are_there() -> None:
    obj: dict[str, Any] = {"spec": {"name": "a"}}
    schema.default(ROOT, obj)
    assert obj["spec"]["size"] == 3
    empty: dict[str, Any] = {}
    schema.default(ROOT, empty)
    assert empty == {}


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"size": "x"}, 'spec.size: Invalid value: "string": spec.size in body must be of type integer: "string"'),
        ({"size": 0}, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"),
        ({"mode": "c"}, 'spec.mode: Unsupported value: "c": supported values: "a", "b"'),
        ({"name": "A"}, "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"),
        ({"name": "abcdef"}, "spec.name: Too long: may not be more than 5 bytes"),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"tags": ["a", "b", "c"]}, "spec.tags: Too many: 3: must have at most 2 items"),
        ({"labels": {"a": 1}},
         'spec.labels.a: Invalid value: "integer": spec.labels.a in body must be of type string: "integer"'),
        ({"mode": None}, 'spec.mode: Invalid value: "null": spec.mode in body must be of type string: "null"'),
        ({"when": "now"}, 'spec.when: Invalid value: "now": spec.when in body must be of type date-time: "now"'),
        ({"maybe": None, "port": "http", "when": "2026-01-01T00:00:00Z"}, ""),
    ],
)  # fmt: skip
def test_validation(change: dict[str, Any], wanted: str) -> None:
    causes = schema.validate(ROOT, {"spec": {"name": "a", **change}})
    assert [f"{cause.field}: {cause.message}" for cause in causes] == ([wanted] if wanted else [])


def test_required_and_logic() -> None:
    assert [cause.field for cause in schema.validate(ROOT, {"spec": {}})] == ["spec.name"]
    one = {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}
    assert schema.validate(one, {"a": 1}) == []
    assert "Found none valid" in schema.validate(one, {})[0].message
    assert "(not)" in schema.validate({"not": {"required": ["a"]}}, {"a": 1})[0].message


def test_schemas_that_are_not_structural_are_refused() -> None:
    bad = {"type": "object", "properties": {"a": {}, "b": {"type": "array"}, "c": {"$ref": "x", "type": "string"}}}
    fields = [cause.field for cause in check_schema(bad, "schema")]
    assert fields == ["schema.properties[a].type", "schema.properties[b].items", "schema.properties[c].$ref"]
    assert check_schema(ROOT, "schema") == []
