"""What edge nodes cost cloudcore, unit by unit: ours beside the stock one, under the same hollow fleet over TLS.

With `EDGEHIVE_GO_PEERS` (see `edgehive.testing.stock`) both stand before a real kube-apiserver, each with a fresh
control plane of its own on a host that is a namespace of this machine; otherwise ours alone before our API server.
Needs root. `EDGEHIVE_FLEET_NODES` names the sizes ("100,1000"). Costs are processor time of the server's processes,
net of what they use at rest; seconds depend on what else the machine does. The full reports lie beside the figures.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.report import RESULTS, Figure, at_most, write
from edgehive.testing import stock
from edgehive.testing.hosts import DemonstrationFailed, Host, Program, last_line
from edgehive.testing.two_hosts import CLOUD, EDGE, PREFIX, cloudcore_config

SIZES = os.environ.get("EDGEHIVE_FLEET_NODES", "100")
#: Pods altogether in each of the pods' scenarios, so that small fleets are measured finely too.
PODS = 500
PATIENCE = 120.0
#: Whatever happens, a fleet ends by then.
LIMIT = 3600.0
_OURS = (sys.executable, "-m", "edgehive")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a scenario of the fleet, the scale to its unit, and its bar where there is one."""

    phase: str
    name: str
    unit: str
    scale: float
    bar: float | None = None


ROWS = (
    Row("certificate", "certificate", "ms", 1e3, 0.7),
    Row("connect", "TLS connect", "ms", 1e3, 1.0),
    Row("reconnect, all at once", "reconnect of all at once, each with a lease renewal", "ms", 1e3),
    Row("register", "node registration (lease query, insert, status, lease)", "ms", 1e3, 2.5),
    Row("keepalive", "keepalive", "µs", 1e6, 20),
    Row("lease renewal", "lease renewal", "µs", 1e6, 300),
    Row("pod delivered and acknowledged", "pod delivered and acked", "ms", 1e3, 1.2),
    Row("pod reported Running", "status patch, all at once", "ms", 1e3, 1.5),
    Row("pod, create to Running", "pod, create to Running", "ms", 1e3, 2.2),
    Row("status patch, closed loop", "status patch, closed loop", "ms", 1e3, 0.8),
    Row("ConfigMap fan-out, acknowledged", "ConfigMap fan-out delivery, acked", "ms", 1e3, 0.6),
)


def run() -> list[Figure]:
    if os.geteuid() != 0 or shutil.which("kubectl") is None:
        print("the benchmark of the fleet needs root and kubectl; skipped", file=sys.stderr)
        return []
    stock_too = bool(os.environ.get(stock.VARIABLE))
    figures: list[Figure] = []
    for size in map(int, SIZES.split(",")):
        for who in ("ours", "stock") if stock_too else ("ours",):
            print(f"  {who}, {size} nodes", file=sys.stderr, flush=True)
            report = _measure(who, size, stock_too)
            (RESULTS / f"fleet-{who}-{size}.json").write_text(json.dumps(report, indent=2) + "\n")
            figures += _figures(report, who, size)
            # What was measured stays, should a later size fail.
            write("fleet", figures)
    return figures


