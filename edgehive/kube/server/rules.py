"""Defaults and validation of one object, whichever way its kind is described.

Built-in kinds go by the ported Kubernetes rules (`defaults`, `validation`), custom resources by their CRD's
schema. Pure.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from edgehive.api.meta import ObjectMeta
from edgehive.api.registry import CUSTOM_RESOURCE_DEFINITIONS, ApiResource
from edgehive.kube.errors import BadRequest, invalid
from edgehive.kube.server import crd_validation, schema
from edgehive.kube.server.conform import conform, strict_error
from edgehive.kube.server.defaults import apply_defaults
from edgehive.kube.server.options import Call
from edgehive.kube.server.validation import validate_create, validate_status, validate_update

Json = dict[str, Any]


def _check_metadata(row: ApiResource, obj: Json) -> None:
    """What no CRD's schema describes; raises BadRequest."""
    metadata = obj.get("metadata") or {}
    if isinstance(metadata, dict):
        metadata = {name: value for name, value in metadata.items() if value is not None}
    try:
        msgspec.convert(metadata, ObjectMeta)
    except msgspec.ValidationError as error:
        raise BadRequest(
            f'{row.kind} in version "{row.version}" cannot be handled as a {row.kind}: metadata: {error}'
        ) from error


class Rules:
    """Completes and checks objects on their way to the store."""

    def shape(self, call: Call, obj: Json) -> Json:
        """A built-in object from outside as its kind holds it; unknown fields are told or refused (BadRequest)."""
        row = call.served.resource
        if not call.field_validation:
            return obj
        if call.served.custom is not None:
            _check_metadata(row, obj)
            return obj
        shaped, problems = conform(row.api_version, row.kind, obj)
        self._tell(call, [*problems, *call.duplicate_fields])
        return shaped

    def _tell(self, call: Call, problems: list[str]) -> None:
        row = call.served.resource
        if problems and call.field_validation == "Strict":
            raise strict_error(row.api_version, row.kind, problems)
        if call.field_validation == "Warn":
            call.warnings.extend(problems)

    def complete(self, call: Call, obj: Json) -> None:
        """Fill in defaults; a custom resource loses what its schema does not name."""
        if call.served.custom is None:
            apply_defaults(call.served.resource, obj)
        elif rules := call.served.custom.schema:
            self._tell(call, [f'unknown field "{path}"' for path in sorted(schema.prune(rules, obj))])
            schema.default(rules, obj)

    def check(self, call: Call, obj: Json, old: Mapping[str, Any] | None) -> None:
        """Raises Invalid with every cause."""
        row = call.served.resource
        if old is None:
            causes = validate_create(row, obj)
        else:
            validate = validate_status if call.subresource == "status" else validate_update
            causes = validate(row, dict(old), obj)
        if row == CUSTOM_RESOURCE_DEFINITIONS and (old is None or old.get("spec") != obj.get("spec")):
            causes += crd_validation.validate_definition(obj, old)
            call.warnings += crd_validation.unknown_formats(obj)
        if call.served.custom is not None and call.served.custom.schema:
            causes += schema.validate(call.served.custom.schema, obj)
        if causes:
            # Kubernetes speaks of Events under their old name through either door.
            group = "" if call.served.storage == "events" else row.group
            raise invalid(row.kind, group, obj["metadata"].get("name", ""), causes)
