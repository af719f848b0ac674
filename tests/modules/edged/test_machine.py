"""What the machine tells of itself."""

from pathlib import Path

from edgehive.edgecore.edged import machine


def test_a_disk_of_its_own_for_images_is_a_signal_of_its_own(tmp_path: Path) -> None:
    shared = machine.amounts(tmp_path / "not" / "yet", tmp_path)
    assert {"memory.available", "nodefs.available"} <= shared.keys()
    assert 0 < shared["nodefs.available"].available <= shared["nodefs.available"].capacity
    assert not any(name.startswith("imagefs") for name in shared)
    assert "imagefs.available" in machine.amounts(tmp_path, Path("/proc"))
    assert machine.amounts(tmp_path, tmp_path / "missing").keys() == shared.keys()