def _measure(who: str, size: int, real: bool) -> dict[str, Any]:
    with _cloud(who, size, real) as (host, server, kubeconfig, folder):
        output = folder / "fleet.json"
        words = [
            *(*_OURS, "fleet", "--nodes", str(size), "--scenario", "all", "--pods", str(max(1, PODS // size))),
            *("--hub", f"{CLOUD}:10000", "--join", f"https://{CLOUD}:10002", "--kubeconfig", str(kubeconfig)),
            # The host is thrown away: nothing needs removing.
            *("--server-pid", str(_pid_within(server.pid)), "--storm-pause", "1", "--output", str(output), "--keep"),
        ]
        done = subprocess.run(host.command(*words), timeout=LIMIT, check=False, stdout=sys.stderr)
        if done.returncode != 0:
            raise DemonstrationFailed(f"the fleet failed with {who}; cloudcore's last line: {last_line(server.log)}")
        found: dict[str, Any] = json.loads(output.read_text())
        return found


def _figures(report: dict[str, Any], who: str, size: int) -> list[Figure]:
    costs = {phase["name"]: phase["cpuPerUnit"] or 0.0 for phase in report["phases"]}
    idle, memory = report["idleCores"], report["memory"]
    tail = f"({who}, {size} nodes)"
    rows: list[tuple[str, float, str, float | None]] = [
        (row.name, costs[row.phase] * row.scale, row.unit, row.bar) for row in ROWS
    ]
    rows += [
        ("idle per 1,000 nodes", max(0.0, idle["idle"] - idle["fresh"]) * 1000 / size, "cores", 0.01),
        ("memory of a fresh process", memory["fresh"] / 2**20, "MiB", 60),
        ("memory per registered node", (memory["registered"] - memory["fresh"]) / size / 1024, "KiB", 80),
    ]
    plain = who == "stock"
    figures = [
        Figure(f"{name} {tail}", round(value, 4), unit)
        if plain or bar is None
        else at_most(f"{name} {tail}", value, unit, bar)
        for name, value, unit, bar in rows
    ]
    speed = report["facts"]["pods delivered per second"]
    told = ("", None) if plain else ("at least 200 1/s", speed >= 200)
    return [*figures, Figure(f"new pods delivered {tail}", round(speed, 1), "1/s", *told)]


# The cloud


@contextmanager
def _cloud(who: str, size: int, real: bool) -> Iterator[tuple[Host, Program, Path, Path]]:
    """An API server and a cloudcore on a host of their own."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ehf-", dir="/tmp")))
        folder.chmod(0o711)
        host = Host("cloud")
        undo.callback(host.end)
        # Stock cloudcore takes the address of the default route for its own.
        for words in (
            ("link", "add", "uplink", "type", "veth", "peer", "name", "beyond"),
            ("addr", "add", f"{CLOUD}/{PREFIX}", "dev", "uplink"),
            ("link", "set", "uplink", "up"),
            ("link", "set", "beyond", "up"),
            ("route", "add", "default", "via", EDGE),
        ):
            host.run("ip", *words)
        kubeconfig = _control_plane(host, folder, undo) if real else _own_api_server(host, folder, undo)
        for path in stock.definitions() if who == "stock" else ():
            host.run("kubectl", f"--kubeconfig={kubeconfig}", "apply", "--server-side", "-f", str(path))
        program = (stock.program("cloudcore"),) if who == "stock" else (*_OURS, "cloudcore", "--log-level", "warning")
        config = folder / "cloudcore.yaml"
        config.write_text(yaml.safe_dump(_config(folder, kubeconfig, size)))
        server = Program(host, folder / "cloudcore.log", *program, "--config", str(config))
        undo.callback(server.stop)
        _until("cloudcore's doors", lambda: _serves(host, kubeconfig, server))
        yield host, server, kubeconfig, folder


def _config(folder: Path, kubeconfig: Path, size: int) -> dict[str, Any]:
    """The modules that both have; otherwise as a cluster of this size has it."""
    config = cloudcore_config(folder / "cloud", kubeconfig)
    config["modules"]["cloudHub"]["nodeLimit"] = max(1000, size)
    config["modules"]["cloudStream"]["enable"] = False
    config["modules"]["deviceController"] = {"enable": False}
    return config


def _control_plane(host: Host, folder: Path, undo: ExitStack) -> Path:
    plane = stock.ControlPlane(host, CLOUD, folder / "plane")
    undo.callback(plane.stop)
    plane.start(_until)

    def ready() -> bool:
        return _answers(host, plane.kubeconfig, "-n", "default", "get", "serviceaccount", "default")

    _until("the default service account", ready)
    return plane.kubeconfig


def _own_api_server(host: Host, folder: Path, undo: ExitStack) -> Path:
    site, kubeconfig = folder / "site", folder / "site" / "kubeconfig"
    words = (*_OURS, "edgesite", "up", "--no-node", "--data", str(site), "--port", "6443")
    server = Program(host, folder / "site.log", *words)
    undo.callback(server.stop)
    _until("the API server", lambda: kubeconfig.exists() and _answers(host, kubeconfig, "get", "--raw", "/readyz"))
    return kubeconfig


def _serves(host: Host, kubeconfig: Path, server: Program) -> bool:
    if not server.alive():
        raise DemonstrationFailed(f"cloudcore ended: {last_line(server.log)}")
    open_doors = all(_reaches(host, port) for port in (10000, 10002))
    return open_doors and _answers(host, kubeconfig, "-n", "kubeedge", "get", "secret", "tokensecret")


def _reaches(host: Host, port: int) -> bool:
    try:
        host.run("bash", "-c", f"exec 3<>/dev/tcp/{CLOUD}/{port}")
    except DemonstrationFailed:
        return False
    return True


def _answers(host: Host, kubeconfig: Path, *words: str) -> bool:
    try:
        host.run("kubectl", f"--kubeconfig={kubeconfig}", *words)
    except DemonstrationFailed:
        return False
    return True


def _until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + PATIENCE
    while not condition():
        if time.perf_counter() > deadline:
            raise DemonstrationFailed(f"waited {PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.3)


def _pid_within(pid: int) -> int:
    """A process's number as its own host counts."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise ProcessLookupError(pid)
