"""CustomResourceDefinitions built from a kind's row and its schema. Pure.

Go: build/crds
"""

from collections.abc import Mapping, Sequence
from typing import Any

from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, ApiResource


def definition(
    resource: ApiResource,
    properties: Mapping[str, Any],
    *,
    columns: Sequence[Mapping[str, Any]] = (),
    older: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """A kind's CustomResourceDefinition; `properties` are its schema's own.

    `older` are the properties of versions that are served and not stored.
    """
    versions = [_version(name, schema, storage=False) for name, schema in (older or {}).items()]
    version = _version(resource.version, properties, storage=True)
    if resource.subresources:
        version["subresources"] = {name: {} for name in resource.subresources}
    if columns:
        version["additionalPrinterColumns"] = [dict(column) for column in columns]
    names: dict[str, Any] = {
        "kind": resource.kind,
        "listKind": resource.list_kind_name,
        "plural": resource.plural,
        "singular": resource.singular,
    }
    if resource.short_names:
        names["shortNames"] = list(resource.short_names)
    return {
        "apiVersion": CUSTOM_RESOURCE_DEFINITIONS.api_version,
        "kind": CUSTOM_RESOURCE_DEFINITIONS.kind,
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "names": names,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [*versions, version],
        },
    }


def _version(name: str, properties: Mapping[str, Any], *, storage: bool) -> dict[str, Any]:
    text = {"type": "string"}
    own = {"apiVersion": text, "kind": text, "metadata": {"type": "object"}, **properties}
    schema = {"openAPIV3Schema": {"type": "object", "properties": own}}
    return {"name": name, "served": True, "storage": storage, "schema": schema}
