"""Static pods: files decide what runs, the cloud only sees it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from node_rig import NODE, Rig, node, until

from edgehive.api.registry import NODES, PODS
from edgehive.kube.errors import Forbidden

pytestmark = pytest.mark.looptime
NAME = f"web-{NODE}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "manifests"
    made.mkdir()
    return made


@pytest.fixture
async def rig(tmp_path: Path, folder: Path) -> AsyncIterator[Rig]:
    async with node(tmp_path / "root", static_pod_path=str(folder)) as rig:
        yield rig


def write(folder: Path, *, command: str = "serve", file: str = "web.yaml", name: str = "web") -> Path:
    spec = {"containers": [{"name": "c", "image": "localhost/busybox:1", "command": [command]}]}
    path = folder / file
    path.write_text(yaml.safe_dump({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}))
    return path


async def mirror(rig: Rig, *, other_than: str = "") -> dict[str, Any]:
    """The mirror, once there is one with a status."""
    status = await rig.until(NAME, lambda status: status.get("phase") == "Running", or_missing=True)
    found = (await rig.api.get(PODS, NAME, "default")).to_dict()
    assert status == found["status"]
    if found["metadata"]["uid"] == other_than:
        await rig.after(1)
        return await mirror(rig, other_than=other_than)
    return found


async def test_a_manifest_runs_without_the_cloud_and_is_mirrored_when_it_comes(rig: Rig, folder: Path) -> None:
    write(folder)
    rig.client.connected = False
    await rig.boot()
    await until(lambda: rig.runtime.running("c"))
    await rig.after(100)
    rig.client.connected = True
    await rig.tell("connect", "node/connection", "cloud_connected")
    seen = await mirror(rig)
    meta = seen["metadata"]
    static = rig.runtime.containers[rig.runtime.running("c")[0]].labels["io.kubernetes.pod.uid"]
    assert meta["annotations"]["kubernetes.io/config.mirror"] == static != meta["uid"]
    assert meta["annotations"]["kubernetes.io/config.hash"] == static
    assert meta["annotations"]["kubernetes.io/config.source"] == "file"
    (owner,) = meta["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", NODE, (await rig.api.get(NODES, NODE)).meta.uid)
    assert seen["spec"]["nodeName"] == NODE
    assert seen["spec"]["tolerations"] == [{"operator": "Exists", "effect": "NoExecute"}]
    assert seen["status"]["containerStatuses"][0]["ready"] is True


async def test_a_mirror_somebody_deletes_is_made_again_and_nothing_stops(rig: Rig, folder: Path) -> None:
    write(folder)
    await rig.boot()
    seen = await mirror(rig)
    containers = rig.runtime.running("c")
    await rig.delete(seen)
    await rig.gone(NAME, but=seen["metadata"]["uid"])
    await rig.tell("delete", f"default/pod/{NAME}", seen)
    again = await mirror(rig, other_than=seen["metadata"]["uid"])
    assert again["metadata"]["annotations"] == seen["metadata"]["annotations"]
    assert rig.runtime.running("c") == containers
    (container,) = containers
    rig.runtime.exit(container, 1)
    await rig.until(NAME, lambda status: status["containerStatuses"][0]["restartCount"] == 1)


async def test_a_changed_file_is_another_pod_and_a_removed_one_is_none(rig: Rig, folder: Path) -> None:
    path = write(folder)
    await rig.boot()
    first = await mirror(rig)
    write(folder, command="serve-better")
    second = await mirror(rig, other_than=first["metadata"]["uid"])
    assert second["spec"]["containers"][0]["command"] == ["serve-better"]
    await until(lambda: len(rig.runtime.sandboxes) == 1)
    path.unlink()
    await until(lambda: not rig.runtime.sandboxes)
    await rig.gone(NAME)


async def test_a_restart_adopts_what_the_files_still_say_and_stops_what_they_do_not(rig: Rig, folder: Path) -> None:
    write(folder)
    gone = write(folder, file="gone.yaml", name="gone")
    async with rig.running():
        await mirror(rig)
        await rig.until(f"gone-{NODE}", lambda status: status.get("phase") == "Running", or_missing=True)
        before = set(rig.runtime.running("c"))
    gone.unlink()
    async with rig.running():
        await until(lambda: len(rig.runtime.sandboxes) == 1)
        await rig.gone(f"gone-{NODE}")
        assert set(rig.runtime.running("c")) < before
        rig.runtime.exit(rig.runtime.running("c")[0], 1)
        await rig.until(NAME, lambda status: status["containerStatuses"][0]["restartCount"] == 1)


async def test_a_file_that_makes_no_sense_changes_nothing_and_is_named_once(
    rig: Rig, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(folder)
    await rig.boot()
    await mirror(rig)
    containers = rig.runtime.running("c")
    path.write_text("kind: [")
    (folder / "list.yaml").write_text("kind: List\napiVersion: v1\n")
    write(folder, file="web2.yaml")
    (folder / ".hidden.yaml").write_text("{")
    await rig.after(60)
    assert rig.runtime.running("c") == containers
    refused = sorted(item.getMessage() for item in caplog.records if "static pod refused" in item.getMessage())
    texts = [text.partition(f"{folder}/")[2] for text in refused]
    assert texts[0] == "list.yaml: a static pod's manifest has kind: Pod and apiVersion: v1"
    assert texts[1].startswith("web.yaml: while parsing a flow node")
    assert texts[2:] == ["web2.yaml: another manifest describes default/web-edge-1 already"]


async def test_a_folder_that_cannot_be_read_stops_nothing(rig: Rig, folder: Path, monkeypatch: Any) -> None:
    write(folder)
    await rig.boot()
    await mirror(rig)
    containers = rig.runtime.running("c")

    def broken(_: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", broken)
    await rig.after(60)
    assert rig.runtime.running("c") == containers


async def test_a_file_that_is_away_for_one_look_stops_no_pod(rig: Rig, folder: Path, monkeypatch: Any) -> None:
    """Editors and copying tools replace a file by removing it first."""
    path, _ = write(folder), write(folder, file="other.yaml", name="other")
    await rig.boot()
    await mirror(rig)
    await until(lambda: len(rig.runtime.running("c")) == 2)
    containers = rig.runtime.running("c")
    listing, text = Path.iterdir, path.read_bytes()
    looks: list[int] = []

    def away_when_looked_at(root: Path) -> Any:
        path.write_bytes(text)
        names = list(listing(root))
        if not looks:
            path.unlink()
        looks.append(1)
        return iter(names)

    monkeypatch.setattr(Path, "iterdir", away_when_looked_at)
    await until(lambda: len(looks) > 2)
    await rig.after(10)
    assert rig.runtime.running("c") == containers
    monkeypatch.setattr(Path, "iterdir", listing)
    path.unlink()
    await until(lambda: len(rig.runtime.sandboxes) == 1)


async def test_a_mirror_the_cloud_refuses_holds_up_no_other(rig: Rig, folder: Path, monkeypatch: Any) -> None:
    create = rig.client.create

    async def refuses_one(resource: Any, body: Any, *arguments: Any, **options: Any) -> Any:
        if body["metadata"]["name"].startswith("bad-"):
            raise Forbidden("a policy of the cluster refuses this pod")
        return await create(resource, body, *arguments, **options)

    monkeypatch.setattr(rig.client, "create", refuses_one)
    write(folder, file="a-bad.yaml", name="bad")
    path = write(folder)
    await rig.boot()
    await mirror(rig)
    assert len(rig.runtime.running("c")) == 2
    path.unlink()
    await rig.gone(NAME)
    monkeypatch.undo()
    await rig.until(f"bad-{NODE}", lambda status: status.get("phase") == "Running", or_missing=True)
