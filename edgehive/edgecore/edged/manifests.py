"""Manifests of static pods: text of a file -> the pod this node runs, and the mirror the API shows of it. Pure.

For `static_pods.py`. A static pod is named after its node, and its UID is a hash of what the file says, so that the
same file is the same pod after every restart.
Go: pkg/kubelet/config/common.go, pkg/kubelet/pod/mirror_client.go
"""

import copy
import hashlib
import re
from typing import Any, Final

import msgspec

from edgehive.api.core import Pod
from edgehive.api.document import Document
from edgehive.kube.server.pod_defaults import default_pod

HASH: Final = "kubernetes.io/config.hash"
MIRROR: Final = "kubernetes.io/config.mirror"
SOURCE: Final = "kubernetes.io/config.source"
SEEN: Final = "kubernetes.io/config.seen"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LONGEST_NAME = 253


class ManifestError(ValueError):
    """Not a pod's manifest; one sentence naming the file and what is wrong."""


def static_pod(text: bytes, source: str, node_name: str, seen: str) -> Document:
    """The pod a manifest in YAML or JSON describes; raises ManifestError. `seen` is when it was read first."""
    made = _parse(text, source)
    meta, spec = made["metadata"], made["spec"]
    uid = _uid(made, source, node_name)
    meta["name"] = f"{meta['name']}-{node_name.lower()}"
    meta["uid"] = uid
    meta["namespace"] = meta.get("namespace") or "default"
    meta["annotations"] = {**(meta.get("annotations") or {}), HASH: uid, SEEN: seen, SOURCE: "file"}
    for field in ("name", "namespace"):
        if not _NAME.fullmatch(meta[field]) or len(meta[field]) > _LONGEST_NAME:
            raise ManifestError(
                f"{source}: metadata.{field} {meta[field]!r} must be of lower case letters, digits, - and ."
            )
    spec["nodeName"] = node_name
    # Trouble of the node is no reason to remove what only the node's file may remove.
    spec["tolerations"] = [*(spec.get("tolerations") or ()), {"operator": "Exists", "effect": "NoExecute"}]
    default_pod(made)
    return Document.of(made)


def mirror_of(pod: Document, node_name: str, node_uid: str) -> dict[str, Any]:
    """What to create at the API server so that everybody sees the static pod there."""
    body = copy.deepcopy(pod.to_dict())
    meta = body["metadata"]
    meta["annotations"][MIRROR] = meta["annotations"][HASH]
    meta["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node_uid, "controller": True}
    ]
    del meta["uid"]
    del body["status"]
    return body


def is_mirror(document: Document) -> bool:
    return bool(mirrored_hash(document))


def is_static(document: Document) -> bool:
    annotations = document.meta.annotations or {}
    return annotations.get(SOURCE, "api") != "api" and MIRROR not in annotations


def mirrored_hash(document: Document) -> str:
    """The hash of the manifest this object mirrors; "" when it is no mirror."""
    return (document.meta.annotations or {}).get(MIRROR, "")


def _parse(text: bytes, source: str) -> dict[str, Any]:
    # Most nodes have no manifest: the parser is loaded by those that do.
    import yaml

    from edgehive.kit.config import parse_yaml

    try:
        made = parse_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ManifestError(f"{source}: {' '.join(str(error).split())}") from error
    if not isinstance(made, dict) or (made.get("kind"), made.get("apiVersion")) != ("Pod", "v1"):
        raise ManifestError(f"{source}: a static pod's manifest has kind: Pod and apiVersion: v1")
    meta, spec = made.get("metadata"), made.get("spec")
    if not isinstance(meta, dict) or not isinstance(meta.get("name"), str):
        raise ManifestError(f"{source}: metadata.name is missing")
    if not isinstance(spec, dict) or not spec.get("containers"):
        raise ManifestError(f"{source}: spec.containers is missing")
    made.pop("status", None)
    try:
        Document.of(made).read(Pod)
    except (msgspec.MsgspecError, TypeError) as error:
        raise ManifestError(f"{source}: {error}") from error
    return made


def _uid(made: dict[str, Any], source: str, node_name: str) -> str:
    own = made["metadata"].get("uid")
    if own:
        return str(own)
    content = msgspec.json.encode(made, order="sorted")
    return hashlib.sha256(content + f"\0host:{node_name}\0file:{source}".encode()).hexdigest()[:32]
