"""How long a newcomer waits: from `pip install` in a fresh environment to the first value of a device in the cloud.

The commands are those of docs/reference/first-device.md, with this checkout in the place of the package's name and a
site on ports of its own. Packages come from wherever pip is configured to get them, or from its cache. Needs root,
containerd and kubectl; without them, or where pip reaches nothing, there is no figure.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.report import Figure
from edgehive.testing.ports import free_ports

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "thermometer"
LIMIT = 150.0


def run() -> list[Figure]:
    missing = [program for program in ("containerd", "kubectl") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        print("  the first value of a newcomer needs root, containerd and kubectl; skipped", file=sys.stderr)
        return []
    print("  from pip install to the first value", file=sys.stderr, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="ehn-", dir="/tmp"))
    try:
        return _figures(folder)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        print(f"  no figure: {error}: {said[-1] if said else ''}", file=sys.stderr)
        return []
    finally:
        if (command := folder / "venv" / "bin" / "edgesite").exists():
            subprocess.run([command, "down", "--purge", "--data", folder / "site"], check=False, capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _figures(folder: Path) -> list[Figure]:
    bin, site, began = folder / "venv" / "bin", folder / "site", time.perf_counter()
    port, kubelet = map(str, free_ports(2))
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True, timeout=LIMIT)
    _do(bin / "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[edge]")
    installed = time.perf_counter()
    options = ("--port", port, "--kubelet-port", kubelet, "--bridge", f"ehn{os.getpid() % 10**8}")
    _do(bin / "edgesite", "up", "--detach", "--data", site, *options, "--pod-subnet", "10.89.78.0/24")
    _do(bin / "edgesite", "mapper", "add", "--data", site, EXAMPLE / "thermometer.py")
    kubectl = ("kubectl", "--kubeconfig", site / "kubeconfig")
    _do(*kubectl, "apply", "-f", EXAMPLE / "device.yaml")
    read = ("get", "devicestatus", "kitchen", "--ignore-not-found", "-o", "jsonpath={.status.twins[0].reported.value}")
    while not _do(*kubectl, *read):
        if time.perf_counter() - began > LIMIT:
            raise subprocess.TimeoutExpired("the first value", LIMIT)
        time.sleep(0.1)
    done = time.perf_counter()
    return [
        Figure("pip install, a fresh environment", round(installed - began, 1), "s"),
        Figure("from then on to the first value in the cloud", round(done - installed, 1), "s"),
        Figure("pip install to the first value in the cloud", round(done - began, 1), "s"),
    ]


def _do(*words: str | Path) -> str:
    done = subprocess.run(words, check=True, capture_output=True, timeout=LIMIT)
    return done.stdout.decode()
