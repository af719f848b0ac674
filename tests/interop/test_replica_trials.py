"""The trials of three replicas (`e2e/test_replicas.py`) over a real kube-apiserver, on a host of their own.

Issue 4, "Several cloudcores".
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgehive.testing import stock
from edgehive.testing.hosts import Host
from edgehive.testing.two_hosts import CLOUD, EDGE, PREFIX

TRIALS = Path(__file__).parents[1] / "e2e" / "test_replicas.py"
PATIENCE = 120.0


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[tuple[Host, Path]]:
    """A control plane on a host, and the way to it."""
    if not os.environ.get(stock.VARIABLE):
        pytest.skip(f"the stock programs are needed: set {stock.VARIABLE} to the folder that holds them")
    if os.geteuid() != 0 or shutil.which("kubectl") is None:
        pytest.skip("root and kubectl are needed")
    host = Host("cloud")
    try:
        for words in (
            ("link", "add", "uplink", "type", "veth", "peer", "name", "beyond"),
            ("addr", "add", f"{CLOUD}/{PREFIX}", "dev", "uplink"),
            ("link", "set", "uplink", "up"),
            ("link", "set", "beyond", "up"),
            ("route", "add", "default", "via", EDGE),
        ):
            host.run("ip", *words)
        plane = stock.ControlPlane(host, CLOUD, tmp_path / "plane")
        try:
            plane.start(until)
            words = ("-n", "default", "get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
            until("service account", lambda: bool(host.run("kubectl", f"--kubeconfig={plane.kubeconfig}", *words)))
            yield host, plane.kubeconfig
        finally:
            plane.stop()
    finally:
        host.end()


def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + PATIENCE
    while not condition():
        assert time.perf_counter() < deadline, f"no {what} within {PATIENCE:g} s"
        time.sleep(0.2)


@pytest.mark.timeout(1200)
def test_the_trials_of_replicas_hold_over_a_real_api_server(kubeconfig: tuple[Host, Path], tmp_path: Path) -> None:
    host, path = kubeconfig
    words = (sys.executable, "-m", "pytest", "-q", "-x", str(TRIALS), f"--basetemp={tmp_path / 'trials'}")
    environment = os.environ | {"EDGEHIVE_TRIAL_KUBECONFIG": str(path)}
    done = subprocess.run(host.command(*words), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
