"""Volumes on disk: atomic files, modes, items, tokens that outlive the cloud, and hostPath checks."""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from edgehive.api.core import Pod, Volume
from edgehive.api.document import Document
from edgehive.edgecore.edged.volumes.local import LocalVolumes, VolumeError, memory_size, remove_pod_directory
from edgehive.edgecore.edged.volumes.projected import File, ProjectedVolumes, write_atomically
from edgehive.kit.clock import FixedClock, rfc3339
from edgehive.kube.errors import NotFound, Unreachable

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Api:
    """ConfigMaps by name, and tokens that say how often they were asked for."""

    def __init__(self, clock: FixedClock) -> None:
        self.maps: dict[str, dict[str, str]] = {}
        self.tokens = 0
        self.connected = True
        self._clock = clock

    async def get(self, resource: object, name: str, namespace: str) -> Document:
        if name not in self.maps:
            raise NotFound(f'configmaps "{name}" not found')
        return Document.of({"kind": "ConfigMap", "metadata": {"name": name}, "data": self.maps[name]})

    async def create(self, *_: object, **__: object) -> Document:
        if not self.connected:
            raise Unreachable("away")
        self.tokens += 1
        expires = rfc3339(self._clock.now() + timedelta(hours=1))
        return Document.of({"status": {"token": f"token-{self.tokens}", "expirationTimestamp": expires}})


def pod(*volumes: dict[str, Any]) -> Pod:
    body = {
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c"}], "volumes": list(volumes)},
    }
    return Document.of(body).read(Pod)


def only(wanted: Pod) -> Volume:
    return (wanted.spec.volumes or [])[0]


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock(NOW)


@pytest.fixture
def api(clock: FixedClock) -> Api:
    return Api(clock)


@pytest.fixture
def volumes(tmp_path: Path, api: Api, clock: FixedClock) -> ProjectedVolumes:
    return ProjectedVolumes(tmp_path, api, clock)  # type: ignore[arg-type]


def test_files_change_together_and_unchanged_ones_are_left(tmp_path: Path) -> None:
    assert write_atomically(tmp_path, {"a": File(b"1"), "deep/b": File(b"2", 0o400)}, 0o644)
    assert (tmp_path / "deep" / "b").read_bytes() == b"2"
    assert (tmp_path / "deep" / "b").stat().st_mode & 0o777 == 0o400
    before = os.readlink(tmp_path / "..data")
    assert not write_atomically(tmp_path, {"a": File(b"1"), "deep/b": File(b"2", 0o400)}, 0o644)
    assert os.readlink(tmp_path / "..data") == before
    assert write_atomically(tmp_path, {"a": File(b"3")}, 0o644)
    assert sorted(item.name for item in tmp_path.iterdir() if not item.name.startswith("..")) == ["a"]
    assert len([item for item in tmp_path.iterdir() if item.name.startswith("..2")]) == 1


@pytest.mark.parametrize("path", ["../out", "/etc/passwd", "a/../../b", "..data"])
def test_no_file_leaves_its_volume(tmp_path: Path, path: str) -> None:
    with pytest.raises(VolumeError):
        write_atomically(tmp_path, {path: File(b"")}, 0o644)


async def test_configmap_items_choose_keys_and_a_missing_one_is_named(volumes: ProjectedVolumes, api: Api) -> None:
    api.maps["cm"] = {"a": "1", "b": "2"}
    chosen = pod({"name": "v", "configMap": {"name": "cm", "items": [{"key": "b", "path": "x/y", "mode": 256}]}})
    folder = await volumes.prepare(chosen, only(chosen))
    assert (folder / "x" / "y").read_text() == "2"
    missing = pod({"name": "v", "configMap": {"name": "cm", "items": [{"key": "zz", "path": "z"}]}})
    with pytest.raises(VolumeError, match="zz"):
        await volumes.prepare(missing, only(missing))
    absent = pod({"name": "o", "configMap": {"name": "nowhere", "optional": True}})
    assert list((await volumes.prepare(absent, only(absent))).glob("[!.]*")) == []


