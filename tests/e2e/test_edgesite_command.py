"""`edgesite up`, a crash, `up` again and `down --purge`, with real containers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgehive.testing.ports import free_ports

pytestmark = [pytest.mark.containerd, pytest.mark.kubectl, pytest.mark.timeout(180)]

BRIDGE = "edgehive-t7"


def edgesite(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edgehive", "edgesite", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("s")
    port, kubelet = free_ports(2)
    ports = f"port: {port}\nkubeletPort: {kubelet}\n"
    (folder / "edgesite.yaml").write_text(f"{ports}bridge: {BRIDGE}\npodSubnet: 10.94.7.0/24\n")
    yield folder
    if folder.exists():
        edgesite("down", "--purge", "--data", str(folder))


def kubectl(data: Path, *arguments: str, stdin: str | None = None) -> str:
    command = ["kubectl", "--kubeconfig", str(data / "kubeconfig"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    for _ in range(int(seconds / 0.2)):
        if condition():
            return
        time.sleep(0.2)
    pytest.fail("it did not happen in time")


def containers(data: Path) -> list[tuple[str, int]]:
    pods = json.loads(kubectl(data, "get", "pods", "-l", "app=hello", "-o", "json"))["items"]
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    return sorted((status["containerID"], status["restartCount"]) for status in statuses if status["ready"])


def test_a_site_comes_up_survives_a_crash_and_goes_without_a_trace(data: Path) -> None:
    started = edgesite("up", "--detach", "--data", str(data))
    assert started.returncode == 0, started.stderr
    example = Path(__file__).parents[2] / "examples" / "hello"
    kubectl(data, "apply", "-f", str(example))
    kubectl(data, "rollout", "status", "deployment/hello", "--timeout=60s")
    before = containers(data)
    assert len(before) == 2
    report = json.loads(edgesite("status", "--data", str(data), "-o", "json").stdout)
    assert report["ready"]
    assert report["memoryBytes"] < 130 * 2**20

    os.kill(report["pid"], signal.SIGKILL)
    until(lambda: edgesite("status", "--data", str(data)).returncode == 3)
    again = edgesite("up", "--detach", "--data", str(data))
    assert again.returncode == 0, again.stderr
    until(lambda: containers(data) == before)

    gone = edgesite("down", "--purge", "--data", str(data))
    assert gone.returncode == 0, gone.stderr
    assert not data.exists()
    assert not Path(f"/sys/class/net/{BRIDGE}").exists()
    assert str(data) not in Path("/proc/self/mountinfo").read_text()
