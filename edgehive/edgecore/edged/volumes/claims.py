"""persistentVolumeClaim: the claim's volume where it is a folder of this node (hostPath or local).

For `runtime.py`. The claim and the volume come through the local store, so a pod starts again without the cloud.
A claim is used only when both sides say that they belong together. Never creates a volume or binds a claim.

Go: pkg/kubelet/volumemanager/populator, pkg/volume/local
"""

from pathlib import Path

from edgehive.api.core import HostPathVolumeSource, Pod, Volume
from edgehive.api.registry import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from edgehive.api.storage import PersistentVolume, PersistentVolumeClaim
from edgehive.edgecore.edged.volumes.local import VolumeError, host_path
from edgehive.kube.client import Client
from edgehive.kube.errors import ApiError


class ClaimedVolumes:
    """Volumes a pod has through a claim of its namespace."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def handles(self, volume: Volume) -> bool:
        return volume.persistent_volume_claim is not None

    async def prepare(self, pod: Pod, volume: Volume) -> Path:
        assert volume.persistent_volume_claim is not None
        name = volume.persistent_volume_claim.claim_name
        try:
            asked = await self._client.get(PERSISTENT_VOLUME_CLAIMS, name, pod.metadata.namespace)
            claim = asked.read(PersistentVolumeClaim)
            check_claim(claim, name)
            found = await self._client.get(PERSISTENT_VOLUMES, claim.spec.volume_name)
        except ApiError as error:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error
        return place(volume.name, claim, found.read(PersistentVolume))


def check_claim(claim: PersistentVolumeClaim, name: str) -> None:
    """Raise VolumeError unless the claim is bound and stays."""
    if claim.metadata.deletion_timestamp is not None:
        raise VolumeError(f'PersistentVolumeClaim "{name}" is being deleted')
    if claim.status.phase != "Bound" or not claim.spec.volume_name:
        raise VolumeError(f'PersistentVolumeClaim "{name}" is not bound')
    if claim.spec.volume_mode == "Block":
        raise VolumeError(f'PersistentVolumeClaim "{name}" asks for a block device; edged mounts file systems only')


def place(name: str, claim: PersistentVolumeClaim, volume: PersistentVolume) -> Path:
    """The folder of a bound volume on this node; raises VolumeError."""
    owner = volume.spec.claim_ref
    if owner is None or owner.uid != claim.metadata.uid:
        raise VolumeError(
            f'PersistentVolume "{volume.metadata.name}" is not bound to the PersistentVolumeClaim '
            f'"{claim.metadata.namespace}/{claim.metadata.name}"'
        )
    if volume.spec.host_path is not None:
        return host_path(name, volume.spec.host_path)
    if volume.spec.local is not None:
        return host_path(name, HostPathVolumeSource(path=volume.spec.local.path, type="Directory"))
    raise VolumeError(
        f'PersistentVolume "{volume.metadata.name}" is of a type edged cannot mount: it mounts hostPath and local'
    )
