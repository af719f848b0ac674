"""Which kinds there are: the built-in ones and those that CustomResourceDefinitions serve now."""

import msgspec

from edgehive.api.registry import ApiResource
from edgehive.kube.informer import Informer


class _Names(msgspec.Struct, rename="camel", frozen=True):
    kind: str = ""
    plural: str = ""
    singular: str = ""


class _Version(msgspec.Struct, rename="camel", frozen=True):
    name: str = ""
    served: bool = False
    storage: bool = False


class _Spec(msgspec.Struct, rename="camel", frozen=True):
    group: str = ""
    scope: str = ""
    names: _Names = _Names()
    versions: list[_Version] = msgspec.field(default_factory=list)


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Status(msgspec.Struct, frozen=True):
    conditions: list[_Condition] | None = None


class _Definition(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()
    status: _Status = _Status()


def custom_resources(definitions: Informer) -> list[ApiResource]:
    """A row for every established definition, in its stored version where that is served."""
    rows = []
    for document in definitions.items():
        definition = document.read(_Definition)
        spec = definition.spec
        served = sorted((item for item in spec.versions if item.served), key=lambda item: not item.storage)
        established = any(c.type == "Established" and c.status == "True" for c in definition.status.conditions or ())
        if served and established:
            namespaced = spec.scope == "Namespaced"
            rows.append(ApiResource(spec.group, served[0].name, spec.names.kind, spec.names.plural, namespaced))
    return rows
