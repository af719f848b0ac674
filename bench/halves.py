"""Resident memory of the halves apart: cloudcore, and edgecore with TLS, store and one pod, both idle.

Needs root and containerd. Bytecode is cached first, as an installation has it: a process that compiles its sources
keeps some of the compiler's memory. The processes are those of `examples/two-hosts`, each on a host of its own.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from typing import Any

from bench.report import Figure, at_most, resident_mib
from edgehive.edgesite.images import PAUSE
from edgehive.testing.hosts import Program
from edgehive.testing.two_hosts import NODE, TwoHosts, two_hosts

IDLE_SECONDS = 30


def run() -> list[Figure]:
    missing = [program for program in ("containerd", "kubectl") if shutil.which(program) is None]
    if os.geteuid() != 0 or missing:
        print("the benchmark of the halves needs root, containerd and kubectl; skipped", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="eh-bytecode-") as cache:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = cache
        try:
            with two_hosts(lambda _: None):
                """Everything has been imported once."""
            return _measure()
        finally:
            del os.environ["PYTHONPYCACHEPREFIX"]


def _measure() -> list[Figure]:
    with two_hosts(lambda text: print(f"  {text}", file=sys.stderr)) as hosts:
        _one_pod(hosts)
        time.sleep(IDLE_SECONDS)
        return [
            at_most("cloudcore resident, idle", _resident(hosts.cloudcore), "MiB", 60),
            at_most("edgecore resident, idle with one pod", _resident(hosts.edgecore), "MiB", 60),
        ]


def _one_pod(hosts: TwoHosts) -> None:
    path = hosts.data / "pod.json"
    path.write_text(json.dumps(_pod()))
    hosts.kubectl("apply", "-f", str(path))
    phase = ("get", "pod", "idle", "-o", "jsonpath={.status.phase}")
    hosts.until("the pod to run", lambda: hosts.kubectl(*phase) == "Running")


def _pod() -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "idle", "namespace": "default"},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": PAUSE, "imagePullPolicy": "IfNotPresent"}]},
    }


def _resident(half: Program | None) -> float:
    assert half is not None
    return resident_mib(half.pid)
