"""Persistent volumes and the claims for them: lenses over what the node and the controllers read.

Data only. Go: k8s.io/api/core/v1/types.go
"""

import msgspec

from edgehive.api.core import HostPathVolumeSource, Lens, ObjectReference
from edgehive.api.meta import ObjectMeta


class LocalVolumeSource(Lens, frozen=True):
    path: str = ""
    fs_type: str | None = None


class PersistentVolumeSpec(Lens, frozen=True):
    """Of the sources only those that are folders of a node."""

    capacity: dict[str, str] | None = None
    access_modes: list[str] | None = None
    claim_ref: ObjectReference | None = None
    storage_class_name: str = ""
    volume_mode: str = "Filesystem"
    persistent_volume_reclaim_policy: str = "Retain"
    host_path: HostPathVolumeSource | None = None
    local: LocalVolumeSource | None = None


class VolumePhase(Lens, frozen=True):
    phase: str = ""


class PersistentVolume(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PersistentVolumeSpec = PersistentVolumeSpec()
    status: VolumePhase = VolumePhase()


class PersistentVolumeClaimSpec(Lens, frozen=True):
    access_modes: list[str] | None = None
    volume_name: str = ""
    storage_class_name: str | None = None
    volume_mode: str = "Filesystem"


class PersistentVolumeClaim(Lens, frozen=True):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PersistentVolumeClaimSpec = PersistentVolumeClaimSpec()
    status: VolumePhase = VolumePhase()
