"""Which resources are served right now, and how each behaves on writes.

Built-in rows come from `api.registry`; custom resources join and leave at run time. The faces look up URLs
here; discovery and OpenAPI are made from it and follow its `epoch`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgehive.api.registry import BUILTIN, ApiResource
from edgehive.kube.errors import qualified

#: Kinds whose `metadata.generation` Kubernetes keeps.
_GENERATION = frozenset({
    "deployments.apps", "replicasets.apps", "statefulsets.apps", "daemonsets.apps", "jobs.batch", "cronjobs.batch",
    "replicationcontrollers", "ingresses.networking.k8s.io", "ingressclasses.networking.k8s.io",
    "networkpolicies.networking.k8s.io", "poddisruptionbudgets.policy", "priorityclasses.scheduling.k8s.io",
    "endpointslices.discovery.k8s.io", "customresourcedefinitions.apiextensions.k8s.io",
    "podtemplates",
})  # fmt: skip
#: Kinds that refuse a PUT without resourceVersion.
_CONDITIONAL = frozenset({"leases.coordination.k8s.io", "csinodes.storage.k8s.io"})
#: Kinds a PUT to a missing name creates.
_UPSERT = frozenset({
    "endpoints", "services", "leases.coordination.k8s.io", "events", "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io", "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
})  # fmt: skip


#: Kinds of one group that are a view on those of another.
_VIEWS = {"events.events.k8s.io": "events"}


def _stored_as(resource: ApiResource) -> str:
    name = qualified(resource.plural, resource.group)
    return _VIEWS.get(name, name)


class CustomVersion(Protocol):
    """What a CRD version adds to the rules: its schema, scale paths and printer columns."""

    @property
    def columns(self) -> tuple[dict[str, Any], ...]: ...
    @property
    def scale(self) -> Mapping[str, str] | None: ...
    @property
    def selectable(self) -> tuple[str, ...]: ...
    @property
    def schema(self) -> Mapping[str, Any] | None: ...
    @property
    def since(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Served:
    """One resource in one version, with its write rules."""

    resource: ApiResource
    custom: CustomVersion | None = None
    tracks_generation: bool = False
    unconditional_update: bool = True
    create_on_update: bool = False

    @property
    def storage(self) -> str:
        """The store's name for it: the same for all versions and views."""
        return _stored_as(self.resource)

    @property
    def has_status(self) -> bool:
        return "status" in self.resource.subresources


def builtin(resource: ApiResource) -> Served:
    """A row served without a CRD."""
    name = _stored_as(resource)
    return Served(
        resource,
        tracks_generation=name in _GENERATION or resource.group.endswith(".kubeedge.io"),
        unconditional_update=name not in _CONDITIONAL,
        create_on_update=name in _UPSERT,
    )


class Catalog:
    """All served resources."""

    def __init__(self, resources: Iterable[ApiResource] = BUILTIN) -> None:
        self._served: dict[tuple[str, str, str], Served] = {}
        self._custom: dict[str, list[Served]] = {}
        self.epoch = 0
        #: What is served without a definition, and stays.
        self.builtin = tuple(resources)
        for resource in self.builtin:
            self._add(builtin(resource))

    def _add(self, served: Served) -> None:
        row = served.resource
        self._served[row.group, row.version, row.plural] = served

    def find(self, group: str, version: str, plural: str) -> Served | None:
        return self._served.get((group, version, plural))

    def of(self, resource: ApiResource) -> Served | None:
        """How a client's row is served here."""
        return self._served.get((resource.group, resource.version, resource.plural))

    def all(self) -> list[Served]:
        return list(self._served.values())

    def groups(self) -> dict[str, dict[str, list[Served]]]:
        """Group to version to resources, in the order they came."""
        tree: dict[str, dict[str, list[Served]]] = {}
        for served in self._served.values():
            tree.setdefault(served.resource.group, {}).setdefault(served.resource.version, []).append(served)
        return tree

    def set_custom(self, crd: str, versions: list[Served]) -> None:
        """Serve a CRD's versions in place of what it had before; none takes it out."""
        for old in self._custom.pop(crd, []):
            row = old.resource
            self._served.pop((row.group, row.version, row.plural), None)
        if versions:
            self._custom[crd] = versions
        for served in versions:
            self._add(served)
        self.epoch += 1
