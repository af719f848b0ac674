"""Defaults and validation of one object, whichever way its kind is described.

Built-in kinds go by the ported Kubernetes rules (`defaults`, `validation`), custom resources by their CRD's
schema. Pure.
"""

from collections.abc import Mapping
from typing import Any

from edgehive.kube.server.defaults import apply_defaults
from edgehive.kube.server.options import Call

Json = dict[str, Any]


class Rules:
    """Completes and checks objects on their way to the store."""

    def complete(self, call: Call, obj: Json, old: Mapping[str, Any] | None) -> None:
        """Fill in defaults; a custom resource is pruned and checked against its schema as well."""
        if call.served.custom is not None:
            call.served.custom.admit(obj, old)
        else:
            apply_defaults(call.served.resource, obj)

    def check(self, call: Call, obj: Json, old: Mapping[str, Any] | None) -> None:
        """Raises Invalid with every cause."""
