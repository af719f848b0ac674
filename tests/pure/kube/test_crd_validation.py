"""Which definitions of custom resources are refused, in the words of a Kubernetes API server."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgehive.edgesite.definitions import kubeedge_definitions
from edgehive.kube.server.crd_validation import check_schema, validate_definition

Crd = dict[str, Any]
VERSION = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
GOOD: Crd = {
    "metadata": {"name": "bs.ex.com"},
    "spec": {
        "group": "ex.com",
        "scope": "Namespaced",
        "names": {"plural": "bs", "singular": "b", "kind": "B", "listKind": "BList"},
        "versions": [
            {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


def told(crd: Crd, old: Crd | None = None) -> list[str]:
    return [f"{cause.field}: {cause.message}" for cause in validate_definition(crd, old)]


def test_sound_definitions_pass() -> None:
    assert told(GOOD) == []
    assert told(GOOD, GOOD) == []
    for crd in kubeedge_definitions():
        crd["spec"]["names"].setdefault("singular", crd["spec"]["names"]["kind"].lower())
        assert told(crd) == []


def change(path: str, value: Any) -> Callable[[Crd], None]:
    def apply(crd: Crd) -> None:
        place: Any = crd
        *parents, leaf = path.split(".")
        for parent in parents:
            place = place[int(parent)] if parent.isdigit() else place[parent]
        if value is None:
            del place[leaf]
        else:
            place[leaf] = value

    return apply


V = "spec.versions.0"
DNS = ("a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
       "character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
       "'[a-z]([-a-z0-9]*[a-z0-9])?')")  # fmt: skip
MISTAKES: tuple[tuple[Callable[[Crd], None], list[str]], ...] = (
    (change("metadata.name", "x"), ['metadata.name: Invalid value: "x": must be spec.names.plural+"."+spec.group']),
    (change("spec.scope", "Odd"),
     ['spec.scope: Unsupported value: "Odd": supported values: "Cluster", "Namespaced"']),
    (change("spec.names.kind", None), ["spec.names.kind: Required value"]),
    (change("spec.names.listKind", "B"),
     ['spec.names.listKind: Invalid value: "B": kind and listKind may not be the same']),
    (change("spec.names.shortNames", ["A b"]), [f'spec.names.shortNames[0]: Invalid value: "A b": {DNS}']),
    (change("spec.names.kind", "B b"),
     [f'spec.names.kind: Invalid value: "B b": may have mixed case, but should otherwise match: {DNS}']),
    (change("spec.versions", []),
     ["spec.versions: Invalid value: []: must have exactly one version marked as storage version"]),
    (change(f"{V}.name", "A_b"), [f'spec.versions[0].name: Invalid value: "A_b": {DNS}']),
    (change(f"{V}.schema", None), ["spec.versions[0].schema.openAPIV3Schema: Required value"]),
    (change(f"{V}.subresources", {"scale": {"specReplicasPath": "spec.n", "statusReplicasPath": ".spec.r"}}),
     ['spec.subresources.scale.specReplicasPath: Invalid value: "spec.n": must be a simple json path starting with .',
      'spec.subresources.scale.statusReplicasPath: Invalid value: ".spec.r": should be a json path under .status']),
    (change(f"{V}.additionalPrinterColumns", [{"name": "", "type": "odd", "jsonPath": ""}]),
     ["spec.additionalPrinterColumns[0].name: Required value",
      'spec.additionalPrinterColumns[0].type: Invalid value: "odd": '
      "must be one of boolean,date,integer,number,string",
      "spec.additionalPrinterColumns[0].JSONPath: Required value"]),
)  # fmt: skip


@pytest.mark.parametrize(("mistake", "wanted"), MISTAKES)
def test_a_mistake_is_named(mistake: Callable[[Crd], None], wanted: list[str]) -> None:
    crd = copy.deepcopy(GOOD)
    mistake(crd)
    assert told(crd) == wanted


def test_versions_are_told_apart() -> None:
    crd = copy.deepcopy(GOOD)
    crd["spec"]["versions"].append(crd["spec"]["versions"][0])
    found = [text.rpartition(": ")[2] for text in told(crd)]
    assert found == ["must contain unique version names", "must have exactly one version marked as storage version"]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ("nodot", 'Invalid value: "nodot": should be a domain with at least one dot'),
        ("x.k8s.io", 'Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see '
                     "https://github.com/kubernetes/enhancements/pull/1111"),
    ],
)  # fmt: skip
def test_groups_are_domains_and_some_are_protected(group: str, message: str) -> None:
    crd = copy.deepcopy(GOOD)
    crd["spec"]["group"], crd["metadata"]["name"] = group, f"bs.{group}"
    (text,) = told(crd)
    assert text.partition(": ")[2] == message


def test_what_objects_are_stored_by_stays() -> None:
    old, new = copy.deepcopy(GOOD), copy.deepcopy(GOOD)
    new["spec"]["scope"] = "Cluster"
    new["spec"]["names"]["kind"] = "C"
    assert told(new, old) == []
    old["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    assert told(new, old) == [
        'spec.scope: Invalid value: "Cluster": field is immutable',
        'spec.names.kind: Invalid value: "C": field is immutable',
    ]


SCHEMAS: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}, "[metadata]",
     "Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"),
    ({"a": {"type": "string", "default": 5}}, "[a].default",
     'Invalid value: "integer":  in body must be of type string: "integer"'),
    ({"a": {"type": "string", "pattern": "["}}, "[a].pattern",
     'Invalid value: "[": must be a valid regular expression, but isn\'t: unterminated character set'),
    ({"a": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "odd"}},
     "[a].x-kubernetes-list-type", 'Unsupported value: "odd": supported values: "atomic", "set", "map"'),
    ({"a": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"]}}, "[a].items.type",
     'Invalid value: "string": must be object if parent array\'s x-kubernetes-list-type is map'),
)  # fmt: skip


@pytest.mark.parametrize(("properties", "place", "message"), SCHEMAS)
def test_a_schema_makes_sense(properties: dict[str, Any], place: str, message: str) -> None:
    (cause,) = check_schema({"type": "object", "properties": properties}, "s")
    assert (cause.field, cause.message) == (f"s.properties{place}", message)


def test_patterns_of_gos_dialect_are_let_pass() -> None:
    properties = {"a": {"type": "string", "pattern": r"^\p{L}+[[:alpha:]]\z$"}}
    assert check_schema({"type": "object", "properties": properties}, "s") == []
