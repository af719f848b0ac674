"""`scripts/up` as somebody types it: a site with a device that works at once, through a second run, and gone after."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_edgesite_command import edgesite, kubectl, until

from edgehive.testing.ports import free_port, free_ports

ROOT = Path(__file__).parents[2]
MODBUS = ROOT / "examples" / "modbus"
TARGET = "/spec/properties/1/desired/value"


def environment_is_ready() -> bool:
    """Whether the script finds an environment, or would make one while tests run in it."""
    wanted = hashlib.sha256((ROOT / "uv.lock").read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = ROOT / ".venv" / "edgehive-stamp"
    return stamp.exists() and stamp.read_text() == f"{wanted} --all-extras" and Path(sys.prefix) == ROOT / ".venv"


pytestmark = [
    pytest.mark.containerd,
    pytest.mark.kubectl,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not environment_is_ready(), reason="the environment is not the one that scripts/test makes"),
]


def up(data: Path, *words: str) -> str:
    """No terminal, and nobody to answer a question."""
    done = subprocess.run(
        [str(ROOT / "scripts" / "up"), *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=150, check=False, env={**os.environ, "EDGEHIVE_DATA": str(data)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("u")
    port, kubelet = free_ports(2)
    site = f"nodeName: shop\nport: {port}\nkubeletPort: {kubelet}\nbridge: edgehive-t8\npodSubnet: 10.94.8.0/24\n"
    (folder / "edgesite.yaml").write_text(site)
    yield folder
    if folder.exists():
        up(folder, "--down")


def mappers(data: Path) -> list[int]:
    """Processes of mappers of this site."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mapper" in words and str(data / "edge" / "dmi.sock").encode() in words:
                found.append(int(entry.name))
    return found


def reports(data: Path, target: str, device: str = "kitchen") -> Callable[[], bool]:
    def look() -> bool:
        status = json.loads(kubectl(data, "get", "devicestatus", device, "-o", "json"))["status"]
        twins = {twin["propertyName"]: twin.get("reported", {}).get("value") for twin in status.get("twins", [])}
        return twins.get("target") == target

    return look


def desire(data: Path, target: str) -> None:
    patch = [{"op": "replace", "path": TARGET, "value": target}]
    kubectl(data, "patch", "device", "kitchen", "--type=json", "-p", json.dumps(patch))


@pytest.fixture
def boiler(tmp_path: Path) -> Iterator[Path]:
    """The simulator of examples/modbus on a port of its own; its description."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(MODBUS / "simulator.py"), str(port)], stdout=subprocess.PIPE)
    described = (MODBUS / "device.yaml").read_text()
    (tmp_path / "device.yaml").write_text(
        described.replace("5020", str(port)).replace("nodeName: edge", "nodeName: shop")
    )
    try:
        assert process.stdout is not None
        assert b"a boiler at" in process.stdout.readline()
        yield tmp_path / "device.yaml"
    finally:
        process.kill()
        process.communicate()


def test_devices_work_at_once_and_go_without_a_trace(data: Path, boiler: Path) -> None:
    said = up(data)
    row = next(line.split() for line in said.splitlines() if line.split()[1:2] == ["kitchen"] and " target " in line)
    assert row[2:] == ["shop", "thermometer", "online", "target", "21", "21.0", "°C", row[9], "-"]
    for words in ("get devicestatus -w", "edgehive devices set kitchen target 25", "--plot temperature", "--down"):
        assert words in said
    assert "shop" in kubectl(data, "get", "devices")
    desire(data, "25")
    until(reports(data, "25.0"))

    running = mappers(data)
    assert len(running) == 1
    again = up(data)
    assert mappers(data) == running
    assert " 25.0 " in again

    os.kill(running[0], signal.SIGKILL)
    until(lambda: mappers(data) not in ([], running))
    desire(data, "24")
    until(reports(data, "24.0"))

    site = int((data / "edgesite.pid").read_text())
    os.kill(site, signal.SIGKILL)
    until(lambda: mappers(data) == [])
    up(data)
    desire(data, "23")
    until(reports(data, "23.0"))

    edgesite("mapper", "add", "modbus", "--data", str(data))
    kubectl(data, "apply", "-f", str(boiler))
    until(lambda: "boiler-1" in kubectl(data, "get", "devicestatus", "-o", "name"))
    until(reports(data, "60.0", "boiler-1"))
    subprocess.run(
        [sys.executable, "-m", "edgehive", "devices", "set", "boiler-1", "target", "70"],
        env={**os.environ, "KUBECONFIG": str(data / "kubeconfig")}, check=True, timeout=60,
    )  # fmt: skip
    until(reports(data, "70.0", "boiler-1"))
    assert len(mappers(data)) == 2

    up(data, "--down")
    assert not data.exists()
    assert mappers(data) == []