async def test_downward_files_hold_the_pods_fields(volumes: ProjectedVolumes) -> None:
    wanted = pod(
        {"name": "v", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
    )
    assert ((await volumes.prepare(wanted, only(wanted))) / "labels").read_text() == 'app="x"'


async def test_tokens_are_renewed_at_80_percent_and_kept_when_that_fails(
    volumes: ProjectedVolumes, api: Api, clock: FixedClock
) -> None:
    source = {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}
    wanted = pod({"name": "v", "projected": {"sources": [source]}})
    token = (await volumes.prepare(wanted, only(wanted))) / "token"
    assert volumes.next_renewal("u") == NOW + timedelta(minutes=48)
    clock.set(NOW + timedelta(minutes=47))
    await volumes.prepare(wanted, only(wanted))
    assert token.read_text() == "token-1"
    clock.set(NOW + timedelta(minutes=49))
    await volumes.prepare(wanted, only(wanted))
    assert token.read_text() == "token-2"
    api.connected = False
    clock.set(NOW + timedelta(days=30))
    await volumes.prepare(wanted, only(wanted))
    assert token.read_text() == "token-2"


@pytest.mark.looptime
async def test_a_token_is_renewed_in_time_though_the_clock_was_set_back(
    volumes: ProjectedVolumes, clock: FixedClock
) -> None:
    wanted = pod({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})
    token = (await volumes.prepare(wanted, only(wanted))) / "token"
    clock.set(NOW - timedelta(days=30))
    await asyncio.sleep(47 * 60)
    await volumes.prepare(wanted, only(wanted))
    assert token.read_text() == "token-1"
    await asyncio.sleep(2 * 60)
    assert volumes.next_renewal("u") < clock.now()
    await volumes.prepare(wanted, only(wanted))
    assert token.read_text() == "token-2"


async def test_a_fresh_agent_offline_keeps_the_token_on_disk(
    volumes: ProjectedVolumes, api: Api, clock: FixedClock, tmp_path: Path
) -> None:
    wanted = pod({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})
    await volumes.prepare(wanted, only(wanted))
    api.connected = False
    again = ProjectedVolumes(tmp_path, api, clock)  # type: ignore[arg-type]
    assert ((await again.prepare(wanted, only(wanted))) / "token").read_text() == "token-1"


async def test_host_paths_are_checked_and_created_by_type(tmp_path: Path) -> None:
    local = LocalVolumes(tmp_path)
    made = pod({"name": "v", "hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}})
    assert (await local.prepare(made, only(made))).is_dir()
    wrong = pod({"name": "v", "hostPath": {"path": str(tmp_path / "new"), "type": "File"}})
    with pytest.raises(VolumeError, match="is not a file"):
        await local.prepare(wrong, only(wrong))


async def test_an_empty_dir_is_writable_and_goes_with_the_pod(tmp_path: Path) -> None:
    wanted = pod({"name": "v", "emptyDir": {}})
    folder = await LocalVolumes(tmp_path).prepare(wanted, only(wanted))
    assert folder == tmp_path / "pods/u/volumes/kubernetes.io~empty-dir/v"
    assert folder.stat().st_mode & 0o777 == 0o777
    await remove_pod_directory(tmp_path, "u")
    assert not (tmp_path / "pods" / "u").exists()
    with pytest.raises(VolumeError):
        await remove_pod_directory(tmp_path, "../u")


@pytest.mark.parametrize(("limit", "containers", "size"), [
    (None, [None], None), ("1Mi", [None], 2**20), (None, ["64Mi", None, "32Mi"], 96 * 2**20),
    ("1Gi", ["64Mi"], 64 * 2**20), ("1Mi", ["64Mi"], 2**20),
])  # fmt: skip
def test_memory_for_an_empty_dir_is_limited_by_itself_and_by_its_pod(
    limit: str | None, containers: list[str | None], size: int | None
) -> None:
    source = {"medium": "Memory"} | ({"sizeLimit": limit} if limit else {})
    wanted = pod({"name": "v", "emptyDir": source})
    body = [{"name": "c", "resources": {"limits": {"memory": item} if item else {}}} for item in containers]
    limited = Document.of({"spec": {"containers": body}}).read(Pod)
    empty_dir = only(wanted).empty_dir
    assert empty_dir is not None
    assert memory_size(empty_dir, limited) == size
