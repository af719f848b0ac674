"""The halves, ours and stock, in every pairing over the stock control plane: pod latency and memory, one after another.

Needs root, containerd, kubectl and the Go programs (`EDGEHIVE_GO_PEERS`). The hosts are those of `testing/two_hosts`.
"""

import json
import os
import shutil
import sys
import time

from bench.report import Figure, resident_mib
from edgehive.testing import stock
from edgehive.testing.fleet.journal import quantile
from edgehive.testing.two_hosts import NODE, Cast, TwoHosts, two_hosts

PODS = 20
IDLE_SECONDS = 20


def run() -> list[Figure]:
    try:
        stock.folder()
    except stock.StockMissing as error:
        print(f"the benchmark of the pairings is skipped: {error}", file=sys.stderr)
        return []
    if os.geteuid() != 0 or shutil.which("containerd") is None or shutil.which("kubectl") is None:
        print("the benchmark of the pairings needs root, containerd and kubectl; skipped", file=sys.stderr)
        return []
    figures: list[Figure] = []
    for cloud in (False, True):
        for edge in (False, True):
            figures += _measure(Cast(stock_cloudcore=cloud, stock_edgecore=edge, stock_control_plane=True))
    return figures


def _measure(cast: Cast) -> list[Figure]:
    words = {False: "ours", True: "stock"}
    name = f"cloudcore {words[cast.stock_cloudcore]}, edgecore {words[cast.stock_edgecore]}"
    with two_hosts(lambda _: None, cast=cast) as hosts:
        hosts.until("the default service account", lambda: _account(hosts))
        program = [sys.executable, "-m", "bench.pod_latency", str(hosts.kubeconfig), str(PODS), NODE]
        taken = json.loads(hosts.cloud.run(*program, timeout=300))
        time.sleep(IDLE_SECONDS)
        assert hosts.cloudcore is not None
        assert hosts.edgecore is not None
        return [
            Figure(f"{name}: pod created to Running, p50 of {PODS}", round(quantile(taken, 0.5), 3), "s"),
            Figure(f"{name}: pod created to Running, p99 of {PODS}", round(quantile(taken, 0.99), 3), "s"),
            Figure(f"{name}: cloudcore resident", round(resident_mib(hosts.cloudcore.pid), 1), "MiB"),
            Figure(f"{name}: edgecore resident", round(resident_mib(hosts.edgecore.pid), 1), "MiB"),
        ]


def _account(hosts: TwoHosts) -> str:
    return hosts.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
