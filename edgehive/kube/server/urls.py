"""Kubernetes URLs, read. Pure.

Go: k8s.io/apiserver/pkg/endpoints/request/requestinfo.go
"""

from dataclasses import dataclass

#: Subresources of a namespace; anything else after a namespace's name is a resource in it.
_OF_NAMESPACES = ("status", "finalize")


@dataclass(frozen=True, slots=True)
class ResourcePath:
    """`/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/SUBRESOURCE/REST`."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""
    #: The old `/watch/` form.
    watch: bool = False


def read(path: str) -> ResourcePath | None:
    """The resource a path names; None for discovery and other paths."""
    root, *parts = path.strip("/").split("/")
    if root == "api" and len(parts) >= 2:
        group, version, *parts = "", *parts
    elif root == "apis" and len(parts) >= 3:
        group, version, *parts = parts
    else:
        return None
    watch = parts[0] == "watch" and len(parts) > 1
    if watch:
        parts = parts[1:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) >= 3 and not (len(parts) == 3 and parts[2] in _OF_NAMESPACES):
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource, *rest = [*parts, "", "", ""][: max(len(parts), 3)]
    return ResourcePath(group, version, plural, namespace, name, subresource, "/".join(r for r in rest if r), watch)


def split_behind(raw_path: str, count: int) -> tuple[str, str]:
    """A path as it was sent: its first `count` segments, and the rest with slash and query, neither decoded."""
    segments = raw_path.partition("?")[0].split("/")
    prefix = "/".join(segments[: count + 1])
    return prefix, raw_path[len(prefix) :]
