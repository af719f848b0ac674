"""Volumes by claim: a folder of the node where claim and volume agree, one clear sentence where not."""

from pathlib import Path
from typing import Any

import pytest

from edgehive.api.core import Pod, Volume
from edgehive.api.document import Document
from edgehive.api.registry import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from edgehive.edgecore.edged.volumes.claims import ClaimedVolumes
from edgehive.edgecore.edged.volumes.local import VolumeError
from edgehive.testing.cluster import Cluster

POD = Document.of({"metadata": {"name": "web", "namespace": "default"}}).read(Pod)
VOLUME = Document.of({"name": "data", "persistentVolumeClaim": {"claimName": "shelf"}}).read(Volume)


async def asked(source: dict[str, Any], *, bound: bool = True, owner: str | None = None) -> Path:
    """What the pod gets for a claim on a volume with this source."""
    async with Cluster() as cluster:
        client = cluster.client()
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        claim = await client.create(
            PERSISTENT_VOLUME_CLAIMS,
            {"metadata": {"name": "shelf"}, "spec": {**spec, "volumeName": "pv", "storageClassName": ""}},
            "default",
        )
        if bound:
            await client.patch(
                PERSISTENT_VOLUME_CLAIMS, "shelf", {"status": {"phase": "Bound"}}, "default", subresource="status"
            )
        reference = {"namespace": "default", "name": "shelf", "uid": owner or claim.meta.uid}
        volume = {"capacity": {"storage": "1Mi"}, "accessModes": ["ReadWriteOnce"], "claimRef": reference, **source}
        await client.create(PERSISTENT_VOLUMES, {"metadata": {"name": "pv"}, "spec": volume})
        return await ClaimedVolumes(client).prepare(POD, VOLUME)


async def test_a_bound_claim_is_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "made"
    assert await asked({"hostPath": {"path": str(path), "type": "DirectoryOrCreate"}}) == path
    assert path.is_dir()
    assert await asked({"local": {"path": str(path)}, "nodeAffinity": AFFINITY}) == path


async def test_a_local_volume_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="is not a directory"):
        await asked({"local": {"path": str(tmp_path / "gone")}, "nodeAffinity": AFFINITY})


async def test_a_claim_that_is_not_bound_waits(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match='PersistentVolumeClaim "shelf" is not bound'):
        await asked({"hostPath": {"path": str(tmp_path)}}, bound=False)


async def test_a_volume_of_another_claim_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match='"pv" is not bound to the PersistentVolumeClaim "default/shelf"'):
        await asked({"hostPath": {"path": str(tmp_path)}}, owner="another-uid")


async def test_a_kind_of_volume_edged_does_not_know_is_named() -> None:
    with pytest.raises(VolumeError, match="it mounts hostPath and local"):
        await asked({"nfs": {"server": "files.example", "path": "/"}})


async def test_a_missing_claim_is_named() -> None:
    async with Cluster() as cluster:
        with pytest.raises(VolumeError, match='"shelf" not found'):
            await ClaimedVolumes(cluster.client()).prepare(POD, VOLUME)


AFFINITY = {
    "required": {
        "nodeSelectorTerms": [
            {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["e"]}]}
        ]
    }
}
