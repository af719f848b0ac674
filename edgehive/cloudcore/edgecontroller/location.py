"""Which node needs which ConfigMap, Secret, service account or claim, by the pods on it. Pure index.

edgecontroller fills it from the pods it sends down; it answers where a changed ConfigMap goes and whether a
node may ask for one. It forgets what a pod needed when the pod goes.

Go: cloud/pkg/edgecontroller/manager/location.go
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from edgehive.api.core import Container, Pod, Volume
from edgehive.wire.names import ResourceType

#: On the API's picture of a static pod.
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"


class Reference(NamedTuple):
    """One object a pod needs: wire type, namespace, name."""

    type: str
    namespace: str
    name: str


def references(pod: Pod) -> frozenset[Reference]:
    """All a pod needs before it can run; a mirror, which its node made, entitles that node to nothing."""
    if MIRROR_ANNOTATION in (pod.metadata.annotations or {}):
        return frozenset()
    account = (str(ResourceType.SERVICE_ACCOUNT_TOKEN), pod.spec.service_account_name or "default")
    return frozenset(Reference(type, pod.metadata.namespace, name) for type, name in (*needs_of(pod), account))


def needs_of(pod: Pod) -> frozenset[tuple[str, str]]:
    """(type, name) of all a pod names itself."""
    spec = pod.spec
    found = {(str(ResourceType.SECRET), secret.name) for secret in spec.image_pull_secrets or ()}
    for container in [*spec.containers, *(spec.init_containers or ()), *(spec.ephemeral_containers or ())]:
        found.update(_of_container(container))
    for volume in spec.volumes or ():
        found.update(_of_volume(volume))
        if volume.ephemeral is not None:
            found.add((str(ResourceType.PERSISTENT_VOLUME_CLAIM), f"{pod.metadata.name}-{volume.name}"))
    if spec.service_account_name:
        found.add((str(ResourceType.SERVICE_ACCOUNT_TOKEN), spec.service_account_name))
    return frozenset((type, name) for type, name in found if name)


def _of_container(container: Container) -> Iterator[tuple[str, str]]:
    for source in container.env_from or ():
        if source.config_map_ref is not None:
            yield ResourceType.CONFIG_MAP, source.config_map_ref.name
        if source.secret_ref is not None:
            yield ResourceType.SECRET, source.secret_ref.name
    for variable in container.env or ():
        if variable.value_from is None:
            continue
        if variable.value_from.config_map_key_ref is not None:
            yield ResourceType.CONFIG_MAP, variable.value_from.config_map_key_ref.name
        if variable.value_from.secret_key_ref is not None:
            yield ResourceType.SECRET, variable.value_from.secret_key_ref.name


def _of_volume(volume: Volume) -> Iterator[tuple[str, str]]:
    if volume.config_map is not None:
        yield ResourceType.CONFIG_MAP, volume.config_map.name
    if volume.secret is not None:
        yield ResourceType.SECRET, volume.secret.secret_name
    if volume.persistent_volume_claim is not None:
        yield ResourceType.PERSISTENT_VOLUME_CLAIM, volume.persistent_volume_claim.claim_name
    if volume.csi is not None and volume.csi.node_publish_secret_ref is not None:
        yield ResourceType.SECRET, volume.csi.node_publish_secret_ref.name
    for source in (volume.projected.sources or ()) if volume.projected is not None else ():
        if source.config_map is not None:
            yield ResourceType.CONFIG_MAP, source.config_map.name
        if source.secret is not None:
            yield ResourceType.SECRET, source.secret.name


class Location:
    """The index; one entry per pod that is on an edge node."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], tuple[str, frozenset[Reference]]] = {}
        self._nodes: dict[Reference, Counter[str]] = {}

    def put(self, pod: Pod) -> None:
        """Remember a pod as it is now."""
        key = (pod.metadata.namespace, pod.metadata.name)
        entry = (pod.spec.node_name, references(pod))
        if self._pods.get(key) == entry:
            return
        self.remove(*key)
        self._pods[key] = entry
        for reference in entry[1]:
            self._nodes.setdefault(reference, Counter())[entry[0]] += 1

    def remove(self, namespace: str, name: str) -> None:
        """Forget a pod."""
        node, needed = self._pods.pop((namespace, name), ("", frozenset()))
        for reference in needed:
            nodes = self._nodes[reference]
            nodes[node] -= 1
            if not nodes[node]:
                del nodes[node]
            if not nodes:
                del self._nodes[reference]

    def nodes_of(self, reference: Reference) -> list[str]:
        """The nodes with at least one pod that needs it."""
        return list(self._nodes.get(reference, ()))

    def needs(self, node: str, reference: Reference) -> bool:
        return node in self._nodes.get(reference, ())

    def __len__(self) -> int:
        return len(self._pods)


class Missed:
    """What nodes were told is not there.

    A Go edge keeps that answer in the object's place and serves it to every later pod, until it is sent the object.
    """

    def __init__(self, per_node: int = 256) -> None:
        self._per_node = per_node
        self._by_node: dict[str, dict[Reference, None]] = {}

    def note(self, node: str, reference: Reference) -> None:
        """Of more than are remembered the oldest is forgotten: its node finds it when it changes."""
        missed = self._by_node.setdefault(node, {})
        missed[reference] = None
        if len(missed) > self._per_node:
            del missed[next(iter(missed))]

    def among(self, node: str, wanted: frozenset[Reference]) -> list[Reference]:
        """Those of `wanted` that the node was told are not there."""
        return [reference for reference in self._by_node.get(node, ()) if reference in wanted]

    def forget(self, node: str, reference: Reference) -> None:
        """It was sent."""
        missed = self._by_node.get(node, {})
        missed.pop(reference, None)
        if not missed:
            self._by_node.pop(node, None)
