"""The resource path grammar: the only file that splits or joins one.

    inside cloudcore      node/<node>/<namespace>/<type>[/<name>[/<rest>]]
    on the wire, at edge  <namespace>/<type>[/<name>[/<rest>]]

Cluster-scoped objects have the literal namespace `null`. Paths that are no object (`node`, `membership`,
`k8s/ca.crt`, node jobs, topics) pass through as text: `Resource.parse` raises and the caller keeps the string.
"""

from typing import NamedTuple

NULL_NAMESPACE = "null"


class Resource(NamedTuple):
    """A parsed path; `node` is "" on the edge and on the wire. `name` may hold further slashes."""

    namespace: str
    type: str
    name: str = ""
    node: str = ""

    @classmethod
    def parse(cls, path: str, *, prefixed: bool = False) -> "Resource":
        """Read a path; `prefixed` demands the cloud's `node/<node>/` in front. Raises ValueError."""
        node = ""
        rest = path
        if prefixed:
            head, _, tail = path.partition("/")
            node, _, rest = tail.partition("/")
            if head != "node" or not node or not rest:
                raise ValueError(f"resource {path!r} does not begin with node/<node>/")
        parts = rest.split("/", 2)
        if len(parts) < 2 or not all(parts):
            raise ValueError(f"resource {path!r} is not <namespace>/<type>[/<name>]")
        return cls(parts[0], parts[1], parts[2] if len(parts) == 3 else "", node)

    def __str__(self) -> str:
        path = f"{self.namespace}/{self.type}" + (f"/{self.name}" if self.name else "")
        return f"node/{self.node}/{path}" if self.node else path

    @property
    def api_namespace(self) -> str:
        """The namespace to ask the API server with: "" for cluster scope."""
        return "" if self.namespace == NULL_NAMESPACE else self.namespace


def of(type: str, namespace: str, name: str = "", node: str = "") -> Resource:
    """A resource for an API object; an empty namespace becomes `null`."""
    return Resource(namespace or NULL_NAMESPACE, type, name, node)


def strip_node(path: str) -> tuple[str, str]:
    """(node, rest) of a cloud path; ("", path) when it has no node prefix (node jobs keep their tail)."""
    head, _, tail = path.partition("/")
    node, _, rest = tail.partition("/")
    return (node, rest) if head == "node" and node and rest else ("", path)


def add_node(node: str, path: str) -> str:
    return f"node/{node}/{path}"
