"""What the server tells about itself: groups, versions, resources, in the old form and the aggregated one. Pure.

Go: k8s.io/apiserver/pkg/endpoints/discovery
"""

from collections.abc import Iterable
from typing import Any

from edgehive.kube.server.catalog import Catalog, Served

Json = dict[str, Any]

_AUTOSCALING = ("autoscaling", "v1", "Scale")
#: Subresources that are of another kind than their parent: (group, version, kind) and verbs.
_SUBRESOURCES: dict[tuple[str, str], tuple[tuple[str, str, str], tuple[str, ...]]] = {
    ("pods", "binding"): (("", "v1", "Binding"), ("create",)),
    ("pods", "eviction"): (("policy", "v1", "Eviction"), ("create",)),
    ("pods", "exec"): (("", "v1", "PodExecOptions"), ("create", "get")),
    ("pods", "attach"): (("", "v1", "PodAttachOptions"), ("create", "get")),
    ("pods", "portforward"): (("", "v1", "PodPortForwardOptions"), ("create", "get")),
    ("serviceaccounts", "token"): (("authentication.k8s.io", "v1", "TokenRequest"), ("create",)),
}
_PROXY_VERBS = ("create", "delete", "get", "patch", "update")
_PART_VERBS = ("get", "patch", "update")


def _subresource(served: Served, name: str) -> tuple[tuple[str, str, str], tuple[str, ...]]:
    row = served.resource
    own = row.group, row.version, row.kind
    if name == "scale":
        return _AUTOSCALING, _PART_VERBS
    if name == "log":
        return own, ("get",)
    if name == "finalize":
        return own, ("update",)
    if name == "proxy":
        return (row.group, row.version, f"{row.kind}ProxyOptions"), _PROXY_VERBS
    return _SUBRESOURCES.get((row.plural, name), (own, _PART_VERBS))


def resource_list(group: str, version: str, served: Iterable[Served]) -> Json:
    """APIResourceList of one group version."""
    resources: list[Json] = []
    for item in sorted(served, key=lambda item: item.resource.plural):
        resources.append(_resource(item))
        resources.extend(_flat_subresource(item, name) for name in sorted(item.resource.subresources))
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{version}" if group else version,
        "resources": resources,
    }


def _resource(served: Served) -> Json:
    row = served.resource
    entry: Json = {"name": row.plural, "singularName": row.singular, "namespaced": row.namespaced, "kind": row.kind,
                   "verbs": sorted(row.verbs)}  # fmt: skip
    if row.short_names:
        entry["shortNames"] = list(row.short_names)
    if row.categories:
        entry["categories"] = list(row.categories)
    return entry


def _flat_subresource(served: Served, name: str) -> Json:
    row = served.resource
    (group, version, kind), verbs = _subresource(served, name)
    entry: Json = {"name": f"{row.plural}/{name}", "singularName": "", "namespaced": row.namespaced}
    if (group, version) != (row.group, row.version):
        entry |= {"group": group, "version": version}
    return entry | {"kind": kind, "verbs": list(verbs)}


def core_versions(address: str) -> Json:
    """`GET /api`."""
    clients = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": clients}


def group_list(catalog: Catalog) -> Json:
    """`GET /apis`."""
    groups = [_group(name, versions) for name, versions in catalog.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalog: Catalog, name: str) -> Json | None:
    """`GET /apis/GROUP`."""
    versions = catalog.groups().get(name)
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions) if versions else None


def _group(name: str, versions: Iterable[str]) -> Json:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in by_preference(versions)]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def by_preference(versions: Iterable[str]) -> list[str]:
    """Stable before beta before alpha, newer before older."""
    return sorted(versions, key=_rank)


def _rank(version: str) -> tuple[int, int, int]:
    import re

    match = re.fullmatch(r"v(\d+)(?:(alpha|beta)(\d+))?", version)
    if match is None:
        return (3, 0, 0)
    stage = {None: 0, "beta": 1, "alpha": 2}[match.group(2)]
    return stage, -int(match.group(1)), -int(match.group(3) or 0)


def aggregated(catalog: Catalog, *, core: bool, version: str) -> Json:
    """APIGroupDiscoveryList of `/api` or `/apis`."""
    items = [_discovered(name, versions) for name, versions in catalog.groups().items() if (name == "") == core]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"apidiscovery.k8s.io/{version}",
        "metadata": {},
        "items": items,
    }


def _discovered(name: str, versions: dict[str, list[Served]]) -> Json:
    return {
        "metadata": {"name": name, "creationTimestamp": None} if name else {"creationTimestamp": None},
        "versions": [
            {
                "version": version,
                "resources": [_discovered_resource(item) for item in versions[version]],
                "freshness": "Current",
            }
            for version in by_preference(versions)
        ],
    }


def _discovered_resource(served: Served) -> Json:
    row = served.resource
    entry: Json = {
        "resource": row.plural,
        "responseKind": _kind(row.group, row.version, row.kind),
        "scope": "Namespaced" if row.namespaced else "Cluster",
        "singularResource": row.singular,
        "verbs": sorted(row.verbs),
    }
    if row.short_names:
        entry["shortNames"] = list(row.short_names)
    if row.categories:
        entry["categories"] = list(row.categories)
    if row.subresources:
        entry["subresources"] = [_discovered_subresource(served, name) for name in sorted(row.subresources)]
    return entry


def _discovered_subresource(served: Served, name: str) -> Json:
    kind, verbs = _subresource(served, name)
    return {"subresource": name, "responseKind": _kind(*kind), "verbs": list(verbs)}


def _kind(group_name: str, version: str, kind: str) -> Json:
    return {"group": group_name, "version": version, "kind": kind}
