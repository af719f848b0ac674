"""Has the API serve the kinds cloudcore works with: the delivery records, without which nothing goes, and devices.

`cloudcore.app` calls it once at start. It creates what is absent and changes nothing that is there; a server
that serves the kinds without definitions is left as it is.

Go: build/crds/{reliablesyncs,devices}
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from edgehive.api.registry import CLUSTER_OBJECT_SYNCS, CUSTOM_RESOURCE_DEFINITIONS, OBJECT_SYNCS, ApiResource
from edgehive.cloudcore.device_kinds import device_kinds
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, ApiError, NotFound

log = logging.getLogger("edgehive.cloudcore")

_PROBE = "edgehive-probe"


def definitions() -> dict[ApiResource, dict[str, Any]]:
    """The definition of each kind."""
    found = {resource: definition(resource) for resource in (OBJECT_SYNCS, CLUSTER_OBJECT_SYNCS)}
    for kind in device_kinds():
        found[kind.resource] = definition(kind.resource, kind.properties, columns=kind.columns, older=kind.older)
    return found


async def ensure_kinds(client: Client) -> None:
    """Create the definitions that are missing; an API that refuses is left to the informers to report."""
    for resource, body in definitions().items():
        try:
            if not await _is_served(client, resource):
                await client.create(CUSTOM_RESOURCE_DEFINITIONS, body)
                log.info("defined %s.%s, which the cluster did not have", resource.plural, resource.group)
        except AlreadyExists:
            continue
        except ApiError as error:
            log.warning("cannot see to %s.%s: %s", resource.plural, resource.group, error)


async def _is_served(client: Client, resource: ApiResource) -> bool:
    """A server that knows the kind names the object it does not have; another only says 404."""
    try:
        await client.get(resource, _PROBE, "default" if resource.namespaced else "")
    except NotFound as error:
        details = error.status.details
        return details is not None and details.name == _PROBE
    return True


def definition(
    resource: ApiResource,
    properties: Mapping[str, Any] | None = None,
    *,
    columns: Sequence[Mapping[str, Any]] = (),
    older: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """A kind's CustomResourceDefinition; `properties` are its schema's own, those of a record when not given.

    `older` are the properties of versions that are served and not stored.
    """
    versions = [_version(name, schema, storage=False) for name, schema in (older or {}).items()]
    version = _version(resource.version, _record_properties() if properties is None else properties, storage=True)
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


def _record_properties() -> dict[str, Any]:
    text = {"type": "string"}
    spec = {"objectAPIVersion": text, "objectKind": text, "objectName": text}
    return {
        "spec": {"type": "object", "properties": spec},
        "status": {"type": "object", "properties": {"objectResourceVersion": text}},
    }
