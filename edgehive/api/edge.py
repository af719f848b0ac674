"""Lenses of KubeEdge's own kinds: ObjectSync and ClusterObjectSync. Data only.

An ObjectSync is the cloud's written memory of one object on one node: its name is `<node>.<uid>` and its
status holds the version the node acknowledged last.

Go: staging/src/github.com/kubeedge/api/apis/reliablesyncs/v1alpha1/types.go
"""

import msgspec

from edgehive.api.core import Lens
from edgehive.api.meta import ObjectMeta


class ObjectSyncSpec(Lens, frozen=True):
    object_api_version: str = msgspec.field(default="", name="objectAPIVersion")
    object_kind: str = ""
    object_name: str = ""


class ObjectSyncStatus(Lens, frozen=True):
    object_resource_version: str = ""


class ObjectSync(Lens, frozen=True):
    """Either kind; a ClusterObjectSync has no namespace."""

    metadata: ObjectMeta = ObjectMeta()
    spec: ObjectSyncSpec = ObjectSyncSpec()
    status: ObjectSyncStatus = ObjectSyncStatus()


def object_sync_name(node: str, uid: str) -> str:
    return f"{node}.{uid}"


def split_object_sync_name(name: str) -> tuple[str, str]:
    """(node, uid): the node is all before the last dot, since node names may hold dots."""
    node, _, uid = name.rpartition(".")
    return node, uid
