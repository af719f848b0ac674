"""Has the API serve the kinds cloudcore works with: the delivery records, without which nothing goes, and devices.

`cloudcore.app` calls it once at start. It creates what is absent and changes nothing that is there; a server
that serves the kinds without definitions is left as it is.

Go: build/crds/{reliablesyncs,devices}
"""

import logging
from typing import Any

from edgehive.api.definition import definition
from edgehive.api.device_kinds import device_kinds
from edgehive.api.registry import CLUSTER_OBJECT_SYNCS, CUSTOM_RESOURCE_DEFINITIONS, OBJECT_SYNCS, ApiResource
from edgehive.kube.client import Client
from edgehive.kube.errors import AlreadyExists, ApiError, NotFound

log = logging.getLogger("edgehive.cloudcore")

_PROBE = "edgehive-probe"


def definitions() -> dict[ApiResource, dict[str, Any]]:
    """The definition of each kind."""
    found = {resource: definition(resource, _record_properties()) for resource in (OBJECT_SYNCS, CLUSTER_OBJECT_SYNCS)}
    for kind in device_kinds():
        found[kind.resource] = kind.definition()
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


def _record_properties() -> dict[str, Any]:
    text = {"type": "string"}
    spec = {"objectAPIVersion": text, "objectKind": text, "objectName": text}
    return {
        "spec": {"type": "object", "properties": spec},
        "status": {"type": "object", "properties": {"objectResourceVersion": text}},
    }
