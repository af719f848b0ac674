"""The halves apart, as examples/two-hosts/run shows them: joined over TLS, cut off, and together again."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(150)]

RUN = Path(__file__).parents[2] / "examples" / "two-hosts" / "run"


@pytest.fixture
def traces() -> Callable[[], set[str]]:
    """What a demonstration could leave on the machine."""

    def look() -> set[str]:
        mounts = {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
        links = {path.name for path in Path("/sys/class/net").iterdir()}
        folders = {str(path) for path in Path("/tmp").glob("eh2-*")}
        return {item for item in mounts if "/eh2-" in item} | links | folders | processes()

    return look


def processes() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"/eh2-" in words:
                found.add(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_the_edge_works_on_while_the_cable_is_cut_and_catches_up(traces: Callable[[], set[str]]) -> None:
    before = traces()
    done = subprocess.run([str(RUN)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    story = done.stdout
    milestones = [
        "joined by token over TLS: node far-edge is Ready",
        "both pods are Running on the edge node",
        "the cable is cut",
        "without the cloud, pod hello-",
        "the cable is back",
        "three pods are Running, the first two untouched",
        "both hosts and all they had are gone",
    ]
    places = [story.find(milestone) for milestone in milestones]
    assert -1 not in places and places == sorted(places), story
    assert traces() - before == set()


def test_a_kubeconfig_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([str(RUN), str(tmp_path / "none")], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("two-hosts: ") and "none" in done.stderr and "Traceback" not in done.stderr
